//! System calls between their begin and their end.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use ipctrace_common::wire::Key;

use crate::kernel::Result;
use ipctrace_common::Cause;

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
    /// 1 between [`crate::channel::arrive`] and [`crate::channel::leave`].
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

/// A call that has begun.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct InFlight {
    /// When.
    pub(crate) enter: u64,
    /// When the one before it ended, if that was on a pipe.
    pub(crate) ended: u64,
    /// [`ipctrace_common::syscall::Class`].
    pub(crate) class: u8,
    /// 1 between begin and end.
    pub(crate) active: u8,
    /// 1 if the thread may have a run that is not told of yet: [`crate::run`].
    pub(crate) run: u8,
    /// Explicit padding.
    pub(crate) reserved: u8,
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
    /// What the call works on: the second is used by calls that move between two descriptors.
    pub(crate) sides: [Side; 2],
}

/// Calls by thread id. A thread's entry stays until the thread ends: putting one in and taking it out again costs more than
/// the rest of a small write.
#[map]
static IN_FLIGHT: HashMap<u32, InFlight> = HashMap::with_max_entries(65_536, 0);

/// Where a call is described that is not the current thread's usual one: too large for the stack.
#[map]
static CALL_DESK: PerCpuArray<InFlight> = PerCpuArray::with_max_entries(1, 0);

/// A call of which nothing is known: never written.
#[map]
static BLANK: Array<InFlight> = Array::with_max_entries(1, 0);

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
    if let Some(place) = IN_FLIGHT.get_ptr_mut(tid) {
        return Ok(place);
    }
    let blank = BLANK.get(0).ok_or(Cause::MapFull)?;
    IN_FLIGHT.insert(tid, blank, 0).map_err(|_| Cause::MapFull)?;
    IN_FLIGHT.get_ptr_mut(tid).ok_or(Cause::MapFull)
}

/// Remembers a call that was described elsewhere.
///
/// # Errors
/// [`Cause::MapFull`] if too many threads have made calls.
#[inline(always)]
pub(crate) fn begin(tid: u32, call: &mut InFlight) -> Result<()> {
    call.active = 1;
    IN_FLIGHT.insert(tid, &*call, 0).map_err(|_| Cause::MapFull)
}

/// The call that this thread is in.
#[inline(always)]
pub(crate) fn get(tid: u32) -> Option<*mut InFlight> {
    let call = IN_FLIGHT.get_ptr_mut(tid)?;
    // SAFETY: a valid pointer into the map; the entry is written by its own thread only.
    if unsafe { (*call).active } != 0 { Some(call) } else { None }
}

/// The call is over.
#[inline(always)]
pub(crate) fn end(tid: u32) {
    if let Some(call) = IN_FLIGHT.get_ptr_mut(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's.
        unsafe { (*call).active = 0 };
    }
}

/// The thread is over.
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    // Nothing to do if it was not there.
    let _ = IN_FLIGHT.remove(tid);
}
