//! The collector's end of the ring buffer: include/uapi/linux/bpf.h, kernel/bpf/ringbuf.c.
//!
//! The usual way to read one maps its data twice, one behind the other, so that no record is seen in two parts; all of it
//! counts as our memory, twice. Here it is mapped once, and the record that runs over the end is put together. And the place
//! up to which records were read, which every program looks at for each record that it makes, is given back once in a while and
//! not after each.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};

/// `BPF_RINGBUF_HDR_SZ`.
const HEADER: u64 = 8;
/// `BPF_RINGBUF_BUSY_BIT`: the record is being written.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: it was given up.
const DISCARDED: u32 = 1 << 30;
/// Bytes after which room is given back.
const STRIDE: u64 = 64 << 10;

/// The ring buffer.
#[derive(Debug)]
pub struct Ring {
    map: MapData,
    /// The page with the position up to which records were read.
    consumer: MmapRaw,
    /// The page with the position up to which there are any, and the data behind it.
    producer: MmapRaw,
    page: usize,
    size: u64,
    /// A record that ran over the end.
    whole: Vec<u8>,
}

impl Ring {
    /// Maps it; `size` is that of its data in bytes, a power of two.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn map(map: MapData, size: u32) -> Result<Ring> {
        let page = page_size();
        let fd = map.fd().as_fd();
        let consumer =
            MmapOptions::new().len(page).map_raw(&fd).context("mapping the ring buffer's position")?;
        let producer = MmapOptions::new()
            .offset(page as u64)
            .len(page + size as usize)
            .map_raw_read_only(&fd)
            .context("mapping the ring buffer")?;
        Ok(Ring { map, consumer, producer, page, size: u64::from(size), whole: Vec::new() })
    }

    /// A descriptor that is readable when the programs have said so.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Gives `each` the records that are there, `most` at the most, and until it says that it wants no more. Whether that was
    /// all.
    pub fn take(&mut self, most: usize, mut each: impl FnMut(&[u8]) -> bool) -> bool {
        // SAFETY: the first word of a live page, aligned; we alone write it.
        let consumer = unsafe { AtomicU64::from_ptr(self.consumer.as_mut_ptr().cast()) };
        // SAFETY: the first word of a live page, aligned; the kernel writes it, and we never do.
        let producer = unsafe { AtomicU64::from_ptr(self.producer.as_mut_ptr().cast()) };
        let mut position = consumer.load(Ordering::Relaxed);
        let mut given = position;
        let (mut taken, mut more) = (0, true);
        let mut end = producer.load(Ordering::Acquire);
        let drained = loop {
            if taken == most || !more {
                break false;
            }
            if position == end {
                end = producer.load(Ordering::Acquire);
                if position == end {
                    break true;
                }
            }
            let at = (position & (self.size - 1)) as usize;
            // SAFETY: within the data, and aligned, for records begin at multiples of 8.
            let header = unsafe { AtomicU32::from_ptr(self.data().add(at).cast()) }.load(Ordering::Acquire);
            if header & BUSY != 0 {
                break true;
            }
            let length = (header & !(BUSY | DISCARDED)) as usize;
            if header & DISCARDED == 0 {
                more = each(self.record((position + HEADER) & (self.size - 1), length));
            }
            taken += 1;
            position += (length as u64 + HEADER).next_multiple_of(HEADER);
            if position - given >= STRIDE {
                given = position;
                consumer.store(position, Ordering::Release);
            }
        };
        consumer.store(position, Ordering::Release);
        drained
    }

    /// Whether there is no record, finished or not.
    pub fn is_empty(&self) -> bool {
        // SAFETY: as in `take`.
        let (consumer, producer) = unsafe {
            (
                AtomicU64::from_ptr(self.consumer.as_mut_ptr().cast()),
                AtomicU64::from_ptr(self.producer.as_mut_ptr().cast()),
            )
        };
        consumer.load(Ordering::SeqCst) == producer.load(Ordering::SeqCst)
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: the mapping is a page longer than the data.
        unsafe { self.producer.as_mut_ptr().add(self.page) }
    }

    /// The bytes of a record that begins at that place of the data. The kernel makes none that is longer than the data.
    fn record(&mut self, at: u64, length: usize) -> &[u8] {
        let (at, length) = (at as usize, length.min(self.size as usize));
        let first = length.min(self.size as usize - at);
        // SAFETY: both parts are within the data; what was handed over nobody writes until room is given back.
        let (one, other) = unsafe {
            (
                std::slice::from_raw_parts(self.data().add(at), first),
                std::slice::from_raw_parts(self.data(), length - first),
            )
        };
        if other.is_empty() {
            return one;
        }
        self.whole.clear();
        self.whole.extend_from_slice(one);
        self.whole.extend_from_slice(other);
        &self.whole
    }
}

/// Size of a page of memory on this machine.
fn page_size() -> usize {
    // SAFETY: a call that takes a number and looks at nothing of ours.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}
