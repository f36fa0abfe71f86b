//! The sending side of a stream: in which order the bytes went in.

use std::collections::VecDeque;

use super::call::{Call, Recent};
use super::context::{Context, LINGER};
use super::order::{self, Advance, Block, Piece, Verdict};
use super::position::Place;
use super::range::{Range, Ranges};
use super::sequence::Sequencer;

/// Calls among which those that overlapped are looked for.
pub(super) const REACH: usize = 64;

/// The sending side of a stream.
#[derive(Debug, Default)]
pub(super) struct Put {
    /// The calls by the kernel's books.
    pub(super) calls: Sequencer,
    /// Positions at which all that is settled may end; empty if unknown.
    ends: Vec<u64>,
    /// The end is only an upper bound: something below it was given up.
    slack: bool,
    /// Who sent lately.
    recent: Recent,
    /// Since when the first call waits for one that it shows to be missing.
    since: Option<u64>,
}

/// How a side is to be settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// The object has positions.
    pub(super) paged: bool,
    /// Nothing more will come.
    pub(super) force: bool,
}

/// How far settling went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// As far as it could.
    Done,
    /// To where the positions of the object begin anew.
    Anew,
    /// To a receive for which the sends are missing, waiting since then.
    Starved(u64),
}

impl Put {
    /// The books and positions begin anew; `position` is where the next byte goes, if known.
    pub(super) fn restart(&mut self, position: Option<u64>) {
        self.calls.restart(0);
        self.ends = position.into_iter().collect();
        self.slack = false;
        self.since = None;
    }

    /// Moves to `ranges` what is certain, and what has waited for long enough.
    pub(super) fn settle(&mut self, mode: Mode, ranges: &mut Ranges, context: &Context<'_>) -> Progress {
        while let Some(front) = self.calls.ready.front() {
            if self.fell_back(front) {
                // The next round takes the call's own beginning for the start.
                self.ends.clear();
                self.slack = false;
                return Progress::Anew;
            }
            let go_on = if !mode.paged {
                self.by_time(mode, ranges, context)
            } else if let Some(place) = self.lone(front) {
                self.commit(0, true, place, ranges);
                true
            } else {
                self.by_position(mode, ranges, context)
            };
            if !go_on {
                break;
            }
        }
        Progress::Done
    }

    /// Whether the call began after all that is settled, and below it: the positions have begun anew.
    fn fell_back(&self, call: &Call) -> bool {
        let floor = self.ends.iter().copied().min();
        call.enter > self.recent.end() && call.seen.zip(floor).is_some_and(|((low, _), floor)| low < floor)
    }

    /// The common case, without a search: nothing else waits, and the call accounts for all between its two
    /// positions. `Some` with its place if so.
    fn lone(&self, call: &Call) -> Option<Option<Place>> {
        let (&[end], Some((low, high))) = (self.ends.as_slice(), call.seen) else { return None };
        if self.slack || low != end || call.advance != Advance::Pages {
            return None;
        }
        if self.calls.ready.iter().skip(1).take(REACH).any(|other| other.piece().low < high) {
            return None;
        }
        Place::between(low, high, call.bytes).map(Some)
    }

    /// Settles the first call; `position` becomes the end.
    fn commit(&mut self, index: usize, exact: bool, place: Option<Place>, ranges: &mut Ranges) {
        let Some(call) = self.calls.ready.remove(index) else { return };
        if place.is_some()
            && let Some((_, high)) = call.seen
        {
            self.ends.clear();
            self.ends.push(high);
        }
        self.note(&call);
        self.since = None;
        ranges.push(Range::new(call, exact, place));
    }

    /// Remembers who sent when. A lost call is another process's only where there are several.
    fn note(&mut self, call: &Call) {
        let process = call.process();
        if call.who.process().is_some() || self.recent.crowd() {
            self.recent.note(process, call.time);
        }
    }

    /// Without positions: by the books, in doubt where calls of two processes overlapped.
    fn by_time(&mut self, mode: Mode, ranges: &mut Ranges, context: &Context<'_>) -> bool {
        let Some(front) = self.calls.ready.front() else { return false };
        let crowd = crowded(&self.calls.ready, &self.recent);
        if crowd && !mode.force && context.now.saturating_sub(front.time) < LINGER {
            return false;
        }
        let exact = !crowd || !overlapped(&self.calls.ready, &self.recent);
        self.commit(0, exact, None, ranges);
        true
    }

    /// By positions: all calls that account for what one of them saw, together.
    fn by_position(&mut self, mode: Mode, ranges: &mut Ranges, context: &Context<'_>) -> bool {
        let ready = &self.calls.ready;
        let Some(front) = ready.front() else { return false };
        if self.ends.is_empty() {
            // The first call says where the books begin.
            let Some((low, _)) = front.seen else { return self.by_time(mode, ranges, context) };
            self.ends.push(low);
        }
        let floor = self.ends.iter().copied().min().unwrap_or(0);
        let behind =
            |call: &Call| call.seen.is_some_and(|(low, high)| high <= floor || (self.slack && low < floor));
        if let Some(index) = ready.iter().take(REACH).position(behind) {
            // It came too late for its place.
            self.commit(index, false, None, ranges);
            return true;
        }
        let all: Vec<Piece> = ready.iter().take(REACH).map(Call::piece).collect();
        let window = order::window(&all);
        let pieces: Vec<Piece> = window.iter().map(|index| all[*index]).collect();
        if let Verdict::Settled(blocks, end) = order::decide(&pieces, &self.ends) {
            self.commit_blocks(&window, &blocks, ranges);
            self.ends.clear();
            self.ends.push(end);
            self.slack = false;
            return true;
        }
        let since = *self.since.get_or_insert(context.now);
        let full = window.len() == order::WINDOW || self.calls.ready.len() >= context.limits.ranges;
        if !(mode.force || full || context.overdue(since)) {
            return false;
        }
        // What is missing does not come. The books have the last word, and all of the window is in doubt.
        let high = pieces.iter().map(|piece| piece.high).filter(|high| *high != u64::MAX).max();
        let blocks = [Block { members: (0..window.len()).collect(), span: None, exact: false }];
        self.commit_blocks(&window, &blocks, ranges);
        if let Some(high) = high {
            self.ends.clear();
            self.ends.push(high.max(floor));
        }
        self.slack = true;
        true
    }

    /// Moves the calls of the window to `ranges`, block by block.
    fn commit_blocks(&mut self, window: &[usize], blocks: &[Block], ranges: &mut Ranges) {
        let mut taken: Vec<Option<Call>> =
            window.iter().rev().map(|index| self.calls.ready.remove(*index)).collect();
        taken.reverse();
        for block in blocks {
            for member in &block.members {
                let Some(call) = taken[*member].take() else { continue };
                let place = match (block.span, block.members.as_slice()) {
                    (Some((from, to)), [_]) if call.advance == Advance::Pages => {
                        Place::between(from, to, call.bytes)
                    }
                    _ => None,
                };
                self.note(&call);
                ranges.push(Range::new(call, block.exact, place));
            }
        }
        self.since = None;
    }
}

/// Whether more than one process is busy on a side.
pub(super) fn crowded(ready: &VecDeque<Call>, recent: &Recent) -> bool {
    let mut known = ready.iter().filter(|call| call.who.process().is_some()).map(Call::process);
    let Some(first) = known.next() else { return recent.crowd() };
    recent.others(first) || known.any(|process| process != first)
}

/// Whether the first call overlapped one of another process, settled or not.
pub(super) fn overlapped(ready: &VecDeque<Call>, recent: &Recent) -> bool {
    let Some(front) = ready.front() else { return false };
    recent.overlaps(front.process(), front.enter)
        || ready.iter().skip(1).any(|call| call.process() != front.process() && call.enter <= front.time)
}
