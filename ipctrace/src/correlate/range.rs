//! What is in a stream: the ranges of bytes that were put in and not yet taken, in order.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use crate::model::{End, Proc, Why};

use super::cache;
use super::call::Call;
use super::position::Place;
use super::sequence::{give_back, sparing};

/// The bytes of one send that are still in the stream. One cache line: a busy host has more of them on the way than the caches hold.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Range {
    /// Who put them in, if that is known.
    who: Option<Rc<Proc>>,
    /// If it is not: why.
    nobody: Nobody,
    /// End of the send.
    pub(super) time: u64,
    /// Bytes that the send put in.
    pub(super) bytes: u64,
    /// How many of them are taken.
    pub(super) taken: u64,
    /// Whether the place of the send among those of other processes is certain.
    pub(super) exact: bool,
    /// Calls it stands for.
    pub(super) messages: u32,
    /// Where it stands in a pipe, if known.
    pub(super) place: Option<Place>,
    /// Start of the bytes, if captured.
    payload: Option<Box<Bytes>>,
    /// Where its first byte stands in the stream, counted (and wrapping) from some byte that is the same for all that is in
    /// it: so the distance of two is known without adding up what is between them.
    pub(super) base: u64,
}

const _: () = assert!(size_of::<Range>() == 64);

/// Why nobody is known for bytes that are in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nobody {
    BeforeStart,
    Kernel,
    Lost,
}

impl Nobody {
    /// Whose bytes are on another host, or are taken by nobody, does not put them into a stream.
    fn of(why: &Why) -> Nobody {
        match why {
            Why::BeforeStart => Nobody::BeforeStart,
            Why::Kernel => Nobody::Kernel,
            Why::Remote(_) | Why::Lost | Why::Unread => Nobody::Lost,
        }
    }

    fn why(self) -> Why {
        match self {
            Nobody::BeforeStart => Why::BeforeStart,
            Nobody::Kernel => Why::Kernel,
            Nobody::Lost => Why::Lost,
        }
    }
}

impl Range {
    /// What a send put in.
    pub(super) fn new(call: Call, exact: bool, place: Option<Place>) -> Range {
        let (who, nobody) = match call.who {
            End::Known(process) => (Some(process), Nobody::Lost),
            End::Unknown(why) => (None, Nobody::of(&why)),
        };
        Range {
            who,
            nobody,
            time: call.time,
            bytes: call.bytes,
            taken: 0,
            exact,
            messages: u32::try_from(call.messages).unwrap_or(u32::MAX),
            place,
            payload: (!call.payload.is_empty()).then(|| Box::new(call.payload)),
            base: 0,
        }
    }

    /// Bytes whose sender is not known.
    pub(super) fn unknown(why: Why, bytes: u64, time: u64, exact: bool) -> Range {
        Range {
            who: None,
            nobody: Nobody::of(&why),
            time,
            bytes,
            taken: 0,
            exact,
            messages: 1,
            place: None,
            payload: None,
            base: 0,
        }
    }

    /// The same, where it stands in a pipe.
    pub(super) fn at(self, place: Option<Place>) -> Range {
        Range { place, ..self }
    }

    /// Who put them in, if that is known.
    pub(super) fn process(&self) -> Option<&Rc<Proc>> {
        self.who.as_ref()
    }

    /// Who put them in.
    pub(super) fn sender(&self) -> End {
        match &self.who {
            Some(process) => End::Known(Rc::clone(process)),
            None => End::Unknown(self.nobody.why()),
        }
    }

    /// Whether that is who put them in (mostly the same `Rc`), or nobody, for the same reason.
    pub(super) fn is_from(&self, sender: &End) -> bool {
        match (&self.who, sender) {
            (Some(process), End::Known(other)) => Rc::ptr_eq(process, other) || process == other,
            (None, End::Unknown(why)) => self.nobody.why() == *why,
            (Some(_), End::Unknown(_)) | (None, End::Known(_)) => false,
        }
    }

    /// What of the next `count` bytes was captured.
    pub(super) fn captured(&self, count: u64) -> Option<Bytes> {
        let payload = self.payload.as_ref()?;
        let skipped = usize::try_from(self.taken).unwrap_or(usize::MAX);
        let length = payload.len().saturating_sub(skipped).min(usize::try_from(count).unwrap_or(usize::MAX));
        (length > 0).then(|| payload.slice(skipped..skipped + length))
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> u64 {
        self.bytes - self.taken
    }
}

/// Where a reader's position lies among the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    /// That many bytes of the stream are behind it, counted from the next byte to be taken.
    Exact(u64),
    /// Beyond all that is known to have been put in.
    Beyond,
    /// Among bytes whose place in the pipe is not known: at least, and at most, that many.
    Between(u64, u64),
}

/// The ranges in order, and how many bytes they hold.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    queue: VecDeque<Range>,
    left: u64,
    /// Readers' positions with everything taken, if it is known where the last range stands in the pipe: in its last
    /// page, and beyond it.
    past: Option<(u64, u64)>,
    /// What comes next has this [`Range::base`].
    end: u64,
}

impl Ranges {
    /// Appends a range; one without bytes is nothing.
    pub(super) fn push(&mut self, mut range: Range) {
        if range.left() > 0 {
            range.base = self.end.wrapping_sub(range.taken);
            self.end = self.end.wrapping_add(range.left());
            self.past = range.place.map(|place| (place.end(range.bytes), place.past(range.bytes)));
            self.left = self.left.saturating_add(range.left());
            sparing(&mut self.queue);
            self.queue.push_back(range);
            if let Some(last) = self.queue.back() {
                // Where the next one goes, but for once around. Else the store takes so long that later ones wait for it.
                cache::expect(std::ptr::from_ref(last).wrapping_add(1));
            }
        }
    }

    /// The same before all others.
    pub(super) fn push_front(&mut self, mut range: Range) {
        if range.left() > 0 {
            range.base = self.begin().wrapping_sub(range.bytes);
            self.left = self.left.saturating_add(range.left());
            sparing(&mut self.queue);
            self.queue.push_front(range);
        }
    }

    /// Bytes put in and not yet taken.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Gives back the room that is not needed now.
    pub(super) fn give_back(&mut self) {
        give_back(&mut self.queue);
    }

    /// How many ranges there is room for.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.queue.capacity()
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What was put in by that time may have been taken by a call that is lost.
    pub(super) fn doubt_until(&mut self, time: u64) {
        self.queue.iter_mut().filter(|range| range.time <= time).for_each(|range| range.exact = false);
    }

    /// Takes up to `bytes`, and tells of each range under them (as it was before) and how many came from it.
    pub(super) fn take(&mut self, mut bytes: u64, mut each: impl FnMut(&Range, u64)) {
        while bytes > 0
            && let Some(front) = self.queue.front_mut()
        {
            let count = front.left().min(bytes);
            each(front, count);
            front.taken += count;
            bytes -= count;
            self.left -= count;
            if front.left() == 0 {
                self.queue.pop_front();
                if let Some(next) = self.queue.front() {
                    cache::expect(next);
                }
            }
        }
    }

    /// Whether a range of which the send was lost is among the next `bytes`.
    pub(super) fn lost_within(&self, mut bytes: u64) -> bool {
        for range in &self.queue {
            if bytes == 0 {
                return false;
            }
            if range.is_from(&End::Unknown(Why::Lost)) {
                return true;
            }
            bytes = bytes.saturating_sub(range.left());
        }
        false
    }

    /// Makes one range of an unknown sender of the older half, to save memory. Says how many calls were forgotten.
    pub(super) fn forget_half(&mut self) -> u64 {
        let half = self.queue.len() / 2;
        let time = self.queue.get(half).map_or(0, |range| range.time);
        let calls = self.queue.range(..half).map(|range| u64::from(range.messages)).sum();
        let bytes: u64 = self.queue.drain(..half).map(|range| range.left()).sum();
        let base = self.begin().wrapping_sub(bytes);
        self.queue.push_front(Range { base, ..Range::unknown(Why::Lost, bytes, time, true) });
        calls
    }

    /// A call of `process` that began at `enter` may have come before the last ranges of others.
    pub(super) fn doubt(&mut self, process: (u32, u64), enter: u64) {
        for range in self.queue.iter_mut().rev().take_while(|range| range.time >= enter) {
            let other = range.process().is_some_and(|sender| sender.identity() != process);
            range.exact &= !other;
        }
    }

    /// Nothing of the order of what is in the stream is certain.
    pub(super) fn doubt_all(&mut self) {
        self.queue.iter_mut().for_each(|range| range.exact = false);
    }

    /// No longer knows where anything stands in the pipe.
    pub(super) fn displace(&mut self) {
        for range in &mut self.queue {
            range.place = None;
        }
        self.past = None;
    }

    /// Whether a reader's `position` lies before that of the next byte to be taken.
    pub(super) fn is_behind(&self, position: u64) -> bool {
        match self.queue.front().and_then(|range| range.place.map(|place| place.at(range.taken))) {
            Some(next) => position < next,
            None => true,
        }
    }

    /// Whether a page ends between a reader's positions that is not known to be full: sends of which nothing is known
    /// (yet) may have put more into it, and receives taken that out.
    pub(super) fn may_hide(&self, low: u64, high: u64) -> bool {
        let (first, last) = (low >> 32, high >> 32);
        // Pages before this one are full.
        let mut full = first;
        for range in &self.queue {
            let Some(place) = range.place else { continue };
            if full >= last || !place.fills(range.bytes, &mut full) {
                break;
            }
        }
        full < last
    }

    /// Whether bytes of which the place is not known may lie before a reader's `position`.
    pub(super) fn blurs(&self, position: u64) -> bool {
        self.queue
            .iter()
            .take_while(|range| range.place.is_none_or(|place| place.at(range.taken) < position))
            .any(|range| range.place.is_none())
    }

    /// Where the next byte to be taken stands: see [`Range::base`].
    fn begin(&self) -> u64 {
        self.queue.front().map_or(self.end, |range| range.base.wrapping_add(range.taken))
    }

    /// How many bytes lie before those of the range at `index`.
    fn before(&self, index: usize) -> u64 {
        let place = |range: &Range| range.base.wrapping_add(range.taken);
        self.queue.get(index).map_or(self.end, place).wrapping_sub(self.begin())
    }

    /// The first range whose place is known and that does not end before a reader's `position`; how many there are, if
    /// none. Places ascend.
    fn reached(&self, position: u64) -> usize {
        let (mut low, mut high) = (0, self.queue.len());
        let mut found = high;
        while low < high {
            let middle = low + (high - low) / 2;
            let placed = |index: &usize| self.queue[*index].place.is_some();
            let Some(index) = (middle..high).find(placed) else {
                high = middle;
                continue;
            };
            let range = &self.queue[index];
            if range.place.is_some_and(|place| place.at(range.bytes - 1) < position) {
                low = index + 1;
            } else {
                found = index;
                high = middle;
            }
        }
        found
    }

    /// How many bytes lie before a reader's `position`.
    pub(super) fn locate(&self, position: u64) -> Offset {
        let index = self.reached(position);
        let offset = self.before(index);
        // Bytes that are behind for certain, if others of unknown place lie between them and `offset`.
        let placeless = self.queue.range(..index).rev().take_while(|range| range.place.is_none()).count();
        let blurred = (placeless > 0).then(|| self.before(index - placeless));
        let Some(range) = self.queue.get(index) else {
            return match self.past {
                // Between the two, somebody has put more into the page, and somebody has taken it.
                Some((end, past)) if position <= end || position == past => Offset::Exact(offset),
                Some(_) => Offset::Beyond,
                None => Offset::Between(blurred.unwrap_or(offset), u64::MAX),
            };
        };
        match range.place {
            Some(place) if position > place.at(range.taken) => {
                Offset::Exact(offset + place.before(position, range.bytes).saturating_sub(range.taken))
            }
            Some(place) if position < place.at(range.taken) => match blurred {
                Some(least) => Offset::Between(least, offset),
                None => Offset::Exact(offset),
            },
            Some(_) | None => Offset::Exact(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(head: u64, end: u64) -> u64 {
        head << 32 | end
    }

    fn range(from: u64, to: u64, bytes: u64) -> Range {
        Range { place: Place::between(from, to, bytes), ..Range::unknown(Why::Kernel, bytes, 0, true) }
    }

    #[test]
    fn positions_become_offsets() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.locate(at(0, 0)), Offset::Between(0, u64::MAX));
        ranges.push(range(at(0, 0), at(1, 10), 10));
        ranges.push(range(at(1, 10), at(1, 30), 20));
        ranges.push(range(at(1, 30), at(2, 5), 5));
        assert_eq!(ranges.locate(at(0, 0)), Offset::Exact(0));
        assert_eq!(ranges.locate(at(0, 12)), Offset::Exact(12));
        assert_eq!(ranges.locate(at(1, 0)), Offset::Exact(30));
        assert_eq!(ranges.locate(at(2, 0)), Offset::Exact(35));
        assert_eq!(ranges.locate(at(3, 0)), Offset::Beyond);
        ranges.take(32, |_, _| ());
        assert_eq!(ranges.locate(at(1, 3)), Offset::Exact(1));
        ranges.take(3, |_, _| ());
        assert_eq!((ranges.left(), ranges.locate(at(2, 0))), (0, Offset::Exact(0)));
    }

    #[test]
    fn bytes_without_a_place_blur_what_is_before_them() {
        let mut ranges = Ranges::default();
        ranges.push(Range::unknown(Why::BeforeStart, 100, 0, true));
        ranges.push(range(at(3, 4096), at(4, 10), 10));
        assert_eq!(ranges.locate(at(1, 0)), Offset::Between(0, 100));
        assert_eq!(ranges.locate(at(3, 0)), Offset::Exact(100));
        assert_eq!(ranges.locate(at(3, 5)), Offset::Exact(105));
    }

    /// The same, range by range.
    fn located(ranges: &Ranges, position: u64) -> Offset {
        let (mut offset, mut blurred) = (0, None);
        for range in &ranges.queue {
            let Some(place) = range.place else {
                blurred.get_or_insert(offset);
                offset += range.left();
                continue;
            };
            let start = place.at(range.taken);
            if position <= start {
                return match blurred {
                    Some(least) if position < start => Offset::Between(least, offset),
                    Some(_) | None => Offset::Exact(offset),
                };
            }
            blurred = None;
            let behind = place.before(position, range.bytes);
            if behind < range.bytes {
                return Offset::Exact(offset + behind.saturating_sub(range.taken));
            }
            offset += range.left();
        }
        match ranges.past {
            Some((end, past)) if position <= end || position == past => Offset::Exact(offset),
            Some(_) => Offset::Beyond,
            None => Offset::Between(blurred.unwrap_or(offset), u64::MAX),
        }
    }

    proptest::proptest! {
        #[test]
        fn positions_are_found_as_if_range_by_range(
            writes in proptest::collection::vec((0u8..4, 1u64..9000), 0..20),
            taken in 0u64..40_000,
            positions in proptest::collection::vec((0u64..30, 0u64..4097), 1..20),
        ) {
            let mut ranges = Ranges::default();
            let mut position = at(2, 100);
            for (kind, bytes) in writes {
                match kind {
                    0 => ranges.push(Range::unknown(Why::Lost, bytes, 0, true)),
                    1 if bytes < 100 => ranges.push_front(Range::unknown(Why::BeforeStart, bytes, 0, true)),
                    1 | 2 if bytes % 7 == 0 => _ = ranges.forget_half(),
                    _ => {
                        let end = crate::correlate::position::ends(position, bytes).into_iter().flatten().max();
                        let end = end.unwrap();
                        ranges.push(range(position, end, bytes));
                        position = end;
                    }
                }
            }
            ranges.take(taken, |_, _| ());
            let left: u64 = ranges.queue.iter().map(Range::left).sum();
            proptest::prop_assert_eq!(ranges.before(ranges.len()), left);
            for (page, byte) in positions {
                let position = at(page, byte);
                proptest::prop_assert_eq!(ranges.locate(position), located(&ranges, position));
            }
        }
    }

    #[test]
    fn takes_cut_across_ranges() {
        let mut ranges = Ranges::default();
        ranges.push(Range::unknown(Why::BeforeStart, 3, 0, true));
        ranges.push(Range::unknown(Why::Lost, 4, 0, true));
        let mut seen = Vec::new();
        ranges.take(5, |range, count| seen.push((range.sender(), count)));
        assert_eq!(seen, [(End::Unknown(Why::BeforeStart), 3), (End::Unknown(Why::Lost), 2)]);
        assert_eq!((ranges.left(), ranges.len()), (2, 1));
    }
}
