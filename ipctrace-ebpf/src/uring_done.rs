//! The end of requests through io_uring: what they moved.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::Cause;
use ipctrace_common::uring::complete_form;
use ipctrace_common::wire::op_flag;

use crate::config::{self, place};
use crate::inflight::{self, Moved, Side, Taken};
use crate::kernel::{Result, read};
use crate::object::{self, Direction};
use crate::repeat::opaque;
use crate::uring::{self, Request, Work};
use crate::{emit, event, own, pipe, ring, straddle, task};

/// `struct io_uring_cqe`, include/uapi/linux/io_uring.h.
const CQE_USER_DATA: usize = 0;
const CQE_RES: usize = 8;
const CQE_FLAGS: usize = 12;
/// `IORING_CQE_F_MORE`: the request goes on.
const MORE: u32 = 1 << 1;

/// What a completion says.
#[derive(Clone, Copy)]
struct Completion {
    ctx: u64,
    /// 0 if it does not say.
    request: u64,
    user_data: u64,
    result: i32,
    flags: u32,
}

/// hook: tp_btf/io_uring_complete `void (struct io_ring_ctx *ctx, void *req)` — include/trace/events/io_uring.h
///
/// From `io_fill_cqe_req` for the last, or only, completion of a request, and without its address from
/// `io_fill_cqe_aux` for those before. In a thread of the submitter. Older kernels pass the fields of the completion where
/// newer ones pass the completion, and call the first argument a `void *`.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn uring_complete(ctx: BtfTracePointContext) -> i32 {
    if task::is_tracer(task::pid_tgid()) {
        return 0;
    }
    if let Err(cause) = try_complete(&ctx) {
        ring::failed!(&ctx, cause);
    }
    0
}

/// hook: tracepoint/io_uring/io_uring_complete
#[tracepoint]
pub fn uring_complete_event(ctx: TracePointContext) -> u32 {
    reported(
        &ctx,
        Completion {
            ctx: event::field!(&ctx, UringComplete, 0, u64),
            request: event::field!(&ctx, UringComplete, 1, u64),
            user_data: event::field!(&ctx, UringComplete, 2, u64),
            result: event::field!(&ctx, UringComplete, 3, i32),
            flags: event::field!(&ctx, UringComplete, 4, u32),
        },
    );
    0
}

/// A completion, as the record of a tracepoint tells of it.
#[inline(always)]
fn reported(ctx: &impl EbpfContext, completion: Completion) {
    if !task::is_tracer(task::pid_tgid())
        && let Err(cause) = completed(completion)
    {
        ring::failed!(ctx, cause);
    }
}

#[inline(always)]
fn try_complete(ctx: &BtfTracePointContext) -> Result<()> {
    let (ring, request) = (ctx.arg::<*const u8>(0) as u64, ctx.arg::<*const u8>(1) as u64);
    // The verifier knows which form it is, and does not look at the other.
    let completion = if config::uring_complete() == complete_form::ENTRY {
        let entry = ctx.arg::<*const u8>(2) as u64;
        Completion {
            ctx: ring,
            request,
            user_data: read(entry, CQE_USER_DATA)?,
            result: read(entry, CQE_RES)?,
            flags: read(entry, CQE_FLAGS)?,
        }
    } else {
        Completion { ctx: ring, request, user_data: ctx.arg(2), result: ctx.arg(3), flags: ctx.arg(4) }
    };
    completed(completion)
}

/// hook: tp_btf/io_uring_cqe_overflow `void (void *ctx, long long unsigned int user_data, s32 res, u32 cflags)` — include/trace/events/io_uring.h
///
/// From `io_cqring_event_overflow`, where the ring has no room for a completion.
#[btf_tracepoint(function = "io_uring_cqe_overflow")]
pub fn uring_overflow(ctx: BtfTracePointContext) -> i32 {
    reported(
        &ctx,
        Completion {
            ctx: ctx.arg::<*const u8>(0) as u64,
            request: 0,
            user_data: ctx.arg(1),
            result: ctx.arg(2),
            flags: ctx.arg(3),
        },
    );
    0
}

/// hook: tracepoint/io_uring/io_uring_cqe_overflow
#[tracepoint]
pub fn uring_overflow_event(ctx: TracePointContext) -> u32 {
    reported(
        &ctx,
        Completion {
            ctx: event::field!(&ctx, UringOverflow, 0, u64),
            request: 0,
            user_data: event::field!(&ctx, UringOverflow, 1, u64),
            result: event::field!(&ctx, UringOverflow, 2, i32),
            flags: event::field!(&ctx, UringOverflow, 3, u32),
        },
    );
    0
}

#[inline(always)]
fn completed(completion: Completion) -> Result<()> {
    let named = completion.request != 0;
    let request = if named {
        completion.request
    } else {
        uring::by_name(completion.ctx, completion.user_data)?.unwrap_or(0)
    };
    if request == 0 {
        return Ok(());
    }
    let Some(call) = uring::get(request) else {
        return if named && completion.result > 0 {
            unbegun(request, completion.result as u32)
        } else {
            Ok(())
        };
    };
    // SAFETY: a valid pointer into the map; a request has one completion at a time.
    let call = unsafe { &mut *call };
    if completion.result > 0 {
        let mut file = call.file;
        if named {
            file = read(request, place!(file))?;
        }
        if file != call.file {
            // Another file has taken the number since: by a request that this one waited for.
            call.sides[0].mechanism = 0;
            unbegun(request, completion.result as u32)?;
        }
        request_moved(opaque(request), completion.result as u32, 0);
        request_moved(opaque(request), completion.result as u32, 1);
    }
    if completion.flags & MORE == 0 {
        uring::end(request, call.ctx, call.user_data);
        return Ok(());
    }
    // What it moves next it moves from here on.
    call.enter = ring::now();
    call.done = 0;
    if call.sides[0].flags & op_flag::POSITIONS != 0 && pipe::is_pipe(call.sides[0].mechanism) {
        call.sides[0].pos_enter = pipe::position(
            call.sides[0].object,
            call.sides[0].receive != 0,
            pipe::Bound::Lower,
            pipe::NOWHERE,
        )?;
    }
    Ok(())
}

/// Tells what went through one side of a request. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn request_moved(request: u64, bytes: u32, index: u32) -> i32 {
    if let Some(call) = uring::get(request) {
        let index = (index & 1) as usize;
        // SAFETY: a valid pointer into the map; a request has one completion at a time.
        let call = unsafe { &*call };
        tell(call, u64::from(bytes), index, if index == 0 { call.done } else { 0 });
    }
    0
}

#[inline(always)]
fn tell(request: &Request, bytes: u64, index: usize, position: u64) {
    let side = &request.sides[index];
    // A datagram that is sent by address names no channel.
    let addressed = emit::has_messages(side.mechanism) && side.receive == 0;
    if side.mechanism == 0 || (side.key.id == 0 && !addressed) {
        return;
    }
    if own::is_looked_into(side.mechanism) {
        if index == 0 {
            tell_as_call(request, bytes);
        }
        return;
    }
    let Some(desk) = inflight::desk() else {
        return;
    };
    // SAFETY: this CPU's valid, aligned place; the programs on system calls, which also use it, do not interrupt this one.
    let call = unsafe { &mut *desk };
    let moves = request.sides[1].mechanism != 0;
    call.sides[index] = *side;
    call.enter = request.enter;
    call.taken = Taken::NOTHING;
    call.moved = Moved { flags: if moves { op_flag::SPLICED } else { 0 }, ..Moved::of(bytes) };
    emit::op_of(call, index, &request.task, position);
}

/// Tells what went through an eventfd or a terminal, of which more is looked for, in the submitter's memory and in the
/// object, than how many bytes it was: as if the current thread, which is one of the submitter's, had called.
#[inline(always)]
fn tell_as_call(request: &Request, bytes: u64) {
    let ids = task::pid_tgid();
    let tid = ids as u32;
    if (ids >> 32) as u32 != request.task.tgid {
        ring::count(Cause::ReadFailed);
        return;
    }
    let Ok(place) = inflight::place(tid) else {
        ring::count(Cause::ReadFailed);
        return;
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &mut *place };
    if call.active != 0 {
        ring::count(Cause::ReadFailed);
        return;
    }
    call.sides = [request.sides[0], Side::NONE];
    call.enter = request.enter;
    call.class = request.class;
    call.user = request.user;
    call.index = 0;
    call.taken = Taken::NOTHING;
    call.moved = Moved::of(bytes);
    call.active = 1;
    own::look(tid, call);
    emit::emit_plain(tid, 0);
    call.active = 0;
}

/// The end of a request whose begin was not seen, or whose file could not be found then.
#[inline(always)]
fn unbegun(request: u64, bytes: u32) -> Result<()> {
    let Some(work) = uring::work(read(request, place!(opcode))?) else {
        return Ok(());
    };
    if uring::only_looks(request, work)? {
        return Ok(());
    }
    let (class, direction) = match work {
        Work::Take(class) => (class, Direction::Receive),
        Work::Put(class) => (class, Direction::Send),
        // Of two files, of which only one is known now.
        Work::Move(_) => return Ok(()),
    };
    let file: u64 = read(request, place!(file))?;
    let tid = task::pid_tgid() as u32;
    if inflight::get(tid).is_some() {
        return Ok(());
    }
    let Some(desk) = inflight::desk() else {
        return Ok(());
    };
    if file == 0 {
        return Ok(());
    }
    // SAFETY: as in `tell`.
    let call = unsafe { &mut *desk };
    call.sides = [Side::NONE, Side::NONE];
    call.run = 0;
    object::describe(file, direction, &mut call.sides[0])?;
    object::pass_over(&mut call.sides[0], false);
    if call.sides[0].mechanism == 0 || uring::at_socket(&call.sides[0]) {
        return Ok(());
    }
    call.class = class as u8;
    call.user = uring::buffer(request, class)?;
    let side = &call.sides[0];
    if own::is_looked_into(side.mechanism) {
        straddle::unbegun_looked_into(tid, call, u64::from(bytes))?;
    } else {
        straddle::unbegun(tid, call, u64::from(bytes))?;
    }
    inflight::end(tid);
    Ok(())
}
