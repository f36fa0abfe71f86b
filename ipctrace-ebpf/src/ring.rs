//! The rings to user space, and the count of what did not get there.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::{ArrayOfMaps, RingBuf};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_query};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, PerCpuArray};
use ipctrace_common::Cause;
use ipctrace_common::loss::CAUSES;
use ipctrace_common::wire::{Header, Kind};

use crate::kernel::add;

/// What the loader makes [`EVENTS`] of; it sets the size of each.
type Ring = RingBuf<Header, 4096>;

/// Records for user space, in a ring for each processor: one that all share goes from one's cache to the other's several times a record.
/// Each record has its time ([`Header`]), by which user space puts them in order. The loader sets how many there are.
#[btf_map]
static EVENTS: ArrayOfMaps<Ring, 1> = ArrayOfMaps::new();

/// How often each [`Cause`] made us lose something, per CPU.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(CAUSES, 0);

/// Not 0 once something was counted there since the collector last looked: it sees that without a system call.
#[map]
static LOST: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// Not 0 while the collector waits to be woken by the next record, whatever there is. Else it looks by itself.
#[map]
static RESTING: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// `BPF_F_MMAPABLE`.
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// User space looks at the ring at short intervals by itself; it is woken early once this much waits for it, so that a
/// record does not cost a wake-up.
const WAKE_AT: u64 = 256 << 10;

/// What the ring adds to each record: `BPF_RINGBUF_HDR_SZ`, and at most 7 bytes of padding.
const RECORD_HEADER: u64 = 8 + 7;

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

/// The ring of this processor. A program stays on its processor.
#[inline(always)]
fn ring() -> Option<&'static Ring> {
    // SAFETY: the helper has no preconditions.
    EVENTS.get(unsafe { bpf_get_smp_processor_id() })
}

/// Room for a record, which begins with a [`Header`] and is made now, or a counted loss.
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let Some(mut entry) = ring().and_then(|ring| ring.reserve_untyped::<T>(0)) else {
        count(Cause::RingFull);
        return None;
    };
    // By the address alone it can be seen whether another [`WAKE_AT`] bytes of the ring begin in this record, without asking the ring.
    // The way through memory makes a number of it, with which programs may reckon.
    let place = entry.as_mut_ptr().cast::<u64>();
    // SAFETY: room for a record, each of which is longer than that.
    let address = unsafe {
        core::ptr::write_volatile(place, place as u64);
        core::ptr::read_volatile(place)
    };
    let len = size_of::<T>() as u64 + RECORD_HEADER;
    let wakes = is_resting() || address.wrapping_add(len) & (WAKE_AT - 1) < len;
    // Kept where there is room: the stack is small.
    // SAFETY: room for a record, which begins with a header.
    unsafe { (*place.cast::<Header>()).wakes = u32::from(wakes) };
    Some(entry)
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

/// Hands a record over.
#[inline(always)]
pub(crate) fn submit<T>(mut entry: RingBufEntry<T>) {
    // Without a comparison: the verifier would follow two ways from here on.
    const _: () = assert!(BPF_RB_NO_WAKEUP == 1 && BPF_RB_FORCE_WAKEUP == 2);
    // SAFETY: a record, which begins with a header.
    let wakes = unsafe { (*entry.as_mut_ptr().cast::<Header>()).wakes } & 1;
    entry.submit(u64::from(BPF_RB_NO_WAKEUP + wakes));
}

/// Puts a record of so many calls that stands elsewhere on the ring.
#[inline(always)]
pub(crate) fn output(record: &[u8], calls: u32) {
    put(record, record.len() as u64 + RECORD_HEADER, u64::from(calls));
}

/// Puts a record on the ring, and `len` bytes behind it, `MOST` at most.
///
/// # Safety
/// There must be `MOST` initialised bytes behind the record.
#[inline(always)]
pub(crate) unsafe fn output_with<T, const MOST: usize>(record: *const T, len: usize) {
    let most = (size_of::<T>() + MOST) as u64 + RECORD_HEADER;
    // Looked at here and nowhere before: what verifiers know of a number that was on the stack meanwhile, or that others were
    // computed from, differs from version to version, and is sometimes wrong.
    let len = core::hint::black_box(len);
    let len = if len > MOST { MOST } else { len };
    // SAFETY: valid by contract.
    put(unsafe { core::slice::from_raw_parts(record.cast::<u8>(), size_of::<T>() + len) }, most, 1);
}

#[inline(always)]
fn put(record: &[u8], len: u64, calls: u64) {
    let put = ring().is_some_and(|ring| ring.output_untyped::<[u8]>(record, wake_up(ring, len)).is_ok());
    if !put {
        count_all(Cause::RingFull, calls);
    }
}

/// Whether to wake user space, for a record that is not made in the ring itself: each time that so much more waits for it. A wake-up costs more than the record, and who
/// is awake reads until there is nothing more.
#[inline(always)]
fn wake_up(ring: &Ring, len: u64) -> u64 {
    let map = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: a ring buffer.
    let waiting = unsafe { bpf_ringbuf_query(map, u64::from(BPF_RB_AVAIL_DATA)) };
    if is_resting() || (waiting & (WAKE_AT - 1) < len && waiting >= WAKE_AT) {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// Whether the collector waits for the very next record. If so, that is over.
#[inline(always)]
fn is_resting() -> bool {
    let Some(resting) = RESTING.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid, aligned pointer into the map; everybody writes the same.
    unsafe {
        if core::ptr::read_volatile(resting) == 0 {
            return false;
        }
        core::ptr::write_volatile(resting, 0);
    }
    true
}
