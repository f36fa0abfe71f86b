//! The receiving side of a stream: who took which bytes out.

use std::collections::VecDeque;

use super::call::{Call, Latest, Recent};
use super::context::Context;
use super::order::{self, Advance, Piece, Verdict};
use super::put::{Mode, Progress, REACH, Tried, overlapped};
use super::range::{Offset, Range, Ranges};
use super::sequence::Sequencer;
use crate::model::Why;

/// The receiving side of a stream.
#[derive(Debug, Default)]
pub(super) struct Take {
    /// The calls by the kernel's books.
    pub(super) calls: Sequencer,
    /// Who received lately.
    recent: Recent,
    /// Since when the first call waits for one that it shows to be missing.
    since: Option<u64>,
    /// Highest position that a settled call saw at its end.
    top: u64,
    /// When no order was found, and among how many calls.
    tried: Tried,
    /// The object may have been in use when its books were opened: a call that was under way then may not be in them.
    midway: bool,
    /// What the positions missed has been waited for in vain: the two sides' books differ, and go on doing so. Until
    /// positions prove that they agree again nothing is waited for.
    adrift: bool,
}

/// A call whose bytes are certain, or given up to doubt.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) call: Call,
    /// Whether its place among the calls of other processes is certain.
    pub(super) exact: bool,
    /// Whether positions prove that the books of both sides agree: it took all that went out between its own two.
    pub(super) tight: bool,
}

/// What a call's positions say of the bytes that the books give it.
enum Fit {
    /// They are the ones that it took; `tight` if its own positions leave no room for any others.
    Snug { tight: bool },
    /// More went out meanwhile: another call.
    More,
    /// Fewer went out than it took: the order of the sends is wrong.
    Fewer,
    /// Nothing.
    Unknown,
}

/// Whether calls that are not known yet may have been between a receive's positions: a page has ended there.
fn may_hide(call: &Call, ranges: &Ranges) -> bool {
    call.seen.is_some_and(|(low, high)| ranges.blurs(high) || ranges.may_hide(low, high))
}

fn fit(call: &Call, ranges: &Ranges) -> Fit {
    let Some((low, high)) = call.seen else { return Fit::Unknown };
    let begin = ranges.locate(low);
    if matches!(begin, Offset::Exact(1..) | Offset::Between(1.., _) | Offset::Beyond) {
        return Fit::More;
    }
    match ranges.locate(high) {
        Offset::Exact(offset) if offset == call.bytes => {
            Fit::Snug { tight: begin == Offset::Exact(0) && !ranges.is_behind(low) }
        }
        Offset::Exact(offset) if offset < call.bytes => Fit::Fewer,
        Offset::Exact(_) | Offset::Beyond => Fit::More,
        Offset::Between(_, most) if most < call.bytes => Fit::Fewer,
        Offset::Between(least, _) if least > call.bytes => Fit::More,
        Offset::Between(..) => Fit::Unknown,
    }
}

/// By how much the books of the two sides differ, as the positions of the only reader show.
enum Difference {
    /// So many bytes at the front were taken by a call that is not in the books.
    Taken(u64),
    /// So many before the front were put in by one that is not.
    Missing(u64),
    /// They do not, as far as is known.
    None,
}

fn difference(call: &Call, ranges: &Ranges) -> Difference {
    let Some((low, high)) = call.seen else { return Difference::None };
    let Offset::Exact(end) = ranges.locate(high) else { return Difference::None };
    let (least, most) = match ranges.locate(low) {
        Offset::Exact(begin) => (begin, begin),
        Offset::Between(least, most) => (least, most),
        Offset::Beyond => return Difference::None,
    };
    match end.checked_sub(call.bytes) {
        Some(begin @ 1..) if (least..=most).contains(&begin) => Difference::Taken(begin),
        None if least == 0 && ranges.is_behind(low) => Difference::Missing(call.bytes - end),
        Some(_) | None => Difference::None,
    }
}

impl Take {
    /// The books begin anew.
    pub(super) fn restart(&mut self, position: u64, midway: bool) {
        self.calls.restart(0);
        self.midway = midway;
        self.top = position;
        self.since = None;
        self.adrift = false;
    }

    /// The positions begin anew.
    pub(super) fn renumbered(&mut self) {
        self.top = 0;
    }

    /// Whether all that is to be done for a call on an object without positions is [`Take::pass`].
    pub(super) fn passes(&self, call: &Call, ranges: &Ranges) -> bool {
        !self.adrift && ranges.left() >= call.bytes && self.calls.passes(call)
    }

    /// The call, which overlapped no other, takes its bytes.
    pub(super) fn pass(&mut self, call: &Call) {
        self.calls.pass(call);
        self.recent.note(call.process(), call.time);
    }

    /// Settles what is certain, and what has waited for long enough; `each` gets the calls in the order in which
    /// they took their bytes, and takes those bytes out of the ranges.
    pub(super) fn settle(
        &mut self,
        mode: Mode,
        senders: &Latest,
        ranges: &mut Ranges,
        context: &mut Context<'_>,
        mut each: impl FnMut(Settled, &mut Ranges, &mut Context<'_>),
    ) -> Progress {
        while let Some(front) = self.calls.ready.front() {
            if front.time >= mode.until {
                break;
            }
            if mode.paged && self.fell_back(front) {
                return Progress::Anew;
            }
            if ranges.left() < front.bytes {
                return Progress::Starved(front.time);
            }
            let fit = if mode.paged { fit(front, ranges) } else { Fit::Unknown };
            self.adrift &= !matches!(fit, Fit::Snug { tight: true });
            // Else what is missing is a call of somebody new that is still under way, however long.
            let differs = self.midway || context.loss.is_some();
            if matches!(fit, Fit::More | Fit::Fewer) && differs && !mode.senders && !self.crowded() {
                let in_vain = self.adrift
                    || mode.force
                    || self.since.is_some_and(|since| context.overdue(since))
                    || ranges.len() >= context.limits.ranges / 2;
                match difference(front, ranges) {
                    Difference::Taken(bytes) if in_vain => {
                        let call = Call::lost(bytes, front.time);
                        each(Settled { call, exact: false, tight: false }, ranges, context);
                        continue;
                    }
                    Difference::Missing(_) if mode.pending && !in_vain && !context.overdue(front.time) => {
                        break;
                    }
                    Difference::Missing(bytes) => {
                        ranges.push_front(Range::unknown(Why::Lost, bytes, front.time, false));
                    }
                    Difference::Taken(_) | Difference::None => {}
                }
            }
            if self.adrift {
                // One process on each side: whichever bytes it were, they went from the one to the other.
                let exact = differs && !mode.senders && !self.crowded();
                for settled in self.first(exact, false) {
                    each(settled, ranges, context);
                }
                continue;
            }
            let end = matches!(fit, Fit::Snug { .. } | Fit::More) && ranges.left() <= self.reach(ranges);
            if end && mode.pending && !mode.force && !context.overdue(front.time) {
                // What is still to be settled may lie before the end that was seen.
                break;
            }
            let aligned = !mode.paged || self.aligned(ranges);
            // A send and a receive of the same length, of which nothing is known yet, may stand where positions seem to
            // account for everything.
            let blurred = mode.paged && mode.senders && self.crowded() && may_hide(front, ranges);
            if blurred && !mode.force && !context.overdue(front.time) && self.calls.ready.len() < REACH {
                break;
            }
            let aligned = aligned && !(blurred && self.came_late(front, senders, ranges));
            let settled = match fit {
                Fit::Snug { tight } => self.first(aligned, aligned && tight && !blurred),
                Fit::Fewer => self.first(false, false),
                Fit::Unknown if mode.paged => self.first(aligned && !self.crowded(), false),
                Fit::Unknown => self.by_time(mode, context),
                Fit::More => self.by_position(aligned, mode, ranges, context),
            };
            if settled.is_empty() {
                break;
            }
            for settled in settled {
                each(settled, ranges, context);
            }
        }
        Progress::Done
    }

    /// Whether the call began after all that is settled, and in an earlier page: the positions have begun anew.
    fn fell_back(&self, call: &Call) -> bool {
        call.enter > self.recent.end() && call.seen.is_some_and(|(low, _)| low >> 32 < self.top >> 32)
    }

    /// How far into the ranges the first call saw, at most.
    fn reach(&self, ranges: &Ranges) -> u64 {
        let high = self.calls.ready.front().and_then(|call| call.seen).map_or(0, |(_, high)| high);
        match ranges.locate(high) {
            Offset::Exact(offset) => offset,
            Offset::Between(_, most) => most,
            Offset::Beyond => u64::MAX,
        }
    }

    /// Whether calls that were under way when the first receive ended have come since, on both sides; other receives
    /// alone, where it is not known what stands where.
    fn came_late(&self, front: &Call, senders: &Latest, ranges: &Ranges) -> bool {
        let late = |call: &Call| call.arrival > front.arrival && call.enter <= front.time;
        let receiver = self.calls.ready.iter().skip(1).any(late);
        let blurs = front.seen.is_none_or(|(_, high)| ranges.blurs(high));
        receiver && (blurs || senders.came_late(front.time, front.arrival))
    }

    fn crowded(&self) -> bool {
        self.calls.crowded()
    }

    /// Whether the calls settled so far took just the bytes before the first range: none of them saw the position
    /// beyond it. Where that cannot be seen, one process alone cannot be wrong.
    fn aligned(&self, ranges: &Ranges) -> bool {
        match ranges.locate(self.top) {
            Offset::Exact(offset) => offset == 0,
            Offset::Beyond | Offset::Between(1.., _) => false,
            Offset::Between(0, _) => !self.crowded(),
        }
    }

    fn remove(&mut self, index: usize, exact: bool, tight: bool) -> Option<Settled> {
        let ready = &mut self.calls.ready;
        let call = if index == 0 { ready.pop_front() } else { ready.remove(index) }?;
        if call.who.process().is_some() || self.recent.crowd() {
            self.recent.note(call.process(), call.time);
        }
        self.top = call.seen.map_or(self.top, |(_, high)| high.max(self.top));
        self.since = None;
        self.tried = Tried::default();
        Some(Settled { call, exact, tight })
    }

    fn first(&mut self, exact: bool, tight: bool) -> Few {
        Few::One(self.remove(0, exact, tight))
    }

    /// Without positions: by the books, in doubt where calls of two processes overlapped.
    fn by_time(&mut self, mode: Mode, context: &Context<'_>) -> Few {
        let ready: &VecDeque<Call> = &self.calls.ready;
        let crowd = self.calls.crowded();
        let time = ready.front().map_or(0, |call| call.time);
        let full = ready.len() >= context.limits.ranges;
        if crowd && !mode.force && !full && !context.overdue(time) {
            return Few::One(None);
        }
        let overlaps = ready.front().is_some_and(|call| call.overlaps);
        let exact = !(overlaps || crowd && (full || overlapped(ready, &self.recent)));
        self.first(exact, false)
    }

    /// By positions, as offsets among the ranges: all calls that account for what one of them saw, together.
    fn by_position(&mut self, aligned: bool, mode: Mode, ranges: &Ranges, context: &Context<'_>) -> Few {
        if !mode.force && self.tried.recently(self.calls.ready.len(), context) {
            return Few::One(None);
        }
        let all: Vec<Piece> = self.calls.ready.iter().take(REACH).map(|call| offsets(call, ranges)).collect();
        let window = order::window(&all, 0);
        let pieces: Vec<Piece> = window.iter().map(|index| all[*index]).collect();
        if let Verdict::Settled(placed) = order::decide(&pieces, &[0]) {
            let mut settled = Vec::with_capacity(placed.len());
            let mut gone: Vec<usize> = Vec::with_capacity(placed.len());
            for placed in placed {
                let index = window[placed.index];
                let shift = gone.iter().filter(|other| **other < index).count();
                settled.extend(self.remove(index - shift, aligned && placed.exact, false));
                gone.push(index);
            }
            return Few::Many(settled);
        }
        self.tried.note(self.calls.ready.len(), context);
        let since = *self.since.get_or_insert(context.now);
        let full = window.len() == order::WINDOW || self.calls.ready.len() >= context.limits.ranges;
        if mode.force || full || context.overdue(since) {
            // What is missing does not come: the books have the last word.
            self.adrift = true;
            return self.first(false, false);
        }
        Few::One(None)
    }

    /// Joins waiting calls of one process, two and two: a long wait for one large send must not take all memory.
    pub(super) fn condense(&mut self) {
        let calls = std::mem::take(&mut self.calls.ready);
        for call in calls {
            match self.calls.ready.back_mut() {
                Some(last) if last.messages == 1 && last.who == call.who => {
                    last.bytes += call.bytes;
                    last.time = last.time.max(call.time);
                    last.seen = last.seen.zip(call.seen).map(|((low, _), (_, high))| (low, high));
                    last.messages = 2;
                }
                Some(_) | None => self.calls.ready.push_back(Call { messages: 1, ..call }),
            }
        }
        self.calls.ready.iter_mut().for_each(|call| call.messages = 1);
    }
}

/// A call's bounds as offsets from the next byte to be taken.
fn offsets(call: &Call, ranges: &Ranges) -> Piece {
    // Beyond what is known to be in the stream: no order accounts for it until the rest has come.
    const BEYOND: u64 = u64::MAX - 1;
    let bounds = |position| match ranges.locate(position) {
        Offset::Exact(offset) => (offset, offset),
        Offset::Beyond => (BEYOND, BEYOND),
        Offset::Between(least, most) => (least, most.min(BEYOND)),
    };
    let (low, high) = call.seen.map_or((0, u64::MAX), |(low, high)| (bounds(low).0, bounds(high).1));
    Piece { low, high, advance: Advance::Bytes, ..call.piece() }
}

/// The calls settled at once: mostly one.
enum Few {
    One(Option<Settled>),
    Many(Vec<Settled>),
}

impl Few {
    fn is_empty(&self) -> bool {
        match self {
            Few::One(one) => one.is_none(),
            Few::Many(many) => many.is_empty(),
        }
    }
}

impl IntoIterator for Few {
    type Item = Settled;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Settled>, std::vec::IntoIter<Settled>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Few::One(one) => (one, Vec::new()),
            Few::Many(many) => (None, many),
        };
        one.into_iter().chain(many)
    }
}
