//! Reading kernel memory. All of it is in this module.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user, generated};
use ipctrace_common::Cause;

/// Why a `try_…` function gave up: the cause under which its caller counts it.
pub(crate) type Result<T> = core::result::Result<T, Cause>;

/// Reads a value of the kernel at `address + offset`.
///
/// # Errors
/// [`Cause::ReadFailed`] if there is no such memory: the helper checks, so a stale pointer is an error and no fault.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64, offset: usize) -> Result<T> {
    let source = address.wrapping_add(offset as u64) as *const T;
    // SAFETY: bpf_probe_read_kernel takes any address and fails for what it cannot read; every `T` used here is an
    // integer or an array of integers, for which every bit pattern is valid.
    unsafe { bpf_probe_read_kernel(source) }.map_err(|_| Cause::ReadFailed)
}

/// Reads a value of the kernel at `address + offset` to where it is wanted. What is larger than a register takes room on the
/// stack otherwise, of which all functions that call each other have 512 bytes together before Linux 6.13.
///
/// # Safety
/// `place` must be valid for a write; it need not be aligned.
///
/// # Errors
/// As [`read`]; the place is zeroed then.
#[inline(always)]
pub(crate) unsafe fn copy<T: Copy>(place: *mut T, address: u64, offset: usize) -> Result<()> {
    let source = address.wrapping_add(offset as u64) as *const c_void;
    // SAFETY: the place is valid by contract; as for `read`.
    let status = unsafe { generated::bpf_probe_read_kernel(place.cast(), size_of::<T>() as u32, source) };
    if status == 0 { Ok(()) } else { Err(Cause::ReadFailed) }
}

/// Reads a value of the current process at `address + offset`; as [`read`].
#[inline(always)]
pub(crate) fn read_user<T: Copy>(address: u64, offset: usize) -> Result<T> {
    let source = address.wrapping_add(offset as u64) as *const T;
    // SAFETY: as for `read`; the helper does not sleep and fails for pages that are not present.
    unsafe { bpf_probe_read_user(source) }.map_err(|_| Cause::ReadFailed)
}

/// Loads a field of an object that the verifier knows by its BTF type: one instruction, no helper.
///
/// # Safety
/// `base` must be such a pointer (an argument of a BTF tracepoint, `bpf_get_current_task_btf`, or a pointer field loaded
/// from one), and `offset` a constant known to the verifier that is the place of a `T` in it. The verifier checks both
/// and the kernel handles a fault by reading zero.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: as the caller argues.
    unsafe { core::ptr::read_volatile(base.add(offset).cast::<T>()) }
}

/// Puts a value in place of another, and gives that. Nothing moves across it.
///
/// # Safety
/// `place` must be valid and aligned.
#[inline(always)]
pub(crate) unsafe fn swap(place: *mut u64, value: u64) -> u64 {
    // SAFETY: as the caller argues. The target has this instruction (BPF_XCHG, Linux 5.12), as for `add`.
    unsafe {
        core::intrinsics::atomic_xchg::<u64, { core::intrinsics::AtomicOrdering::SeqCst }>(place, value)
    }
}

/// Adds to a counter that other CPUs or interrupts may change at the same time; gives what it held before.
///
/// # Safety
/// `counter` must be valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, amount: u64) -> u64 {
    // SAFETY: as the caller argues. The target has this instruction (BPF_ATOMIC | BPF_FETCH, Linux 5.12), though core
    // does not offer it there through AtomicU64.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter, amount,
        )
    }
}

/// Writes `new` if there is `old`; gives what there was.
///
/// # Safety
/// `place` must be valid and aligned.
#[inline(always)]
pub(crate) unsafe fn exchange(place: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: as the caller argues; as for `add`.
    unsafe {
        core::intrinsics::atomic_cxchg::<
            u64,
            { core::intrinsics::AtomicOrdering::SeqCst },
            { core::intrinsics::AtomicOrdering::SeqCst },
        >(place, old, new)
        .0
    }
}
