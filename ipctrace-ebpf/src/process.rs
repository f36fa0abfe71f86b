//! Processes begin, change their program and end.

use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use ipctrace_common::wire::{self, Kind, process_event};

use crate::config::offset;
use crate::kernel::read;
use crate::{inflight, memory, ring, run, task, wake};

/// hook: tp_btf/sched_wakeup_new `void (struct task_struct *p)` — include/trace/events/sched.h
///
/// Comes in the parent before the child first runs, so its record precedes any of the child's. New threads are passed over. Unlike
/// `sched_process_fork`, which comes a moment before, it cannot be preempted: the lock of the run queue is held.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    let child: u64 = ctx.arg::<*const u8>(0) as u64;
    let pid: u32 = read(child, offset!(task_pid)).unwrap_or(0);
    if read(child, offset!(task_tgid)) != Ok(pid) {
        return 0;
    }
    let same_memory = memory::forked(child, pid);
    let Some(mut entry) = ring::reserve::<wire::Process>() else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every field is written.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Process, 0, process_event::FORK, ring::now());
        task::describe(child, &raw mut (*record).task);
        task::describe_current(&raw mut (*record).parent);
        (*record).exit_code = 0;
        (*record).same_memory = u32::from(same_memory);
    }
    ring::submit(entry);
    0
}

/// hook: tp_btf/sched_process_exec `void (struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)` — include/trace/events/sched.h
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(_ctx: BtfTracePointContext) -> i32 {
    executed();
    0
}

/// hook: tracepoint/sched/sched_process_exec
#[tracepoint]
pub fn process_exec_event(_ctx: TracePointContext) -> u32 {
    executed();
    0
}

/// The current process changed its program.
#[inline(always)]
fn executed() {
    memory::left();
    report(process_event::EXEC, 0);
}

/// hook: tp_btf/sched_process_exit `void (struct task_struct *p)` — include/trace/events/sched.h
///
/// Since 6.16 with a second argument, `bool group_dead`; the count of live threads tells the same on all kernels.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(_ctx: BtfTracePointContext) -> i32 {
    ends();
    0
}

/// hook: tracepoint/sched/sched_process_exit
#[tracepoint]
pub fn process_exit_event(_ctx: TracePointContext) -> u32 {
    ends();
    0
}

/// The current thread ends, and with the last its process.
#[inline(always)]
fn ends() {
    let tid = task::pid_tgid() as u32;
    run::end_run(tid);
    inflight::forget(tid);
    wake::forget(tid);
    let current = task::current() as u64;
    let shared: u64 = read(current, offset!(task_signal)).unwrap_or(0);
    // do_exit counts down before it comes here.
    if read::<u32>(shared, offset!(signal_live)) != Ok(0) {
        return;
    }
    memory::left();
    let code: u32 = read(shared, offset!(signal_group_exit_code)).unwrap_or(0);
    let own: u32 = read(current, offset!(task_exit_code)).unwrap_or(0);
    report(process_event::EXIT, if code == 0 { own } else { code });
}

/// Tells of the current process.
#[inline(always)]
fn report(event: u16, exit_code: u32) {
    let Some(mut entry) = ring::reserve::<wire::Process>() else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every field is written.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Process, 0, event, ring::now());
        task::describe_current(&raw mut (*record).task);
        (*record).parent = task::NOBODY;
        (*record).exit_code = exit_code;
        (*record).same_memory = 0;
    }
    ring::submit(entry);
}
