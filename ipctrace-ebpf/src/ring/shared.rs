//! The rings as memory that programs and collector share: `ipctrace_common::ring`.

use core::hint::black_box;

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use ipctrace_common::Cause;
use ipctrace_common::config::PAYLOAD_MAX;
use ipctrace_common::ring::{self, Head};
use ipctrace_common::wire::{self, ADDRESS_MAX};

use super::{MMAPABLE, count, shape};
use crate::kernel::{add, swap};

/// As large as the loader makes it.
#[repr(C)]
struct Ring {
    head: Head,
    data: [u8; ring::SLACK as usize],
}

/// Records for user space, in a ring for each processor that there is: one that all share goes from one's cache to the other's several
/// times a record. Each record has its time ([`wire::Header`]), by which user space puts them in order. The loader sets how many there
/// are and how large they are.
#[map]
static EVENTS: Array<Ring> = Array::with_max_entries(1, MMAPABLE);

/// Wakes the collector, and nothing else: what is in it is thrown away. The loader makes it a page.
#[map]
static BELL: RingBuf = RingBuf::with_byte_size(4096, 0);

// The longest record that there is, `emit.rs`.
const _: () = assert!(size_of::<wire::Op>() + ADDRESS_MAX + PAYLOAD_MAX as usize + 8 <= ring::SLACK as usize);

/// A record that is being made: handed over when this is dropped.
pub(crate) struct Entry<T>(*mut T);

impl<T> Entry<T> {
    #[inline(always)]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.0
    }
}

impl<T> Drop for Entry<T> {
    #[inline(always)]
    fn drop(&mut self) {
        let record = self.0.cast::<u64>();
        // SAFETY: a record, which begins with a header; before it stands what `begin` has written.
        unsafe {
            let wakes = (*record.cast::<wire::Header>()).wakes;
            let place = record.sub(1);
            finish(place, !core::ptr::read_volatile(place));
            if wakes != 0 {
                ring_bell();
            }
        }
    }
}

/// Room for a record, which begins with a [`wire::Header`] and is made now, or a counted loss.
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<Entry<T>> {
    let Some((record, wakes)) = begin(size_of::<T>() as u64) else {
        count(Cause::RingFull);
        return None;
    };
    // Kept where there is room: the stack is small.
    // SAFETY: room for a record, which begins with a header.
    unsafe { (*record.cast::<wire::Header>()).wakes = wakes };
    Some(Entry(record.cast()))
}

/// Hands a record over.
#[inline(always)]
pub(crate) fn submit<T>(entry: Entry<T>) {
    drop(entry);
}

/// Puts a record of at most `most` bytes that stands elsewhere on the ring, if there is room.
#[inline(always)]
pub(super) fn put(record: &[u8], _most: usize) -> bool {
    let Some((place, wakes)) = begin(record.len() as u64) else {
        return false;
    };
    // SAFETY: there is room for so much, and so much is there: the helper is a copy that the verifier understands.
    unsafe {
        bpf_probe_read_kernel(place.cast(), record.len() as u32, record.as_ptr().cast());
        let place = place.cast::<u64>().sub(1);
        finish(place, !core::ptr::read_volatile(place));
    }
    if wakes != 0 {
        ring_bell();
    }
    true
}

/// Takes room for a record of `length` bytes; says where, and whether to wake user space then (not 0). Before it stands its header,
/// inverted: so it is not finished.
#[inline(always)]
fn begin(length: u64) -> Option<(*mut u8, u32)> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // A processor that came later shares the ring of another.
    let ring = EVENTS.get_ptr_mut(cpu.checked_rem(shape!(count))?)?;
    let space = ring::space(length);
    // SAFETY: a valid, aligned pointer into the map; others read and write these words as well, hence the accesses. The loader
    // has made the ring so long that a record that begins in its data has room.
    unsafe {
        let head = &raw mut (*ring).head;
        let (end, taken, resting) =
            (&raw mut (*head).end, &raw const (*head).taken, &raw mut (*head).resting);
        let filled = core::ptr::read_volatile(end).wrapping_sub(core::ptr::read_volatile(taken));
        // Less than nothing if both have moved on since the first was read.
        if filled.wrapping_add(space).cast_signed() > i64::from(shape!(room)) {
            return None;
        }
        let position = add(end, space);
        let place = (&raw mut (*ring).data).cast::<u8>().add((position & u64::from(shape!(mask))) as usize);
        core::ptr::write_volatile(place.cast::<u64>(), !ring::header(position, shape!(secret), length));
        // Written in any case, for the verifier would follow two ways from here on. Should it be raised in between, it is so by
        // who has yet to look whether there is a record, and finds this one.
        let rests = core::ptr::read_volatile(resting);
        core::ptr::write_volatile(resting, 0);
        // Or another of these begins in the record, which is no longer than one.
        let wake = u64::from(shape!(wake));
        let wakes = rests | (((position & (wake - 1)) + space) & wake);
        Some((place.add(8), wakes as u32))
    }
}

/// Writes the header of a record when all else of it is written.
///
/// # Safety
/// `place` must be that of the header.
#[inline(always)]
unsafe fn finish(place: *mut u64, header: u64) {
    // Of what is behind a pointer that it does not know any more the compiler moves no store to a later place.
    let place = black_box(place);
    // SAFETY: by contract.
    unsafe {
        if shape!(stores_in_order) != 0 {
            core::ptr::write_volatile(place, header);
        } else {
            // A barrier as well.
            swap(place, header);
        }
    }
}

/// Wakes the collector. Where there is no room in the bell it rings already. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ring_bell() -> i32 {
    if let Some(entry) = BELL.reserve::<u64>(0) {
        entry.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
    0
}
