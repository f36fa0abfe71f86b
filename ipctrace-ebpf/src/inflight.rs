//! System calls between their begin and their end.

use core::ptr::null_mut;
#[cfg(not(feature = "plain"))]
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use ipctrace_common::Cause;
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::{Key, op_flag};

use crate::iter::Memory;
use crate::kernel::Result;
#[cfg(not(feature = "plain"))]
use crate::kernel::exchange;
#[cfg(not(feature = "plain"))]
use crate::ring::MMAPABLE;

/// One end of a channel that a call works on, as it was when the call began.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Side {
    /// [`ipctrace_common::Mechanism`]; 0 if this side is no channel.
    pub(crate) mechanism: u8,
    /// 1 if the call takes from it, 0 if it puts into it.
    pub(crate) receive: u8,
    /// [`ipctrace_common::wire::op_flag`]s that are known already.
    pub(crate) flags: u16,
    /// Descriptor that the call named.
    pub(crate) fd: i32,
    /// The channel.
    pub(crate) key: Key,
    /// `struct pipe_inode_info` or `struct sock`.
    pub(crate) object: u64,
    /// Inode of the descriptor's own end.
    pub(crate) own_inode: u64,
    /// Sockets: the connected peer's `struct sock`, 0 if none.
    pub(crate) peer: u64,
    /// Sockets: the peer's inode, 0 if it has none.
    pub(crate) peer_inode: u64,
    /// See [`ipctrace_common::wire::Op::pos_enter`].
    pub(crate) pos_enter: u64,
    /// See [`ipctrace_common::wire::Op::pos_locked`].
    pub(crate) pos_locked: u64,
    /// Pipes: the position at which the thread's call before this one left it.
    pub(crate) left: u64,
    /// Not 0 between [`crate::channel::arrive`] and [`crate::channel::leave`]: which call of its channel and side it is, in the
    /// upper half.
    pub(crate) present: u64,
    /// What the thread's call before this one worked on, so that the same need not be found out again.
    pub(crate) last: Last,
}

/// The object that a side stood for last, and how it is known to be the same: no other has had the same `struct file`,
/// inode and inode number.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Last {
    /// Address of the `struct file`; 0 if there is nothing to be known again.
    pub(crate) file: u64,
    /// Address of the inode.
    pub(crate) inode: u64,
    /// [`ipctrace_common::Mechanism`].
    pub(crate) mechanism: u8,
    /// 1 if the channel has been announced.
    pub(crate) announced: u8,
    /// Explicit padding.
    pub(crate) reserved: [u8; 6],
}

/// The datagram that a receive call has taken and not yet reported.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Taken {
    /// Its sender's `struct sock`; 0 if nothing was taken.
    pub(crate) sock: u64,
    /// That socket's inode; 0 if it is closed.
    pub(crate) inode: u64,
    /// Whole length of the message.
    pub(crate) len: u64,
}

/// What a call, or one message of it, moved. Kept with the call so that functions which the verifier looks at by
/// themselves, and which therefore take only numbers, find it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Moved {
    /// Bytes, as the call returned them.
    pub(crate) bytes: u64,
    /// Whole length of the message, for messages.
    pub(crate) len: u64,
    /// See [`ipctrace_common::wire::Op::detail`].
    pub(crate) detail: i64,
    /// See [`ipctrace_common::wire::Op::digest`].
    pub(crate) digest: u64,
    /// Messages of the call that are told of here.
    pub(crate) messages: u32,
    /// Flags to add to those of the side.
    pub(crate) flags: u16,
    /// Explicit padding.
    pub(crate) reserved: u16,
    /// Destination address in the caller's memory, 0 if none.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) address_len: u64,
    /// Caller's buffer, iovec or msghdr, for the payload; 0 to capture none.
    pub(crate) user: u64,
    /// Buffers in it, if it is an iovec.
    pub(crate) count: u64,
}

impl Moved {
    /// One call that moved so many bytes, of which nothing more is known.
    #[inline(always)]
    pub(crate) fn of(bytes: u64) -> Moved {
        Moved {
            bytes,
            len: bytes,
            detail: 0,
            digest: 0,
            messages: 1,
            flags: 0,
            reserved: 0,
            address: 0,
            address_len: 0,
            user: 0,
            count: 0,
        }
    }
}

impl Taken {
    /// Nothing.
    pub(crate) const NOTHING: Taken = Taken { sock: 0, inode: 0, len: 0 };
}

/// A call goes on: see [`InFlight::active`].
pub(crate) const ACTIVE: u8 = 1;
/// A call has returned, and what it did is being told.
pub(crate) const ENDING: u8 = 2;

/// In `index` of a call that is not in flight: a program on a function has told of it.
pub(crate) const TOLD: u32 = u32::MAX;

/// A program on a function has told of the call that the thread is in.
#[inline(always)]
pub(crate) fn tell(tid: u32) {
    let place = find(tid);
    if !place.is_null() {
        // SAFETY: a valid pointer into the map; the entry is this thread's.
        unsafe {
            (*place).call.active = 0;
            (*place).call.index = TOLD;
        }
    }
}

/// Whether one has, of the system call that now ends.
#[inline(always)]
pub(crate) fn was_told(tid: u32) -> bool {
    let place = find(tid);
    if place.is_null() {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        let told = (*place).call.active == 0 && (*place).call.index == TOLD;
        if told {
            (*place).call.index = 0;
        }
        told
    }
}

/// A position in a pipe at which it was seen.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Rest {
    /// The pipe.
    pub(crate) key: Key,
    /// Where; 0 if that is not known.
    pub(crate) position: u64,
    /// When, or a moment later.
    pub(crate) time: u64,
}

/// A call that has begun.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct InFlight {
    /// When.
    pub(crate) enter: u64,
    /// When the one before it ended, if that could be part of a run.
    pub(crate) ended: u64,
    /// Address of the thread's `struct task_struct`; 0 if it is not known.
    pub(crate) task: u64,
    /// [`ipctrace_common::syscall::Class`].
    pub(crate) class: u8,
    /// Not 0 between begin and end: [`ACTIVE`], and [`ENDING`] while its end is being told.
    pub(crate) active: u8,
    /// 1 if the thread may have a run that is not told of yet: [`crate::run`].
    pub(crate) run: u8,
    /// 1 if its message need not be told from others: [`crate::alike`].
    pub(crate) alike: u8,
    /// Messages of `recvmmsg` reported so far.
    pub(crate) index: u32,
    /// Buffer, iovec, msghdr or mmsghdr array of the caller.
    pub(crate) user: u64,
    /// Length of that buffer or iovec, or how many messages.
    pub(crate) count: u64,
    /// Destination address of sendto.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) address_len: u64,
    /// The datagram that has been taken.
    pub(crate) taken: Taken,
    /// What it moved, once that is known.
    pub(crate) moved: Moved,
    /// Where the thread left the last pipe that it wrote to, and the last that it read from: by [`Side::receive`].
    pub(crate) rests: [Rest; 2],
    /// What the call works on: the second is used by calls that move between two descriptors.
    pub(crate) sides: [Side; 2],
}

impl InFlight {
    /// A call begins, at `enter` (0: that was not seen), that asks for so many bytes. Its sides are described.
    #[inline(always)]
    pub(crate) fn start(&mut self, class: Class, enter: u64, bytes: u64) {
        self.class = class as u8;
        self.enter = enter;
        // What is left there may be another thread's that had this number.
        self.task = 0;
        self.address = 0;
        self.address_len = 0;
        self.index = 0;
        self.taken = Taken::NOTHING;
        self.moved = Moved::of(bytes);
        self.active = ACTIVE;
    }

    /// The same of a call at the functions of an object, whose bytes are there at its begin.
    #[inline(always)]
    pub(crate) fn start_in(&mut self, memory: &Memory, enter: u64) {
        self.start(memory.class, enter, 0);
        // At its end it has been moved on.
        self.user = if enter == 0 { 0 } else { memory.user };
        self.count = memory.count;
    }

    /// The one side of a call at the functions of an object, which named no descriptor; it is no channel yet.
    #[inline(always)]
    pub(crate) fn only(&mut self, receive: bool, enter: u64) -> &mut Side {
        self.sides[1].mechanism = 0;
        self.sides[1].present = 0;
        let side = &mut self.sides[0];
        side.mechanism = 0;
        side.fd = -1;
        side.present = 0;
        side.used(receive, enter);
        side
    }

    /// Notes where the call left a pipe, its side `index`, by that time.
    #[inline(always)]
    pub(crate) fn rests_at(&mut self, index: usize, position: u64, time: u64) {
        let side = &self.sides[index];
        self.rests[usize::from(side.receive & 1)] = Rest { key: side.key, position, time };
    }

    /// When its first side, a pipe, was last seen where the call begins; 0 if that is not known. As nothing has moved there since, that the
    /// call began after that is all that matters, and saves a look at the clock.
    #[inline(always)]
    pub(crate) fn rested_since(&self) -> u64 {
        let side = &self.sides[0];
        let rest = &self.rests[usize::from(side.receive & 1)];
        let same =
            rest.position == side.pos_enter && rest.key.id == side.key.id && rest.key.space == side.key.space;
        if same && rest.position != 0 { rest.time } else { 0 }
    }
}

impl Side {
    /// Which way the call works on it, and whether it was seen to begin.
    #[inline(always)]
    pub(crate) fn used(&mut self, receive: bool, enter: u64) {
        self.receive = u8::from(receive);
        self.flags = if receive { op_flag::RECEIVE } else { 0 };
        if enter == 0 {
            self.flags |= op_flag::STRADDLES_START;
        }
    }
}

/// Where a thread's calls are described. Zeros are a place of nobody, of whose call nothing is known. Of whole cache lines: threads
/// with ids next to each other, such as those at both ends of a channel, run on different processors.
#[repr(C, align(64))]
struct Place {
    /// The thread whose place it is; 0 if it is free. Taken by atomic exchange.
    owner: u64,
    /// Not 0 if a thread whose home this is had to go elsewhere. Stays so.
    crowded: u64,
    call: InFlight,
}

/// How many places there are: a power of two.
const PLACES: u32 = 65_536;

/// The same in the plain programs: older verifiers would have too many paths to follow through an array and what goes with it.
#[cfg(feature = "plain")]
#[map]
static IN_FLIGHT: HashMap<u32, Place> = HashMap::with_max_entries(PLACES, 0);

/// A place of which nothing is known: never written.
#[cfg(feature = "plain")]
#[map]
static BLANK: Array<Place> = Array::with_max_entries(1, 0);

/// Calls by thread. A thread has a home, which is its id modulo [`PLACES`]; where that is taken it goes to another place,
/// and [`ELSEWHERE`] says which. An array, because that is found in a tenth of the time of a hash table's entry, and there
/// are several look-ups for each call. A thread keeps its place until it ends.
///
/// What may be mapped begins at a page, and so each place at a cache line.
#[cfg(not(feature = "plain"))]
#[map]
static IN_FLIGHT: Array<Place> = Array::with_max_entries(PLACES, MMAPABLE);

/// Places of the threads that are not at home. There are none as long as ids are below [`PLACES`].
#[cfg(not(feature = "plain"))]
#[map]
static ELSEWHERE: HashMap<u32, u32> = HashMap::with_max_entries(16_384, 0);

/// Places that are looked at for one that is free.
#[cfg(not(feature = "plain"))]
const ATTEMPTS: u32 = 64;

/// Where a call is described that is not the current thread's usual one: too large for the stack.
#[map]
static CALL_DESK: PerCpuArray<InFlight> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's place to describe a call; its old content is left there.
#[inline(always)]
pub(crate) fn desk() -> Option<*mut InFlight> {
    CALL_DESK.get_ptr_mut(0)
}

/// The place of a thread's calls, with what is left there of the one before.
///
/// # Errors
/// [`Cause::MapFull`] if too many threads have made calls.
#[inline(always)]
pub(crate) fn place(tid: u32) -> Result<*mut InFlight> {
    let place = find(tid);
    if !place.is_null() {
        // SAFETY: a valid pointer into the map.
        return Ok(unsafe { &raw mut (*place).call });
    }
    settle(tid);
    let place = find(tid);
    if place.is_null() {
        return Err(Cause::MapFull);
    }
    // SAFETY: as above.
    Ok(unsafe { &raw mut (*place).call })
}

/// Where a thread's calls are described; null if they have not been.
///
/// No `Option`: what stands in one that is none is for the compiler to choose, and the verifier lets it move nothing that was
/// not set. For the same reason no [`get`] or [`place`] is to be put in a tuple with something else.
#[cfg(not(feature = "plain"))]
#[inline(always)]
fn find(tid: u32) -> *mut Place {
    let Some(home) = IN_FLIGHT.get_ptr_mut(tid & (PLACES - 1)) else {
        return null_mut();
    };
    // SAFETY: a valid pointer into the map; the fields are read in one access each. Another thread may move in or out, but
    // what stands there is never this thread's number unless the place is its own.
    let (owner, crowded) =
        unsafe { (read_volatile(&raw const (*home).owner), read_volatile(&raw const (*home).crowded)) };
    if owner == u64::from(tid) {
        return home;
    }
    if crowded == 0 {
        return null_mut();
    }
    let Some(index) = ELSEWHERE.get_ptr(tid) else {
        return null_mut();
    };
    // SAFETY: a valid, aligned pointer into the map, whose entry is this thread's.
    let Some(place) = IN_FLIGHT.get_ptr_mut(unsafe { *index } & (PLACES - 1)) else {
        return null_mut();
    };
    // SAFETY: as above.
    if unsafe { read_volatile(&raw const (*place).owner) } == u64::from(tid) { place } else { null_mut() }
}

/// The same in the plain programs.
#[cfg(feature = "plain")]
#[inline(always)]
fn find(tid: u32) -> *mut Place {
    IN_FLIGHT.get_ptr_mut(tid).unwrap_or(null_mut())
}

/// Makes a place for a thread that has none. The verifier looks at it by itself.
#[cfg(feature = "plain")]
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn settle(tid: u32) -> i32 {
    if let Some(blank) = BLANK.get(0) {
        // If it fails, none is found.
        let _ = IN_FLIGHT.insert(tid, blank, 0);
    }
    0
}

/// Finds a place for a thread that has none; the first call of every thread comes here. The verifier looks at it by itself.
#[cfg(not(feature = "plain"))]
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn settle(tid: u32) -> i32 {
    let home = tid & (PLACES - 1);
    for attempt in 0..ATTEMPTS {
        // Far from home, where its neighbours' are.
        let index = (home + attempt * (PLACES / ATTEMPTS + 1)) & (PLACES - 1);
        let Some(place) = IN_FLIGHT.get_ptr_mut(index) else {
            return 0;
        };
        // SAFETY: a valid pointer into the map.
        if unsafe { exchange(&raw mut (*place).owner, 0, u64::from(tid)) } != 0 {
            continue;
        }
        if attempt != 0 {
            if ELSEWHERE.insert(tid, index, 0).is_err() {
                // SAFETY: as above; the place is this thread's.
                unsafe { write_volatile(&raw mut (*place).owner, 0) };
                return 0;
            }
            if let Some(home) = IN_FLIGHT.get_ptr_mut(home) {
                // SAFETY: as above; whoever writes it writes the same.
                unsafe { write_volatile(&raw mut (*home).crowded, 1) };
            }
        }
        return 0;
    }
    0
}

/// Remembers a call that was described elsewhere.
///
/// # Errors
/// [`Cause::MapFull`] if too many threads have made calls.
#[inline(always)]
pub(crate) fn begin(tid: u32, call: &mut InFlight) -> Result<()> {
    call.active = ACTIVE;
    call.task = 0;
    let place = place(tid)?;
    // A helper, for the copy that the compiler would make goes over the stack.
    // SAFETY: a valid pointer into the map, and one to as much.
    let copied = unsafe {
        bpf_probe_read_kernel(place.cast(), size_of::<InFlight>() as u32, (&raw const *call).cast())
    };
    if copied == 0 { Ok(()) } else { Err(Cause::ReadFailed) }
}

/// The call that this thread is in.
#[inline(always)]
pub(crate) fn get(tid: u32) -> Option<*mut InFlight> {
    let place = find(tid);
    if place.is_null() {
        return None;
    }
    // SAFETY: a valid pointer into the map; the entry is written by its own thread only.
    unsafe { if (*place).call.active != 0 { Some(&raw mut (*place).call) } else { None } }
}

/// The call is over.
#[inline(always)]
pub(crate) fn end(tid: u32) {
    let place = find(tid);
    if !place.is_null() {
        // SAFETY: a valid pointer into the map; the entry is this thread's.
        unsafe { (*place).call.active = 0 };
    }
}

/// The thread is over.
#[cfg(not(feature = "plain"))]
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    let place = find(tid);
    if place.is_null() {
        return;
    }
    // SAFETY: a valid pointer into the map; the entry is this thread's until it gives it back, which is last.
    unsafe {
        let call = &mut (*place).call;
        call.active = 0;
        call.run = 0;
        call.ended = 0;
        for side in &mut call.sides {
            side.mechanism = 0;
            side.present = 0;
            side.last.file = 0;
        }
        write_volatile(&raw mut (*place).owner, 0);
    }
    let home = IN_FLIGHT.get_ptr_mut(tid & (PLACES - 1));
    // SAFETY: as above.
    if home.is_some_and(|home| unsafe { read_volatile(&raw const (*home).crowded) } != 0) {
        // It may have been at home.
        let _ = ELSEWHERE.remove(tid);
    }
}

/// The same in the plain programs.
#[cfg(feature = "plain")]
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    // Nothing to do if it was not there.
    let _ = IN_FLIGHT.remove(tid);
}
