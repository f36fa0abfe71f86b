//! The sending side of a stream: in which order the bytes went in.

use std::collections::VecDeque;

use bytes::Bytes;

use super::call::{Call, Latest, Recent};
use super::context::{Context, LINGER};
use super::order::{self, Advance, Piece, Placed, Verdict};
use super::position::{self, Place};
use super::range::{Range, Ranges};
use super::sequence::Sequencer;
use super::torn;

/// Calls among which those that overlapped are looked for.
pub(super) const REACH: usize = 512;

/// The sending side of a stream.
#[derive(Debug, Default)]
pub(super) struct Put {
    /// The calls by the kernel's books.
    pub(super) calls: Sequencer,
    /// Positions at which all that is settled may end; empty if unknown.
    ends: Vec<u64>,
    /// Below this position calls were given up: one that began below it may belong there.
    given_up: u64,
    /// Calls that are settled may hide others that began at this position or below, at this time or before: they may
    /// belong before them.
    hiding: Option<(u64, u64)>,
    /// Who sent lately.
    recent: Recent,
    /// Which calls were settled lately.
    pub(super) latest: Latest,
    /// Since when the first call waits for one that it shows to be missing.
    since: Option<u64>,
    /// Until then the first call waits for one that it may hide.
    hold: u64,
    /// When no order was found, and among how many calls.
    tried: Tried,
}

/// An order of many calls was looked for and not found. Where thousands come while one is missing, not each of them is worth
/// another look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    calls: usize,
    time: u64,
}

impl Tried {
    /// So few calls that each is worth it.
    const FEW: usize = 32;
    /// How long no other look is taken, ns, unless there are twice as many calls.
    const PAUSE: u64 = 2_000_000;

    /// No order was found now.
    pub(super) fn note(&mut self, calls: usize, context: &Context<'_>) {
        *self = Tried { calls, time: context.now };
    }

    /// Whether that was just now, and there are not many more calls than there were.
    pub(super) fn recently(self, calls: usize, context: &Context<'_>) -> bool {
        self.calls >= Self::FEW
            && calls >= self.calls
            && calls < self.calls * 2
            && context.now.saturating_sub(self.time) < Self::PAUSE
    }
}

/// A call of the window, or a part of it, in its place.
#[derive(Clone, Copy, Debug)]
struct Laid {
    /// Index in the window.
    index: usize,
    span: Option<(u64, u64)>,
    /// How many bytes of it.
    bytes: u64,
    /// Nothing of the call stands before it.
    first: bool,
    exact: bool,
}

impl Laid {
    fn whole(placed: &Placed, call: &Call) -> Laid {
        Laid { index: placed.index, span: placed.span, bytes: call.bytes, first: true, exact: placed.exact }
    }
}

/// How a side is to be settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// The object has positions.
    pub(super) paged: bool,
    /// Nothing more will come.
    pub(super) force: bool,
    /// Sends are known that are not settled yet.
    pub(super) pending: bool,
    /// Several processes send.
    pub(super) senders: bool,
    /// Receives that ended at that time or later stay.
    pub(super) until: u64,
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
        self.given_up = 0;
        self.hiding = None;
        self.since = None;
    }

    /// Whether several processes send.
    pub(super) fn crowded(&self) -> bool {
        self.calls.crowded()
    }

    /// As [`Put::settle`], of an object without positions and a call that [passes](Sequencer::passes) and overlapped no other.
    pub(super) fn pass(&mut self, call: Call, ranges: &mut Ranges) {
        self.calls.pass(&call);
        self.recent.note(call.process(), call.time);
        ranges.push(Range::new(call, true, None));
    }

    /// Moves to `ranges` what is certain, and what has waited for long enough.
    pub(super) fn settle(&mut self, mode: Mode, ranges: &mut Ranges, context: &Context<'_>) -> Progress {
        while let Some(front) = self.calls.ready.front() {
            if self.fell_back(front) {
                // The next round takes the call's own beginning for the start.
                self.ends.clear();
                self.given_up = 0;
                self.hiding = None;
                return Progress::Anew;
            }
            if context.now < self.hold && !mode.force {
                break;
            }
            let go_on = if !mode.paged {
                self.by_time(mode, ranges, context)
            } else if let Some((place, hides)) = self.lone(front) {
                let (time, low) = (front.time, front.seen.map(|(low, _)| low));
                let wait = hides && self.lingers(time, mode, context);
                if !wait {
                    self.commit(0, true, Some(place), ranges);
                    self.hides(low.filter(|_| hides), time);
                }
                !wait
            } else {
                self.by_position(mode, ranges, context)
            };
            if !go_on {
                break;
            }
        }
        Progress::Done
    }

    /// Whether the call began after all that is settled, and in an earlier page: the positions have begun anew. In the same page a
    /// position may be seen a little too high or too low ([`position::is_vague`]), and a new pipe begins before its first page.
    fn fell_back(&self, call: &Call) -> bool {
        let floor = self.ends.iter().copied().min();
        let below = call.seen.zip(floor).is_some_and(|((low, _), floor)| low >> 32 < floor >> 32);
        below && call.enter > self.recent.end()
    }

    /// The common case, without a search: nothing else waits, and the call accounts for all between its two
    /// positions. `Some` with its place if so, and whether it may hide another.
    fn lone(&self, call: &Call) -> Option<(Place, bool)> {
        let (&[end], Some((low, high))) = (self.ends.as_slice(), call.seen) else { return None };
        let begins = low == end || (position::is_vague(low) && low >> 32 == end >> 32);
        if !begins || call.rough || call.advance != Advance::Pages {
            return None;
        }
        let among = |other: &Call| other.enter <= call.time && other.piece().low < high;
        if self.calls.ready.iter().skip(1).take(REACH).any(among) {
            return None;
        }
        let place = Place::between(end, high, call.bytes)?;
        Some((place, position::hides(end, high, call.bytes)))
    }

    /// A call is settled that ended at `time` and may hide others below `position`.
    fn hides(&mut self, position: Option<u64>, time: u64) {
        if let Some(position) = position {
            let (below, before) = self.hiding.unwrap_or((0, 0));
            self.hiding = Some((below.max(position), before.max(time)));
        }
    }

    /// Whether one of the calls may belong before one that is settled.
    fn hidden(&self, window: &[usize]) -> bool {
        let Some((position, time)) = self.hiding else { return false };
        window.iter().any(|index| {
            let call = &self.calls.ready[*index];
            call.who.process().is_some() && call.enter <= time && call.piece().low <= position
        })
    }

    /// Whether calls that ended at `time` and may hide another are still to be held: only where there are others.
    fn lingers(&mut self, time: u64, mode: Mode, context: &Context<'_>) -> bool {
        let until = time.saturating_add(LINGER);
        if mode.force || context.now >= until || !self.calls.crowded() {
            return false;
        }
        self.hold = until;
        true
    }

    /// Settles the first call; `position` becomes the end.
    fn commit(&mut self, index: usize, exact: bool, place: Option<Place>, ranges: &mut Ranges) {
        let ready = &mut self.calls.ready;
        let Some(call) = (if index == 0 { ready.pop_front() } else { ready.remove(index) }) else { return };
        if place.is_some()
            && let Some((_, high)) = call.seen
        {
            self.ends.clear();
            self.ends.push(high);
        }
        self.note(&call);
        self.since = None;
        self.tried = Tried::default();
        ranges.push(Range::new(call, exact, place));
    }

    /// Remembers who sent when. A lost call is another process's only where there are several.
    fn note(&mut self, call: &Call) {
        self.latest.note(call);
        let process = call.process();
        if call.who.process().is_some() || self.recent.crowd() {
            self.recent.note(process, call.time);
        }
    }

    /// Without positions: by the books, in doubt where calls of two processes overlapped.
    fn by_time(&mut self, mode: Mode, ranges: &mut Ranges, context: &Context<'_>) -> bool {
        let Some(front) = self.calls.ready.front() else { return false };
        let crowd = self.calls.crowded();
        let full = self.calls.ready.len() >= context.limits.ranges;
        if crowd && !mode.force && !full && !context.overdue(front.time) {
            return false;
        }
        let exact = !(front.overlaps || crowd && (full || overlapped(&self.calls.ready, &self.recent)));
        if !exact && let Some(front) = self.calls.ready.front() {
            ranges.doubt(front.process(), front.enter);
        }
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
        let behind = |call: &Call| call.seen.is_some_and(|(_, high)| high <= floor);
        if let Some(index) = ready.iter().take(REACH).position(behind) {
            // It came too late for its place: what follows it has one that is not its own.
            ranges.doubt_all();
            self.commit(index, false, None, ranges);
            return true;
        }
        if !mode.force && self.tried.recently(self.calls.ready.len(), context) {
            return false;
        }
        let (window, laid) = match self.order(floor) {
            (window, Verdict::Settled(placed)) => {
                let laid =
                    placed.iter().map(|placed| Laid::whole(placed, &self.calls.ready[window[placed.index]]));
                let laid = laid.collect();
                (window, laid)
            }
            (window, Verdict::Missing) => match self.torn(&window) {
                Some(laid) => (window, laid),
                None => {
                    self.tried.note(self.calls.ready.len(), context);
                    return self.give_up(mode, &window, floor, ranges, context);
                }
            },
        };
        let pieces: Vec<Piece> = window.iter().map(|index| self.calls.ready[*index].piece()).collect();
        let highest =
            pieces.iter().map(|piece| piece.high).filter(|high| *high != u64::MAX).fold(floor, u64::max);
        let rough = pieces.iter().any(|piece| piece.rough);
        let reached = laid.last().and_then(|laid| laid.span).map(|(_, end)| end);
        let end = reached.filter(|_| rough).unwrap_or(highest);
        // Calls that were given up, or lost, may have been several, and some of them among these.
        let hidden = self.hidden(&window);
        if hidden {
            ranges.doubt_all();
        }
        let suspect = hidden
            || pieces.iter().any(|piece| piece.low < self.given_up && piece.advance != Advance::Opaque);
        let gap = pieces.iter().any(|piece| piece.high == u64::MAX);
        let hides = |laid: &Laid| {
            let piece = &pieces[laid.index];
            piece.rough || laid.span.is_none_or(|(from, to)| position::hides(from, to, piece.bytes))
        };
        let time = window.iter().map(|index| self.calls.ready[*index].time).max().unwrap_or(0);
        let hiding: Option<u64> = laid
            .iter()
            .filter(|laid| hides(laid))
            .map(|laid| laid.span.map_or(end.saturating_sub(1), |(from, _)| from))
            .max();
        if hiding.is_some() && self.lingers(time, mode, context) {
            return false;
        }
        self.hides(hiding, time);
        let mut calls = self.remove(&window);
        for Laid { index, span, bytes, first, exact } in laid {
            // Only one that was torn comes by again.
            let is_part = bytes < pieces[index].bytes;
            let call = if is_part { calls[index].clone() } else { calls[index].take() };
            let Some(mut call) = call else { continue };
            let paged = call.advance == Advance::Pages;
            let kind = if paged { Place::between } else { Place::spliced };
            let place = span.and_then(|(from, to)| kind(from, to, bytes));
            // Where what was spliced has no place of its own, it may stand for another's call as well.
            let fits = paged || place.is_some() || !self.recent.others(call.process());
            let exact = exact && fits && !suspect && (!gap || pieces[index].is_tight());
            if first {
                self.note(&call);
            } else {
                call.payload = Bytes::new();
            }
            call.bytes = bytes;
            ranges.push(Range::new(call, exact, place));
        }
        self.ends.clear();
        self.ends.push(end);
        true
    }

    /// Where everything stands if one of the calls was torn.
    fn torn(&self, window: &[usize]) -> Option<Vec<Laid>> {
        let &[start] = self.ends.as_slice() else { return None };
        let known = |index: &usize| self.calls.ready[*index].who.process().is_some();
        if window.len() == order::WINDOW || !window.iter().all(known) {
            return None;
        }
        let pieces: Vec<Piece> = window.iter().map(|index| self.calls.ready[*index].piece()).collect();
        let mut begun = vec![false; pieces.len()];
        let parts = torn::parts(&pieces, start)?.into_iter().map(|part| {
            let first = !std::mem::replace(&mut begun[part.index], true);
            Laid { index: part.index, span: Some(part.span), bytes: part.bytes, first, exact: true }
        });
        Some(parts.collect())
    }

    /// The order of the first calls, as indices among those that are ready. A lost call is called upon only if
    /// nothing else accounts for what was seen.
    fn order(&self, floor: u64) -> (Vec<usize>, Verdict) {
        let (mut known, mut gaps) = (Vec::new(), Vec::new());
        for (index, call) in self.calls.ready.iter().take(REACH).enumerate() {
            if call.who.process().is_some() { known.push(index) } else { gaps.push(index) }
        }
        let all: Vec<Piece> = known.iter().map(|index| self.calls.ready[*index].piece()).collect();
        if all.is_empty() {
            return (gaps, Verdict::Missing);
        }
        let mut window: Vec<usize> = order::window(&all, floor).iter().map(|index| known[*index]).collect();
        let starts = if self.ends.is_empty() { vec![floor] } else { self.ends.clone() };
        let decide = |window: &[usize]| {
            let pieces: Vec<Piece> = window.iter().map(|index| self.calls.ready[*index].piece()).collect();
            order::decide(&pieces, &starts)
        };
        let verdict = decide(&window);
        if let (Verdict::Missing, Some(gap)) = (&verdict, gaps.first())
            && window.len() < order::WINDOW
        {
            window.push(*gap);
            window.sort_unstable();
            let verdict = decide(&window);
            return (window, verdict);
        }
        (window, verdict)
    }

    /// A call is missing: waits for it, or lets the books have the last word, with all of the window in doubt.
    fn give_up(
        &mut self,
        mode: Mode,
        window: &[usize],
        floor: u64,
        ranges: &mut Ranges,
        context: &Context<'_>,
    ) -> bool {
        let since = *self.since.get_or_insert(context.now);
        let full = window.len() == order::WINDOW || self.calls.ready.len() >= context.limits.ranges;
        let suspect = window.iter().any(|index| self.calls.ready[*index].piece().low < self.given_up);
        if !(mode.force || full || suspect || context.overdue(since)) {
            return false;
        }
        if self.hidden(window) {
            ranges.doubt_all();
        }
        let mut high = floor;
        for call in self.remove(window).into_iter().flatten() {
            high = high.max(call.seen.map_or(0, |(_, high)| high));
            self.note(&call);
            ranges.push(Range::new(call, false, None));
        }
        self.ends.clear();
        self.ends.push(high);
        self.given_up = high;
        true
    }

    /// Takes the calls at these ascending places out.
    fn remove(&mut self, window: &[usize]) -> Vec<Option<Call>> {
        let mut calls: Vec<Option<Call>> =
            window.iter().rev().map(|index| self.calls.ready.remove(*index)).collect();
        calls.reverse();
        self.since = None;
        self.tried = Tried::default();
        calls
    }
}

/// Whether the first call overlapped one of another process, settled or not.
pub(super) fn overlapped(ready: &VecDeque<Call>, recent: &Recent) -> bool {
    let Some(front) = ready.front() else { return false };
    recent.overlaps(front.process(), front.enter)
        || ready.iter().skip(1).any(|call| call.process() != front.process() && call.enter <= front.time)
}
