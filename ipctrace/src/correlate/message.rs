//! Messages: each send is one whole, and one receive takes it (or the beginning of it).
//!
//! A receive says which socket sent the message that it took and how long it was, so the two are joined by that; what
//! one socket sent to another arrives in order.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use foldhash::HashMap;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Key, op_flag};

use crate::decode;
use crate::model::{Channel, End, Event, Proc, Transfer, Why};

use super::call::Recent;
use super::context::{Context, LINGER};
use super::naming::{self, Naming};
use super::opening::Opening;

/// A message that was sent and not yet received.
#[derive(Debug)]
struct Sent {
    mechanism: Mechanism,
    who: Rc<Proc>,
    enter: u64,
    time: u64,
    bytes: u64,
    /// The sending socket.
    sock: u64,
    sender_inode: u64,
    /// Another was sent at the same time, which it may be taken for.
    overlaps: bool,
    /// An equal one was taken, and which of them that was is in doubt.
    left_over: bool,
    /// It may have been put in before tracing began, and be among what was in the queue then.
    straddles: bool,
    /// How many were sent to the queue before, if the books have it.
    before: Option<u64>,
    /// Where it was sent to, if that is a name.
    address: Option<Vec<u8>>,
    payload: Bytes,
}

impl Sent {
    /// Whether what took an equal one may have taken this one, or another that is still to be told of.
    fn is_in_doubt(&self) -> bool {
        self.overlaps || self.left_over
    }

    /// Whether another process has sent an equal message through the same socket.
    fn is_rivalled_by(&self, other: &Sent) -> bool {
        other.sock == self.sock && other.bytes == self.bytes && other.who.identity() != self.who.identity()
    }

    /// Whether another process was sending at the same time.
    fn overlaps(&self, other: &Sent) -> bool {
        other.who.identity() != self.who.identity() && other.enter <= self.time && other.time >= self.enter
    }
}

/// A receive.
#[derive(Debug)]
struct Taken {
    who: Rc<Proc>,
    enter: u64,
    time: u64,
    bytes: u64,
    /// Whole length of the message.
    length: u64,
    /// The socket that sent it, if the message itself was seen.
    from: Option<u64>,
    sender_inode: u64,
    /// How many were received from the queue before, if the books have it.
    before: Option<u64>,
    payload: Bytes,
    /// Another thread was receiving when the call began or ended.
    overlaps: bool,
    /// When the record came.
    since: u64,
}

/// The messages for one socket.
#[derive(Debug)]
struct Queue {
    naming: Naming,
    mechanism: Mechanism,
    /// Of what was queued at first.
    opening: Opening,
    /// Messages in it when it was first seen; `None` if unknown.
    queued: Option<u64>,
    /// The same as the kernel counted it.
    first: Option<u64>,
    /// When that was.
    opened: u64,
    /// What was sent to its name until then, at the latest, was in the queue of another socket of that name, for there was more than
    /// the kernel found in this one's.
    floor: u64,
    /// Messages received of those.
    early: u64,
    /// Messages received that were sent by address before then: they are among those, though their sends were seen.
    known: u64,
    /// Sent to this socket, in order.
    sent: VecDeque<Sent>,
    /// Receives whose send has not come.
    waiting: VecDeque<Taken>,
    /// End of the latest send that was received.
    latest: u64,
    /// Threads that received.
    receivers: Recent,
    /// Processes that sent.
    senders: Recent,
    /// Several processes send, or several threads receive.
    crowd: bool,
    used: u64,
}

impl Queue {
    fn new(mechanism: Mechanism, key: Key, now: u64) -> Queue {
        Queue {
            naming: Naming::new(mechanism, key),
            mechanism,
            opening: Opening::new(now),
            queued: None,
            first: None,
            opened: 0,
            floor: 0,
            early: 0,
            known: 0,
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
            latest: 0,
            receivers: Recent::default(),
            senders: Recent::default(),
            crowd: false,
            used: now,
        }
    }

    /// The kernel has begun to count what is in it: of what had been sent to a socket of that name by then, it can only be the latest.
    fn found(&mut self, time: u64, addressed: &HashMap<u64, VecDeque<Sent>>) {
        let (Some(name), Some(queued)) = (self.naming.name(), self.first) else { return };
        let named = addressed.values().flatten().filter(|sent| sent.address.as_deref() == Some(name));
        let mut times: Vec<u64> = named.chain(&self.sent).map(|sent| sent.time).collect();
        times.retain(|sent| *sent < time);
        times.sort_unstable();
        let elsewhere = times.len().saturating_sub(usize::try_from(queued).unwrap_or(usize::MAX));
        self.floor = elsewhere.checked_sub(1).map_or(0, |last| times[last]);
    }
}

/// All messages under way.
#[derive(Debug, Default)]
pub(super) struct Messages {
    queues: HashMap<Key, Queue>,
    /// Sent by address, by sending socket.
    addressed: HashMap<u64, VecDeque<Sent>>,
    /// By sending socket and length: until when messages were sent of which it is in doubt which of them was taken. One that was sent
    /// at the same time may be told of later.
    doubts: HashMap<(u64, u64), u64>,
    /// Queues in which receives wait.
    waiting: Vec<Key>,
    count: usize,
}

/// Where the send of a receive is.
struct Found {
    /// In `addressed`, or else in the queue.
    addressed: bool,
    index: usize,
    exact: bool,
}

impl Messages {
    /// What the kernel says of a socket when it first sees it, or sees it again.
    pub(super) fn opened(
        &mut self,
        mechanism: Mechanism,
        record: &wire::Channel,
        name: &[u8],
        context: &mut Context<'_>,
    ) {
        let inodes = (record.sender_inode, record.receiver_inode);
        self.renew(mechanism, record.key, |known| known.is_other_now(inodes.0, inodes.1), context);
        let queue = self.queue(mechanism, record.key, context.now);
        queue.naming.meet(inodes.0, inodes.1);
        queue.naming.named(name);
        // Seen again: what the books count begins again, and what was queued then includes what is known.
        let known = if queue.opening.is_open() { queue.sent.len() as u64 } else { 0 };
        queue.opening.told();
        queue.opened = record.header.time;
        queue.early = 0;
        queue.known = 0;
        queue.first = (record.queued != u64::MAX).then_some(record.queued);
        queue.queued = (record.queued != u64::MAX).then(|| record.queued.saturating_sub(known));
        let Messages { queues, addressed, .. } = self;
        if let Some(queue) = queues.get_mut(&record.key) {
            queue.found(record.header.time.saturating_sub(record.counting.into()), addressed);
        }
        self.settle(record.key, false, context);
    }

    /// One send or receive.
    pub(super) fn push(
        &mut self,
        mechanism: Mechanism,
        record: &decode::Op,
        who: Rc<Proc>,
        context: &mut Context<'_>,
    ) {
        let op = &record.fixed;
        let has = |flag: u16| op.header.flags & flag != 0;
        if self.count >= context.limits.messages {
            self.evict(context);
        }
        self.count += 1;
        // A socket for datagrams has many senders.
        let inodes = (if mechanism.is_unix_connection() { op.sender_inode } else { 0 }, op.receiver_inode);
        if op.key.id != 0 {
            self.renew(mechanism, op.key, |known| known.is_other(inodes.0, inodes.1), context);
        }
        let enter = if has(op_flag::STRADDLES_START) { 0 } else { op.enter.min(op.header.time) };
        let time = op.header.time;
        if has(op_flag::RECEIVE) {
            let key = op.key;
            let taken = Taken {
                who,
                enter,
                time,
                bytes: op.bytes,
                length: op.message_len.max(op.bytes),
                from: (has(op_flag::FROM) && op.sender_sock != 0).then_some(op.sender_sock),
                sender_inode: op.sender_inode,
                before: has(op_flag::SEQUENCED).then_some(op.before),
                payload: record.payload.clone(),
                overlaps: has(op_flag::OVERLAPS),
                since: context.now,
            };
            let queue = self.queue(mechanism, key, context.now);
            queue.naming.meet(inodes.0, inodes.1);
            queue.crowd |= queue.receivers.others(taken.who.thread())
                || queue.waiting.iter().any(|other| other.who.thread() != taken.who.thread());
            queue.waiting.push_back(taken);
            if !self.waiting.contains(&key) {
                self.waiting.push(key);
            }
            self.settle(key, false, context);
            return;
        }
        let sent = Sent {
            mechanism,
            who,
            enter,
            time,
            bytes: op.bytes,
            sock: op.sender_sock,
            sender_inode: op.sender_inode,
            overlaps: has(op_flag::OVERLAPS),
            left_over: self.doubts.get(&(op.sender_sock, op.bytes)).is_some_and(|until| enter <= *until),
            straddles: has(op_flag::STRADDLES_START),
            before: has(op_flag::SEQUENCED).then_some(op.before),
            address: naming::unix_address(&record.address),
            payload: record.payload.clone(),
        };
        let sends = if op.key.id == 0 {
            self.addressed.entry(op.sender_sock).or_default()
        } else {
            let queue = self.queue(mechanism, op.key, context.now);
            queue.naming.meet(inodes.0, inodes.1);
            queue.crowd |= queue.senders.others(sent.who.identity());
            queue.senders.note(sent.who.identity(), time);
            &mut queue.sent
        };
        // Records of two CPUs may have changed places.
        let place = sends.iter().rposition(|other| other.time <= time).map_or(0, |index| index + 1);
        sends.insert(place, sent);
        for key in self.waiting.clone() {
            self.settle(key, false, context);
        }
    }

    fn queue(&mut self, mechanism: Mechanism, key: Key, now: u64) -> &mut Queue {
        let queue = self.queues.entry(key).or_insert_with(|| Queue::new(mechanism, key, now));
        queue.used = now;
        queue
    }

    /// As [`Naming::name_of`], for the channel with that key.
    pub(super) fn name_of(&self, key: &Key, mechanism: Mechanism, inodes: (u64, u64)) -> Option<&[u8]> {
        self.queues.get(key)?.naming.name_of(mechanism, inodes)
    }

    /// If the socket is another one at the same address: what was sent to the old one is unread.
    fn renew(
        &mut self,
        mechanism: Mechanism,
        key: Key,
        is_other: impl Fn(&Naming) -> bool,
        context: &mut Context<'_>,
    ) {
        let another = |naming: &Naming| !naming.is_of(mechanism) || is_other(naming);
        if self.queues.get(&key).is_some_and(|queue| another(&queue.naming)) {
            self.close(key, context);
            self.queue(mechanism, key, context.now);
        }
    }

    /// Joins the waiting receives of a queue to their sends, as far as these have come.
    fn settle(&mut self, key: Key, force: bool, context: &mut Context<'_>) {
        let Some(queue) = self.queues.get_mut(&key) else { return };
        if !queue.opening.is_over(force, context) {
            return;
        }
        let mut waiting = std::mem::take(&mut queue.waiting);
        while let Some(taken) = waiting.pop_front() {
            let kept = self.queues.get(&key).map(|queue| &queue.waiting);
            let overlaps =
                |other: &Taken| other.who.thread() != taken.who.thread() && other.enter <= taken.time;
            let rivalled = waiting.iter().chain(kept.into_iter().flatten()).any(overlaps);
            if !self.receive(key, &taken, rivalled, force, context) {
                if let Some(queue) = self.queues.get_mut(&key) {
                    queue.waiting.push_back(taken);
                }
                continue;
            }
            self.count -= 1;
        }
        if self.queues.get(&key).is_none_or(|queue| queue.waiting.is_empty()) {
            self.waiting.retain(|other| *other != key);
        }
    }

    /// Writes a receive if its send is known, or will not come. False: it waits.
    ///
    /// `rivalled`: another thread was receiving at the same time.
    fn receive(
        &mut self,
        key: Key,
        taken: &Taken,
        rivalled: bool,
        force: bool,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(queue) = self.queues.get(&key) else { return true };
        let early = match (queue.queued, taken.before) {
            (Some(queued), Some(before)) if before < queued => {
                // A send by address opens no books: of what was queued, some may have been sent while we looked.
                let name = queue.naming.name();
                // Sent to a name that no socket is known by it may be this one's, written otherwise: the message says from which socket.
                let may_be_named = |sent: &Sent| {
                    taken.from == Some(sent.sock)
                        && !self.queues.values().any(|other| other.naming.name() == sent.address.as_deref())
                };
                let is_among = |sent: &&Sent| {
                    sent.enter < queue.opened
                        && ((sent.time > queue.floor && sent.address.as_deref() == name)
                            || may_be_named(sent))
                };
                let known = self.addressed.values().flatten().filter(is_among).count() as u64;
                before < queued.saturating_sub(queue.known + known)
            }
            _ => false,
        };
        let Some(queue) = self.queues.get_mut(&key) else { return true };
        let found = if early { None } else { find(queue, &self.addressed, taken) };
        let overlapped =
            rivalled || taken.overlaps || queue.receivers.overlaps(taken.who.thread(), taken.enter);
        match found {
            // Another call, of a sender or a receiver, may have been under way, and its record is still to come.
            Some(found)
                if (queue.crowd || overlapped || !found.exact)
                    && !force
                    && context.now.saturating_sub(taken.time) < LINGER =>
            {
                // Nor may those behind it go before it.
                queue.crowd = true;
                return false;
            }
            Some(found) => {
                let sends = if found.addressed {
                    taken.from.and_then(|sock| self.addressed.get_mut(&sock))
                } else {
                    Some(&mut queue.sent)
                };
                let Some(sent) = sends.and_then(|sends| sends.remove(found.index)) else { return true };
                self.count -= 1;
                queue.known += u64::from(found.addressed && sent.enter < queue.opened);
                // Two receivers at once and another sender's equal message: either may have taken either.
                let addressed = self.addressed.get(&sent.sock);
                let mut others = queue.sent.iter().chain(addressed.into_iter().flatten());
                let rivals = others.any(|other| sent.is_rivalled_by(other));
                queue.latest = queue.latest.max(sent.time);
                queue.naming.meet(sent.sender_inode, 0);
                // Where records are lost, one that is alike may be among them: then the books must agree on which it is.
                let counted = sent.before.zip(queue.first).map(|(before, first)| before + first);
                let agreed = context.loss.is_none() || (counted.is_some() && counted == taken.before);
                let exact = found.exact && agreed && !(overlapped && rivals);
                if !exact {
                    // Which of them is left is as much in doubt as which was taken.
                    let addressed = self.addressed.get_mut(&sent.sock).into_iter().flatten();
                    let equal = |other: &&mut Sent| other.sock == sent.sock && other.bytes == sent.bytes;
                    for other in queue.sent.iter_mut().chain(addressed).filter(equal) {
                        other.left_over = true;
                    }
                    self.doubts
                        .entry((sent.sock, sent.bytes))
                        .and_modify(|until| *until = sent.time.max(*until))
                        .or_insert(sent.time);
                }
                write(queue, End::Known(Rc::clone(&sent.who)), Some(&sent), taken, exact, context);
            }
            None => {
                let before_start = early || (queue.queued.is_none_or(|queued| queue.early < queued));
                // A send by address, which opens no books, is known when its call ends, and that may be after what it sent was received.
                let certain = early && queue.naming.name().is_none();
                if !(certain || force || context.given_up(taken.since, before_start)) {
                    return false;
                }
                let unexplained = early || context.loss.is_none();
                let why = if before_start && unexplained { Why::BeforeStart } else { Why::Lost };
                queue.early += 1;
                queue.naming.meet(taken.sender_inode, 0);
                write(queue, End::Unknown(why), None, taken, true, context);
            }
        }
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.receivers.note(taken.who.thread(), taken.time);
        }
        true
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, force: bool, context: &mut Context<'_>) {
        for key in self.waiting.clone() {
            self.settle(key, force, context);
        }
        self.addressed.retain(|_, sends| !sends.is_empty());
        if self.doubts.len() > context.limits.messages {
            self.doubts.clear();
        }
    }

    /// Ends a queue: what is in it is unread.
    fn close(&mut self, key: Key, context: &mut Context<'_>) {
        self.settle(key, true, context);
        let Some(mut queue) = self.queues.remove(&key) else { return };
        let name = queue.naming.name().map(<[u8]>::to_vec);
        for sent in std::mem::take(&mut queue.sent) {
            self.count -= 1;
            // A queue is first in, first out: one sent before another that was received is received too.
            let overtaken = sent.time < queue.latest;
            let why = match context.loss {
                // It was taken before the queue was first seen, or is among what was in it then.
                None if overtaken && sent.straddles => continue,
                Some(_) if overtaken => Why::Lost,
                _ => Why::Unread,
            };
            context.out.push(left(sent, why, queue.naming.receiver(), name.clone(), context.loss));
        }
    }

    /// The end: what nobody took.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        self.tick(true, context);
        let mut keys: Vec<Key> = self.queues.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            self.close(key, context);
        }
        let mut rest: Vec<Sent> = self.addressed.drain().flat_map(|(_, sends)| sends).collect();
        rest.sort_by_key(|sent| sent.time);
        for sent in rest {
            let name = sent.address.clone();
            context.out.push(left(sent, Why::Unread, 0, name, context.loss));
        }
        self.count = 0;
    }

    /// Makes room: the older half of what is under way is forgotten.
    fn evict(&mut self, context: &mut Context<'_>) {
        let sends =
            self.queues.values().flat_map(|queue| &queue.sent).chain(self.addressed.values().flatten());
        let waits = self.queues.values().flat_map(|queue| &queue.waiting);
        let mut times: Vec<u64> = sends.map(|sent| sent.time).chain(waits.map(|taken| taken.time)).collect();
        let middle = times.len() / 2;
        if times.is_empty() {
            self.count = 0;
            return;
        }
        let limit = *times.select_nth_unstable(middle).1;
        let mut kept = 0;
        for queue in self.queues.values_mut() {
            queue.sent.retain(|sent| sent.time > limit);
            queue.waiting.retain(|taken| taken.time > limit);
            kept += queue.sent.len() + queue.waiting.len();
        }
        for sends in self.addressed.values_mut() {
            sends.retain(|sent| sent.time > limit);
            kept += sends.len();
        }
        self.addressed.retain(|_, sends| !sends.is_empty());
        *context.evicted += (times.len() - kept) as u64;
        self.count = kept;
    }

    /// How many queues are known.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Queues and when each was last used.
    pub(super) fn ages(&self) -> impl Iterator<Item = (Key, u64)> {
        self.queues.iter().map(|(key, queue)| (*key, queue.used))
    }

    /// Makes room: a queue is closed.
    pub(super) fn forget(&mut self, key: Key, context: &mut Context<'_>) {
        if let Some(queue) = self.queues.get(&key) {
            *context.evicted += (queue.sent.len() + queue.waiting.len()) as u64;
            self.close(key, context);
        }
    }
}

/// Finds the send of a receive: sent to that very socket, or else by an address that may be its.
fn find(queue: &Queue, addressed: &HashMap<u64, VecDeque<Sent>>, taken: &Taken) -> Option<Found> {
    let empty = VecDeque::new();
    let by_address = taken.from.and_then(|sock| addressed.get(&sock)).unwrap_or(&empty);
    // The kernel keeps a socket as long as something that it sent is in a queue: where another has its address nothing is.
    let of_it = || by_address.iter().chain(queue.sent.iter().filter(|sent| taken.from == Some(sent.sock)));
    let first = of_it().next().map(|sent| sent.sender_inode);
    let several = of_it().any(|sent| Some(sent.sender_inode) != first);
    let is_gone = |sent: &Sent| {
        let is_another = |inode: u64| !naming::may_be_same(inode, sent.sender_inode);
        let has_followed = |other: &Sent| {
            is_another(other.sender_inode) && other.enter > sent.time && other.enter <= taken.enter
        };
        is_another(taken.sender_inode) || (several && of_it().any(has_followed))
    };
    let is_named = |sent: &Sent| sent.address.is_some() && sent.address.as_deref() == queue.naming.name();
    let fits = |sent: &Sent| match taken.from {
        Some(sock) => {
            sent.sock == sock
                && sent.bytes == taken.length
                && sent.mechanism == queue.mechanism
                && (sent.time > queue.floor || !is_named(sent))
                && !is_gone(sent)
        }
        None => sent.bytes >= taken.bytes,
    };
    let direct = queue.sent.iter().position(fits);
    let here = |sent: &Sent| fits(sent) && is_named(sent);
    let named = by_address.iter().position(here);
    // Of equal messages that were sent at the same time either may have been first.
    let alone = |chosen: &Sent| {
        let sent_here = queue.sent.iter().filter(|sent| fits(sent));
        let mut rivals = sent_here.chain(by_address.iter().filter(|sent| here(sent)));
        !chosen.is_in_doubt() && rivals.all(|other| !chosen.overlaps(other))
    };
    match (direct, named) {
        (Some(direct), named)
            if named.is_none_or(|named| queue.sent[direct].time <= by_address[named].time) =>
        {
            Some(Found { addressed: false, index: direct, exact: alone(&queue.sent[direct]) })
        }
        (_, Some(named)) => Some(Found { addressed: true, index: named, exact: alone(&by_address[named]) }),
        (_, None) => {
            // A name that is written otherwise than the socket was bound, or whose socket is not known by name.
            let index = by_address.iter().position(fits)?;
            let chosen = &by_address[index];
            let rivals = by_address.iter().filter(|sent| fits(sent));
            let certain = !chosen.is_in_doubt()
                && rivals.clone().all(|sent| sent.address == chosen.address)
                && rivals.clone().all(|sent| sent.who.identity() == chosen.who.identity());
            Some(Found { addressed: true, index, exact: certain })
        }
    }
}

/// Writes what was received, and what of the message did not fit and is gone.
fn write(
    queue: &mut Queue,
    sender: End,
    sent: Option<&Sent>,
    taken: &Taken,
    exact: bool,
    context: &mut Context<'_>,
) {
    let length = sent.map_or(taken.length, |sent| sent.bytes.max(taken.bytes));
    let payload = sent.map_or(&taken.payload, |sent| &sent.payload);
    let channel = Rc::clone(queue.naming.channel());
    let part = |bytes: u64, receiver: End, truncated: bool| Transfer {
        latency: sent.filter(|_| !truncated).map(|sent| taken.time.saturating_sub(sent.time)),
        exact,
        truncated,
        payload: (!truncated && !payload.is_empty()).then(|| payload.clone()),
        ..Transfer::new(queue.mechanism, Rc::clone(&channel), sender.clone(), receiver, bytes, taken.time)
    };
    let received = part(taken.bytes, End::Known(Rc::clone(&taken.who)), false);
    context.out.push(Event::Transfer(received));
    if length > taken.bytes {
        let rest = part(length - taken.bytes, End::Unknown(Why::Unread), true);
        context.out.push(Event::Transfer(rest));
    }
}

/// A message whose receiver is not known. `loss`: when records were lost at last, among which may be that of its receive.
fn left(sent: Sent, why: Why, receiver_inode: u64, name: Option<Vec<u8>>, loss: Option<u64>) -> Event {
    let id = naming::sockets(sent.sender_inode, receiver_inode);
    let channel = Rc::new(Channel { id, name });
    let (sender, receiver) = (End::Known(sent.who), End::Unknown(why));
    Event::Transfer(Transfer {
        exact: !sent.left_over && !sent.straddles && loss.is_none_or(|loss| loss < sent.time),
        payload: (!sent.payload.is_empty()).then_some(sent.payload),
        ..Transfer::new(sent.mechanism, channel, sender, receiver, sent.bytes, sent.time)
    })
}

#[cfg(test)]
mod tests;
