//! Records of what calls put in and took out.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use ipctrace_common::config::PAYLOAD_MAX;
use ipctrace_common::wire::{self, ADDRESS_MAX, Kind, op_flag};
use ipctrace_common::{Cause, Mechanism, Shape};

use crate::inflight::{self, InFlight};
use crate::kernel::add;
use crate::run::{self, Ended};
use crate::{channel, config, inet, own, payload, pipe, ring, task};

/// An `Op` record with room for its variable parts.
#[repr(C)]
struct Long {
    fixed: wire::Op,
    tail: [u8; ADDRESS_MAX + PAYLOAD_MAX as usize * 2],
}

/// One place for programs on system calls and in them; a second one, which the loader adds where there are any, for programs on
/// functions.
#[map]
static OP_DESK: PerCpuArray<Long> = PerCpuArray::with_max_entries(1, 0);

/// What a mechanism's books count.
#[inline(always)]
fn amount(mechanism: u8, bytes: u64) -> u64 {
    if has_messages(mechanism) || own::is_looked_into(mechanism) { 1 } else { bytes }
}

/// Whether the mechanism keeps messages apart.
#[inline(always)]
pub(crate) fn has_messages(mechanism: u8) -> bool {
    const SEPARATE: u32 = Mechanism::of_shape(Shape::Message) | Mechanism::of_shape(Shape::Queue);
    SEPARATE >> (mechanism & 31) & 1 != 0
}

/// Socket addresses and payload make a record that is copied once more; without them it is made in place.
#[inline(always)]
fn is_long(call: &InFlight) -> bool {
    call.moved.address != 0 || (config::payload() != 0 && call.moved.user != 0)
}

#[inline(always)]
fn long(tid: u32, call: &mut InFlight, index: usize) {
    run::end_before(tid, call);
    emit_long(tid, index as u32);
}

#[inline(always)]
fn short(tid: u32, call: &mut InFlight, index: usize) {
    let ended = ended(call, index);
    let may_join = config::run() != 0 && ended.flags & op_flag::POSITIONS != 0;
    let joined = may_join && run::join(tid, call, index, &ended);
    if !may_join {
        run::end_before(tid, call);
    }
    call.ended = ended.time;
    if !joined {
        put(call, index, &ended);
    }
}

/// Puts the record of a call on the ring.
#[inline(always)]
fn put(call: &InFlight, index: usize, ended: &Ended) {
    let Some(mut entry) = ring::reserve::<wire::Op>() else {
        // The books go on: the next record shows how much is missing.
        return;
    };
    // SAFETY: the entry is room for an `Op`; `fill` writes every field of it.
    unsafe { fill(entry.as_mut_ptr(), call, index, ended) };
    ring::submit(entry);
}

/// As [`op`], of a call that is not the current thread's own system call: `task` did it. `position` is where the object stood
/// when it was done, 0 if nothing nearer is known than where it stands now. Without payload.
#[inline(always)]
pub(crate) fn op_of(call: &mut InFlight, index: usize, task: &wire::Task, position: u64) {
    let mut ended = ended(call, index);
    if position != 0 && ended.flags & op_flag::POSITIONS != 0 {
        ended.position = position;
    }
    let Some(mut entry) = ring::reserve::<wire::Op>() else {
        // As in `op`.
        return;
    };
    let op = entry.as_mut_ptr();
    // SAFETY: the entry is room for an `Op`; `fill` writes every field of it.
    unsafe {
        fill(op, call, index, &ended);
        (*op).task = *task;
    }
    ring::submit(entry);
}

/// As [`op`], of calls without payload and address that are part of no run. The verifier looks at it by itself, and has
/// little to look at.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn emit_plain(tid: u32, index: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let index = (index & 1) as usize;
    let ended = ended(call, index);
    put(call, index, &ended);
    0
}

/// As [`op`], of the first side of a call that is told of at its object: in programs that another task's may interrupt.
#[inline(always)]
pub(crate) fn at_object(tid: u32, call: &mut InFlight) {
    run::end_before(tid, call);
    if is_long(call) && enter_desk() {
        emit_long(tid, AT_OBJECT);
        leave_desk();
    } else {
        emit_plain(tid, 0);
    }
}

/// The same of a call that may be part of a run.
#[inline(always)]
pub(crate) fn stream_at_object(tid: u32, call: &mut InFlight) {
    if is_long(call) {
        at_object(tid, call);
    } else {
        emit_short(tid, 0);
    }
}

/// Of the index of a side, for [`emit_long`]: the caller has entered the desk of programs on functions.
const AT_OBJECT: u32 = 2;

/// Not 0 while a task has the desk of programs on functions.
#[map]
static AT_DESK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Whether the desk was free; a payload for which it was not is counted as one that could not be read.
#[inline(always)]
fn enter_desk() -> bool {
    let Some(place) = AT_DESK.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's valid, aligned place; a task stays on its CPU as long as the program runs.
    if unsafe { add(place, 1) } == 0 {
        return true;
    }
    leave_desk();
    ring::count(Cause::ReadFailed);
    false
}

#[inline(always)]
fn leave_desk() {
    if let Some(place) = AT_DESK.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { add(place, u64::MAX) };
    }
}

/// Writes a record of what `call.moved` says was moved through side `index` of the call in flight of thread `tid`. The verifier looks
/// at both halves by themselves: it comes by here on many ways.
#[inline(always)]
pub(crate) fn op(tid: u32, call: &mut InFlight, index: usize) {
    if is_long(call) {
        long(tid, call, index);
    } else {
        emit_short(tid, index as u32);
    }
}

/// The half of [`op`] that is not long.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn emit_short(tid: u32, index: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        short(tid, unsafe { &mut *call }, (index & 1) as usize);
    }
    0
}

/// The same with what follows the fixed part. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn emit_long(tid: u32, index: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let Some(desk) = OP_DESK.get_ptr_mut(index >> 1 & 1) else {
        return 0;
    };
    // SAFETY: this CPU's valid, aligned place; programs on sys_exit and consume_skb come here, the latter from within
    // system calls only, so that none interrupts another that is writing; the other place has who has entered the desk.
    let record = unsafe { &mut *desk };
    // SAFETY: as above.
    let (index, at_object) = ((index & 1) as usize, index & AT_OBJECT != 0);
    let ended = ended(call, index);
    // SAFETY: as above.
    unsafe { fill(&raw mut record.fixed, call, index, &ended) };
    let moved = &call.moved;
    let mut len = 0usize;
    if moved.address != 0 {
        let wanted = (moved.address_len as usize).min(ADDRESS_MAX);
        if payload::address(&mut record.tail, moved.address, wanted, at_object).is_ok() {
            record.fixed.header.flags |= op_flag::ADDRESS;
            record.fixed.address_len = wanted as u32;
            len = wanted;
        } else {
            ring::count(Cause::PageAbsent);
        }
    }
    if config::payload() != 0 && moved.user != 0 {
        let captured = payload::capture(&mut record.tail, len, call.class, moved);
        record.fixed.payload_len = captured as u32;
        len += captured;
    }
    const MOST: usize = ADDRESS_MAX + PAYLOAD_MAX as usize;
    // SAFETY: a record with room for more than that, initialised memory of a map.
    unsafe { ring::output_with::<wire::Op, MOST>(&raw const record.fixed, len) };
    0
}

/// Enters the call into the channel's books and looks where it left the object.
#[inline(always)]
fn ended(call: &mut InFlight, index: usize) -> Ended {
    let InFlight { moved, sides, active, .. } = call;
    let side = &mut sides[index];
    let before = channel::enter(side, amount(side.mechanism, moved.bytes), *active == inflight::ENDING);
    let mut flags = side.flags | moved.flags;
    if before.is_some() {
        flags |= op_flag::SEQUENCED;
    } else {
        // User space has forgotten the channel: it is announced again.
        side.last.announced = 0;
    }
    let receive = side.receive != 0;
    let pipe = flags & op_flag::POSITIONS != 0 && pipe::is_pipe(side.mechanism);
    let position = if pipe {
        let since = (side.pos_enter, moved.bytes);
        side.left = pipe::position(side.object, receive, pipe::Bound::Upper, since).unwrap_or(0);
        side.left
    } else if flags & op_flag::POSITIONS != 0 {
        inet::inet_position(side.object, u32::from(receive))
    } else {
        0
    };
    let time = ring::now();
    if pipe {
        call.rests_at(index, position, time);
    }
    Ended { before: before.unwrap_or(0), position, flags, time }
}

/// Fills in the fixed part.
///
/// # Safety
/// `op` must be valid for a write.
#[inline(always)]
pub(crate) unsafe fn fill(op: *mut wire::Op, call: &InFlight, index: usize, ended: &Ended) {
    let moved = &call.moved;
    let side = &call.sides[index];
    let receive = side.receive != 0;
    // SAFETY: valid by contract.
    unsafe {
        ring::begin(&raw mut (*op).header, Kind::Op, side.mechanism, ended.flags, ended.time);
        task::describe_caller(call.task, &raw mut (*op).task);
        (*op).key = side.key;
        (*op).enter = call.enter;
        (*op).bytes = moved.bytes;
        (*op).message_len = moved.len;
        (*op).before = ended.before;
        (*op).pos_enter = side.pos_enter;
        (*op).pos_locked = side.pos_locked;
        (*op).pos_exit = ended.position;
        if receive {
            let from = ended.flags & op_flag::FROM != 0;
            (*op).sender_sock = if from { call.taken.sock } else { side.peer };
            (*op).sender_inode = if from { call.taken.inode } else { side.peer_inode };
            (*op).receiver_inode = side.own_inode;
        } else {
            (*op).sender_sock = side.object;
            (*op).sender_inode = side.own_inode;
            (*op).receiver_inode = side.peer_inode;
        }
        (*op).detail = moved.detail;
        (*op).digest = moved.digest;
        (*op).messages = moved.messages;
        (*op).address_len = 0;
        (*op).payload_len = 0;
        (*op).fd = side.fd;
    }
}
