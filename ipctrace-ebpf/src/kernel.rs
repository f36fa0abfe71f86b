//! Reading kernel memory. All of it is in this module.

use aya_ebpf::EbpfContext;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_probe_read, bpf_probe_read_kernel, bpf_probe_read_user, generated};
use ipctrace_common::Cause;
use ipctrace_common::config::CAST;

/// Whether the programs are for a kernel that lets them read its memory by plain loads: see [`CAST`]. Not a matter of the configuration: each
/// way that is not taken would be taken out of the programs at each start, one by one.
pub(crate) const LOADS: bool = cfg!(feature = "loads");

/// Why a `try_…` function gave up: the cause under which its caller counts it.
pub(crate) type Result<T> = core::result::Result<T, Cause>;

/// Reads a value of the kernel at `address + offset`.
///
/// Where the kernel allows it, what fits into a register is one load (see [`CAST`]), which gives zeros for what is no memory of
/// the kernel's. What does not is copied by a helper.
///
/// # Errors
/// [`Cause::ReadFailed`] if there is no such memory: the helper checks, so a stale pointer is an error and no fault.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64, offset: usize) -> Result<T> {
    let source = address.wrapping_add(offset as u64);
    if LOADS && matches!(size_of::<T>(), 1 | 2 | 4 | 8) {
        // SAFETY: what the loader puts here takes any number and gives a pointer that may be read through, whatever is behind it;
        // every `T` used here is an integer or an array of integers, for which every bit pattern is valid.
        return Ok(unsafe { core::ptr::read_volatile(cast(source).cast::<T>()) });
    }
    if size_of::<T>() > 8 {
        // SAFETY: bpf_probe_read_kernel takes any address and fails for what it cannot read; for `T` as above.
        return unsafe { bpf_probe_read_kernel(source as *const T) }.map_err(|_| Cause::ReadFailed);
    }
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: as above. The helper writes all of the value, zeros if it fails. It is loaded before that is looked at: of an error the
    // compiler would have no value, and old verifiers let nothing be done with a register that was never set.
    let (status, value) = unsafe {
        let size = size_of::<T>() as u32;
        let status =
            generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size, source as *const c_void);
        (status, core::ptr::read_volatile(value.as_ptr()))
    };
    if status == 0 { Ok(value) } else { Err(Cause::ReadFailed) }
}

/// `bpf_rdonly_cast(address, 0)`, kernel/bpf/helpers.c: a pointer that the verifier takes for one to memory that may be read. It is
/// no call in the end, the verifier replaces it by a move.
#[inline(always)]
fn cast(address: u64) -> *const u8 {
    // SAFETY: a number where BPF has the addresses of functions: LLVM makes it a call of the helper of that number.
    let cast: extern "C" fn(u64, u32) -> *const u8 = unsafe { core::mem::transmute(CAST as usize) };
    cast(address, 0)
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

/// Argument `index` of what a program is attached to, as a number, which functions can be handed that the verifier looks at by
/// themselves; 0 if it could not be read. At the end of a function what it returned follows its arguments.
#[inline(always)]
pub(crate) fn argument(context: &impl EbpfContext, index: usize) -> u64 {
    read(context.as_ptr() as u64, index * 8).unwrap_or(0)
}

/// The first two of them.
#[inline(always)]
pub(crate) fn first_two(context: &impl EbpfContext) -> [u64; 2] {
    if LOADS {
        return [argument(context, 0), argument(context, 1)];
    }
    read(context.as_ptr() as u64, 0).unwrap_or([0; 2])
}

/// Reads a value of the current process at `address + offset`.
///
/// # Errors
/// [`Cause::PageAbsent`] if it is not there at this moment.
#[inline(always)]
pub(crate) fn read_user<T: Copy>(address: u64, offset: usize) -> Result<T> {
    let source = address.wrapping_add(offset as u64) as *const T;
    // SAFETY: as for `read`; the helper does not sleep and fails for pages that are not present.
    unsafe { bpf_probe_read_user(source) }.map_err(|_| Cause::PageAbsent)
}

/// As [`read_user`], or as [`read`] where the address is one of the kernel's: at the functions of objects what is the caller's may
/// have been copied there. The helper tells by the address which it is, as it can on all architectures that there are programs
/// for (`bpf_probe_read_compat`, kernel/trace/bpf_trace.c). A choice in the program would have the verifier follow a loop over such
/// reads on each way.
#[inline(always)]
pub(crate) fn read_either<T: Copy>(address: u64, offset: usize) -> Result<T> {
    let source = address.wrapping_add(offset as u64) as *const T;
    // SAFETY: as for `read`; the helper does not sleep and fails for pages that are not present.
    unsafe { bpf_probe_read(source) }.map_err(|_| Cause::PageAbsent)
}

/// Loads a field of an object that the verifier knows by its BTF type: one instruction, no helper.
///
/// # Safety
/// `base` must be such a pointer (an argument of a BTF tracepoint, `bpf_get_current_task_btf`, or a pointer field loaded
/// from one), and `offset` a constant known to the verifier that is the place of a `T` in it. The verifier checks both
/// and the kernel handles a fault by reading zero.
///
/// Kernels for which the plain programs are do not give all such pointers a type: there it is a helper's read.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: usize) -> T {
    #[cfg(not(feature = "plain"))]
    // SAFETY: as the caller argues.
    unsafe {
        core::ptr::read_volatile(base.add(offset).cast::<T>())
    }
    #[cfg(feature = "plain")]
    {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: room for a `T`; the helper fills it, with zeros if it fails, which is what a load would give; every `T`
        // used here is an integer, an array of integers or a pointer.
        unsafe {
            let source = (base as u64).wrapping_add(offset as u64) as *const c_void;
            let _ =
                generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, source);
            value.assume_init()
        }
    }
}

/// Operations of which the processor makes one.
#[cfg(not(feature = "plain"))]
mod atomic {
    use core::intrinsics::AtomicOrdering::SeqCst;

    /// Puts a value in place of another, and gives that. Nothing moves across it.
    ///
    /// # Safety
    /// `place` must be valid and aligned.
    #[inline(always)]
    pub(crate) unsafe fn swap(place: *mut u64, value: u64) -> u64 {
        // SAFETY: as the caller argues. The target has this instruction (BPF_XCHG, Linux 5.12), as for `add`.
        unsafe { core::intrinsics::atomic_xchg::<u64, { SeqCst }>(place, value) }
    }

    /// Adds to a counter that other CPUs or interrupts may change at the same time; gives what it held before.
    ///
    /// # Safety
    /// `counter` must be valid and aligned.
    #[inline(always)]
    pub(crate) unsafe fn add(counter: *mut u64, amount: u64) -> u64 {
        // SAFETY: as the caller argues. The target has this instruction (BPF_ATOMIC | BPF_FETCH, Linux 5.12), though core
        // does not offer it there through AtomicU64.
        unsafe { core::intrinsics::atomic_xadd::<u64, u64, { SeqCst }>(counter, amount) }
    }

    /// Writes `new` if there is `old`; gives what there was.
    ///
    /// # Safety
    /// `place` must be valid and aligned.
    #[inline(always)]
    pub(crate) unsafe fn exchange(place: *mut u64, old: u64, new: u64) -> u64 {
        // SAFETY: as the caller argues; as for `add`.
        unsafe { core::intrinsics::atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(place, old, new).0 }
    }
}

/// What takes their place on kernels before Linux 5.12, which know one atomic operation: an addition that gives nothing.
#[cfg(feature = "plain")]
mod atomic {
    use core::intrinsics::AtomicOrdering::Relaxed;

    /// As its namesake, but not one operation: for what is used by nobody else at the same time.
    ///
    /// # Safety
    /// `place` must be valid and aligned.
    #[inline(always)]
    pub(crate) unsafe fn swap(place: *mut u64, value: u64) -> u64 {
        // SAFETY: as the caller argues.
        unsafe {
            let before = core::ptr::read_volatile(place);
            core::ptr::write_volatile(place, value);
            before
        }
    }

    /// Adds to a counter that other CPUs or interrupts may change at the same time. Gives what it held before, or more if
    /// others changed it meanwhile: who asks whether it is alone is never told so wrongly.
    ///
    /// # Safety
    /// `counter` must be valid and aligned.
    #[inline(always)]
    pub(crate) unsafe fn add(counter: *mut u64, amount: u64) -> u64 {
        // SAFETY: as the caller argues.
        unsafe {
            let before = core::ptr::read_volatile(counter);
            core::intrinsics::atomic_xadd::<u64, u64, { Relaxed }>(counter, amount);
            before.max(core::ptr::read_volatile(counter).wrapping_sub(amount))
        }
    }

    /// As its namesake, but not one operation.
    ///
    /// # Safety
    /// `place` must be valid and aligned.
    #[inline(always)]
    pub(crate) unsafe fn exchange(place: *mut u64, old: u64, new: u64) -> u64 {
        // SAFETY: as the caller argues.
        unsafe {
            let before = core::ptr::read_volatile(place);
            if before == old {
                core::ptr::write_volatile(place, new);
            }
            before
        }
    }
}

pub(crate) use atomic::{add, exchange, swap};
