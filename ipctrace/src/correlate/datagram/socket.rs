//! The queue of one receiving socket.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::correlate::address::Ends;
use crate::correlate::call::Recent;
use crate::correlate::context::{Context, LINGER};
use crate::model::{End, Proc};

use super::Way;

/// More than any queue holds.
const MOST: usize = 65_536;

/// A datagram in the queue.
#[derive(Debug)]
pub(super) struct Arrival {
    /// What its headers say; `None` if it was gone before it could be looked at.
    pub(super) way: Option<Way>,
    /// Number of the datagram that was sent, if it is known which it is.
    pub(super) sent: Option<u64>,
    /// Address of its buffer.
    pub(super) data: u64,
    /// It was in the queue when the socket was first seen.
    pub(super) queued: bool,
    /// When it was seen.
    pub(super) time: u64,
}

/// A call that received.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) who: Arc<Proc>,
    pub(super) enter: u64,
    pub(super) time: u64,
    pub(super) bytes: u64,
    /// Buffer of what was first in the queue when the call began; 0 if there was nothing.
    pub(super) front: u64,
    pub(super) payload: Bytes,
    /// When the record came.
    pub(super) since: u64,
}

/// A socket that receives.
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) inode: u64,
    /// Where it is bound, if the kernel has told.
    pub(super) ends: Option<Ends>,
    pub(super) arrivals: VecDeque<Arrival>,
    pub(super) waiting: VecDeque<Taken>,
    /// How many of the arrivals have been told of by the walk along the queue.
    pub(super) told: usize,
    /// How many receives the kernel has counted, as far as their records have come.
    pub(super) books: u64,
    receivers: Recent,
    /// The thread that received last, and the begin of its call.
    call: (u32, u64),
    /// The sender of what was received last, and when that was.
    last: Option<(End, u64)>,
    pub(super) used: u64,
}

impl Socket {
    /// Takes a datagram in.
    pub(super) fn enqueue(&mut self, arrival: Arrival, queued: bool) {
        let known =
            |other: &Arrival| arrival.data != 0 && other.data == arrival.data && other.sent == arrival.sent;
        if queued {
            // The walk tells of the queue from its beginning: what it has and we have not is older than what follows.
            let told = self.told.min(self.arrivals.len());
            if !self.arrivals.get(told).is_some_and(known) {
                self.arrivals.insert(told, arrival);
            }
            self.told = told + 1;
            return;
        }
        if let Some(other) = self.arrivals.iter_mut().find(|other| other.queued && known(other)) {
            // It came while the walk was under way.
            other.queued = false;
            return;
        }
        if arrival.sent.is_some() && self.arrivals.back().is_some_and(known) {
            // Two came at once: each time only the last was looked at.
            let index = self.arrivals.len() - 1;
            let time = arrival.time;
            self.arrivals.insert(index, Arrival { way: None, sent: None, data: 0, queued: false, time });
            return;
        }
        if self.arrivals.len() >= MOST {
            // Nobody that is seen receives here.
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(arrival);
    }

    /// Takes a datagram in that is just being received, unless it was in the queue when the socket was first seen.
    pub(super) fn take_in(&mut self, arrival: Arrival) {
        let known =
            |other: &Arrival| arrival.data != 0 && other.data == arrival.data && other.sent == arrival.sent;
        if !self.arrivals.iter().any(known) {
            self.arrivals.push_back(arrival);
        }
    }

    /// Takes a receive in; gives how many before it are lost.
    pub(super) fn receive(&mut self, taken: Taken, before: Option<u64>) -> u64 {
        let lost = before.map_or(0, |before| before.saturating_sub(self.books));
        // Records of two CPUs may have changed places: then none is lost, and the later one makes up for it.
        let lost = if self.receivers.crowd() { 0 } else { lost };
        self.books = self.books.max(before.map_or(0, |before| before + 1));
        let place = self.waiting.iter().rposition(|other| other.time <= taken.time);
        self.waiting.insert(place.map_or(0, |place| place + 1), taken);
        lost
    }

    /// The next receive that is to be joined, if it may be joined now.
    pub(super) fn next(&mut self, force: bool, context: &Context<'_>) -> Option<Taken> {
        let first = self.waiting.front()?;
        let process = first.who.identity();
        let others = self.receivers.others(process)
            || self.waiting.iter().any(|other| other.who.identity() != process);
        // One that overlapped it may have taken its datagram first, though its record comes later.
        if others && !force && context.now.saturating_sub(first.time) < LINGER {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Takes the datagram that a receive of so many bytes took out of the queue.
    pub(super) fn arrival(&mut self, taken: &Taken) -> Option<Arrival> {
        let bytes = taken.bytes;
        if !self.align(taken) {
            return None;
        }
        let fits = |arrival: &Arrival| match arrival.way {
            Some(way) if bytes == 0 => way.len == 0,
            Some(way) => way.len >= bytes,
            None => true,
        };
        let index = self.arrivals.iter().position(fits)?;
        if bytes == 0 && index > 0 {
            // Not an empty datagram: the socket was shut down.
            return None;
        }
        self.told = self.told.saturating_sub(1);
        self.arrivals.remove(index)
    }

    /// Drops what must have been taken before that call began, by calls of which no record came, or was noted twice. False
    /// if what was next then was not seen to arrive.
    fn align(&mut self, taken: &Taken) -> bool {
        // Of a call that takes several only the first is the one that was next when it began; and where several processes
        // receive, another may have been faster.
        let first = self.call != (taken.who.tid, taken.enter);
        if !first || taken.enter == 0 || self.receivers.others(taken.who.identity()) {
            return true;
        }
        let gone = match taken.front {
            0 => self.arrivals.iter().take_while(|arrival| arrival.time < taken.enter).count(),
            front => match self.arrivals.iter().position(|arrival| arrival.data == front) {
                Some(index) => index,
                None => return false,
            },
        };
        self.told = self.told.saturating_sub(gone);
        self.arrivals.drain(..gone);
        true
    }

    /// A receive is dealt with; the next one of the same call takes what is next then.
    pub(super) fn done(&mut self, taken: &Taken) {
        self.call = (taken.who.tid, taken.enter);
    }

    /// Remembers what was received. False if other processes receive here too, and what they got may be this: at the same
    /// moment, or because a receive of theirs was missed, of which nothing would tell (see `align`).
    pub(super) fn note(&mut self, taken: &Taken, sender: &End) -> bool {
        self.done(taken);
        let process = taken.who.identity();
        let waiting =
            self.waiting.iter().any(|other| other.who.identity() != process && other.enter <= taken.time);
        let overlapped = waiting || self.receivers.overlaps(process, taken.enter);
        let same = |other: &End| other == sender;
        let several = self.receivers.others(process);
        let alone = self.last.as_ref().is_none_or(|(last, time)| same(last) || *time < taken.enter)
            && self.arrivals.is_empty();
        self.receivers.note(process, taken.time);
        self.last = Some((sender.clone(), taken.time));
        !several && (!overlapped || alone)
    }
}
