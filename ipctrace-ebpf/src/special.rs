//! System calls that their mechanism's own module deals with: see [`Special`].
//!
//! Their programs are global functions, which take numbers only and which the verifier looks at by themselves; what
//! the call was given stands in [`ARGUMENTS`] meanwhile.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use ipctrace_common::syscall::Special;
use ipctrace_common::{Cause, Mechanism};

use crate::kernel::{LOADS, Result};
use crate::object::is_at_object;
use crate::syscall::argument;
use crate::{eventfd, futex, handoff, memory, process_vm, pty, queue, sysv_sem};

/// What is to be known of the call that is being looked at.
#[repr(C)]
struct Given {
    /// Its six arguments.
    arguments: [u64; 6],
    /// Address of the thread's `struct task_struct`; 0 where no use could be made of it.
    task: u64,
}

#[map]
static ARGUMENTS: PerCpuArray<Given> = PerCpuArray::with_max_entries(1, 0);

/// Keeps the arguments of the call for the functions below.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
unsafe fn keep(regs: *const u8, task: *const u8) {
    if let Some(place) = ARGUMENTS.get_ptr_mut(0) {
        // SAFETY: this CPU's valid, aligned place; `regs` as the caller argues.
        unsafe {
            (*place).arguments = [0, 1, 2, 3, 4, 5].map(|index| argument(regs, index));
            (*place).task = if LOADS { task as u64 } else { 0 };
        }
    }
}

/// Address of the `struct task_struct` of the thread whose call is being looked at; 0 if it was not kept.
#[inline(always)]
pub(crate) fn task() -> u64 {
    // SAFETY: a valid, aligned pointer into the map; written by `keep` before the functions below are called.
    ARGUMENTS.get_ptr(0).map_or(0, |place| unsafe { (*place).task })
}

/// The arguments of the call that is being looked at.
///
/// # Errors
/// None on a running system: the map has one place for each CPU.
#[inline(always)]
pub(crate) fn arguments() -> Result<[u64; 6]> {
    let place = ARGUMENTS.get_ptr(0).ok_or(Cause::MapFull)?;
    // SAFETY: a valid, aligned pointer into the map; written by `keep` before the functions below are called.
    Ok(unsafe { (*place).arguments })
}

/// The begin of such a call.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
pub(crate) unsafe fn enter(regs: *const u8, task: *const u8, tid: u32, special: u8) {
    // SAFETY: as the caller argues.
    unsafe { keep(regs, task) };
    // The shortest way for what is done most often: each return costs.
    if queue::is_call(special) {
        queue::queue_entered(tid, u32::from(special));
    } else if special == Special::Futex as u8 {
        futex::futex_entered(tid, u32::from(special));
    } else {
        special_entered(tid, u32::from(special));
    }
}

/// The end of such a call, whether it failed or not. Whoever put it in flight takes it out.
///
/// # Safety
/// `regs` must be the `struct pt_regs` of a tracepoint.
#[inline(always)]
pub(crate) unsafe fn exit(regs: *const u8, task: *const u8, tid: u32, special: u8, returned: i64) {
    // SAFETY: as the caller argues.
    unsafe { keep(regs, task) };
    if queue::is_call(special) {
        queue::queue_exited(tid, u32::from(special), returned);
    } else if special == Special::Futex as u8 {
        futex::futex_exited(tid, u32::from(special), returned);
    } else {
        special_exited(tid, u32::from(special), returned);
    }
}

/// Leaves the call to its module. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn special_entered(tid: u32, special: u32) -> i32 {
    match Special::from_wire(special as u8) {
        Some(Special::Munmap | Special::Shmdt | Special::Shmctl) => {
            memory::memory_entered(tid, special);
        }
        Some(Special::Shmget | Special::Shmat) => {}
        Some(Special::Mmap | Special::Mremap | Special::Mprotect) => {}
        Some(
            Special::MemfdCreate | Special::Unlink | Special::Unlinkat | Special::Openat | Special::Open,
        ) => {}
        // See `enter`.
        Some(Special::MqSend | Special::MqReceive | Special::Msgsnd | Special::Msgrcv) => {}
        Some(Special::Msgctl) => {}
        Some(Special::Semop | Special::Semctl) => {
            sysv_sem::semaphore_entered(tid, special);
        }
        // See `enter`.
        Some(Special::Futex) => {}
        Some(Special::FutexWaitv | Special::FutexWake | Special::FutexWait | Special::FutexRequeue) => {
            futex::futex_entered(tid, special);
        }
        Some(Special::Eventfd) => {}
        Some(Special::ProcessVmReadv | Special::ProcessVmWritev) => {
            process_vm::process_vm_entered(tid);
        }
        Some(Special::PidfdGetfd | Special::Openat2) => {}
        None => {}
    }
    0
}

/// Leaves the call to its module. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn special_exited(tid: u32, special: u32, returned: i64) -> i32 {
    match Special::from_wire(special as u8) {
        Some(
            Special::Shmget
            | Special::Shmat
            | Special::Shmctl
            | Special::Mmap
            | Special::Mremap
            | Special::Mprotect
            | Special::MemfdCreate
            | Special::Unlink
            | Special::Unlinkat,
        ) => {
            memory::memory_exited(tid, special, returned);
        }
        Some(Special::Munmap | Special::Shmdt) => {}
        // See `exit`.
        Some(Special::MqSend | Special::MqReceive | Special::Msgsnd | Special::Msgrcv) => {}
        Some(Special::Msgctl) => {
            queue::queue_controlled(returned);
        }
        Some(Special::Semop | Special::Semctl) => {
            sysv_sem::semaphore_exited(tid, returned);
        }
        // See `exit`.
        Some(Special::Futex) => {}
        Some(Special::FutexWaitv | Special::FutexWake | Special::FutexWait | Special::FutexRequeue) => {
            futex::futex_exited(tid, special, returned);
        }
        Some(Special::Eventfd) if is_at_object(Mechanism::Eventfd as u8) => {}
        Some(Special::Eventfd) => {
            eventfd::eventfd_made(returned);
        }
        Some(Special::ProcessVmReadv) => {
            process_vm::process_vm_exited(tid, process_vm::READ, returned);
        }
        Some(Special::ProcessVmWritev) => {
            process_vm::process_vm_exited(tid, process_vm::WRITE, returned);
        }
        Some(Special::Openat | Special::Open) => {
            memory::memory_exited(tid, special, returned);
            pty::opened(returned);
        }
        Some(Special::Openat2) => {
            pty::opened(returned);
        }
        Some(Special::PidfdGetfd) => {
            handoff::taken_over(returned);
        }
        None => {}
    }
    0
}
