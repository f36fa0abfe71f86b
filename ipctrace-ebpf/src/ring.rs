//! The rings to user space, and the count of what did not get there.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use ipctrace_common::Cause;
use ipctrace_common::loss::CAUSES;
use ipctrace_common::ring::Shape;
use ipctrace_common::wire::{Header, Kind};

use crate::kernel::add;

#[cfg(not(feature = "loads"))]
mod buffer;
#[cfg(feature = "loads")]
mod shared;

#[cfg(not(feature = "loads"))]
use buffer::put;
#[cfg(not(feature = "loads"))]
pub(crate) use buffer::{reserve, submit};
#[cfg(feature = "loads")]
use shared::put;
#[cfg(feature = "loads")]
pub(crate) use shared::{reserve, submit};

/// How often each [`Cause`] made us lose something, per CPU.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(CAUSES, 0);

/// Not 0 once something was counted there since the collector last looked: it sees that without a system call.
#[map]
static LOST: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// `BPF_F_MMAPABLE`.
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// Written by the loader.
#[unsafe(no_mangle)]
static RINGS: Shape =
    Shape { count: 0, mask: 0, room: 0, stores_in_order: 0, wake: 0, reserved: 0, secret: 0 };

/// One field of it. The volatile read keeps the compiler from using the zeros it sees.
macro_rules! shape {
    ($field:ident) => {{
        // SAFETY: a read of an initialised static that nothing writes while the programs run.
        #[allow(unused_unsafe, reason = "also used where others are unsafe")]
        let value = unsafe { core::ptr::read_volatile(&raw const $crate::ring::RINGS.$field) };
        value
    }};
}
use shape;

/// Counts a loss.
#[inline(always)]
pub(crate) fn count(cause: Cause) {
    count_all(cause, 1);
}

/// Counts so many.
#[inline(always)]
fn count_all(cause: Cause, losses: u64) {
    if let Some(counter) = LOSSES.get_ptr_mut(cause as u32) {
        // SAFETY: the map gave a valid, aligned pointer to this CPU's counter; the add is atomic because an interrupt may
        // count at the same moment.
        unsafe { add(counter, losses) };
    }
    if let Some(flag) = LOST.get_ptr_mut(0) {
        // SAFETY: a valid, aligned pointer into the map; everybody writes the same.
        unsafe { core::ptr::write_volatile(flag, 1) };
    }
}

/// Counts what went wrong in a program, and logs it if the user wants to know more.
macro_rules! failed {
    ($context:expr, $cause:expr) => {{
        let cause: ipctrace_common::Cause = $cause;
        $crate::ring::count(cause);
        if $crate::config::verbose() != 0 {
            aya_log_ebpf::debug!($context, "lost for cause {}", cause as u32);
        }
    }};
}
pub(crate) use failed;

/// Nanoseconds since boot.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Writes the header of a record that is about to be put on the ring.
///
/// # Safety
/// `place` must be valid for a write.
#[inline(always)]
pub(crate) unsafe fn begin(place: *mut Header, kind: Kind, mechanism: u8, flags: u16, time: u64) {
    // SAFETY: `place` is valid by contract.
    unsafe {
        (*place).kind = kind as u8;
        (*place).mechanism = mechanism;
        (*place).flags = flags;
        (*place).time = time;
    }
}

/// Clears all that follows the header.
///
/// # Safety
/// `record` must be valid for a write, and begin with a [`Header`].
#[inline(always)]
pub(crate) unsafe fn clear<T>(record: *mut T) {
    // SAFETY: by contract.
    unsafe {
        let rest = record.cast::<Header>().add(1).cast::<u64>();
        core::ptr::write_bytes(rest, 0, (size_of::<T>() - size_of::<Header>()) / size_of::<u64>());
    }
}

/// Puts a record of so many calls that stands elsewhere on the ring.
#[inline(always)]
pub(crate) fn output(record: &[u8], calls: u32) {
    if !put(record, record.len()) {
        count_all(Cause::RingFull, u64::from(calls));
    }
}

/// Puts a record on the ring, and `len` bytes behind it, `MOST` at most.
///
/// # Safety
/// There must be `MOST` initialised bytes behind the record.
#[inline(always)]
pub(crate) unsafe fn output_with<T, const MOST: usize>(record: *const T, len: usize) {
    let most = size_of::<T>() + MOST;
    // Looked at here and nowhere before: what verifiers know of a number that was on the stack meanwhile, or that others were
    // computed from, differs from version to version, and is sometimes wrong.
    let len = core::hint::black_box(len);
    let len = if len > MOST { MOST } else { len };
    // SAFETY: valid by contract.
    if !put(unsafe { core::slice::from_raw_parts(record.cast::<u8>(), size_of::<T>() + len) }, most) {
        count(Cause::RingFull);
    }
}
