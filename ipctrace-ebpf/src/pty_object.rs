//! Pseudoterminals at the functions of their files, which every read and write comes to: system calls, io_uring, and splice(2). As
//! for [`crate::queue_object`], nothing is kept in places of a CPU.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use ipctrace_common::Mechanism;

use crate::config::{self, offset};
use crate::inflight::{self, InFlight, Moved};
use crate::iter::{self, is_memory_of_process};
use crate::kernel::{Result, argument, first_two, read};
use crate::{channel, emit, object, pty, ring, task};

/// hook: fentry/tty_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — drivers/tty/tty_io.c
#[fentry(function = "tty_read")]
pub fn pty_read_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), true)
}

/// hook: fexit/tty_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — drivers/tty/tty_io.c
#[fexit(function = "tty_read")]
pub fn pty_read_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), true, ctx.arg(2))
}

/// hook: fentry/tty_write `ssize_t (struct kiocb *iocb, struct iov_iter *from)` — drivers/tty/tty_io.c
#[fentry(function = "tty_write")]
pub fn pty_write_entry(ctx: FEntryContext) -> i32 {
    begin(first_two(&ctx), false)
}

/// hook: fexit/tty_write `ssize_t (struct kiocb *iocb, struct iov_iter *from)` — drivers/tty/tty_io.c
#[fexit(function = "tty_write")]
pub fn pty_write_exit(ctx: FExitContext) -> i32 {
    end(first_two(&ctx), false, ctx.arg(2))
}

/// hook: fexit/ptmx_open `int (struct inode *inode, struct file *filp)` — drivers/tty/pty.c
///
/// A new pair, whose number and address may have been another's before.
#[fexit(function = "ptmx_open")]
pub fn pty_made_exit(ctx: FExitContext) -> i32 {
    if argument(&ctx, 2) as i32 == 0
        && !task::is_tracer(task::pid_tgid())
        && let Err(cause) = pty::made(argument(&ctx, 1), argument(&ctx, 0))
    {
        ring::count(cause);
    }
    0
}

/// The begin of a read or write.
#[inline(always)]
fn begin([iocb, iter]: [u64; 2], receive: bool) -> i32 {
    let ids = task::pid_tgid();
    let tid = ids as u32;
    if !task::is_tracer(ids) && pty_object_begun(tid, iocb, iter, u32::from(receive), ring::now()) != 0 {
        channel::opened_in_place(tid, 0);
        if let Some(call) = inflight::get(tid) {
            // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
            channel::arrive(unsafe { &mut (*call).sides[0] }, (ids >> 32) as u32);
        }
    }
    0
}

/// The end of a read or write.
#[inline(always)]
fn end([iocb, iter]: [u64; 2], receive: bool, returned: i64) -> i32 {
    let ids = task::pid_tgid();
    if task::is_tracer(ids) {
        return 0;
    }
    let tid = ids as u32;
    let mut late = true;
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        late = !is_told_of_here(unsafe { &*call });
        if late && !is_memory_of_process(iter) {
            // A system call on two files, which tells of it.
            return 0;
        }
    }
    if returned > 0 && (!late || pty_object_begun(tid, iocb, iter, u32::from(receive), 0) != 0) {
        // What a write has put in by the time that its terminal is first seen is among what is told to be in it.
        let first = late && channel::opened_in_place(tid, if receive { returned as u64 } else { 0 }) == 1;
        if receive || !first {
            pty_object_ended(tid, returned as u64);
        }
    }
    // There was nothing to tell.
    channel::left(tid);
    inflight::tell(tid);
    0
}

/// Whether a call in flight was put there by a program of this module: system calls on terminals are of other classes then.
#[inline(always)]
pub(crate) fn is_told_of_here(call: &InFlight) -> bool {
    // What the verifier knows comes first: where no terminal is traced here it looks no further.
    config::objects() & Mechanism::Pty.bit() != 0
        && call.sides[0].mechanism == Mechanism::Pty as u8
        && object::is_of_object(call)
}

/// Describes a call that began at `enter` (0: not seen) and puts it in flight; 0 if it is none of ours. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pty_object_begun(tid: u32, iocb: u64, iter: u64, receive: u32, enter: u64) -> u32 {
    match try_begun(tid, iocb, iter, receive != 0, enter) {
        Ok(ours) => u32::from(ours),
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

#[inline(always)]
fn try_begun(tid: u32, iocb: u64, iter: u64, receive: bool, enter: u64) -> Result<bool> {
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    if call.active != 0 && !is_told_of_here(call) && !is_memory_of_process(iter) {
        return Ok(false);
    }
    call.active = 0;
    let file: u64 = read(iocb, offset!(kiocb_file))?;
    let side = call.only(receive, enter);
    side.last.file = 0;
    pty::describe(file, read(file, offset!(file_inode))?, side)?;
    if side.mechanism == 0 {
        return Ok(false);
    }
    // By which the call is known again if the kernel skips the program at its end.
    side.last.file = file;
    side.last.inode = 0;
    // Line breaks are counted in what is written.
    let memory = iter::memory(iter, receive, !receive)?.plain()?;
    call.start_in(&memory, enter);
    Ok(true)
}

/// Tells of the call in flight of thread `tid`, which returned that. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pty_object_ended(tid: u32, returned: u64) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    call.active = inflight::ENDING;
    call.moved = Moved { user: call.user, count: call.count, ..Moved::of(returned) };
    pty::pty_expected(tid);
    emit::at_object(tid, call);
    0
}
