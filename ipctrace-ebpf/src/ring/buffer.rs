//! The rings as ring buffers of the kernel: kernel/bpf/ringbuf.c.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::{ArrayOfMaps, RingBuf};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::Array;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use ipctrace_common::Cause;
#[cfg(doc)]
use ipctrace_common::ring::Shape;
use ipctrace_common::wire::Header;

use super::{MMAPABLE, count, shape};

/// What the loader makes [`EVENTS`] of; it sets the size of each.
type Ring = RingBuf<Header, 4096>;

/// Records for user space, in a ring for each processor: one that all share goes from one's cache to the other's several times a record.
/// Each record has its time ([`Header`]), by which user space puts them in order. The loader sets how many there are.
#[btf_map]
static EVENTS: ArrayOfMaps<Ring, 1> = ArrayOfMaps::new();

/// Not 0 while the collector waits to be woken by the next record, whatever there is. Else it looks by itself.
#[map]
static RESTING: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// What the ring adds to each record: `BPF_RINGBUF_HDR_SZ`, and at most 7 bytes of padding.
const RECORD_HEADER: u64 = 8 + 7;

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
    // By the address alone it can be seen whether another [`Shape::wake`] bytes of the ring begin in this record, without asking the ring.
    // The way through memory makes a number of it, with which programs may reckon.
    let place = entry.as_mut_ptr().cast::<u64>();
    // SAFETY: room for a record, each of which is longer than that.
    let address = unsafe {
        core::ptr::write_volatile(place, place as u64);
        core::ptr::read_volatile(place)
    };
    let len = size_of::<T>() as u64 + RECORD_HEADER;
    let wakes = is_resting() || address.wrapping_add(len) & wake().wrapping_sub(1) < len;
    // Kept where there is room: the stack is small.
    // SAFETY: room for a record, which begins with a header.
    unsafe { (*place.cast::<Header>()).wakes = u32::from(wakes) };
    Some(entry)
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

/// Puts a record of at most `most` bytes that stands elsewhere on the ring, if there is room.
#[inline(always)]
pub(super) fn put(record: &[u8], most: usize) -> bool {
    let most = most as u64 + RECORD_HEADER;
    ring().is_some_and(|ring| ring.output_untyped::<[u8]>(record, wake_up(ring, most)).is_ok())
}

/// Whether to wake user space, for a record that is not made in the ring itself: each time that so much more waits for it. A wake-up
/// costs more than the record, and who is awake reads until there is nothing more.
#[inline(always)]
fn wake_up(ring: &Ring, len: u64) -> u64 {
    let map = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: a ring buffer.
    let waiting = unsafe { bpf_ringbuf_query(map, u64::from(BPF_RB_AVAIL_DATA)) };
    if is_resting() || (waiting & wake().wrapping_sub(1) < len && waiting >= wake()) {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// [`Shape::wake`].
#[inline(always)]
fn wake() -> u64 {
    u64::from(shape!(wake))
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
