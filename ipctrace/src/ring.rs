//! The collector's end of the ring buffers: include/uapi/linux/bpf.h, kernel/bpf/ringbuf.c.
//!
//! There is one for each processor. What was done on one before something was done on another has an earlier time, so records are
//! taken in the order of their times, as far as it is certain that none is missing: see [`Rings::take`].
//!
//! The usual way to read one maps its data twice, one behind the other, so that no record is seen in two parts; all of it
//! counts as our memory, twice. Here it is mapped once, and the record that runs over the end is put together. And the place
//! up to which records were read, which every program looks at for each record that it makes, is given back once in a while and
//! not after each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::maps::MapData;
use ipctrace_common::wire::Header;
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

/// `BPF_RINGBUF_HDR_SZ`.
const HEADER: u64 = 8;
/// `BPF_RINGBUF_BUSY_BIT`: the record is being written.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: it was given up.
const DISCARDED: u32 = 1 << 30;
/// Bytes after which room is given back.
const STRIDE: u64 = 64 << 10;

/// By how much the clocks of programs and collector may differ, ns: they are read without a lock while the kernel sets them
/// (`ktime_get_mono_fast_ns`, kernel/time/timekeeping.c).
const SKEW: u64 = 2_000;

/// The ring buffers of all processors.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Ring>,
    /// One for each.
    maps: Vec<MapData>,
    /// Time and ring of the first record of each ring that has any.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Rings {
    /// Maps them; `size` is that of each one's data in bytes, a power of two.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn map(maps: Vec<MapData>, size: u32) -> Result<Rings> {
        let rings: Vec<Ring> = maps.iter().map(|map| Ring::map(map, size)).collect::<Result<_>>()?;
        Ok(Rings { heads: BinaryHeap::with_capacity(rings.len()), rings, maps })
    }

    /// A descriptor that is readable when the programs have said so.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .context("making a descriptor to wait at the ring buffers with")?;
        for map in &self.maps {
            epoll
                .add(map.fd().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .context("waiting at a ring buffer")?;
        }
        Ok(epoll.0)
    }

    /// Gives `each` the records of before `now`, in order, `most` at the most, and until it says that it wants no more. Whether that
    /// was all. `now` must have been read before the call, and the times of records be of the same clock.
    ///
    /// A record's time is read in the program that makes it. So one whose program ended before that of another began, on whatever
    /// processor, has an earlier time; and if that of the other is before `now`, it was there before `now`, and is seen here. In one
    /// ring a record may follow one with a later time: an interrupt's program came in between. It was not done before that one
    /// was, and counts as of its time.
    pub fn take(&mut self, most: usize, now: u64, mut each: impl FnMut(&[u8]) -> bool) -> bool {
        let Rings { rings, heads, .. } = self;
        let mut until = now.saturating_sub(SKEW);
        heads.clear();
        for (index, ring) in rings.iter_mut().enumerate() {
            ring.look();
            heads.extend(ring.first(&mut until).map(|time| Reverse((time, index))));
        }
        let (mut taken, mut more) = (0, true);
        let drained = 'all: loop {
            let Some(Reverse((mut time, index))) = heads.pop() else { break true };
            let next = heads.peek().map_or(u64::MAX, |Reverse((time, _))| *time);
            loop {
                if time > until {
                    break 'all true;
                }
                if taken == most || !more {
                    break 'all false;
                }
                more = each(rings[index].take());
                taken += 1;
                match rings[index].first(&mut until) {
                    Some(later) if later <= next => time = later,
                    Some(later) => {
                        heads.push(Reverse((later, index)));
                        break;
                    }
                    None => break,
                }
            }
        };
        rings.iter_mut().for_each(Ring::give_back);
        drained
    }

    /// Whether there is no record, finished or not.
    pub fn is_empty(&self) -> bool {
        self.rings.iter().all(Ring::is_empty)
    }
}

/// The ring buffer of a processor.
#[derive(Debug)]
struct Ring {
    /// The page with the position up to which records were read.
    consumer: MmapRaw,
    /// The page with the position up to which there are any, and the data behind it.
    producer: MmapRaw,
    page: usize,
    size: u64,
    /// Where the next record begins.
    position: u64,
    /// Up to where room was given back.
    given: u64,
    /// Up to where there were records when we looked.
    end: u64,
    /// The latest time of a record that was first.
    latest: u64,
    /// A record that ran over the end.
    whole: Vec<u8>,
}

impl Ring {
    fn map(map: &MapData, size: u32) -> Result<Ring> {
        let page = page_size();
        let fd = map.fd().as_fd();
        let consumer =
            MmapOptions::new().len(page).map_raw(&fd).context("mapping the ring buffer's position")?;
        let producer = MmapOptions::new()
            .offset(page as u64)
            .len(page + size as usize)
            .map_raw_read_only(&fd)
            .context("mapping the ring buffer")?;
        Ok(Ring::of(consumer, producer, page, size))
    }

    fn of(consumer: MmapRaw, producer: MmapRaw, page: usize, size: u32) -> Ring {
        let size = u64::from(size);
        Ring { consumer, producer, page, size, position: 0, given: 0, end: 0, latest: 0, whole: Vec::new() }
    }

    /// Looks how much there is.
    fn look(&mut self) {
        self.end = self.producer().load(Ordering::Acquire);
    }

    /// The time of the next record. If that is still being written, the ring has none for now; what is behind it, and all
    /// that is later, is not to be taken before it: `until` is set to that.
    fn first(&mut self, until: &mut u64) -> Option<u64> {
        while self.position != self.end {
            let (state, length) = self.header(self.position);
            match state {
                0 => {
                    self.latest = self.latest.max(self.time(self.position, length));
                    return Some(self.latest);
                }
                DISCARDED => self.advance(length),
                _ => {
                    *until = self.behind(length).map_or(*until, |time| time.min(*until));
                    return None;
                }
            }
        }
        None
    }

    /// The earliest time of the records behind the first one, which has that length.
    fn behind(&self, length: u64) -> Option<u64> {
        let mut position = self.position + space(length);
        let mut earliest = None;
        while position != self.end {
            let (state, length) = self.header(position);
            if state == 0 {
                let time = self.latest.max(self.time(position, length));
                earliest = Some(earliest.map_or(time, |known: u64| known.min(time)));
            }
            position += space(length);
        }
        earliest
    }

    /// Gives the next record, which [`Ring::first`] has found.
    fn take(&mut self) -> &[u8] {
        let (_, length) = self.header(self.position);
        let at = self.position + HEADER;
        // What was given back before is not this one.
        self.advance(length);
        self.record(at & (self.size - 1), length as usize)
    }

    fn advance(&mut self, length: u64) {
        if self.position - self.given >= STRIDE {
            self.give_back();
        }
        self.position += space(length);
    }

    /// Gives back the room of what was read.
    fn give_back(&mut self) {
        if self.given != self.position {
            self.given = self.position;
            self.consumer().store(self.position, Ordering::Release);
        }
    }

    fn is_empty(&self) -> bool {
        self.position == self.producer().load(Ordering::SeqCst)
    }

    fn consumer(&self) -> &AtomicU64 {
        // SAFETY: the first word of a live page, aligned; we alone write it.
        unsafe { AtomicU64::from_ptr(self.consumer.as_mut_ptr().cast()) }
    }

    fn producer(&self) -> &AtomicU64 {
        // SAFETY: the first word of a live page, aligned; the kernel writes it, and we never do.
        unsafe { AtomicU64::from_ptr(self.producer.as_mut_ptr().cast()) }
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: the mapping is a page longer than the data.
        unsafe { self.producer.as_mut_ptr().add(self.page) }
    }

    /// State and length of the record at a position.
    fn header(&self, position: u64) -> (u32, u64) {
        let at = (position & (self.size - 1)) as usize;
        // SAFETY: within the data, and aligned, for records begin at multiples of 8.
        let header = unsafe { AtomicU32::from_ptr(self.data().add(at).cast()) }.load(Ordering::Acquire);
        (header & (BUSY | DISCARDED), u64::from(header & !(BUSY | DISCARDED)))
    }

    /// When the finished record at a position was made; 0 if it does not tell.
    fn time(&self, position: u64, length: u64) -> u64 {
        if length < size_of::<Header>() as u64 {
            return 0;
        }
        let at = (position + HEADER + std::mem::offset_of!(Header, time) as u64) & (self.size - 1);
        // SAFETY: within the data, and aligned, for records begin at multiples of 8; what was handed over nobody writes until room is
        // given back.
        unsafe { self.data().add(at as usize).cast::<u64>().read() }
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

/// How much room a record of that length takes.
fn space(length: u64) -> u64 {
    (length + HEADER).next_multiple_of(HEADER)
}

/// Size of a page of memory on this machine.
pub fn page_size() -> usize {
    // SAFETY: a call that takes a number and looks at nothing of ours.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 4096;

    /// Rings in memory of our own, which the test fills as the kernel would.
    fn rings(count: usize) -> Rings {
        let memory = |len| MmapOptions::new().len(len).map_anon().expect("memory").into();
        let page = page_size();
        let ring = |_| Ring::of(memory(page), memory(page + SIZE as usize), page, SIZE);
        Rings { rings: (0..count).map(ring).collect(), maps: Vec::new(), heads: BinaryHeap::new() }
    }

    /// Adds a record of `length` bytes that was made at `time` and says `number`; says where.
    fn add(ring: &Ring, time: u64, number: u8, length: u64, state: u32) -> u64 {
        let position = ring.producer().load(Ordering::Relaxed);
        let mut bytes = vec![number; length as usize];
        bytes[8..16].copy_from_slice(&time.to_ne_bytes());
        for (at, byte) in (position + HEADER..).zip(bytes) {
            // SAFETY: within the data, which nobody else reads meanwhile.
            unsafe { ring.data().add((at & (ring.size - 1)) as usize).write(byte) };
        }
        set(ring, position, length as u32 | state);
        ring.producer().store(position + space(length), Ordering::Relaxed);
        position
    }

    fn set(ring: &Ring, position: u64, header: u32) {
        // SAFETY: within the data, and aligned.
        unsafe { ring.data().add((position & (ring.size - 1)) as usize).cast::<u32>().write(header) };
    }

    /// What is there, by number.
    fn taken(rings: &mut Rings, most: usize, now: u64) -> (Vec<u8>, bool) {
        let mut numbers = Vec::new();
        let drained = rings.take(most, now, |record| {
            numbers.push(record[0]);
            assert!(record[16..].iter().all(|byte| *byte == record[0]), "put together wrongly: {record:?}");
            true
        });
        (numbers, drained)
    }

    const LATER: u64 = u64::MAX;

    #[test]
    fn records_of_all_rings_come_in_the_order_of_their_times() {
        let mut rings = rings(3);
        for (ring, time, number) in [(0, 10, 1), (2, 20, 2), (1, 30, 3), (0, 40, 4), (0, 50, 5), (2, 60, 6)] {
            add(&rings.rings[ring], time, number, 24, 0);
        }
        assert_eq!(taken(&mut rings, 4, LATER), (vec![1, 2, 3, 4], false));
        assert_eq!(taken(&mut rings, 4, LATER), (vec![5, 6], true));
        assert!(rings.is_empty());
    }

    #[test]
    fn what_was_made_after_the_look_at_the_clock_waits() {
        let mut rings = rings(2);
        add(&rings.rings[0], 5_000, 1, 24, 0);
        add(&rings.rings[1], 6_001, 2, 24, 0);
        assert_eq!(taken(&mut rings, 9, 6_000 + SKEW), (vec![1], true));
        assert!(!rings.is_empty());
        // It had not been seen when that was made.
        add(&rings.rings[0], 6_000, 3, 24, 0);
        assert_eq!(taken(&mut rings, 9, LATER), (vec![3, 2], true));
    }

    #[test]
    fn a_record_that_is_being_written_holds_back_what_is_later_than_what_is_behind_it() {
        let mut rings = rings(2);
        let busy = add(&rings.rings[0], 10, 1, 24, BUSY);
        add(&rings.rings[1], 20, 2, 24, 0);
        // Nothing is behind it: it was not done when the others were made.
        assert_eq!(taken(&mut rings, 9, LATER), (vec![2], true));
        add(&rings.rings[0], 30, 3, 24, 0);
        add(&rings.rings[1], 25, 4, 24, 0);
        add(&rings.rings[1], 40, 5, 24, 0);
        // What came after 3 may have come of it.
        assert_eq!(taken(&mut rings, 9, LATER), (vec![4], true));
        set(&rings.rings[0], busy, 24);
        assert_eq!(taken(&mut rings, 9, LATER), (vec![1, 3, 5], true));
    }

    #[test]
    fn a_record_behind_a_later_one_counts_as_of_that() {
        let mut rings = rings(2);
        // An interrupt's program came in between.
        add(&rings.rings[0], 30, 1, 24, 0);
        add(&rings.rings[0], 10, 2, 24, 0);
        add(&rings.rings[1], 20, 3, 24, 0);
        add(&rings.rings[1], 40, 4, 24, 0);
        assert_eq!(taken(&mut rings, 9, LATER), (vec![3, 1, 2, 4], true));
    }

    #[test]
    fn what_was_given_up_is_passed_over_and_room_is_given_back() {
        let mut rings = rings(1);
        for round in 0..200u8 {
            add(&rings.rings[0], 0, 255, 40, DISCARDED);
            // Runs over the end now and then.
            add(&rings.rings[0], u64::from(round), round, 100, 0);
            assert_eq!(taken(&mut rings, 9, LATER), (vec![round], true));
            let ring = &rings.rings[0];
            assert_eq!(ring.consumer().load(Ordering::Relaxed), ring.producer().load(Ordering::Relaxed));
        }
    }
}
