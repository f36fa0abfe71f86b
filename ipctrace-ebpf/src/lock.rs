//! The order of calls that had to wait for one pipe: where the pipe stood once the waiter held its lock.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use ipctrace_common::wire::op_flag;

use crate::config::offset;
use crate::inflight;
use crate::kernel::Result;
use crate::{pipe, ring, task};

/// hook: tp_btf/contention_end `void (void *lock, int ret)` — include/trace/events/lock.h
///
/// Comes when a lock that was held by another is acquired: nothing moves in the pipe then.
#[btf_tracepoint(function = "contention_end")]
pub fn contention_end(ctx: BtfTracePointContext) -> i32 {
    if let Err(cause) = try_locked(ctx.arg(0), ctx.arg(1), task::pid_tgid() as u32) {
        ring::failed!(&ctx, cause);
    }
    0
}

/// Notes the position, if it is the pipe that this thread's call works on.
#[inline(always)]
fn try_locked(lock: u64, status: i32, tid: u32) -> Result<()> {
    if status != 0 {
        return Ok(());
    }
    let Some(call) = inflight::get(tid) else {
        return Ok(());
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let side = unsafe { &mut (*call).sides[0] };
    if side.flags & op_flag::POSITIONS == 0
        || !pipe::is_pipe(side.mechanism)
        || lock != side.object + offset!(pipe_mutex) as u64
    {
        return Ok(());
    }
    // A call that sleeps for room or data takes the lock again: the first time is the bound.
    if side.flags & op_flag::LOCKED == 0 {
        side.pos_locked = pipe::locked_position(side.object, side.receive != 0)?;
        side.flags |= op_flag::LOCKED;
    }
    Ok(())
}
