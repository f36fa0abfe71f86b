//! Pipes and FIFOs at the functions of their files, which every read and write comes to: system calls, io_uring, and what the
//! kernel writes itself. What moves without them (splice, tee, vmsplice, sendfile) stays with the programs on system calls. As
//! for [`crate::queue_object`], nothing is kept in places of a CPU.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use ipctrace_common::Mechanism;
use ipctrace_common::wire::op_flag;

use crate::config::{self, offset};
use crate::inflight::{self, InFlight, Moved};
use crate::iter::{self, is_memory_of_process};
use crate::kernel::{Result, first_two, read};
use crate::{channel, emit, object, pipe, ring, straddle, task};

/// hook: fentry/pipe_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — fs/pipe.c
#[fentry(function = "pipe_read")]
pub fn pipe_read_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), true)
}

/// hook: fexit/pipe_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — fs/pipe.c
#[fexit(function = "pipe_read")]
pub fn pipe_read_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), true, ctx.arg(2))
}

/// hook: fentry/pipe_write `ssize_t (struct kiocb *iocb, struct iov_iter *from)` — fs/pipe.c
#[fentry(function = "pipe_write")]
pub fn pipe_write_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), false)
}

/// hook: fexit/pipe_write `ssize_t (struct kiocb *iocb, struct iov_iter *from)` — fs/pipe.c
#[fexit(function = "pipe_write")]
pub fn pipe_write_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), false, ctx.arg(2))
}

/// hook: fentry/anon_pipe_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — fs/pipe.c
///
/// The name of `pipe_read` since Linux 6.15. FIFOs come to it through a function of their own.
#[fentry(function = "anon_pipe_read")]
pub fn anon_pipe_read_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), true)
}

/// hook: fexit/anon_pipe_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — fs/pipe.c
#[fexit(function = "anon_pipe_read")]
pub fn anon_pipe_read_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), true, ctx.arg(2))
}

/// hook: fentry/anon_pipe_write `ssize_t (struct kiocb *iocb, struct iov_iter *from)` — fs/pipe.c
#[fentry(function = "anon_pipe_write")]
pub fn anon_pipe_write_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), false)
}

/// hook: fexit/anon_pipe_write `ssize_t (struct kiocb *iocb, struct iov_iter *from)` — fs/pipe.c
#[fexit(function = "anon_pipe_write")]
pub fn anon_pipe_write_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), false, ctx.arg(2))
}

/// What is to be done next with a call: each step is a function that the verifier looks at by itself, and they come one after
/// the other, so that what they have on the stack is not added up.
mod next {
    /// Nothing: it is no call of ours.
    pub(super) const NOTHING: u32 = 0;
    /// The channel is known.
    pub(super) const GO: u32 = 1;
    /// The books of a pipe are to be opened.
    pub(super) const OPEN: u32 = 2;
    /// The books of a FIFO are to be opened, which has a name.
    pub(super) const OPEN_NAMED: u32 = 3;
}

/// The begin of a read or write.
#[inline(always)]
fn begin([iocb, iter]: [u64; 2], receive: bool) -> i32 {
    let ids = task::pid_tgid();
    if !task::is_tracer(ids) {
        let tid = ids as u32;
        open(tid, pipe_object_begun(tid, iocb, iter, u32::from(receive), ring::now()), 0);
    }
    0
}

/// Opens the books of the call's channel if they are to be; whether that was done now.
#[inline(always)]
fn open(tid: u32, next: u32, taken_before: u64) -> bool {
    match next {
        next::OPEN => channel::opened_in_place(tid, taken_before) == 1,
        next::OPEN_NAMED => channel::opened_by_name(tid, taken_before) == 1,
        _ => false,
    }
}

/// The end of a read or write.
#[inline(always)]
fn end([iocb, iter]: [u64; 2], receive: bool, returned: i64) -> i32 {
    let ids = task::pid_tgid();
    if task::is_tracer(ids) {
        return 0;
    }
    let tid = ids as u32;
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        if !is_told_of_here(unsafe { &*call }) && !is_memory_of_process(iter) {
            // A system call on two files, which tells of it.
            return 0;
        }
    }
    if returned > 0 {
        let mut known = u64::MAX;
        if !is_in_flight(tid) {
            let next = pipe_object_begun(tid, iocb, iter, u32::from(receive), 0);
            known = u64::from(next == next::GO);
            open(tid, next, if receive { returned as u64 } else { 0 });
        }
        pipe_object_ended(tid, returned as u64, known);
    }
    inflight::tell(tid);
    0
}

/// Whether the call that the thread is in was put there by a program of this module.
#[inline(always)]
fn is_in_flight(tid: u32) -> bool {
    match inflight::get(tid) {
        // SAFETY: as above.
        Some(call) => is_told_of_here(unsafe { &*call }),
        None => false,
    }
}

/// Whether a call in flight was put there by a program of this module: system calls on pipes are of other classes then.
#[inline(always)]
pub(crate) fn is_told_of_here(call: &InFlight) -> bool {
    // What the verifier knows comes first: where no pipe is traced here it looks no further.
    config::objects() & Mechanism::PIPES != 0
        && pipe::is_pipe(call.sides[0].mechanism)
        && object::is_of_object(call)
}

/// Describes a call that began at `enter` (0: not seen) and puts it in flight; gives what is to be done next. The verifier looks
/// at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pipe_object_begun(tid: u32, iocb: u64, iter: u64, receive: u32, enter: u64) -> u32 {
    match try_begun(tid, iocb, iter, receive != 0, enter) {
        Ok(next) => next,
        Err(cause) => {
            ring::count(cause);
            next::NOTHING
        }
    }
}

#[inline(always)]
fn try_begun(tid: u32, iocb: u64, iter: u64, receive: bool, enter: u64) -> Result<u32> {
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    if call.active != 0 && !is_told_of_here(call) && !is_memory_of_process(iter) {
        return Ok(next::NOTHING);
    }
    call.active = 0;
    let file: u64 = read(iocb, offset!(kiocb_file))?;
    let (inode, pipe) = (read(file, offset!(file_inode))?, read(file, offset!(file_private_data))?);
    let side = call.only(receive, enter);
    pipe::describe(file, inode, pipe, side)?;
    if side.mechanism == 0 {
        return Ok(next::NOTHING);
    }
    if enter == 0 {
        // Where it stood then is not known.
        side.flags &= !op_flag::POSITIONS;
    }
    let next = if side.last.announced != 0 || channel::is_known(side) {
        next::GO
    } else if side.mechanism == Mechanism::Fifo as u8 {
        next::OPEN_NAMED
    } else {
        next::OPEN
    };
    side.last.announced = 1;
    let memory = iter::memory(iter, receive, false)?;
    call.start_in(&memory, enter);
    Ok(next)
}

/// Tells of the call in flight of thread `tid`, which returned that. `known`: `u64::MAX` if it was seen to begin, else whether
/// its channel was known before its end. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pipe_object_ended(tid: u32, returned: u64, known: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    call.active = inflight::ENDING;
    let mut bytes = returned;
    if known != u64::MAX && call.sides[0].receive == 0 {
        bytes = straddle::put_in(&call.sides[0], returned, known != 0);
        if bytes == 0 {
            return 0;
        }
    }
    call.moved = Moved { user: call.user, count: call.count, ..Moved::of(bytes) };
    emit::stream_at_object(tid, call);
    0
}
