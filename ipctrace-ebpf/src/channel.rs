//! The books of every channel: what was put in and taken out since it was first seen.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::macros::map;
#[cfg(feature = "plain")]
use aya_ebpf::maps::HashMap;
use aya_ebpf::maps::PerCpuArray;
use ipctrace_common::config::{BOOKS_SIZE, CHANNEL_DESKS};
use ipctrace_common::wire::{self, Key, Kind, NAME_MAX, channel_flag, op_flag};
use ipctrace_common::{Cause, Mechanism, Shape};

#[cfg(feature = "plain")]
use crate::books::BPF_NOEXIST;
pub(crate) use crate::books::{books, find};
use crate::config::offset;
use crate::emit::has_messages;
use crate::inflight::{self, InFlight, Side};
use crate::kernel::{Result, add, exchange, read};
use crate::object::is_at_object;
use crate::pipe::Bound;
use crate::repeat::{Repeat, opaque, repeat};
use crate::{alike, books, inet, own, pipe, posix_mq, ring, task, udp_taken, unix};

/// The books of one channel, sending and receiving: see [`Side::receive`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Books([Account; 2]);

/// One side of them. All that a call looks at is in one cache line (also where books stand in a hash table: behind a key of 16 bytes
/// its values begin at multiples of 64), which is the other side's on no other processor: what does not change stands in both.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Account {
    /// Put in, or taken out, since the channel was first seen: bytes of a stream, calls on a counter, messages otherwise.
    pub(crate) moved: u64,
    /// Who is in a call now. Of queues only the process is noted as long as their messages are [alike](crate::alike).
    pub(crate) present: Present,
    /// Inode of the receiving socket, 0 as long as it has none: an address is used again for another socket.
    inode: u64,
    /// What was in the channel when it was first seen.
    pub(crate) queued: u64,
    /// TCP: sequence number of the first byte that the books count. Connected unix sockets: inode of the one that sends, 0 if unknown.
    pub(crate) origin: u64,
    /// Queues: what has been sent, see [`crate::alike`].
    pub(crate) alike: u64,
    /// Queues: when what was in it at first sight had been told of; 0 if it has not been.
    pub(crate) ready: u64,
}

const _: () = assert!(size_of::<Account>() == 64 && size_of::<Books>() == BOOKS_SIZE);

impl Books {
    /// What they begin with.
    #[inline(always)]
    fn begin(queued: u64, origin: u64, inode: u64) -> Books {
        let present = Present { calls: 0, who: 0 };
        let alike = if queued == 0 { 0 } else { alike::MIXED };
        Books([Account { moved: 0, present, inode, queued, origin, alike, ready: 0 }; 2])
    }

    /// By what they are known from those of another channel at the same address: the inodes of its receiver and its sender.
    ///
    /// # Safety
    /// `books` must be valid.
    #[inline(always)]
    pub(crate) unsafe fn identity(books: *const Books) -> (u64, u64) {
        // SAFETY: by contract; each field is read in one access.
        unsafe {
            let account = account(books.cast_mut(), RECEIVING);
            (
                core::ptr::read_volatile(&raw const (*account).inode),
                core::ptr::read_volatile(&raw const (*account).origin),
            )
        }
    }
}

/// The account of one side, by [`Side::receive`]. Without a comparison: the verifier would follow two ways from here on.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn account(books: *mut Books, receive: u8) -> *mut Account {
    // SAFETY: by contract; the index is 0 or 1.
    unsafe { (&raw mut (*books).0).cast::<Account>().add(usize::from(receive & 1)) }
}

/// See [`Side::receive`].
pub(crate) const SENDING: u8 = 0;
pub(crate) const RECEIVING: u8 = 1;

/// Who is in a call on one side of a channel.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Present {
    /// How many calls are under way, and in the upper half how many have begun.
    calls: u64,
    /// The first process that made one, and [`SEVERAL`].
    who: u64,
}

/// What the begin of a call adds to [`Present::calls`].
const BEGINS: u64 = 1 << 32 | 1;

/// Calls that are under way, by [`Present::calls`].
#[inline(always)]
fn under_way(calls: u64) -> u64 {
    calls & 0xffff_ffff
}

/// Of [`Present::who`]: another process has made a call too.
const SEVERAL: u64 = 1 << 32;

/// Notes that a process makes a call there; gives the first one that has made one, and [`SEVERAL`], or 0 if it is the first.
///
/// # Safety
/// `present` must be valid.
#[inline(always)]
pub(crate) unsafe fn first(present: *mut Present, tgid: u32) -> u64 {
    // SAFETY: by contract. Of two calls that come first at once one finds the other.
    unsafe {
        match core::ptr::read_volatile(&raw const (*present).who) {
            0 => exchange(&raw mut (*present).who, 0, u64::from(tgid)),
            who => who,
        }
    }
}

/// Whether that process is the only one that has made a call there.
///
/// # Safety
/// `present` must be valid.
#[inline(always)]
pub(crate) unsafe fn is_first(present: *const Present, tgid: u32) -> bool {
    // SAFETY: by contract; read in one access.
    unsafe { core::ptr::read_volatile(&raw const (*present).who) == u64::from(tgid) }
}

/// Whether it matters which thread of a process it was: of two messages one may be cut short, and its rest is gone.
#[inline(always)]
fn by_thread(side: &Side) -> bool {
    const CUT: u32 = Mechanism::of_shape(Shape::Message);
    side.receive != 0 && CUT >> (side.mechanism & 31) & 1 != 0
}

/// The call on this side begins. Pipes need no such account: positions tell more.
#[inline(always)]
pub(crate) fn arrive(side: &mut Side, tgid: u32) {
    side.present = 0;
    if side.mechanism == 0 || side.key.id == 0 || pipe::is_pipe(side.mechanism) {
        return;
    }
    if let Some(books) = books(&side.key) {
        arrive_at(books, side, tgid);
    }
}

/// [`open`] and [`arrive`] in one, for a call of the current thread. Gives whether it is known that no other process has made one on this
/// side.
#[inline(always)]
pub(crate) fn begin(tid: u32, call: &mut InFlight, index: usize, tgid: u32) -> bool {
    let side = &mut call.sides[index];
    side.present = 0;
    if side.mechanism == 0 || side.key.id == 0 || (side.last.file != 0 && side.last.announced != 0) {
        return false;
    }
    side.last.announced = 1;
    let mut found = known(side);
    if found.is_none() {
        introduce(tid, side, index, 0);
        found = books(&side.key);
    }
    if let Some(books) = found
        && !pipe::is_pipe(side.mechanism)
    {
        return arrive_at(books, side, tgid);
    }
    false
}

/// Whether there are books for this very channel; if so, the call on this side begins.
#[inline(always)]
pub(crate) fn arrive_if_known(side: &mut Side, tgid: u32) -> bool {
    match known(side) {
        Some(books) => {
            arrive_at(books, side, tgid);
            true
        }
        None => false,
    }
}

/// The same, with the books at hand. Gives whether no other process has made a call there.
#[inline(always)]
pub(crate) fn arrive_at(books: *mut Books, side: &mut Side, tgid: u32) -> bool {
    // SAFETY: a valid pointer into the map; the index is 0 or 1.
    unsafe {
        let present = &raw mut (*account(books, side.receive)).present;
        let who = first(present, tgid);
        let several = who != 0 && who != u64::from(tgid);
        if several && who & SEVERAL == 0 {
            // The process stays what it is, so that nothing is lost whoever writes this at the same time.
            core::ptr::write_volatile(&raw mut (*present).who, who | SEVERAL);
        }
        let before = add(&raw mut (*present).calls, BEGINS);
        // Which of all that have begun it is, and that it is there.
        side.present = (before.wrapping_add(BEGINS) >> 32 << 32) | 1;
        if under_way(before) != 0
            && (several
                || by_thread(side)
                || core::ptr::read_volatile(&raw const (*present).who) & SEVERAL != 0)
        {
            side.flags |= op_flag::OVERLAPS;
        }
        who == 0 || who == u64::from(tgid)
    }
}

/// How many calls are under way on one side of the channel now.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn calls(books: *mut Books, receive: u8) -> u64 {
    // SAFETY: by contract; read in one access.
    unsafe { under_way(core::ptr::read_volatile(&raw const (*account(books, receive)).present.calls)) }
}

/// As [`calls`], of a side on which several processes have made calls; 0 of any other.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn calls_of_several(books: *mut Books, receive: u8) -> u64 {
    // SAFETY: by contract; read in one access.
    let who = unsafe { core::ptr::read_volatile(&raw const (*account(books, receive)).present.who) };
    // SAFETY: by contract.
    if who & SEVERAL == 0 { 0 } else { unsafe { calls(books, receive) } }
}

/// How many calls are receiving from the channel now, and how many have taken something since it was first seen.
#[inline(always)]
pub(crate) fn receivers(side: &Side) -> (u64, u64) {
    match books(&side.key) {
        // SAFETY: a valid pointer into the map; each field is read in one access.
        Some(books) => unsafe {
            (calls(books, RECEIVING), core::ptr::read_volatile(&raw const (*account(books, RECEIVING)).moved))
        },
        None => (0, 0),
    }
}

/// The call in flight of thread `tid` ends. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn left(tid: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    leave(&mut call.sides[0]);
    leave(&mut call.sides[1]);
    0
}

/// The call on this side ends.
#[inline(always)]
pub(crate) fn leave(side: &mut Side) {
    if side.present == 0 {
        return;
    }
    if let Some(books) = books(&side.key) {
        leave_from(books, side);
    }
    side.present = 0;
}

/// The same, with the books at hand.
#[inline(always)]
fn leave_from(books: *mut Books, side: &mut Side) {
    // SAFETY: as in `arrive_at`.
    unsafe {
        let present = &raw mut (*account(books, side.receive)).present;
        let before = add(&raw mut (*present).calls, u64::MAX);
        // The books may have been opened anew meanwhile: what did not arrive there does not leave.
        if under_way(before) == 0 {
            add(&raw mut (*present).calls, 1);
        }
        // Another is there, or has been: it began after this one, and may be gone.
        let met = under_way(before) > 1 || before >> 32 != side.present >> 32;
        if met && udp_taken::receives(side) {
            // What was first in the queue when the call began, another may have taken.
            side.pos_enter = wire::Op::UNKNOWN;
        }
        if met && (by_thread(side) || core::ptr::read_volatile(&raw const (*present).who) & SEVERAL != 0) {
            side.flags |= op_flag::OVERLAPS;
        }
    }
}

/// A `Channel` record with room for its name.
#[repr(C)]
struct Named {
    fixed: wire::Channel,
    name: [u8; NAME_MAX + 256],
    /// What its books begin with.
    books: Books,
}

/// One place for programs on system calls; [`CHANNEL_DESKS`] more, which the loader adds where there are any, for programs on functions.
#[map]
static CHANNEL_DESK: PerCpuArray<Named> = PerCpuArray::with_max_entries(1, 0);

/// Not 0 while a task has that place of those for programs on functions, of which another task's may come in between.
#[map]
static CHANNEL_DESK_IN_USE: PerCpuArray<u64> = PerCpuArray::with_max_entries(CHANNEL_DESKS, 0);

/// Takes one of them; 0 if none is free.
#[inline(always)]
fn take_place() -> u32 {
    for place in 0..CHANNEL_DESKS {
        if let Some(in_use) = CHANNEL_DESK_IN_USE.get_ptr_mut(place) {
            // SAFETY: this CPU's valid, aligned place; a task stays on its CPU as long as the program runs.
            if unsafe { add(in_use, 1) } == 0 {
                return place + 1;
            }
            // SAFETY: as above.
            unsafe { add(in_use, u64::MAX) };
        }
    }
    0
}

/// Gives it back.
#[inline(always)]
fn give_back(place: u32) {
    if let Some(in_use) = CHANNEL_DESK_IN_USE.get_ptr_mut(place.wrapping_sub(1)) {
        // SAFETY: as above.
        unsafe { add(in_use, u64::MAX) };
    }
}

/// Whether there was something in the channel when its books were opened.
#[inline(always)]
pub(crate) fn began_with_content(side: &Side) -> bool {
    // SAFETY: a valid pointer into the map; the field is written before it is there.
    books(&side.key).is_some_and(|books| unsafe { (*account(books, side.receive)).queued } != 0)
}

/// Closes the books of a channel that is gone: what is found at its address next is another.
#[inline(always)]
pub(crate) fn forget(key: &Key) {
    books::close(key);
}

/// Opens the books of a channel at first sight and tells user space what it is and holds.
///
/// `taken_before`: what a call that began before we looked has just taken out, and so belongs to what was queued.
#[inline(always)]
pub(crate) fn open(tid: u32, call: &mut InFlight, index: usize, taken_before: u64) {
    let side = &mut call.sides[index];
    if side.mechanism == 0 || side.key.id == 0 || (side.last.file != 0 && side.last.announced != 0) {
        return;
    }
    // Should it be forgotten meanwhile, the end of a call finds no books: see `emit::fill`.
    side.last.announced = 1;
    if !is_known(side) {
        introduce(tid, side, index, taken_before);
    }
}

/// [`announce`]s a side of the call in flight of thread `tid`, and tells what else there is to tell of a channel that is new.
#[inline(always)]
pub(crate) fn introduce(tid: u32, side: &Side, index: usize, taken_before: u64) {
    let (mechanism, object) = (side.mechanism, side.object);
    // Not in `announce`: nested calls share one small stack.
    if announce(tid, index as u32, taken_before) != 0 {
        own::opened(mechanism, object);
    }
}

/// Closes the books of a channel that has been removed, and tells user space.
#[inline(always)]
pub(crate) fn removed(mechanism: Mechanism, key: Key) {
    books::close(&key);
    let Some(mut entry) = ring::reserve::<wire::Channel>() else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every field is written.
    unsafe {
        let now = ring::now();
        ring::begin(&raw mut (*record).header, Kind::Channel, mechanism as u8, channel_flag::REMOVED, now);
        task::describe_current(&raw mut (*record).task);
        (*record).key = key;
        (*record).queued = 0;
        (*record).write_pos = 0;
        (*record).read_pos = 0;
        (*record).sender_inode = 0;
        (*record).receiver_inode = 0;
        (*record).name_len = 0;
        (*record).counting = 0;
    }
    ring::submit(entry);
}

/// Whether there are books for this very channel, not for one that was at its address before.
#[inline(always)]
pub(crate) fn is_known(side: &Side) -> bool {
    known(side).is_some()
}

/// The books of this very channel.
#[inline(always)]
fn known(side: &Side) -> Option<*mut Books> {
    let books = books(&side.key)?;
    // SAFETY: a valid pointer into the map; the field is read in one access.
    let known = unsafe { core::ptr::read_volatile(&raw const (*account(books, side.receive)).inode) };
    let inode = receiver_inode(side);
    if known == inode && (inode != 0 || !unix::is_connection(side.mechanism)) {
        return Some(books);
    }
    let kind = u32::from(side.mechanism) << 8 | u32::from(side.receive);
    (is_same(side.key.id, side.key.space, kind, inode, sending_inode(side)) != 0).then_some(books)
}

/// Whether the books of that key are those of the channel of a side, where not both have the inode of its receiver. `kind`: the side's
/// mechanism `<< 8 |` whether it receives. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_same(id: u64, space: u64, kind: u32, inode: u64, sender: u64) -> i32 {
    let Some(books) = books(&Key { id, space }) else {
        return 0;
    };
    let (mechanism, receive) = ((kind >> 8) as u8, kind as u8);
    // SAFETY: a valid pointer into the map; each field is read and written in one access.
    unsafe {
        let known = core::ptr::read_volatile(&raw const (*account(books, receive)).inode);
        let origin = core::ptr::read_volatile(&raw const (*account(books, receive)).origin);
        let is_same = if known != 0 && inode != 0 {
            known == inode
        } else if unix::is_connection(mechanism) && sender != 0 {
            // Not accepted yet, at least when the call looked; nor, perhaps, was another that was to be at that address.
            origin == sender
        } else if unix::is_connection(mechanism) {
            // Accepted since they were opened, and its peer is closed. But as long as a client is not accepted its peer has no inode
            // either, and another that was never accepted may have been at its address.
            known == 0 && origin != 0 && receive != 0 && unix::has_lost_peer(id) == Ok(true)
        } else if known == 0 {
            // Not a connection's that was never accepted.
            origin == 0
        } else {
            // A receiver of messages has been closed.
            has_messages(mechanism)
        };
        if is_same && known == 0 {
            // It may have been accepted meanwhile.
            core::ptr::write_volatile(&raw mut (*account(books, SENDING)).inode, inode);
            core::ptr::write_volatile(&raw mut (*account(books, RECEIVING)).inode, inode);
        }
        i32::from(is_same)
    }
}

/// Inode of the receiving end; 0 if it has none (yet).
#[inline(always)]
fn receiver_inode(side: &Side) -> u64 {
    if side.receive != 0 { side.own_inode } else { side.peer_inode }
}

/// Inode of the sending end; 0 if it has none any more.
#[inline(always)]
fn sending_inode(side: &Side) -> u64 {
    if side.receive != 0 { side.peer_inode } else { side.own_inode }
}

/// The slow half of [`open`], for a side of the call in flight of thread `tid`; 1 if the books were opened. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn announce(tid: u32, index: u32, taken_before: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let side = unsafe { &(*call).sides[(index & 1) as usize] };
    match try_announce(side, taken_before, 0) {
        Ok(first) => i32::from(first),
        Err(cause) => {
            // Its records will carry no `before`.
            ring::count(cause);
            0
        }
    }
}

/// Opens books that begin with these; false if another CPU was first, which then tells of the channel.
///
/// # Errors
/// [`Cause::MapFull`] if there are too many channels.
#[inline(always)]
fn open_books(side: &Side, begin: &Books) -> Result<bool> {
    // Books of another socket that was at the same address. Only if there are any: those that another CPU opens just now stay.
    if let Some(books) = books(&side.key) {
        // SAFETY: a valid pointer into the map.
        let identity = unsafe { Books::identity(books) };
        if is_known(side) {
            return Ok(false);
        }
        books::close_those(&side.key, identity);
    }
    books::open(&side.key, begin)
}

/// Opens the books of the channel and tells of it, with these [`channel_flag`]s besides its own.
///
/// # Errors
/// [`Cause::MapFull`] if there are too many channels.
#[inline(always)]
fn try_announce(side: &Side, taken_before: u64, flags: u16) -> Result<bool> {
    announce_at(0, side, taken_before, flags)
}

/// See [`Account::origin`].
#[inline(always)]
fn origin(side: &Side, taken_before: u64) -> Result<u64> {
    if unix::is_connection(side.mechanism) {
        return Ok(sending_inode(side));
    }
    if side.mechanism != Mechanism::Tcp as u8 {
        return Ok(0);
    }
    let now = inet::sequence(side.object, side.receive != 0)?;
    Ok(u64::from(now.wrapping_sub(taken_before as u32)))
}

/// See [`wire::Channel::counting`].
#[inline(always)]
fn took(begun: u64, now: u64) -> u32 {
    now.wrapping_sub(begun).min(u64::from(u32::MAX)) as u32
}

/// The same, at that place of [`CHANNEL_DESK`].
#[inline(always)]
fn announce_at(place: u32, side: &Side, taken_before: u64, flags: u16) -> Result<bool> {
    let desk = CHANNEL_DESK.get_ptr_mut(place).ok_or(Cause::MapFull)?;
    // SAFETY: the map gave this CPU's valid, aligned place, and programs on sys_enter and sys_exit, which alone come to the first,
    // do not interrupt each other on one CPU; another has who took it.
    let record = unsafe { &mut *desk };
    // First: the verifier would go through it once for each kind of channel.
    // SAFETY: a field of a valid record.
    unsafe { task::describe_current(&raw mut record.fixed.task) };
    let begun = ring::now();
    let queued = opaque(own::queued(side).saturating_add(taken_before));
    let origin = opaque(origin(side, taken_before)?);
    // Before there are books: with them others' calls go on.
    (record.fixed.write_pos, record.fixed.read_pos) = positions(side, origin);
    let inode = receiver_inode(side);
    if is_known(side) {
        // Another CPU was first, and tells of it.
        return Ok(false);
    }
    record.books = Books::begin(queued, origin, inode);
    if !open_books(side, &record.books)? {
        return Ok(false);
    }
    let name_len = own::name(side, &mut record.name);
    // SAFETY: both places are fields of a valid record.
    unsafe {
        let (flags, now) = (flags | own::flags(side), ring::now());
        ring::begin(&raw mut record.fixed.header, Kind::Channel, side.mechanism, flags, now);
        record.fixed.counting = took(begun, now);
    }
    record.fixed.key = side.key;
    record.fixed.queued = queued;
    record.fixed.sender_inode = if unix::is_connection(side.mechanism) { origin } else { 0 };
    record.fixed.receiver_inode = inode;
    let name_len = if name_len > NAME_MAX { NAME_MAX } else { name_len };
    record.fixed.name_len = name_len as u32;
    // SAFETY: a record with room for its name, initialised memory of a map.
    unsafe { ring::output_with::<wire::Channel, NAME_MAX>(&raw const record.fixed, name_len) };
    Ok(true)
}

/// Room for the name of a channel that is told of where it is used: that of a file, and its NUL, and what else there is to it.
const SHORT_NAME: usize = posix_mq::NAMED.next_multiple_of(8);

/// A `Channel` record with room for a short name.
#[repr(C)]
struct Brief {
    fixed: wire::Channel,
    name: [u8; SHORT_NAME],
}

/// Opens the books of what the call in flight of thread `tid` works on, at first sight, and tells of it; 1 if it was that. From
/// programs on functions. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn opened_in_place(tid: u32, taken_before: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    match announce_in_place(unsafe { &(*call).sides[0] }, taken_before, 0) {
        Ok(first) => i32::from(first),
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

/// The same of a channel whose name may be long.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn opened_by_name(tid: u32, taken_before: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let side = unsafe { &(*call).sides[0] };
    let place = take_place();
    if place == 0 {
        // Better without its name than without its books.
        return opened_in_place(tid, taken_before);
    }
    let first = announce_at(place, side, taken_before, 0);
    give_back(place);
    match first {
        Ok(first) => i32::from(first),
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

/// Where the next byte of a pipe goes, and where it comes from; TCP: the sequence number of the end at hand.
#[inline(always)]
fn positions(side: &Side, origin: u64) -> (u64, u64) {
    if !pipe::is_pipe(side.mechanism) {
        let sequence = if side.mechanism == Mechanism::Tcp as u8 { origin } else { 0 };
        return (sequence, sequence);
    }
    let position = |receive, bound| pipe::position(side.object, receive, bound, pipe::NOWHERE).unwrap_or(0);
    (position(false, Bound::Upper) & !wire::ROUGH, position(true, Bound::Lower))
}

/// As [`try_announce`], from programs on functions, of which another task's may come in between: without this CPU's place.
///
/// # Errors
/// [`Cause::MapFull`] if there are too many channels.
#[inline(always)]
pub(crate) fn announce_in_place(side: &Side, taken_before: u64, flags: u16) -> Result<bool> {
    if is_known(side) {
        return Ok(false);
    }
    let begun = ring::now();
    let queued = opaque(own::queued(side).saturating_add(taken_before));
    let origin = opaque(origin(side, taken_before)?);
    let positions = positions(side, origin);
    let inode = receiver_inode(side);
    if !open_books(side, &Books::begin(queued, origin, inode))? {
        return Ok(false);
    }
    let Some(mut entry) = ring::reserve::<Brief>() else {
        return Ok(true);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every field of its fixed part is written, and as much of the name as it says. The places for the
    // names are long enough.
    unsafe {
        let (flags, now) = (flags | own::flags(side), ring::now());
        ring::begin(&raw mut (*record).fixed.header, Kind::Channel, side.mechanism, flags, now);
        (*record).fixed.counting = took(begun, now);
        task::describe_current(&raw mut (*record).fixed.task);
        (*record).fixed.key = side.key;
        (*record).fixed.queued = queued;
        ((*record).fixed.write_pos, (*record).fixed.read_pos) = positions;
        (*record).fixed.sender_inode = if unix::is_connection(side.mechanism) { origin } else { 0 };
        (*record).fixed.receiver_inode = inode;
        (*record).fixed.name_len = own::short_name(side, (&raw mut (*record).name).cast()) as u32;
    }
    ring::submit(entry);
    Ok(true)
}

/// Enters `amount` into the books; gives what had been entered before, if the channel has books. With `leaves` the call on
/// this side ends, too.
#[cfg(feature = "plain")]
#[inline(always)]
pub(crate) fn enter(side: &mut Side, amount: u64, leaves: bool) -> Option<u64> {
    if leaves {
        leave(side);
    }
    let before = enter_alone(side.key.id, side.key.space, u32::from(side.receive), amount);
    (before != u64::MAX).then_some(before)
}

/// Channels into whose books someone is entering something, by direction.
#[cfg(feature = "plain")]
#[map]
static ENTERING: HashMap<[u64; 3], u32> = HashMap::with_max_entries(4096, 0);

/// The same where the processor has no operation for it: one at a time, by a map's promise that only one can put in what is
/// not there. `u64::MAX` if there are no books. The verifier looks at it by itself.
#[cfg(feature = "plain")]
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enter_alone(id: u64, space: u64, receive: u32, amount: u64) -> u64 {
    /// Others are done within a few of these.
    const TURNS: u32 = 128;
    let key = [id, space, u64::from(receive)];
    let mut alone = false;
    for _ in 0..TURNS {
        if ENTERING.insert(&key, &1, BPF_NOEXIST).is_ok() {
            alone = true;
            break;
        }
    }
    let before = match books(&Key { id, space }) {
        // SAFETY: a valid pointer into the map's value, which only the one whose key is in `ENTERING` writes.
        Some(books) => unsafe {
            let place = &raw mut (*account(books, receive as u8)).moved;
            let before = core::ptr::read_volatile(place);
            core::ptr::write_volatile(place, before.wrapping_add(amount));
            before
        },
        None => u64::MAX,
    };
    if alone {
        // It is there.
        let _ = ENTERING.remove(&key);
    } else {
        ring::count(Cause::MapFull);
    }
    before
}

/// Enters `amount` into the books; gives what had been entered before, if the channel has books. With `leaves` the call on
/// this side ends, too.
#[cfg(not(feature = "plain"))]
#[inline(always)]
pub(crate) fn enter(side: &mut Side, amount: u64, leaves: bool) -> Option<u64> {
    let books = books(&side.key)?;
    if leaves && side.present != 0 {
        leave_from(books, side);
        side.present = 0;
    }
    // SAFETY: a valid pointer into the map's value.
    Some(unsafe { add(&raw mut (*account(books, side.receive)).moved, amount) })
}

/// The name that a unix socket is bound to, without its address family.
#[inline(always)]
pub(crate) fn bound_name(sock: u64, place: &mut [u8; NAME_MAX + 256]) -> Result<usize> {
    /// `sun_path`, and one NUL more.
    const PATH: usize = 109;
    if sock == 0 {
        return Ok(0);
    }
    let address: u64 = read(sock, offset!(unix_addr))?;
    if address == 0 {
        return Ok(0);
    }
    let len: i32 = read(address, offset!(unix_address_len))?;
    // SAFETY: the place is longer than that; the helper checks the source.
    let status = unsafe {
        bpf_probe_read_kernel(
            place.as_mut_ptr().cast(),
            PATH as u32,
            (address + offset!(unix_address_name) as u64 + 2) as *const _,
        )
    };
    if status != 0 {
        return Err(Cause::ReadFailed);
    }
    Ok((len as usize).saturating_sub(2).min(PATH))
}

/// Climbs from a file to the root of its mount namespace.
struct Climb {
    dentry: u64,
    mount: u64,
    place: *mut u8,
    len: usize,
    done: bool,
}

impl Repeat for Climb {
    const LIMIT: u32 = 256;
    const PLAIN_LIMIT: u32 = 24;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        self.step().unwrap_or(true)
    }
}

impl Climb {
    /// One component, or the step over a mount point; `true` at the end.
    #[inline(always)]
    fn step(&mut self) -> Result<bool> {
        let parent: u64 = read(self.dentry, offset!(dentry_parent))?;
        let root: u64 = read(self.mount + offset!(mount_mnt) as u64, offset!(vfsmount_root))?;
        if self.dentry == root || self.dentry == parent {
            let above: u64 = read(self.mount, offset!(mount_parent))?;
            if above == self.mount {
                self.done = true;
                return Ok(true);
            }
            self.dentry = read(self.mount, offset!(mount_mountpoint))?;
            self.mount = above;
            return Ok(false);
        }
        let name: u64 = read(self.dentry, offset!(dentry_name))?;
        if self.len >= NAME_MAX {
            return Ok(true);
        }
        // SAFETY: `len` is below NAME_MAX, and the place is 256 bytes longer than that: the longest name and its NUL fit.
        let copied =
            unsafe { bpf_probe_read_kernel_str(self.place.add(self.len).cast(), 256, name as *const _) };
        if copied < 0 {
            return Err(Cause::ReadFailed);
        }
        self.len += (copied as usize) & 0x1ff;
        self.dentry = parent;
        Ok(false)
    }
}

/// Tells user space the name of a file, which has no books: its path, or its bare name where `mount` is 0.
///
/// # Errors
/// If the name could not be read, or there is no room to write it.
#[inline(always)]
pub(crate) fn tell_file(mechanism: Mechanism, flags: u16, key: Key, dentry: u64, mount: u64) -> Result<()> {
    if !is_at_object(mechanism as u8) {
        return tell_file_at(0, mechanism, flags, key, dentry, mount);
    }
    let place = take_place();
    if place == 0 {
        return Err(Cause::MapFull);
    }
    let told = tell_file_at(place, mechanism, flags, key, dentry, mount);
    give_back(place);
    told
}

/// The same, at that place of [`CHANNEL_DESK`].
#[inline(always)]
fn tell_file_at(
    place: u32,
    mechanism: Mechanism,
    flags: u16,
    key: Key,
    dentry: u64,
    mount: u64,
) -> Result<()> {
    let desk = CHANNEL_DESK.get_ptr_mut(place).ok_or(Cause::MapFull)?;
    // SAFETY: this CPU's valid, aligned place; programs on sys_enter and sys_exit, which alone come to the first, do not interrupt
    // each other on one CPU; another has who took it.
    let record = unsafe { &mut *desk };
    let name_len = if mount == 0 {
        let name: u64 = read(dentry, offset!(dentry_name))?;
        // SAFETY: the place is longer than that; the helper checks the source.
        let copied =
            unsafe { bpf_probe_read_kernel_str(record.name.as_mut_ptr().cast(), 256, name as *const _) };
        if copied < 0 {
            return Err(Cause::ReadFailed);
        }
        copied as usize
    } else {
        climb(dentry, mount, &mut record.name)
    };
    // SAFETY: both places are fields of a valid record.
    unsafe {
        ring::begin(&raw mut record.fixed.header, Kind::Channel, mechanism as u8, flags, ring::now());
        task::describe_current(&raw mut record.fixed.task);
    }
    record.fixed.key = key;
    record.fixed.queued = u64::MAX;
    record.fixed.write_pos = 0;
    record.fixed.read_pos = 0;
    record.fixed.receiver_inode = 0;
    record.fixed.counting = 0;
    let name_len = if name_len > NAME_MAX { NAME_MAX } else { name_len };
    record.fixed.name_len = name_len as u32;
    // SAFETY: a record with room for its name, initialised memory of a map.
    unsafe { ring::output_with::<wire::Channel, NAME_MAX>(&raw const record.fixed, name_len) };
    Ok(())
}

/// The path of an open file from the root of its mount namespace, last component first, each ended by NUL. Gives its
/// length; 0 if it could not be found whole.
///
/// User space turns it around. Walking dentries rather than asking /proc later finds the name of a file whose process is
/// gone already. `prepend_path`, fs/d_path.c.
#[inline(always)]
pub(crate) fn path(file: u64, place: &mut [u8; NAME_MAX + 256]) -> usize {
    match (read::<u64>(file, offset!(file_mnt)), read::<u64>(file, offset!(file_dentry))) {
        (Ok(mount), Ok(dentry)) => climb(dentry, mount, place),
        (Err(_), _) | (_, Err(_)) => 0,
    }
}

/// The same of a name in a mount.
#[inline(never)]
fn climb(dentry: u64, mount: u64, place: &mut [u8; NAME_MAX + 256]) -> usize {
    let mut climb = Climb {
        dentry,
        mount: mount - offset!(mount_mnt) as u64,
        place: place.as_mut_ptr(),
        len: opaque(0) as usize,
        done: false,
    };
    repeat(&mut climb);
    if climb.done { climb.len } else { 0 }
}
