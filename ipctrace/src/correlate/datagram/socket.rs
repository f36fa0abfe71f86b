//! The queue of one receiving socket.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::digest;
use ipctrace_common::wire::{self, op_flag};

use crate::correlate::address::Ends;
use crate::correlate::call::Recent;
use crate::correlate::context::{Context, LINGER};
use crate::decode;
use crate::model::Proc;

use super::Way;

/// More than any queue holds.
const MOST: usize = 65_536;
/// Datagrams received before they were seen to arrive that are remembered.
const EARLY: usize = 64;
/// How long what has left the queue is kept for a receiver that has not been seen, ns: its thread may be kept from the end of
/// its call.
const KEPT: u64 = 5_000_000_000;

/// A datagram in the queue.
#[derive(Debug)]
pub(super) struct Arrival {
    /// What its headers say.
    pub(super) way: Way,
    /// Digest of its content; 0 if none was taken.
    pub(super) digest: u64,
    /// Number of the datagram that was sent, if it is known which it is.
    pub(super) sent: Option<u64>,
    /// Address of its buffer.
    pub(super) data: u64,
    /// It was in the queue when the socket was first seen.
    pub(super) queued: bool,
    /// When it was seen in the queue.
    pub(super) time: u64,
    /// A time at which it is known to have left the queue; 0 if it may be there.
    pub(super) gone: u64,
    /// What was received may have been this and not another like it.
    pub(super) doubt: bool,
}

/// A call that received.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) who: Rc<Proc>,
    /// Beginning of the call; 0 if it was not seen.
    pub(super) enter: u64,
    pub(super) time: u64,
    pub(super) bytes: u64,
    /// The datagram may have been longer.
    cut: bool,
    /// Digest of what was received; 0 if none was taken.
    digest: u64,
    /// Where it came from, as far as the caller was told: [`Way::source`].
    source: Option<i64>,
    /// Buffer that it was in; 0 if that was not seen.
    pub(super) buffer: u64,
    /// Buffer of what was first in the queue when the call began, 0 if that was empty; `None` if it is not known.
    pub(super) front: Option<u64>,
    /// No other call was receiving between its begin and its end.
    pub(super) alone: bool,
    pub(super) payload: Bytes,
    /// Another process was receiving when the call began or ended.
    pub(super) overlaps: bool,
    /// It may be several that are not alike: others come first for a while.
    pub(super) vague: bool,
    /// When the record came.
    pub(super) since: u64,
}

impl Taken {
    pub(super) fn new(record: &decode::Op, who: Rc<Proc>, now: u64) -> Taken {
        let op = &record.fixed;
        let has = |flag: u16| op.header.flags & flag != 0;
        let enter = if has(op_flag::STRADDLES_START) { 0 } else { op.enter.min(op.header.time) };
        let front = Some(op.pos_enter).filter(|front| enter != 0 && *front != wire::Op::UNKNOWN);
        let undisturbed = !has(op_flag::SEQUENCED) || op.before == op.pos_locked;
        Taken {
            who,
            enter,
            time: op.header.time,
            bytes: op.bytes,
            cut: has(op_flag::CUT) || has(op_flag::STRADDLES_START),
            digest: op.digest,
            source: has(op_flag::DETAIL).then_some(op.detail),
            buffer: if has(op_flag::FROM) { op.sender_sock } else { 0 },
            front,
            alone: front.is_some() && undisturbed && !has(op_flag::OVERLAPS),
            payload: record.payload.clone(),
            overlaps: has(op_flag::OVERLAPS),
            vague: false,
            since: now,
        }
    }

    /// Whether it may be a datagram of which this is known.
    pub(super) fn fits(&self, way: Way, digest: u64) -> bool {
        self.has_length(way.len)
            && self.source.is_none_or(|source| source == way.source())
            && digest::agree(digest, self.digest, self.bytes, way.len == self.bytes)
    }

    /// Whether the call and its memory were looked at: then its buffer would have been seen if the content were not in it.
    pub(super) fn looked_at(&self) -> bool {
        self.digest != 0
    }

    /// The least and the greatest length that the datagram may have had.
    pub(super) fn lengths(&self) -> (u64, u64) {
        (self.bytes, if self.cut { u64::MAX } else { self.bytes })
    }

    /// Whether it may be a datagram of that length.
    pub(super) fn has_length(&self, len: u64) -> bool {
        let (least, most) = self.lengths();
        (least..=most).contains(&len)
    }
}

/// How far a queue had come by when: what stands before one that has been received is gone.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Ends of receives, and the latest time at which any datagram was sent that had been received by then: both rise.
    steps: VecDeque<(u64, u64)>,
    /// That of the steps that were forgotten.
    forgotten: u64,
}

impl Passed {
    /// Ends that are so close are one step, ns.
    const STEP: u64 = 50_000;
    /// Steps that are remembered: 50 ms at least.
    const MOST: usize = 1024;

    /// A datagram that was sent at `sent` had been received by `end`.
    pub(super) fn note(&mut self, sent: u64, end: u64) {
        let place = self.steps.iter().rposition(|step| step.0 <= end).map_or(0, |place| place + 1);
        if place > 0 && self.steps[place - 1].1 >= sent {
            return;
        }
        // Those that ended later and were sent earlier tell no more.
        while self.steps.get(place).is_some_and(|step| step.1 <= sent) {
            self.steps.remove(place);
        }
        if place > 1 && place == self.steps.len() && end - self.steps[place - 2].0 < Self::STEP {
            // The last one is put off: it says less then, and nothing wrong.
            self.steps[place - 1] = (end, sent);
            return;
        }
        self.steps.insert(place, (end, sent));
        if self.steps.len() > Self::MOST
            && let Some((_, sent)) = self.steps.pop_front()
        {
            self.forgotten = self.forgotten.max(sent);
        }
    }

    /// Whether what was seen in the queue at `seen` may have been gone when a call began at `enter`, for what was sent later had
    /// been received.
    pub(super) fn may_have(&self, seen: u64, enter: u64) -> bool {
        let by_then = self.steps.iter().rev().find(|step| step.0 <= enter);
        self.forgotten.max(by_then.map_or(0, |step| step.1)) > seen
    }
}

/// A socket that receives.
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) inode: u64,
    /// Where it is bound, if the kernel has told.
    pub(super) ends: Option<Ends>,
    /// What is in the queue, in the order in which it was seen there.
    pub(super) arrivals: VecDeque<Arrival>,
    pub(super) waiting: VecDeque<Taken>,
    /// Numbers of what was received here: without having been seen to arrive, or at other sockets too.
    pub(super) early: VecDeque<u64>,
    /// How many of the arrivals have been told of by the walk along the queue.
    pub(super) told: usize,
    /// How many receives the kernel has counted, as far as their records have come.
    pub(super) books: u64,
    receivers: Recent,
    /// The thread that received last, and the begin of its call.
    call: (u32, u64),
    pub(super) passed: Passed,
    pub(super) used: u64,
}

impl Socket {
    /// Takes a datagram in.
    pub(super) fn enqueue(&mut self, arrival: Arrival) {
        let known = |other: &Arrival| (other.data, other.sent) == (arrival.data, arrival.sent);
        if arrival.queued {
            // The walk tells of the queue from its beginning: what it has and we have not is older than what follows. Where others
            // take from the queue meanwhile it begins again, and tells of what is left once more.
            let same = |other: &Arrival| known(other) && other.way == arrival.way;
            let told = self.told.min(self.arrivals.len());
            let place = match self.arrivals.get(told) {
                Some(next) if same(next) => Some(told),
                _ => self.arrivals.iter().position(same),
            };
            if place.is_none() {
                self.arrivals.insert(told, arrival);
            }
            self.told = place.unwrap_or(told) + 1;
            return;
        }
        if let Some(other) = self.arrivals.iter_mut().find(|other| other.queued && known(other)) {
            // It came while the walk was under way.
            other.queued = false;
            return;
        }
        if arrival.sent.is_some() && self.arrivals.iter().rev().take(EARLY).any(known) {
            // Several came at once, and each time the last was looked at. The others are known by what was sent.
            return;
        }
        if self.arrivals.len() >= MOST {
            // Nobody that is seen receives here.
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(arrival);
    }

    /// Takes a receive in; true if the books say that others before it have not come.
    pub(super) fn receive(&mut self, taken: Taken, before: Option<u64>) -> bool {
        let gap = before.is_some_and(|before| before > self.books);
        self.books = self.books.max(before.map_or(0, |before| before + 1));
        let place = self.waiting.iter().rposition(|other| other.time <= taken.time);
        self.waiting.insert(place.map_or(0, |place| place + 1), taken);
        gap
    }

    /// The receive that is to be joined next, the first from `index` on, if it may be joined now.
    pub(super) fn next(&mut self, index: usize, force: bool, context: &Context<'_>) -> Option<Taken> {
        let first = self.waiting.get(index)?;
        let thread = first.who.thread();
        let others = first.overlaps
            || self.receivers.others(thread)
            || self.waiting.iter().any(|other| other.who.thread() != thread);
        // One that overlapped it may have taken its datagram first, though its record comes later.
        if others && !force && context.now.saturating_sub(first.time) < LINGER {
            return None;
        }
        self.waiting.remove(index)
    }

    /// Whether that call is the one that was dealt with last: then what was first in the queue when it began tells of its
    /// first datagram only.
    pub(super) fn goes_on(&self, taken: &Taken) -> bool {
        self.call == (taken.who.tid, taken.enter)
    }

    /// Whether another thread may have been receiving at the same time.
    pub(super) fn contended(&self, taken: &Taken) -> bool {
        let thread = taken.who.thread();
        taken.overlaps
            || self.receivers.overlaps(thread, taken.enter)
            || self.waiting.iter().any(|other| other.who.thread() != thread && other.enter <= taken.time)
    }

    /// A receive is dealt with.
    pub(super) fn done(&mut self, taken: &Taken) {
        self.call = (taken.who.tid, taken.enter);
        self.receivers.note(taken.who.thread(), taken.time);
    }

    /// Takes an arrival out.
    pub(super) fn remove(&mut self, index: usize) -> Option<Arrival> {
        if index < self.told {
            self.told -= 1;
        }
        self.arrivals.remove(index)
    }

    /// Takes out, from the front, what has left the queue long ago.
    pub(super) fn forgotten(&mut self, now: u64) -> Option<Arrival> {
        let first = self.arrivals.front()?;
        let old = first.gone != 0 && now.saturating_sub(first.gone) > KEPT;
        if old { self.remove(0) } else { None }
    }

    /// Remembers what was received here.
    pub(super) fn ahead(&mut self, number: u64) {
        if self.early.len() >= EARLY {
            self.early.pop_front();
        }
        self.early.push_back(number);
    }
}
