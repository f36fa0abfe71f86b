//! Runs of small calls on a pipe, or on a queue of messages that are alike: see [`ipctrace_common::run`].
//!
//! A call continues a run if the same thread made it on the same end of the same pipe, if nothing else was entered into the
//! channel's books or moved the pipe's position in between, and if it stayed within one page. The record of such a run is
//! that of one larger call: nothing that could be known is lost but the times between its first and its last.
//!
//! On a queue it does if its message is of the kind and length of the others, and nothing else need be known of it ([`crate::alike`]) or
//! its number follows theirs ([`crate::messages`]).

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use ipctrace_common::run::{RUNS as COUNT, Run, Standing};
use ipctrace_common::wire::{self, op_flag};

use crate::channel::{self, Books};
use crate::inflight::InFlight;
use crate::kernel::{add, swap};
use crate::{config, emit, ring};

/// The collector looks at them without a system call.
#[map]
static RUNS: Array<Run> = Array::with_max_entries(COUNT, ring::MMAPABLE);

/// See [`Standing`].
#[map]
static STANDING: Array<Standing> = Array::with_max_entries(1, ring::MMAPABLE);

/// Says that a thread's run may stand.
#[inline(always)]
fn stands(tid: u32) {
    if let Some(standing) = STANDING.get_ptr_mut(0) {
        // SAFETY: a valid pointer into the map, and a place within it; everybody but the collector writes the same.
        unsafe {
            let place = standing.cast::<u8>().add((tid & (COUNT - 1)) as usize);
            if core::ptr::read_volatile(place) == 0 {
                core::ptr::write_volatile(place, 1);
            }
        }
    }
}

/// Flags of a call that can be part of a run; any other makes it stand alone.
const PLAIN: u16 = op_flag::RECEIVE | op_flag::POSITIONS | op_flag::SEQUENCED;

/// Where a call ended, as far as it is known before its record is made.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    /// See [`wire::Op::before`].
    pub(crate) before: u64,
    /// See [`wire::Op::pos_exit`].
    pub(crate) position: u64,
    /// All flags of the record.
    pub(crate) flags: u16,
    /// When.
    pub(crate) time: u64,
}

/// The place of a thread's run.
#[inline(always)]
fn place(tid: u32) -> Option<*mut Run> {
    RUNS.get_ptr_mut(tid & (COUNT - 1))
}

/// Whether the call may continue a run, or begin one.
#[inline(always)]
fn fits(call: &InFlight, index: usize, ended: &Ended) -> bool {
    let side = &call.sides[index];
    let same_page = side.pos_enter >> 32 == ended.position >> 32;
    let alone = ended.position.wrapping_sub(side.pos_enter) == call.moved.bytes;
    ended.flags & !PLAIN == 0 && ended.flags & op_flag::SEQUENCED != 0 && same_page && alone
}

/// Whether that time, of the call's begin or end, is soon after the end of the thread's call before it.
#[inline(always)]
pub(crate) fn is_soon(call: &InFlight, time: u64) -> bool {
    time.wrapping_sub(call.ended) < u64::from(config::run())
}

/// Puts the call into the thread's run, or tells of the run that it does not continue. `false`: the call is still to be told
/// of, by itself. What threads do whose calls do not end at short intervals is told of at once: a run that stands does not wake the
/// collector.
#[inline(always)]
pub(crate) fn join(tid: u32, call: &mut InFlight, index: usize, ended: &Ended) -> bool {
    let fits = fits(call, index, ended) && is_soon(call, ended.time);
    if call.run == 0 && !fits {
        return false;
    }
    let Some(run) = take(tid) else {
        return false;
    };
    // SAFETY: the run is this program's until it is given back.
    let joined = unsafe { joined(tid, call, index, ended, &mut *run, fits) };
    give_back(run);
    joined
}

/// Puts a message of a queue into the thread's run, or begins one with it, and enters it into the books: one of a queue whose messages are
/// alike ([`op_flag::ALIKE`]) or one with a number ([`op_flag::FROM`]), which `known` says. `false`: nothing has been done.
///
/// # Safety
/// `books` must be valid.
#[inline(always)]
pub(crate) unsafe fn add_message(tid: u32, call: &mut InFlight, books: *mut Books, known: u16) -> bool {
    let Some(run) = take(tid) else {
        return false;
    };
    let mut soon = true;
    // SAFETY: by contract, and the run is this program's until it is given back.
    let joined = unsafe {
        let others = (*run).op.messages != 0 && (*run).owner != u64::from(tid);
        if others {
            false
        } else {
            let before = add(&raw mut (*channel::account(books, call.sides[0].receive)).moved, 1);
            let flags = call.sides[0].flags | op_flag::SEQUENCED | known;
            let ended = Ended { before, position: 0, flags, time: ring::now() };
            soon = is_soon(call, ended.time);
            call.ended = ended.time;
            joined(tid, call, 0, &ended, &mut *run, true)
        }
    };
    give_back(run);
    if !soon {
        // As in `join`.
        end_before(tid, call);
    }
    joined
}

/// The thread's run, which is this program's until it gives it back; `None` if somebody works on it.
#[inline(always)]
fn take(tid: u32) -> Option<*mut Run> {
    // SAFETY: a valid pointer into the map; who has exchanged 0 for 1 has the run.
    place(tid).filter(|run| unsafe { swap(&raw mut (**run).lock, 1) } == 0)
}

#[inline(always)]
fn give_back(run: *mut Run) {
    // SAFETY: a valid pointer into the map.
    unsafe { swap(&raw mut (*run).lock, 0) };
}

/// The same, with the run to itself.
#[inline(always)]
fn joined(tid: u32, call: &mut InFlight, index: usize, ended: &Ended, run: &mut Run, fits: bool) -> bool {
    let side = &call.sides[index];
    let op = &mut run.op;
    if op.messages != 0 {
        if run.owner != u64::from(tid) {
            call.run = 0;
            return false;
        }
        let (alike, numbered) = (ended.flags & op_flag::ALIKE != 0, ended.flags & op_flag::FROM != 0);
        let messages = alike || numbered;
        let follows = if messages {
            let count = u64::from(op.messages);
            op.message_len == call.moved.len
                && op.detail == call.moved.detail
                && op.before.wrapping_add(count) == ended.before
                && (alike || op.sender_sock.wrapping_add(count) == call.taken.sock)
        } else {
            op.pos_exit == side.pos_enter && op.before.wrapping_add(op.bytes) == ended.before
        };
        if fits
            && op.key.id == side.key.id
            && op.key.space == side.key.space
            && op.header.flags == ended.flags
            && follows
            && ended.time.wrapping_sub(op.enter) < u64::from(config::run())
        {
            op.bytes += call.moved.bytes;
            if !messages {
                op.message_len = op.bytes;
            }
            op.messages += 1;
            op.pos_exit = ended.position;
            op.header.time = ended.time;
            return true;
        }
        tell(op);
    }
    call.run = u8::from(fits);
    if fits {
        run.owner = u64::from(tid);
        // SAFETY: room for a record, of which every field is written.
        unsafe { emit::fill(&raw mut *op, call, index, ended) };
        stands(tid);
    }
    fits
}

/// Puts the run on the ring. Once for many calls, so by itself: it would take stack and registers of its callers.
#[inline(never)]
fn tell(op: &mut wire::Op) {
    // SAFETY: the record, as bytes: integers without padding.
    let bytes = unsafe { core::slice::from_raw_parts((&raw const *op).cast::<u8>(), size_of::<wire::Op>()) };
    ring::output(bytes, op.messages);
    op.messages = 0;
}

/// Tells of the thread's run, if it has one, before it is told of something else.
#[inline(always)]
pub(crate) fn end_before(tid: u32, call: &mut InFlight) {
    if call.run != 0 {
        call.run = 0;
        end_run(tid);
    }
}

/// Tells of the thread's run, if it has one: it does something else now, or ends. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_run(tid: u32) -> i32 {
    let Some(run) = place(tid) else {
        return 0;
    };
    // SAFETY: as in `join`.
    unsafe {
        if swap(&raw mut (*run).lock, 1) != 0 {
            // The collector is just taking it.
            return 0;
        }
        if (*run).owner == u64::from(tid) && (*run).op.messages != 0 {
            tell(&mut (*run).op);
        }
        swap(&raw mut (*run).lock, 0);
    }
    0
}
