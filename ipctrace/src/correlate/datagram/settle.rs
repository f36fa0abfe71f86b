//! Joining receives to what was sent.
//!
//! A receive is known by the buffer that it took, where that was seen. Otherwise it took the first datagram, of those seen
//! to arrive and not known to be gone, that has its length, digest and source; or one of which only the departure was seen.
//! Which was first is certain if the other was sent after the one had been seen in the queue; where processes receive at
//! the same time it tells nothing.

use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::wire::Key;

use crate::correlate::address::{Locals, Place};
use crate::correlate::context::Context;
use crate::model::{Channel, End, Event, Proc, Transfer, Why};

use super::sent::transfer;
use super::socket::{Arrival, Socket, Taken};
use super::{Datagrams, REACH, Sent, Way};

/// How long before the report of a loss it may have happened, ns.
const REPORT: u64 = 1_000_000_000;

/// How old what is known of this host's addresses may be, ns, to say that what was not seen to leave came from another. They are
/// gathered once a second at most.
const LATELY: u64 = 10_000_000_000;

/// Where a datagram that a receive may have taken is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// Among the arrivals.
    Arrived(usize),
    /// It has left its socket, with that number, and was not seen to arrive.
    Sent(u64),
}

/// A datagram that a receive may have taken.
#[derive(Debug)]
struct Candidate {
    place: Where,
    way: Way,
    data: u64,
    /// Number of the datagram that was sent, if it is known which it is.
    sent: Option<u64>,
    queued: bool,
    /// When it was sent, or else seen.
    time: u64,
    /// When it was seen in the queue; `u64::MAX` if it was not.
    seen: u64,
    /// Its sender, if known.
    process: Option<(u32, u64)>,
    /// Digest of its content; 0 if that is not in the buffer itself.
    digest: u64,
    doubt: bool,
}

/// What a receive took.
#[derive(Debug)]
struct Choice {
    taken: Candidate,
    exact: bool,
    /// Others, of other processes, that it may have been.
    rivals: Vec<Where>,
    /// The kernel has shown that it is this one.
    shown: bool,
    /// What was received may be several that are not alike.
    vague: bool,
}

/// The sender of what was received.
struct Found {
    number: Option<u64>,
    sender: End,
    exact: bool,
}

impl Found {
    fn sent(number: u64, who: &Rc<Proc>, exact: bool) -> Found {
        Found { number: Some(number), sender: End::Known(Rc::clone(who)), exact }
    }

    fn unknown(why: Why) -> Found {
        Found { number: None, sender: End::Unknown(why), exact: true }
    }
}

impl Datagrams {
    /// Joins the waiting receives of a socket to what was sent, as far as that is known.
    pub(super) fn settle(&mut self, key: Key, force: bool, locals: &mut Locals, context: &mut Context<'_>) {
        let mut index = 0;
        while let Some(socket) = self.sockets.get_mut(&key) {
            let held = |taken: &Taken| taken.vague && !force && !context.overdue(taken.time);
            index += socket.waiting.iter().skip(index).take_while(|taken| held(taken)).count();
            let Some(mut taken) = socket.next(index, force, context) else { break };
            self.look(key, &taken);
            let patient = !force && !context.overdue(taken.since);
            let mut choice = self.choose(key, &taken, taken.time, context);
            if choice.is_none() && taken.vague {
                // What it took was given to another that was alike, and which has left that one's own: sent later, maybe.
                choice = self.choose(key, &taken, u64::MAX, context);
            }
            let Some(choice) = choice else {
                // What was sent is always told before it, unless that is lost; 0 is also what a closed socket gives.
                if taken.bytes > 0 && patient {
                    self.put_back(key, index, taken);
                    break;
                }
                if taken.bytes > 0 {
                    self.unexplained(key, taken, context);
                }
                continue;
            };
            if choice.vague && !force && !context.overdue(taken.time) {
                // Those that were received at the same time and are known better come first, though their calls be kept
                // from their end.
                taken.vague = true;
                self.put_back(key, index, taken);
                index += 1;
                continue;
            }
            match self.sender(key, &choice, &taken, force, locals, context) {
                Some(found) => self.write(key, choice, taken, found, context),
                None => {
                    self.put_back(key, index, taken);
                    break;
                }
            }
        }
        while let Some(gone) = self.sockets.get_mut(&key).and_then(|socket| socket.forgotten(context.now)) {
            self.left_unseen(&gone);
        }
        if self.sockets.get(&key).is_none_or(|socket| socket.waiting.is_empty()) {
            self.waiting.retain(|other| *other != key);
        }
    }

    /// Such a receive waits on.
    fn put_back(&mut self, key: Key, index: usize, taken: Taken) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.waiting.insert(index, taken);
        }
    }

    /// An arrival has left the queue, and nobody was seen to take it.
    pub(super) fn left_unseen(&mut self, arrival: &Arrival) {
        if let Some(number) = arrival.sent
            && let Some(sent) = self.sent.get_mut(&number)
        {
            sent.gone = true;
        }
    }

    /// What was first in the queue when a call began tells what was gone by then.
    fn look(&mut self, key: Key, taken: &Taken) {
        let (Some(front), Some(socket)) = (taken.front, self.sockets.get(&key)) else { return };
        if socket.goes_on(taken) {
            return;
        }
        let bound = if front == 0 {
            taken.enter
        } else {
            // Sent after others had been seen in the queue, it stands behind them.
            let arrival = socket.arrivals.iter().rev().find(|other| other.data == front);
            let number = arrival.map_or_else(|| self.by_data.get(&front).copied(), |arrival| arrival.sent);
            let sent = number.and_then(|number| self.sent.get(&number));
            match sent.filter(|sent| sent.time <= taken.enter) {
                Some(sent) => sent.time,
                None => return,
            }
        };
        self.pass(key, bound, taken.enter, front);
    }

    /// What was seen in a queue before `bound`, but for the buffer `front`, was gone by `time`.
    fn pass(&mut self, key: Key, bound: u64, time: u64, front: u64) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        for arrival in &mut socket.arrivals {
            if arrival.time < bound && (front == 0 || arrival.data != front) && arrival.gone == 0 {
                arrival.gone = time;
            }
        }
    }

    /// What a receive took, as far as can be said, of what was sent by a time.
    fn choose(&self, key: Key, taken: &Taken, by: u64, context: &Context<'_>) -> Option<Choice> {
        let socket = self.sockets.get(&key)?;
        let received =
            |number: u64| self.sent.get(&number).is_some_and(|sent| sent.received && !sent.way.spreads());
        let here = |arrival: &Arrival| {
            (arrival.gone == 0 || arrival.gone > taken.enter) && !arrival.sent.is_some_and(received)
        };
        let lost = |candidate: &Candidate| {
            context.loss.is_some_and(|loss| loss.saturating_add(REPORT) >= candidate.time)
        };
        let arrivals = || socket.arrivals.iter().enumerate().filter(|(_, arrival)| here(arrival));
        if let Some(taken) = self.by_buffer(arrivals(), socket, taken) {
            let exact = !lost(&taken);
            return Some(Choice { taken, exact, rivals: Vec::new(), shown: true, vague: false });
        }
        let fitting = |paged: bool| {
            let arrived = arrivals()
                .filter(|(_, arrival)| taken.fits(arrival.way, arrival.digest))
                .map(|(index, arrival)| self.arrived(index, arrival))
                .filter(|candidate| candidate.time <= by);
            arrived.chain(self.flying(key, taken, by)).filter(move |candidate| paged || candidate.digest != 0)
        };
        let first = taken.front.filter(|front| *front != 0 && taken.alone && !socket.goes_on(taken));
        // The buffer may be another's since then.
        let in_front =
            |front| fitting(true).find(|candidate| candidate.data == front && candidate.time <= taken.enter);
        let first = first.and_then(in_front);
        let at_front = first.is_some();
        // Its buffer would have been seen if the content were elsewhere.
        let first = first.or_else(|| fitting(!taken.looked_at()).next());
        let paged = !taken.looked_at() || first.as_ref().is_none_or(|first| first.digest == 0);
        let first = first.or_else(|| fitting(true).next())?;
        let contended = socket.contended(taken);
        // Without its number it may be any of those that left alike: see `alike`.
        let itself = |other: &Candidate| {
            first.sent.is_none() && matches!(other.place, Where::Sent(_)) && other.way == first.way
        };
        let rivals: Vec<Where> = fitting(paged)
            .filter(|other| other.place != first.place)
            .filter(|other| other.process != first.process || other.queued != first.queued)
            .filter(|other| !itself(other) && !at_front && (contended || other.time <= first.seen))
            .map(|other| other.place)
            .collect();
        // First in, first out: one that others have overtaken had been taken before.
        let overtaken = socket.passed.may_have(self.there(&first), taken.enter);
        let exact = rivals.is_empty() && !first.doubt && !lost(&first) && !overtaken;
        let other = |other: Candidate| (other.way.len, other.digest) != (first.way.len, first.digest);
        let vague = !at_front && fitting(paged).any(other);
        Some(Choice { taken: first, exact, rivals, shown: at_front, vague })
    }

    /// When a datagram was in the queue. Where that was not seen it was by the end of its call, unless it came by way of a kernel thread.
    fn there(&self, candidate: &Candidate) -> u64 {
        let sent = candidate.sent.and_then(|number| self.sent.get(&number));
        let called = sent.and_then(|sent| sent.call.as_ref()).map_or(candidate.time, |call| call.time);
        candidate.seen.min(called.max(candidate.time))
    }

    /// What was in the buffer that a receive was seen to take.
    fn by_buffer<'a>(
        &self,
        mut arrivals: impl Iterator<Item = (usize, &'a Arrival)>,
        socket: &Socket,
        taken: &Taken,
    ) -> Option<Candidate> {
        if taken.buffer == 0 {
            return None;
        }
        // Not what was sent later in the same buffer.
        let in_time = |number: u64| self.sent.get(&number).is_none_or(|sent| sent.time <= taken.time);
        let in_it = |(_, other): &(usize, &Arrival)| {
            other.data == taken.buffer && taken.has_length(other.way.len) && other.sent.is_none_or(in_time)
        };
        if let Some((index, arrival)) = arrivals.find(in_it) {
            return Some(self.arrived(index, arrival));
        }
        let number = *self.by_data.get(&taken.buffer)?;
        let sent = self.sent.get(&number)?;
        let fits = taken.has_length(sent.way.len) && sent.time <= taken.time;
        let there = !sent.received && !socket.early.contains(&number);
        (fits && there).then(|| departed(number, sent))
    }

    /// What was sent to a socket and not seen to arrive there, and may be what was received, in the order in which it left.
    fn flying(&self, key: Key, taken: &Taken, by: u64) -> Vec<Candidate> {
        let Some(socket) = self.sockets.get(&key) else { return Vec::new() };
        let port = socket.ends.map_or(0, |ends| ends.local.port());
        let (least, most) = taken.lengths();
        let numbers = self.flying.range((port, least)..=(port, most)).flat_map(|(_, numbers)| numbers);
        let fitting = numbers.filter_map(|number| {
            let sent = self.sent.get(number)?;
            let open = !sent.received || sent.way.spreads();
            let here = open && sent.reaches(socket.ends) && !socket.early.contains(number);
            let fits = taken.fits(sent.way, sent.digest) && sent.time <= by;
            (here && fits).then(|| (*number, departed(*number, sent)))
        });
        let mut found: Vec<(u64, Candidate)> = fitting.collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// One of the arrivals.
    fn arrived(&self, index: usize, arrival: &Arrival) -> Candidate {
        let sent = arrival.sent.and_then(|number| self.sent.get(&number));
        Candidate {
            place: Where::Arrived(index),
            way: arrival.way,
            data: arrival.data,
            sent: arrival.sent,
            queued: arrival.queued,
            time: sent.map_or(arrival.time, |sent| sent.time),
            seen: arrival.time,
            process: sent.and_then(Sent::process),
            digest: arrival.digest,
            doubt: arrival.doubt || sent.is_some_and(|sent| sent.doubt),
        }
    }

    /// Who sent what was taken; `None` if that is still to be told.
    fn sender(
        &self,
        key: Key,
        choice: &Choice,
        taken: &Taken,
        force: bool,
        locals: &mut Locals,
        context: &Context<'_>,
    ) -> Option<Found> {
        let chosen = &choice.taken;
        let patient = !force && !context.overdue(taken.since);
        if let Some(number) = chosen.sent
            && let Some(sent) = self.sent.get(&number)
        {
            return match (&sent.call, &sent.who) {
                (None, _) if patient => None,
                (Some(call), _) => Some(Found::sent(number, &call.who, true)),
                (None, Some(who)) => Some(Found::sent(number, who, true)),
                (None, None) => Some(Found::unknown(Why::Lost)),
            };
        }
        if chosen.queued {
            return Some(Found::unknown(Why::BeforeStart));
        }
        // What is sent on this host is seen as it leaves, and it is not: addresses of lately say well enough why.
        let lately = taken.time.saturating_sub(LATELY);
        match locals.place(chosen.way.from.ip(), lately, context.now) {
            Place::Elsewhere => return Some(Found::unknown(Why::Remote(chosen.way.from.to_string()))),
            // They will be gathered in a moment, if not this one.
            Place::Unknown if !force => return None,
            Place::Unknown | Place::Here => {}
        }
        match self.alike(key, chosen.way, taken, context) {
            Some(found) => Some(found),
            None if patient => None,
            None => Some(Found::unknown(Why::Lost)),
        }
    }

    /// Among what was sent the first that may be it: of segments only the addresses and the length tell.
    fn alike(&self, key: Key, way: Way, taken: &Taken, context: &Context<'_>) -> Option<Found> {
        let ends = self.sockets.get(&key).and_then(|socket| socket.ends);
        let fits = |sent: &Sent| {
            let left = sent.way.len.saturating_sub(if sent.way.spreads() { 0 } else { sent.heard });
            let same = (sent.way.from, sent.way.to) == (way.from, way.to);
            same && !sent.arrived && left >= way.len && sent.reaches(ends)
        };
        let recent = self.sent.iter().rev().take(REACH);
        let mut fitting =
            recent.filter(|(_, sent)| sent.time <= taken.time && sent.call.is_some() && fits(sent));
        let (mut number, sent) = fitting.next()?;
        let process = sent.process();
        let mut exact = context.loss.is_none();
        for (other, sent) in fitting {
            number = other;
            exact &= sent.process() == process;
        }
        let who = &self.sent.get(number)?.call.as_ref()?.who;
        Some(Found::sent(*number, who, exact))
    }

    /// A receive of which not even the arrival is known.
    fn unexplained(&mut self, key: Key, taken: Taken, context: &mut Context<'_>) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        socket.done(&taken);
        let to = socket.ends.map_or_else(|| format!("[{}]", socket.inode), |ends| ends.local.to_string());
        let channel = Rc::new(Channel { id: format!("udp:?->{to}"), name: None });
        let nobody = End::Unknown(Why::Lost);
        let who = End::Known(Rc::clone(&taken.who));
        let received = transfer(&channel, nobody, who, taken.bytes, taken.time, taken.payload);
        context.out.push(Event::Transfer(received));
    }

    /// Writes what was received, and what of it did not fit and is gone.
    fn write(&mut self, key: Key, choice: Choice, taken: Taken, found: Found, context: &mut Context<'_>) {
        let way = choice.taken.way;
        let ends = self.sockets.get(&key).and_then(|socket| socket.ends);
        let channel = self.channels.of(way, ends.map_or(0, |ends| ends.netns), context.home);
        let sent = found.number.and_then(|number| self.sent.get(&number));
        let call = sent.and_then(|sent| sent.call.as_ref());
        let payload = call.map_or(&taken.payload, |call| &call.payload).clone();
        let late = sent.is_some_and(|sent| sent.time > taken.time);
        let latency = call.filter(|_| !late).map(|call| taken.time.saturating_sub(call.time));
        let exact = found.exact && choice.exact;
        if !exact || choice.vague {
            let port = ends.map_or(0, |ends| ends.local.port());
            let last = self.doubts.entry((port, taken.lengths())).or_default();
            *last = taken.time.max(*last);
        }
        if !exact {
            self.doubt(key, &choice.rivals);
        }
        if let Some(socket) = self.sockets.get_mut(&key) {
            match choice.taken.place {
                Where::Arrived(index) => {
                    socket.remove(index);
                    if let Some(number) = choice.taken.sent.filter(|_| way.spreads()) {
                        socket.ahead(number);
                    }
                }
                Where::Sent(number) => socket.ahead(number),
            }
            socket.done(&taken);
            if choice.taken.sent.is_some() {
                socket.passed.note(choice.taken.time, taken.time);
            }
        }
        if exact && choice.shown && choice.taken.sent.is_some() {
            // First in, first out: what was in the queue before it was sent has been taken.
            self.pass(key, choice.taken.time, taken.time, 0);
        }
        let who = End::Known(Rc::clone(&taken.who));
        if taken.bytes > 0 || way.len == 0 {
            let received = transfer(&channel, found.sender.clone(), who, taken.bytes, taken.time, payload);
            context.out.push(Event::Transfer(Transfer { latency, exact, ..received }));
        }
        if way.len > taken.bytes {
            let rest = way.len - taken.bytes;
            let nobody = End::Unknown(Why::Unread);
            let rest = transfer(&channel, found.sender, nobody, rest, taken.time, Bytes::new());
            // It may have been another of the same process, and longer or shorter.
            let exact = exact && !choice.vague;
            context.out.push(Event::Transfer(Transfer { exact, truncated: true, ..rest }));
        }
        if let Some(number) = found.number {
            self.heard(number, way.len);
        }
    }

    /// Which of these is left is as much in doubt as which was taken.
    fn doubt(&mut self, key: Key, rivals: &[Where]) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        for rival in rivals {
            let number = match rival {
                Where::Arrived(index) => socket.arrivals.get_mut(*index).and_then(|arrival| {
                    arrival.doubt = true;
                    arrival.sent
                }),
                Where::Sent(number) => Some(*number),
            };
            if let Some(sent) = number.and_then(|number| self.sent.get_mut(&number)) {
                sent.doubt = true;
            }
        }
    }

    /// Receives of which the record is lost may have taken whatever was in the queue.
    pub(super) fn doubt_all(&mut self, key: Key) {
        let Some(socket) = self.sockets.get(&key) else { return };
        let all: Vec<Where> = (0..socket.arrivals.len()).map(Where::Arrived).collect();
        self.doubt(key, &all);
    }
}

/// One that was not seen to arrive.
fn departed(number: u64, sent: &Sent) -> Candidate {
    Candidate {
        place: Where::Sent(number),
        way: sent.way,
        data: sent.data,
        sent: Some(number),
        queued: false,
        time: sent.time,
        // Nothing is known to stand behind it.
        seen: u64::MAX,
        process: sent.process(),
        digest: sent.digest,
        doubt: sent.doubt,
    }
}
