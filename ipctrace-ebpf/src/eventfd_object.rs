//! Event counters at the functions of their file, which all that reads or writes one comes to, and at the one by which the
//! kernel adds to it. As for [`crate::queue_object`], nothing is kept in places of a CPU.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::{self, Key, Kind, channel_flag, op_flag};
use ipctrace_common::{Config, Mechanism};

use crate::config::{self, offset};
use crate::inflight::{self, Side};
use crate::kernel::{Result, argument, first_two, read, read_user};
use crate::{channel, emit, eventfd, object, ring, task};

/// Bytes of one read or write.
const WIDTH: u64 = 8;

/// hook: fentry/eventfd_write `ssize_t (struct file *file, char *buf, size_t count, loff_t *ppos)` — fs/eventfd.c
#[fentry(function = "eventfd_write")]
pub fn eventfd_write_entry(ctx: FEntryContext) -> i32 {
    begin(argument(&ctx, 0), ctx.arg(1), false)
}

/// hook: fexit/eventfd_write `ssize_t (struct file *file, char *buf, size_t count, loff_t *ppos)` — fs/eventfd.c
#[fexit(function = "eventfd_write")]
pub fn eventfd_write_exit(ctx: FExitContext) -> i32 {
    end(argument(&ctx, 0), ctx.arg(1), false, ctx.arg(4))
}

/// hook: fentry/eventfd_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — fs/eventfd.c
#[fentry(function = "eventfd_read")]
pub fn eventfd_read_entry(ctx: FEntryContext) -> i32 {
    let [iocb, iter] = first_two(&ctx);
    begin(file_of(iocb), buffer(iter, 0), true)
}

/// hook: fexit/eventfd_read `ssize_t (struct kiocb *iocb, struct iov_iter *to)` — fs/eventfd.c
#[fexit(function = "eventfd_read")]
pub fn eventfd_read_exit(ctx: FExitContext) -> i32 {
    let [iocb, iter] = first_two(&ctx);
    end(file_of(iocb), buffer(iter, WIDTH), true, ctx.arg(2))
}

/// hook: fexit/do_eventfd `int (unsigned int count, int flags)` — fs/eventfd.c
///
/// A new counter, whose number and address may have been another's before.
#[fexit(function = "do_eventfd")]
pub fn eventfd_made_exit(ctx: FExitContext) -> i32 {
    let descriptor: i32 = ctx.arg(2);
    if descriptor >= 0
        && let Err(cause) = try_made(descriptor as u32)
    {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_made(descriptor: u32) -> Result<()> {
    let file = object::file(descriptor)?;
    if file == 0 {
        return Ok(());
    }
    eventfd::learn(file)?;
    if task::is_tracer(task::pid_tgid()) {
        return Ok(());
    }
    let mut side = Side::NONE;
    eventfd::describe_counter(file, &mut side)?;
    channel::forget(&side.key);
    if eventfd::queued(side.object) != 0 {
        channel::announce_in_place(&side, 0, channel_flag::MADE)?;
    }
    Ok(())
}

/// hook: fentry/eventfd_signal_mask `void (struct eventfd_ctx *ctx, __poll_t mask)` — fs/eventfd.c
///
/// Until Linux 6.7 with how much to add as its second argument. Anywhere, in interrupts too.
#[fentry(function = "eventfd_signal_mask")]
pub fn eventfd_signal_entry(ctx: FEntryContext) -> i32 {
    let units = if config::eventfd_signal_counts() != 0 { argument(&ctx, 1) } else { 1 };
    if units != 0
        && let Err(cause) = try_signal(argument(&ctx, 0), units)
    {
        ring::count(cause);
    }
    0
}

/// Tells of units that the kernel adds to a counter that somebody has been seen to use.
#[inline(always)]
fn try_signal(counter: u64, units: u64) -> Result<()> {
    let number = u64::from(read::<u32>(counter, offset!(eventfd_id))?) + 1;
    let mut side = Side::NONE;
    side.key = Key { id: counter, space: Key::EVENTFD };
    side.peer_inode = number;
    if !channel::is_known(&side) {
        // What is in it is told when somebody uses it.
        return Ok(());
    }
    let before = channel::enter(&mut side, 1, false);
    let Some(mut entry) = ring::reserve::<wire::Op>() else {
        return Ok(());
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every byte is written.
    unsafe {
        ring::clear(record);
        let flags =
            op_flag::DETAIL | op_flag::BY_KERNEL | if before.is_some() { op_flag::SEQUENCED } else { 0 };
        let now = ring::now();
        ring::begin(&raw mut (*record).header, Kind::Op, Mechanism::Eventfd as u8, flags, now);
        (*record).key = side.key;
        (*record).enter = now;
        (*record).bytes = WIDTH;
        (*record).message_len = WIDTH;
        (*record).before = before.unwrap_or(0);
        (*record).receiver_inode = number;
        (*record).detail = units as i64;
        (*record).messages = 1;
        (*record).fd = -1;
    }
    ring::submit(entry);
    Ok(())
}

/// The open file that a `struct kiocb` is for; 0 if it could not be read.
#[inline(always)]
fn file_of(iocb: u64) -> u64 {
    read(iocb, offset!(kiocb_file)).unwrap_or(0)
}

/// Where in the caller's memory a `struct iov_iter` stands, less the bytes that it has gone already; 0 if that is not known, or
/// it is no memory of a process.
#[inline(always)]
fn buffer(iter: u64, gone: u64) -> u64 {
    let Ok(kind) = read::<u8>(iter, offset!(iter_kind)) else {
        return 0;
    };
    let kind = u32::from(kind);
    let passed: u64 = read(iter, offset!(iter_offset)).unwrap_or(0);
    if config::iter_ubuf() != Config::NO_KIND && kind == config::iter_ubuf() {
        return read::<u64>(iter, offset!(iter_ubuf)).map_or(0, |base| base + passed - gone);
    }
    // At its end it may stand at the next piece.
    if config::iter_iovec() != Config::NO_KIND && kind == config::iter_iovec() && passed >= gone {
        return read::<u64>(iter, offset!(iter_iovec))
            .and_then(|pieces| read::<u64>(pieces, 0))
            .map_or(0, |base| base + passed - gone);
    }
    0
}

/// The begin of a read or write.
#[inline(always)]
fn begin(file: u64, user: u64, receive: bool) -> i32 {
    let ids = task::pid_tgid();
    if !task::is_tracer(ids) && eventfd_object_begun(ids as u32, file, u32::from(receive), ring::now()) != 0 {
        noted(ids as u32, user, receive);
        channel::opened_in_place(ids as u32, 0);
        if let Some(call) = inflight::get(ids as u32) {
            // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
            channel::arrive(unsafe { &mut (*call).sides[0] }, (ids >> 32) as u32);
        }
    }
    0
}

/// Notes where the value is; of a write what it is, before the caller can change it.
#[inline(always)]
fn noted(tid: u32, user: u64, receive: bool) {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
        let call = unsafe { &mut *call };
        call.user = user;
        if !receive && let Ok(value) = read_user::<i64>(user, 0) {
            call.moved.detail = value;
            call.moved.flags = op_flag::DETAIL;
        }
    }
}

/// The end of a read or write.
#[inline(always)]
fn end(file: u64, user: u64, receive: bool, returned: i64) -> i32 {
    let ids = task::pid_tgid();
    let tid = ids as u32;
    if returned > 0 && !task::is_tracer(ids) {
        let late = inflight::get(tid).is_none();
        if late && eventfd_object_begun(tid, file, u32::from(receive), 0) != 0 {
            noted(tid, user, receive);
        }
        let value = eventfd_object_value(tid);
        // What a write has put in by the time that its counter is first seen is among what is told to be in it.
        let first = late && channel::opened_in_place(tid, if receive { value } else { 0 }) == 1;
        if (receive || !first)
            && let Some(call) = inflight::get(tid)
        {
            // SAFETY: as above.
            let call = unsafe { &mut *call };
            call.active = inflight::ENDING;
            emit::at_object(tid, call);
        }
    }
    // There was nothing to tell.
    channel::left(tid);
    inflight::tell(tid);
    0
}

/// Describes a call that began at `enter` (0: not seen) and puts it in flight; 0 if it cannot be. The verifier looks at it by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn eventfd_object_begun(tid: u32, file: u64, receive: u32, enter: u64) -> i32 {
    match try_begun(tid, file, receive != 0, enter) {
        Ok(()) => 1,
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

#[inline(always)]
fn try_begun(tid: u32, file: u64, receive: bool, enter: u64) -> Result<()> {
    let place = inflight::place(tid)?;
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    call.sides = [Side::NONE, Side::NONE];
    let side = &mut call.sides[0];
    eventfd::describe_counter(file, side)?;
    side.used(receive, enter);
    call.start(if receive { Class::Read } else { Class::Write }, enter, WIDTH);
    Ok(())
}

/// The value that the call in flight of thread `tid` added or took; 0 if it is not known. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn eventfd_object_value(tid: u32) -> u64 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    if call.moved.flags & op_flag::DETAIL == 0 {
        if call.sides[0].receive != 0 && eventfd::is_semaphore(call.sides[0].object) {
            call.moved.detail = 1;
            call.moved.flags |= op_flag::DETAIL;
        } else if call.user != 0 {
            match read_user::<i64>(call.user, 0) {
                Ok(value) => {
                    call.moved.detail = value;
                    call.moved.flags |= op_flag::DETAIL;
                }
                Err(cause) => ring::count(cause),
            }
        }
    }
    call.moved.detail as u64
}
