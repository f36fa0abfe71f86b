//! Who the current task is.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
#[cfg(feature = "loads")]
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_uid_gid,
};
#[cfg(not(feature = "plain"))]
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
#[cfg(feature = "loads")]
use aya_ebpf::macros::map;
#[cfg(feature = "loads")]
use aya_ebpf::maps::PerCpuArray;
use ipctrace_common::wire::Task;

use crate::config::{offset, own_tgid};
use crate::kernel::{LOADS, copy, load, read};

/// No task.
pub(crate) const NOBODY: Task =
    Task { tgid: 0, tid: 0, start: 0, cgroup: 0, uid: 0, reserved: 0, comm: [0; 16] };

/// The current `struct task_struct`, whose type the verifier knows.
#[inline(always)]
pub(crate) fn current() -> *const u8 {
    #[cfg(feature = "plain")]
    // SAFETY: the helper has no preconditions.
    return unsafe { bpf_get_current_task() as *const u8 };
    #[cfg(not(feature = "plain"))]
    // SAFETY: the helper has no preconditions.
    return unsafe { bpf_get_current_task_btf() as *const u8 };
}

/// The current task in a system call, for [`member`].
///
/// Where programs read by loads it is what the run queue of this processor says, whose address is found out once: the helper's call and
/// its guarded return take as long as a dozen loads.
#[inline(always)]
pub(crate) fn in_call() -> *const u8 {
    #[cfg(feature = "loads")]
    if let Some(place) = RUN_QUEUE.get_ptr(0) {
        // SAFETY: this CPU's valid, aligned place.
        let queue = unsafe { core::ptr::read_volatile(place) };
        if queue != 0 {
            return read::<u64>(queue, offset!(rq_curr)).unwrap_or(0) as *const u8;
        }
    }
    #[cfg(feature = "loads")]
    return task_asked() as *const u8;
    #[cfg(not(feature = "loads"))]
    current()
}

/// The address of this processor's `struct rq`, once it is known.
#[cfg(feature = "loads")]
#[map]
static RUN_QUEUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The current task, as the helper says; and finds out where the run queue is that says the same. The verifier looks at it by itself.
#[cfg(feature = "loads")]
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn task_asked() -> u64 {
    let task = untyped();
    // Without groups of tasks there is no way there.
    if offset!(cfs_rq_rq) != 0 && offset!(rq_curr) != 0 {
        let at = |queue: u64| read::<u64>(queue, offset!(rq_curr)).unwrap_or(0);
        let queue = read::<u64>(task, offset!(task_cfs_rq)).and_then(|fair| read(fair, offset!(cfs_rq_rq)));
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        if let (Ok(queue), Some(place)) = (queue, RUN_QUEUE.get_ptr_mut(0))
            && read(queue, offset!(rq_cpu)) == Ok(cpu)
            && at(queue) == task
        {
            // SAFETY: this CPU's valid, aligned place.
            unsafe { core::ptr::write_volatile(place, queue) };
        }
    }
    task
}

/// A field of the task that [`in_call`] gave, or of what such a field points to.
///
/// # Safety
/// `offset` must be that of a `T`, an integer or a pointer, in the running kernel's structure.
#[inline(always)]
pub(crate) unsafe fn member<T: Copy>(base: *const u8, offset: usize) -> T {
    if LOADS {
        // SAFETY: for such a `T` zeros are a value.
        read(base as u64, offset).unwrap_or_else(|_| unsafe { core::mem::zeroed() })
    } else {
        // SAFETY: `base` has a BTF type; the rest by contract.
        unsafe { load(base, offset) }
    }
}

/// The current task's registers of user space, a `struct pt_regs` whose type the verifier knows: where system calls have their
/// arguments. Since Linux 5.15; programs that want it are not for older kernels.
#[inline(always)]
pub(crate) fn registers() -> *const u8 {
    #[cfg(feature = "plain")]
    return core::ptr::null();
    #[cfg(not(feature = "plain"))]
    // SAFETY: the helper takes the current task.
    return unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8 };
}

/// Whether the current task belongs to the tracer, whose own doings are never reported.
#[inline(always)]
pub(crate) fn is_tracer(pid_tgid: u64) -> bool {
    (pid_tgid >> 32) as u32 == own_tgid()
}

/// Thread group id in the upper, thread id in the lower half.
#[inline(always)]
pub(crate) fn pid_tgid() -> u64 {
    bpf_get_current_pid_tgid()
}

/// The same of the task that [`in_call`] gave: two loads in place of a helper's call.
#[inline(always)]
pub(crate) fn ids_of(task: *const u8) -> u64 {
    // SAFETY: the offsets are those of the running kernel.
    unsafe {
        u64::from(member::<u32>(task, offset!(task_tgid))) << 32
            | u64::from(member::<u32>(task, offset!(task_pid)))
    }
}

/// The current process, whose thread's `struct task_struct` is at that address; 0 if that is not at hand.
#[inline(always)]
pub(crate) fn tgid_of(task: u64) -> u32 {
    if LOADS && task != 0 { read(task, offset!(task_tgid)).unwrap_or(0) } else { (pid_tgid() >> 32) as u32 }
}

/// Writes the identity of the current task. The process is that of its first thread: its start and its name.
///
/// # Safety
/// `place` must be valid for a write.
#[inline(always)]
pub(crate) unsafe fn describe_current(place: *mut Task) {
    if LOADS {
        // A few loads cost less than the helpers' calls.
        // SAFETY: by contract.
        return unsafe { describe(untyped(), place) };
    }
    let task = current();
    let ids = ids_of(task);
    // SAFETY: `place` is valid by contract; `task` has BTF type task_struct,
    // and the offsets are those of the running kernel. The helpers have no preconditions.
    unsafe {
        (*place).tgid = (ids >> 32) as u32;
        (*place).tid = ids as u32;
        (*place).cgroup = bpf_get_current_cgroup_id();
        (*place).uid = bpf_get_current_uid_gid() as u32;
        (*place).reserved = 0;
        // One path is enough where loads are reads anyway.
        if cfg!(not(feature = "plain")) && (ids >> 32) as u32 == ids as u32 {
            let comm = (&raw mut (*place).comm).cast::<u64>();
            (*place).start = load(task, offset!(task_start));
            *comm = load(task, offset!(task_comm));
            *comm.add(1) = load(task, offset!(task_comm) + 8);
        } else {
            let leader = task_leader();
            // Where they are wanted, for the stack is small. What cannot be read becomes zeros.
            let _ = copy(&raw mut (*place).start, leader, offset!(task_start));
            let _ = copy(&raw mut (*place).comm, leader, offset!(task_comm));
        }
    }
}

/// That task by address, or the current one if it is 0.
#[inline(always)]
pub(crate) fn or_current(task: u64) -> u64 {
    if LOADS && task != 0 { task } else { untyped() }
}

/// As [`describe_current`]; `task` is the current `struct task_struct`, or 0 if that is not at hand.
///
/// # Safety
/// `place` must be valid for a write.
#[inline(always)]
pub(crate) unsafe fn describe_caller(task: u64, place: *mut Task) {
    // SAFETY: by contract.
    unsafe {
        if LOADS {
            describe(or_current(task), place);
        } else {
            describe_current(place);
        }
    }
}

/// The first thread of the current process.
///
/// Read, not loaded: to see whether it may trust a pointer that is loaded from a task, the verifier goes through all types of
/// the kernel by name, again on each path; that was half of its time.
///
/// The verifier looks at it by itself, and its callers need no stack for it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn task_leader() -> u64 {
    read(untyped(), offset!(task_group_leader)).unwrap_or(0)
}

/// The current `struct task_struct` as a number, for what is not read often. See [`task_leader`].
#[inline(always)]
pub(crate) fn untyped() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// Writes the identity of a task, by its address. What cannot be read is left as "unknown".
///
/// # Safety
/// `place` must be valid for a write.
#[inline(always)]
pub(crate) unsafe fn describe(task: u64, place: *mut Task) {
    let leader: u64 = read(task, offset!(task_group_leader)).unwrap_or(task);
    // SAFETY: `place` is valid by contract.
    unsafe {
        (*place).tgid = read(task, offset!(task_tgid)).unwrap_or(0);
        (*place).tid = read(task, offset!(task_pid)).unwrap_or(0);
        (*place).start = read(leader, offset!(task_start)).unwrap_or(0);
        (*place).cgroup = cgroup(task);
        (*place).uid = uid(task);
        (*place).reserved = 0;
        if LOADS {
            let comm = (&raw mut (*place).comm).cast::<u64>();
            *comm = read(leader, offset!(task_comm)).unwrap_or(0);
            *comm.add(1) = read(leader, offset!(task_comm) + 8).unwrap_or(0);
        } else {
            (*place).comm = read(leader, offset!(task_comm)).unwrap_or([0; 16]);
        }
    }
}

/// Real user id of a task; `u32::MAX` if it cannot be read.
#[inline(always)]
fn uid(task: u64) -> u32 {
    read::<u64>(task, offset!(task_cred)).and_then(|cred| read(cred, offset!(cred_uid))).unwrap_or(u32::MAX)
}

/// Identity of a task's group in the unified hierarchy; 0 if it cannot be read.
#[inline(always)]
fn cgroup(task: u64) -> u64 {
    read::<u64>(task, offset!(task_cgroups))
        .and_then(|set| read::<u64>(set, offset!(css_set_dfl_cgrp)))
        .and_then(|group| read::<u64>(group, offset!(cgroup_kn)))
        .and_then(|node| read::<u64>(node, offset!(kernfs_node_id)))
        .unwrap_or(0)
}
