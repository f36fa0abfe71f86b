//! The receiving side of a stream: who took which bytes out.

use std::collections::VecDeque;

use super::call::{Call, Recent};
use super::context::{Context, LINGER};
use super::order::{self, Advance, Piece, Verdict};
use super::put::{Mode, Progress, REACH, crowded, overlapped};
use super::range::{Offset, Ranges};
use super::sequence::Sequencer;

/// The receiving side of a stream.
#[derive(Debug, Default)]
pub(super) struct Take {
    /// The calls by the kernel's books.
    pub(super) calls: Sequencer,
    /// Who received lately.
    recent: Recent,
    /// Since when the first call waits for one that it shows to be missing.
    since: Option<u64>,
    /// Readers' position after what is settled; 0 if unknown.
    position: u64,
}

/// A call whose bytes are certain, or given up to doubt.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) call: Call,
    /// Whether its place among the calls of other processes is certain.
    pub(super) exact: bool,
    /// Whether positions prove that the books of both sides agree at its end.
    pub(super) verified: bool,
}

/// What a call's positions say of the bytes that the books give it.
enum Fit {
    /// They are the ones that it took.
    Snug,
    /// More went out meanwhile: another call.
    More,
    /// Fewer went out than it took: the order of the sends is wrong.
    Fewer,
    /// Nothing.
    Unknown,
}

fn fit(call: &Call, ranges: &Ranges) -> Fit {
    let Some((_, high)) = call.seen else { return Fit::Unknown };
    match ranges.locate(high) {
        Offset::Exact(offset) if offset == call.bytes => Fit::Snug,
        Offset::Exact(offset) if offset < call.bytes => Fit::Fewer,
        Offset::Exact(_) | Offset::Beyond => Fit::More,
        Offset::Unknown => Fit::Unknown,
    }
}

impl Take {
    /// The books begin anew.
    pub(super) fn restart(&mut self) {
        self.calls.restart(0);
        self.position = 0;
        self.since = None;
    }

    /// Settles what is certain, and what has waited for long enough; `each` gets the calls in the order in which
    /// they took their bytes, and takes those bytes out of the ranges.
    pub(super) fn settle(
        &mut self,
        mode: Mode,
        ranges: &mut Ranges,
        context: &mut Context<'_>,
        mut each: impl FnMut(Settled, &mut Ranges, &mut Context<'_>),
    ) -> Progress {
        while let Some(front) = self.calls.ready.front() {
            if mode.paged && self.fell_back(front) {
                self.position = 0;
                return Progress::Anew;
            }
            if ranges.left() < front.bytes {
                return Progress::Starved(front.time);
            }
            let fit = if mode.paged { fit(front, ranges) } else { Fit::Unknown };
            let settled = match fit {
                Fit::Snug => self.first(true, true),
                Fit::Fewer => self.first(false, false),
                Fit::Unknown => self.by_time(mode, context),
                Fit::More => self.by_position(mode, ranges, context),
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
        call.enter > self.recent.end() && call.seen.is_some_and(|(low, _)| low >> 32 < self.position >> 32)
    }

    fn remove(&mut self, index: usize, exact: bool, verified: bool) -> Option<Settled> {
        let call = self.calls.ready.remove(index)?;
        if call.who.process().is_some() || self.recent.crowd() {
            self.recent.note(call.process(), call.time);
        }
        self.position = call.seen.map_or(self.position, |(_, high)| high.max(self.position));
        self.since = None;
        Some(Settled { call, exact, verified })
    }

    fn first(&mut self, exact: bool, verified: bool) -> Few {
        Few::One(self.remove(0, exact, verified))
    }

    /// Without positions: by the books, in doubt where calls of two processes overlapped.
    fn by_time(&mut self, mode: Mode, context: &Context<'_>) -> Few {
        let ready: &VecDeque<Call> = &self.calls.ready;
        let crowd = crowded(ready, &self.recent);
        let time = ready.front().map_or(0, |call| call.time);
        if crowd && !mode.force && context.now.saturating_sub(time) < LINGER {
            return Few::One(None);
        }
        let exact = !crowd || !overlapped(ready, &self.recent);
        self.first(exact, false)
    }

    /// By positions, as offsets among the ranges: all calls that account for what one of them saw, together.
    fn by_position(&mut self, mode: Mode, ranges: &Ranges, context: &Context<'_>) -> Few {
        let all: Vec<Piece> = self.calls.ready.iter().take(REACH).map(|call| offsets(call, ranges)).collect();
        let window = order::window(&all);
        let pieces: Vec<Piece> = window.iter().map(|index| all[*index]).collect();
        if let Verdict::Settled(blocks, _) = order::decide(&pieces, &[0]) {
            let mut settled = Vec::new();
            for block in &blocks {
                for member in &block.members {
                    let index = window[*member];
                    let gone = settled.iter().filter(|(other, _)| *other < index).count();
                    if let Some(call) = self.remove(index - gone, block.exact, true) {
                        settled.push((index, call));
                    }
                }
            }
            return Few::Many(settled.into_iter().map(|(_, call)| call).collect());
        }
        let since = *self.since.get_or_insert(context.now);
        let full = window.len() == order::WINDOW || self.calls.ready.len() >= context.limits.ranges;
        if mode.force || full || context.overdue(since) {
            // What is missing does not come: the books have the last word.
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
    let place = |position| match ranges.locate(position) {
        Offset::Exact(offset) => Some(offset),
        Offset::Beyond | Offset::Unknown => None,
    };
    let (low, high) = match call.seen {
        Some((low, high)) => {
            // Beyond what is known to be in the stream: no order accounts for it until the rest has come.
            (place(low).unwrap_or(0), place(high).unwrap_or(u64::MAX - 1))
        }
        None => (0, u64::MAX),
    };
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
