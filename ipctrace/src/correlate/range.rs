//! What is in a stream: the ranges of bytes that were put in and not yet taken, in order.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::model::{End, Why};

use super::call::Call;
use super::position::Place;

/// The bytes of one send that are still in the stream.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// Who put them in.
    pub(super) sender: End,
    /// End of the send.
    pub(super) time: u64,
    /// Bytes that the send put in.
    pub(super) bytes: u64,
    /// How many of them are taken.
    pub(super) taken: u64,
    /// Whether the place of the send among those of other processes is certain.
    pub(super) exact: bool,
    /// Calls it stands for.
    pub(super) messages: u64,
    /// Where it stands in a pipe, if known.
    pub(super) place: Option<Place>,
    /// Start of the bytes, if captured.
    pub(super) payload: Bytes,
}

impl Range {
    /// What a send put in.
    pub(super) fn new(call: Call, exact: bool, place: Option<Place>) -> Range {
        Range {
            sender: call.who,
            time: call.time,
            bytes: call.bytes,
            taken: 0,
            exact,
            messages: call.messages,
            place,
            payload: call.payload,
        }
    }

    /// Bytes whose sender is not known.
    pub(super) fn unknown(why: Why, bytes: u64, time: u64, exact: bool) -> Range {
        Range {
            sender: End::Unknown(why),
            time,
            bytes,
            taken: 0,
            exact,
            messages: 1,
            place: None,
            payload: Bytes::new(),
        }
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
}

impl Ranges {
    /// Appends a range; one without bytes is nothing.
    pub(super) fn push(&mut self, range: Range) {
        if range.left() > 0 {
            self.past = range.place.map(|place| (place.end(range.bytes), place.past(range.bytes)));
            self.left = self.left.saturating_add(range.left());
            self.queue.push_back(range);
        }
    }

    /// The same before all others.
    pub(super) fn push_front(&mut self, range: Range) {
        if range.left() > 0 {
            self.left = self.left.saturating_add(range.left());
            self.queue.push_front(range);
        }
    }

    /// Bytes put in and not yet taken.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
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
            }
        }
    }

    /// Whether a range of which the send was lost is among the next `bytes`.
    pub(super) fn lost_within(&self, mut bytes: u64) -> bool {
        for range in &self.queue {
            if bytes == 0 {
                return false;
            }
            if range.sender == End::Unknown(Why::Lost) {
                return true;
            }
            bytes = bytes.saturating_sub(range.left());
        }
        false
    }

    /// Makes one range of an unknown sender of the older half, to save memory. Says how many were forgotten.
    pub(super) fn forget_half(&mut self) -> u64 {
        let half = self.queue.len() / 2;
        let time = self.queue.get(half).map_or(0, |range| range.time);
        let bytes = self.queue.drain(..half).map(|range| range.left()).sum();
        self.queue.push_front(Range::unknown(Why::Lost, bytes, time, true));
        half as u64
    }

    /// A call of `process` that began at `enter` may have come before the last ranges of others.
    pub(super) fn doubt(&mut self, process: (u32, u64), enter: u64) {
        for range in self.queue.iter_mut().rev().take_while(|range| range.time >= enter) {
            let other = range.sender.process().is_some_and(|sender| sender.identity() != process);
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

    /// How many bytes lie before a reader's `position`.
    pub(super) fn locate(&self, position: u64) -> Offset {
        if self.past.is_some_and(|(_, past)| position > past) {
            return Offset::Beyond;
        }
        let mut offset = 0;
        // Bytes that are behind for certain, if others of unknown place lie between them and `offset`.
        let mut blurred = None;
        for range in &self.queue {
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
            if place.at(range.bytes - 1) < position {
                offset += range.left();
                continue;
            }
            let behind = place.before(position, range.bytes);
            if behind < range.bytes {
                return Offset::Exact(offset + behind.saturating_sub(range.taken));
            }
            offset += range.left();
        }
        match self.past {
            // Between the two, somebody has put more into the page, and somebody has taken it.
            Some((end, past)) if position <= end || position == past => Offset::Exact(offset),
            Some(_) => Offset::Beyond,
            None => Offset::Between(blurred.unwrap_or(offset), u64::MAX),
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

    #[test]
    fn takes_cut_across_ranges() {
        let mut ranges = Ranges::default();
        ranges.push(Range::unknown(Why::BeforeStart, 3, 0, true));
        ranges.push(Range::unknown(Why::Lost, 4, 0, true));
        let mut seen = Vec::new();
        ranges.take(5, |range, count| seen.push((range.sender.clone(), count)));
        assert_eq!(seen, [(End::Unknown(Why::BeforeStart), 3), (End::Unknown(Why::Lost), 2)]);
        assert_eq!((ranges.left(), ranges.len()), (2, 1));
    }
}
