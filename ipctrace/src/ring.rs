//! The collector's end of the rings: memory that programs share with it (`ipctrace_common::ring`), or ring buffers of the kernel's
//! (include/uapi/linux/bpf.h, kernel/bpf/ringbuf.c).
//!
//! There is one for each processor. What was done on one before something was done on another has an earlier time, so records are
//! taken in the order of their times, as far as it is certain that none is missing: see [`Rings::take`].
//!
//! The usual way to read a ring buffer maps its data twice, one behind the other, so that no record is seen in two parts; all of it
//! counts as our memory, twice. Here it is mapped once, and the record that runs over the end is put together. And the place
//! up to which records were read, which every program looks at for each record that it makes, is given back once in a while and
//! not after each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::maps::MapData;
use ipctrace_common::ring::{HEADER, Head, SLACK, Shape, finished, size, space};
use ipctrace_common::wire::Header;
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::flag::Flag;

pub(crate) mod make;

// `BPF_RINGBUF_HDR_SZ`.
const _: () = assert!(HEADER == 8);
/// `BPF_RINGBUF_BUSY_BIT`: the record is being written.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: it was given up.
const DISCARDED: u32 = 1 << 30;
/// Bytes after which room is given back.
const STRIDE: u64 = 64 << 10;

/// How often to look at a record that is being written, where it is not known how long it will be: a program that is not held up is
/// done in less.
const PATIENCE: u32 = 64;

/// By how much the clocks of programs and collector may differ, ns: they are read without a lock while the kernel sets them
/// (`ktime_get_mono_fast_ns`, kernel/time/timekeeping.c).
const SKEW: u64 = 2_000;

/// The rings of all processors.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Ring>,
    /// What is readable when the programs want us to look: a ring buffer for each, or the one that is for nothing else.
    bells: Vec<MapData>,
    /// What is in that one, which is thrown away.
    rung: Option<Ring>,
    /// Where programs find the rings: those that are loaded later do so by its descriptor.
    _events: Option<MapData>,
    /// Raised while we wait for the next record, where it does not stand in the rings.
    resting: Option<Flag>,
    /// Time and ring of the first record of each ring that has any.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Rings {
    /// Maps ring buffers; `size` is that of each one's data in bytes, a power of two.
    ///
    /// # Errors
    /// If the kernel does not let us.
    fn buffers(maps: Vec<MapData>, size: u32, resting: Flag, events: MapData) -> Result<Rings> {
        let rings: Vec<Ring> = maps.iter().map(|map| Ring::buffer(map, size)).collect::<Result<_>>()?;
        let heads = BinaryHeap::with_capacity(rings.len());
        Ok(Rings { rings, bells: maps, rung: None, _events: Some(events), resting: Some(resting), heads })
    }

    /// Maps those that programs share with us, all in one map, and the ring buffer by which they wake us.
    ///
    /// # Errors
    /// If the kernel does not let us.
    fn shared(events: MapData, bell: MapData, shape: Shape) -> Result<Rings> {
        let each = size(shape.mask + 1) as usize;
        let memory = MmapOptions::new()
            .len(each * shape.count as usize)
            .map_raw(&events.fd().as_fd())
            .context("mapping the rings")?;
        let memory = Arc::new(memory);
        let ring = |number| Ring::shared(&memory, each * number, shape);
        let rings: Vec<Ring> = (0..shape.count as usize).map(ring).collect();
        let rung = Some(Ring::buffer(&bell, page_size() as u32)?);
        let heads = BinaryHeap::with_capacity(rings.len());
        Ok(Rings { rings, bells: vec![bell], rung, _events: Some(events), resting: None, heads })
    }

    /// A descriptor that is readable when the programs have said so.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .context("making a descriptor to wait at the ring buffers with")?;
        for map in &self.bells {
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
        let Rings { rings, heads, rung, .. } = self;
        if let Some(rung) = rung {
            rung.empty();
        }
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

    /// From now on the next record wakes us.
    pub fn rest(&self) {
        match &self.resting {
            Some(flag) => flag.raise(),
            None => self.rings.iter().for_each(|ring| ring.pages.resting(1)),
        }
    }

    /// It need not any more.
    pub fn wake(&self) {
        match &self.resting {
            Some(flag) => flag.lower(),
            None => self.rings.iter().for_each(|ring| ring.pages.resting(0)),
        }
    }

    /// Whether there is no record, finished or not.
    pub fn is_empty(&self) -> bool {
        self.rings.iter().all(Ring::is_empty)
    }
}

/// The ring of a processor.
#[derive(Debug)]
struct Ring {
    pages: Pages,
    /// Bytes of data, a power of two.
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

/// Where the words and the data of a ring are.
#[derive(Debug)]
enum Pages {
    /// Of a ring buffer: the page with the position up to which records were read; the page with the position up to which there are
    /// any, and the data behind it.
    Buffer { consumer: MmapRaw, producer: MmapRaw, page: usize },
    /// Of a ring that programs share with us: in that memory, from this byte on.
    Shared { memory: Arc<MmapRaw>, at: usize, secret: u64 },
}

impl Pages {
    /// The word with the position up to which there are records.
    fn end(&self) -> &AtomicU64 {
        let word = match self {
            Pages::Buffer { producer, .. } => producer.as_mut_ptr(),
            // SAFETY: within a live mapping.
            Pages::Shared { memory, at, .. } => unsafe {
                memory.as_mut_ptr().add(at + offset_of!(Head, end))
            },
        };
        // SAFETY: within a live mapping, aligned; programs write it, and we never do.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// The word with the position up to which they were taken.
    fn taken(&self) -> &AtomicU64 {
        let word = match self {
            Pages::Buffer { consumer, .. } => consumer.as_mut_ptr(),
            // SAFETY: as above.
            Pages::Shared { memory, at, .. } => unsafe {
                memory.as_mut_ptr().add(at + offset_of!(Head, taken))
            },
        };
        // SAFETY: within a live mapping, aligned; we alone write it.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Says whether the next record is to wake us, where that stands in the ring.
    fn resting(&self, whether: u64) {
        if let Pages::Shared { memory, at, .. } = self {
            // SAFETY: within a live mapping, aligned; programs write it meanwhile, hence the atomic.
            let word = unsafe {
                AtomicU64::from_ptr(memory.as_mut_ptr().add(at + offset_of!(Head, resting)).cast())
            };
            word.store(whether, Ordering::SeqCst);
        }
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: within live mappings.
        unsafe {
            match self {
                Pages::Buffer { producer, page, .. } => producer.as_mut_ptr().add(*page),
                Pages::Shared { memory, at, .. } => memory.as_mut_ptr().add(at + size_of::<Head>()),
            }
        }
    }

    /// Bytes behind the data, in which a record goes on that begins at their end.
    fn slack(&self) -> usize {
        match self {
            Pages::Buffer { .. } => 0,
            Pages::Shared { .. } => SLACK as usize,
        }
    }
}

/// How far a record is, and how long.
enum State {
    Finished(u64),
    Discarded(u64),
    /// It is being written. How long it will be need not be known.
    Busy(Option<u64>),
}

impl Ring {
    fn buffer(map: &MapData, size: u32) -> Result<Ring> {
        let page = page_size();
        let fd = map.fd().as_fd();
        let consumer =
            MmapOptions::new().len(page).map_raw(&fd).context("mapping the ring buffer's position")?;
        let producer = MmapOptions::new()
            .offset(page as u64)
            .len(page + size as usize)
            .map_raw_read_only(&fd)
            .context("mapping the ring buffer")?;
        Ok(Ring::of(Pages::Buffer { consumer, producer, page }, u64::from(size)))
    }

    /// The ring at byte `at` of that memory.
    fn shared(memory: &Arc<MmapRaw>, at: usize, shape: Shape) -> Ring {
        let memory = Arc::clone(memory);
        Ring::of(Pages::Shared { memory, at, secret: shape.secret }, u64::from(shape.mask) + 1)
    }

    fn of(pages: Pages, size: u64) -> Ring {
        Ring { pages, size, position: 0, given: 0, end: 0, latest: 0, whole: Vec::new() }
    }

    /// Looks how much there is.
    fn look(&mut self) {
        self.end = self.pages.end().load(Ordering::Acquire);
    }

    /// Throws away what there is.
    fn empty(&mut self) {
        self.look();
        self.position = self.end;
        self.give_back();
    }

    /// The time of the next record. If that is still being written, the ring has none for now; what is behind it, and all
    /// that is later, is not to be taken before it: `until` is set to that. Where it is not known what is behind it, to the time of
    /// the last one, which was earlier.
    fn first(&mut self, until: &mut u64) -> Option<u64> {
        let mut patience = PATIENCE;
        while self.position != self.end {
            match self.state(self.position) {
                State::Finished(length) => {
                    self.latest = self.latest.max(self.time(self.position, length));
                    return Some(self.latest);
                }
                State::Discarded(length) => self.advance(length),
                State::Busy(Some(length)) => {
                    *until = self.behind(length).map_or(*until, |time| time.min(*until));
                    return None;
                }
                State::Busy(None) if patience == 0 => {
                    *until = self.latest.min(*until);
                    return None;
                }
                State::Busy(None) => {
                    patience -= 1;
                    std::hint::spin_loop();
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
            let length = match self.state(position) {
                State::Finished(length) => {
                    let time = self.latest.max(self.time(position, length));
                    earliest = Some(earliest.map_or(time, |known: u64| known.min(time)));
                    length
                }
                State::Discarded(length) | State::Busy(Some(length)) => length,
                State::Busy(None) => return Some(self.latest),
            };
            position += space(length);
        }
        earliest
    }

    /// Gives the next record, if it is finished.
    fn take(&mut self) -> &[u8] {
        let State::Finished(length) = self.state(self.position) else { return &[] };
        let at = self.position + HEADER;
        // What was given back before is not this one.
        self.advance(length);
        self.record(at, length as usize)
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
            self.pages.taken().store(self.position, Ordering::Release);
        }
    }

    fn is_empty(&self) -> bool {
        self.position == self.pages.end().load(Ordering::SeqCst)
    }

    /// Of the record at a position.
    fn state(&self, position: u64) -> State {
        let at = (position & (self.size - 1)) as usize;
        // SAFETY: within the data, and aligned, for records begin at multiples of 8.
        let place = unsafe { self.pages.data().add(at) };
        match &self.pages {
            Pages::Buffer { .. } => {
                // SAFETY: as above; programs write it meanwhile, hence the atomic.
                let header = unsafe { AtomicU32::from_ptr(place.cast()) }.load(Ordering::Acquire);
                let length = u64::from(header & !(BUSY | DISCARDED));
                match header & (BUSY | DISCARDED) {
                    0 => State::Finished(length),
                    DISCARDED => State::Discarded(length),
                    _ => State::Busy(Some(length)),
                }
            }
            Pages::Shared { secret, .. } => {
                // SAFETY: as above.
                let header = unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Acquire);
                finished(header, position, *secret).map_or(State::Busy(None), State::Finished)
            }
        }
    }

    /// When the finished record at a position was made; 0 if it does not tell.
    fn time(&self, position: u64, length: u64) -> u64 {
        if length < size_of::<Header>() as u64 {
            return 0;
        }
        let at = self.place(position + HEADER, offset_of!(Header, time));
        // SAFETY: within the data or the slack, and aligned, for records begin at multiples of 8; what was handed over nobody writes
        // until room is given back.
        unsafe { self.pages.data().add(at).cast::<u64>().read() }
    }

    /// Where in the data a byte of what begins at a position stands.
    fn place(&self, begin: u64, offset: usize) -> usize {
        let at = ((begin - HEADER) & (self.size - 1)) as usize + HEADER as usize + offset;
        let end = self.size as usize + self.pages.slack();
        if at < end { at } else { at - self.size as usize }
    }

    /// The bytes of a record, whose content begins at a position. Programs make none that is longer than the data.
    fn record(&mut self, begin: u64, length: usize) -> &[u8] {
        let at = self.place(begin, 0);
        let length = length.min(self.size as usize);
        let first = length.min(self.size as usize + self.pages.slack() - at);
        // SAFETY: both parts are within the data and what is behind them; what was handed over nobody writes until room is given back.
        let (one, other) = unsafe {
            (
                std::slice::from_raw_parts(self.pages.data().add(at), first),
                std::slice::from_raw_parts(self.pages.data(), length - first),
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
pub fn page_size() -> usize {
    // SAFETY: a call that takes a number and looks at nothing of ours.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

#[cfg(test)]
mod tests {
    use ipctrace_common::ring::header;

    use super::*;

    const SIZE: u32 = 4096;
    const SECRET: u64 = 0x1234_5678_9abc;

    /// How far a record is that a test adds.
    #[derive(Clone, Copy, PartialEq)]
    enum Made {
        Finished,
        Busy,
        Discarded,
    }

    fn memory(len: usize) -> MmapRaw {
        MmapOptions::new().len(len).map_anon().expect("memory").into()
    }

    fn of(rings: impl Iterator<Item = Ring>) -> Rings {
        Rings {
            rings: rings.collect(),
            bells: Vec::new(),
            rung: None,
            _events: None,
            resting: None,
            heads: BinaryHeap::new(),
        }
    }

    /// Ring buffers in memory of our own, which the test fills as the kernel would.
    fn buffers(count: usize) -> Rings {
        let page = page_size();
        let pages = || Pages::Buffer { consumer: memory(page), producer: memory(page + SIZE as usize), page };
        of((0..count).map(|_| Ring::of(pages(), u64::from(SIZE))))
    }

    /// Rings that are shared, likewise, as programs would.
    fn shared(count: usize) -> Rings {
        let shape =
            Shape { count: count as u32, mask: SIZE - 1, secret: 0x1234_5678_9abc, ..Shape::default() };
        let memory = Arc::new(memory(size(SIZE) as usize * count));
        of((0..count).map(|number| Ring::shared(&memory, size(SIZE) as usize * number, shape)))
    }

    /// Adds a record of `length` bytes that was made at `time` and says `number`; says where.
    fn add(ring: &Ring, time: u64, number: u8, length: u64, made: Made) -> u64 {
        let position = ring.pages.end().load(Ordering::Relaxed);
        let mut bytes = vec![number; length as usize];
        bytes[8..16].copy_from_slice(&time.to_ne_bytes());
        for (at, byte) in bytes.into_iter().enumerate() {
            let place = match ring.pages {
                Pages::Buffer { .. } => ((position + HEADER + at as u64) & (ring.size - 1)) as usize,
                Pages::Shared { .. } => ((position & (ring.size - 1)) + HEADER) as usize + at,
            };
            // SAFETY: within the data or the slack, which nobody else reads meanwhile.
            unsafe { ring.pages.data().add(place).write(byte) };
        }
        set(ring, position, length, made);
        ring.pages.end().store(position + space(length), Ordering::Relaxed);
        position
    }

    fn set(ring: &Ring, position: u64, length: u64, made: Made) {
        // SAFETY: within the data.
        let place = unsafe { ring.pages.data().add((position & (ring.size - 1)) as usize) };
        match ring.pages {
            Pages::Buffer { .. } => {
                let state = [(Made::Busy, BUSY), (Made::Discarded, DISCARDED)];
                let state = state.iter().find(|(of, _)| *of == made).map_or(0, |(_, bit)| *bit);
                // SAFETY: aligned, as all records are.
                unsafe { place.cast::<u32>().write(length as u32 | state) };
            }
            Pages::Shared { secret, .. } => {
                let header = header(position, secret, length);
                // SAFETY: as above.
                unsafe { place.cast::<u64>().write(if made == Made::Busy { !header } else { header }) };
            }
        }
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
        for mut rings in [buffers(3), shared(3)] {
            for (ring, time, number) in
                [(0, 10, 1), (2, 20, 2), (1, 30, 3), (0, 40, 4), (0, 50, 5), (2, 60, 6)]
            {
                add(&rings.rings[ring], time, number, 24, Made::Finished);
            }
            assert_eq!(taken(&mut rings, 4, LATER), (vec![1, 2, 3, 4], false));
            assert_eq!(taken(&mut rings, 4, LATER), (vec![5, 6], true));
            assert!(rings.is_empty());
        }
    }

    #[test]
    fn what_was_made_after_the_look_at_the_clock_waits() {
        for mut rings in [buffers(2), shared(2)] {
            add(&rings.rings[0], 5_000, 1, 24, Made::Finished);
            add(&rings.rings[1], 6_001, 2, 24, Made::Finished);
            assert_eq!(taken(&mut rings, 9, 6_000 + SKEW), (vec![1], true));
            assert!(!rings.is_empty());
            // It had not been seen when that was made.
            add(&rings.rings[0], 6_000, 3, 24, Made::Finished);
            assert_eq!(taken(&mut rings, 9, LATER), (vec![3, 2], true));
        }
    }

    #[test]
    fn a_record_that_is_being_written_holds_back_what_is_later_than_what_is_behind_it() {
        let mut rings = buffers(2);
        let busy = add(&rings.rings[0], 10, 1, 24, Made::Busy);
        add(&rings.rings[1], 20, 2, 24, Made::Finished);
        // Nothing is behind it: it was not done when the others were made.
        assert_eq!(taken(&mut rings, 9, LATER), (vec![2], true));
        add(&rings.rings[0], 30, 3, 24, Made::Finished);
        add(&rings.rings[1], 25, 4, 24, Made::Finished);
        add(&rings.rings[1], 40, 5, 24, Made::Finished);
        // What came after 3 may have come of it.
        assert_eq!(taken(&mut rings, 9, LATER), (vec![4], true));
        set(&rings.rings[0], busy, 24, Made::Finished);
        assert_eq!(taken(&mut rings, 9, LATER), (vec![1, 3, 5], true));
    }

    #[test]
    fn a_record_of_unknown_length_holds_back_what_is_later_than_the_one_before_it() {
        let mut rings = shared(2);
        add(&rings.rings[0], 15, 1, 24, Made::Finished);
        let busy = add(&rings.rings[0], 20, 2, 24, Made::Busy);
        add(&rings.rings[0], 30, 3, 24, Made::Finished);
        add(&rings.rings[1], 12, 4, 24, Made::Finished);
        add(&rings.rings[1], 25, 5, 24, Made::Finished);
        assert_eq!(taken(&mut rings, 9, LATER), (vec![4, 1], true));
        set(&rings.rings[0], busy, 24, Made::Finished);
        assert_eq!(taken(&mut rings, 9, LATER), (vec![2, 5, 3], true));
    }

    #[test]
    fn a_record_behind_a_later_one_counts_as_of_that() {
        for mut rings in [buffers(2), shared(2)] {
            // An interrupt's program came in between.
            add(&rings.rings[0], 30, 1, 24, Made::Finished);
            add(&rings.rings[0], 10, 2, 24, Made::Finished);
            add(&rings.rings[1], 20, 3, 24, Made::Finished);
            add(&rings.rings[1], 40, 4, 24, Made::Finished);
            assert_eq!(taken(&mut rings, 9, LATER), (vec![3, 1, 2, 4], true));
        }
    }

    #[test]
    fn what_was_given_up_is_passed_over_and_room_is_given_back() {
        let mut rings = buffers(1);
        for round in 0..200u8 {
            add(&rings.rings[0], 0, 255, 40, Made::Discarded);
            // Runs over the end now and then.
            add(&rings.rings[0], u64::from(round), round, 100, Made::Finished);
            assert_eq!(taken(&mut rings, 9, LATER), (vec![round], true));
            let pages = &rings.rings[0].pages;
            assert_eq!(pages.taken().load(Ordering::Relaxed), pages.end().load(Ordering::Relaxed));
        }
    }

    #[test]
    fn what_a_shared_ring_held_before_is_no_record() {
        let mut rings = shared(1);
        for round in 0..200u8 {
            // Goes on behind the end now and then; finished ones of the same lengths stood in the same places before.
            add(&rings.rings[0], u64::from(round), round, 1000, Made::Finished);
            assert_eq!(taken(&mut rings, 9, LATER), (vec![round], true));
            let busy = add(&rings.rings[0], u64::from(round), 255, 1000, Made::Finished);
            let stale = header(busy.wrapping_sub(u64::from(SIZE)), SECRET, 1000);
            // SAFETY: within the data, and aligned.
            unsafe {
                let place = rings.rings[0].pages.data().add((busy & u64::from(SIZE - 1)) as usize);
                place.cast::<u64>().write(stale);
            }
            assert_eq!(taken(&mut rings, 9, LATER), (vec![], true));
            set(&rings.rings[0], busy, 1000, Made::Finished);
            assert_eq!(taken(&mut rings, 9, LATER), (vec![255], true));
            let pages = &rings.rings[0].pages;
            assert_eq!(pages.taken().load(Ordering::Relaxed), pages.end().load(Ordering::Relaxed));
        }
    }
}
