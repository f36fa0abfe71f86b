//! Message queues that are no sockets, POSIX and System V: a receive may take another message than the first.
//!
//! Where hooks on the objects saw the very message, both records have its number, and there is nothing to find out; one may stand for
//! several messages, whose numbers follow each other. Else what a
//! receiver took is known by what it is: priority or type, length, and a digest of its beginning. Among equal messages
//! a queue is first in, first out, so a receive is joined to the first message of its kind that was sent and not taken.
//! Where one process sends to a queue, one receives from it, and all messages have the same priority or type, records say no more than
//! that, and one may stand for several messages.
//! What was in a queue when it was first seen is known too, and was sent by nobody that we know.

mod given;
mod guess;
mod store;
mod waiting;

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use foldhash::HashMap;
use ipctrace_common::wire::{self, Key, op_flag};
use ipctrace_common::{Mechanism, digest};

use crate::decode;
use crate::model::{Channel, End, Event, Proc, Transfer, Why};

use super::call::Recent;
use super::context::{Context, LINGER, PATIENCE};
use super::naming::{self, Home};
use super::opening::Opening;

use given::Given;
use guess::Guesses;
use store::{Among, Kind, Kinds, Place, Store, Stored};
use waiting::{Pending, Span, Taken};

/// A message that was sent and not yet received.
#[derive(Debug)]
struct Sent {
    who: End,
    /// Beginning of the call; 0 if it was not seen.
    enter: u64,
    /// End of the call.
    time: u64,
    bytes: u64,
    /// Priority or type; `None` if unknown.
    detail: Option<i64>,
    digest: u64,
    /// Its number, or the first of theirs, which follow each other; 0 if the message itself was not seen.
    number: u64,
    payload: Bytes,
    /// How many messages it stands for that have not been taken: more than 1 only if they are `alike` or have numbers.
    messages: u64,
    /// As [`Taken::alike`].
    alike: bool,
    /// As [`Taken::span`].
    span: Span,
    /// Another receive, which was given another process's message, may have taken this one.
    doubt: bool,
    /// So may one of which the record was lost.
    gone: bool,
}

impl Stored for Sent {
    fn time(&self) -> u64 {
        self.time
    }

    fn begin(&self) -> u64 {
        self.enter
    }

    fn kinds(&self) -> Kinds {
        // One that was found may have been taken before it got its number.
        let content = Some(self.kind()).filter(|_| self.number == 0 || self.is_nameless());
        [
            (self.number != 0).then_some(Kind::Number(self.number)),
            content,
            content.and_then(Kind::form),
            self.is_nameless().then_some(Kind::Nameless),
        ]
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

impl Sent {
    /// What it is.
    fn kind(&self) -> Kind {
        Kind::of(self.bytes, self.detail, self.digest, self.alike)
    }

    /// Those among which one that took it is, or the same told of twice.
    fn among(&self) -> Among {
        match self.kinds() {
            [number, Some(content), ..] => Among::like(content).or_number(number),
            _ => Among::Numbers(self.number, self.messages),
        }
    }

    /// So many of its messages from the one on that comes after `ahead`, when so many are left behind them.
    fn part(&self, ahead: u64, messages: u64, behind: u64) -> Sent {
        Sent {
            who: self.who.clone(),
            time: self.time - self.span.before_end(behind),
            number: if self.number == 0 { 0 } else { self.number.saturating_add(ahead) },
            payload: self.payload.clone(),
            messages,
            ..*self
        }
    }

    /// Whether it was found, and it is not known who sent it.
    fn is_nameless(&self) -> bool {
        self.who.process().is_none()
    }

    /// Identity of the sender; zeros, which no process has, if it is not known.
    fn process(&self) -> (u32, u64) {
        self.who.process().map_or((0, 0), |process| process.identity())
    }

    /// Whether it is, or may be, what that receive took.
    fn fits(&self, taken: &Taken) -> bool {
        match (self.number, taken.number) {
            (0, 0) => self.is_like(taken),
            // It may have been taken while what is in the queue was looked at, and got its number then.
            (_, 0) => self.is_nameless() && self.is_like(taken),
            (_, taken) => self.has(taken),
        }
    }

    /// Whether its receive may be among what was lost.
    fn may_be_gone(&self, context: &Context<'_>) -> bool {
        self.gone || context.loss.is_some_and(|loss| loss >= self.time)
    }

    /// Whether the message with that number is among them.
    fn has(&self, number: u64) -> bool {
        self.number != 0 && (self.number..self.number.saturating_add(self.messages)).contains(&number)
    }

    /// Whether it may have been taken by that receive, as far as what it is tells.
    fn is_like(&self, taken: &Taken) -> bool {
        let detail = match (self.detail, taken.detail) {
            (Some(sent), Some(taken)) => sent == taken,
            (None, _) | (_, None) => true,
        };
        detail && self.enter <= taken.time && self.has_content_of(taken)
    }

    /// Whether what was received may be its content.
    fn has_content_of(&self, taken: &Taken) -> bool {
        let length = if taken.cut { self.bytes >= taken.bytes } else { self.bytes == taken.bytes };
        length && digest::agree(self.digest, taken.digest, taken.bytes, self.bytes == taken.bytes)
    }

    /// Whether the calls that sent the two were under way at the same moment.
    fn overlaps(&self, other: &Sent) -> bool {
        self.enter <= other.time && other.enter <= self.time
    }
}

/// One queue.
#[derive(Debug)]
struct Queue {
    mechanism: Mechanism,
    channel: Rc<Channel>,
    /// Of what it is called.
    opening: Opening,
    /// Messages that were in it when it was first seen, and of which nothing else is known. `None`: unknown how many.
    unknown: Option<u64>,
    /// When the latest of those was found of which more is known.
    found: u64,
    /// Sent or found, in order.
    sent: Store<Sent>,
    /// Receives that wait for their send, or until it is certain which it is.
    waiting: Store<Taken>,
    /// What those wait for.
    pending: Pending,
    /// Messages that another receive, of which is told later, may have taken.
    given: Given,
    /// Messages that were given to receives that may have taken another.
    guesses: Guesses,
    /// Receives, and the messages that they may have taken unless another receive did.
    held: VecDeque<Held>,
    /// When all that wait had their turn.
    settled: u64,
    senders: Recent,
    receivers: Recent,
    /// When it was removed, if it was.
    removed: Option<u64>,
    used: u64,
}

impl Queue {
    fn new(mechanism: Mechanism, key: Key, name: &[u8], home: Home, now: u64) -> Queue {
        Queue {
            mechanism,
            channel: Rc::new(channel(mechanism, key, name, home)),
            opening: Opening::new(now),
            unknown: None,
            found: 0,
            sent: Store::default(),
            waiting: Store::default(),
            pending: Pending::default(),
            given: Given::default(),
            guesses: Guesses::default(),
            held: VecDeque::new(),
            settled: 0,
            senders: Recent::default(),
            receivers: Recent::default(),
            removed: None,
            used: now,
        }
    }

    fn holds(&self) -> usize {
        self.sent.len() + self.waiting.len() + self.held.len()
    }

    /// How many messages that are.
    fn messages(&self) -> u64 {
        self.sent.messages() + self.waiting.messages() + self.held.len() as u64
    }
}

/// The queue as mq_overview(7) and ipcs(1) show it. `name`: the key, or the number of the IPC namespace and the name, as the
/// programs read them.
fn channel(mechanism: Mechanism, key: Key, name: &[u8], home: Home) -> Channel {
    let kind = mechanism.name();
    if mechanism == Mechanism::SysvMsg {
        // Only the lower half is the identifier, see the programs.
        let id = home.ipc(format!("{kind}:{}", key.id as u32), u64::from(key.space as u32));
        // IPC_PRIVATE is 0.
        let number = name.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).filter(|key| *key != 0);
        return Channel { id, name: number.map(|key| format!("{key:#x}").into_bytes()) };
    }
    let by_inode = naming::file(kind, key.space, key.id);
    let Some((space, name)) = name.split_first_chunk().filter(|(_, name)| !name.is_empty()) else {
        return Channel { id: by_inode, name: None };
    };
    let space = u64::from(u32::from_ne_bytes(*space));
    let name = [b"/", name].concat();
    // An id is text.
    let id = std::str::from_utf8(&name).map_or(by_inode, |name| home.ipc(format!("{kind}:{name}"), space));
    Channel { id, name: Some(name) }
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: HashMap<Key, Queue>,
    /// Messages and receives held, in all.
    count: usize,
}

impl Queues {
    /// What the kernel says of a queue when it first sees it.
    pub(super) fn opened(
        &mut self,
        mechanism: Mechanism,
        record: &wire::Channel,
        name: &[u8],
        context: &mut Context<'_>,
    ) {
        if self.queues.get(&record.key).is_some_and(|queue| queue.removed.is_some()) {
            // Only System V queues are removed, and their identifiers are not given to others for thousands of them (`ipc_idr_alloc`,
            // ipc/util.c): a call that found this one before it was removed has looked at it after that.
            return;
        }
        // There may have been a record of it before this one.
        let known = self.queues.contains_key(&record.key);
        let queue = self.queue(mechanism, record.key, context);
        queue.channel = Rc::new(channel(mechanism, record.key, name, context.home));
        queue.unknown = if known { None } else { Some(record.queued).filter(|queued| *queued != u64::MAX) };
        queue.opening.told();
        if known {
            self.settle(record.key, false, context);
        }
    }

    /// What a queue that has not been removed is called.
    pub(super) fn channel(&self, key: &Key) -> Option<&Rc<Channel>> {
        self.queues.get(key).filter(|queue| queue.removed.is_none()).map(|queue| &queue.channel)
    }

    /// The queue has been removed, and what is in it is gone.
    pub(super) fn removed(&mut self, key: Key, time: u64) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.removed = Some(time);
        }
    }

    /// One send or receive, or a message found.
    pub(super) fn push(
        &mut self,
        mechanism: Mechanism,
        record: &decode::Op,
        who: Rc<Proc>,
        context: &mut Context<'_>,
    ) {
        let op = &record.fixed;
        let has = |flag: u16| op.header.flags & flag != 0;
        let seen = has(op_flag::FROM);
        let number = if seen { op.sender_sock } else { 0 };
        if self.count >= context.limits.messages {
            self.evict(context);
        }
        let time = op.header.time;
        let enter = if has(op_flag::STRADDLES_START) { 0 } else { op.enter.min(time) };
        let gone = self.queues.get(&op.key).and_then(|queue| queue.removed);
        if gone.is_some() && has(op_flag::FOUND) {
            // Found in it when it was gone: see above.
            return;
        }
        if gone.is_some_and(|gone| enter > gone) {
            self.close(op.key, context);
        }
        let least = if mechanism == Mechanism::PosixMq { 0 } else { 1 };
        let detail = Some(op.detail).filter(|detail| *detail >= least);
        let alike = has(op_flag::ALIKE);
        let messages = u64::from(op.messages.max(1));
        let bytes = op.bytes / messages;
        let span = Span { length: time - enter, calls: messages };
        let queue = self.queue(mechanism, op.key, context);
        let before = queue.holds();
        if has(op_flag::RECEIVE) {
            let mut taken = Taken {
                who,
                enter,
                time,
                bytes,
                cut: has(op_flag::CUT),
                detail,
                digest: op.digest,
                seen,
                number,
                payload: record.payload.clone(),
                since: context.now,
                messages,
                alike,
                span,
                rivalled: false,
                overlaps: has(op_flag::OVERLAPS),
                counted: if op.pos_enter == 0 { 0 } else { op.pos_locked },
            };
            queue.pending.count(&taken, op.pos_enter);
            if !queue.take(&mut taken, context) {
                queue.wait(taken, context);
            }
        } else {
            let found = has(op_flag::FOUND);
            let sent = Sent {
                who: if found { End::Unknown(Why::BeforeStart) } else { End::Known(who) },
                enter: if found { 0 } else { enter },
                time,
                bytes,
                detail,
                digest: op.digest,
                number,
                payload: record.payload.clone(),
                messages,
                alike,
                span,
                doubt: false,
                gone: false,
            };
            queue.put(sent, context);
        }
        let after = queue.holds();
        self.count = (self.count + after).saturating_sub(before);
    }

    fn queue(&mut self, mechanism: Mechanism, key: Key, context: &Context<'_>) -> &mut Queue {
        let now = context.now;
        let queue =
            self.queues.entry(key).or_insert_with(|| Queue::new(mechanism, key, &[], context.home, now));
        queue.used = now;
        queue
    }

    /// Joins the waiting receives of a queue to their sends, as far as these have come.
    fn settle(&mut self, key: Key, force: bool, context: &mut Context<'_>) {
        if let Some(queue) = self.queues.get_mut(&key) {
            let before = queue.holds();
            queue.settle(force, context);
            let after = queue.holds();
            self.count = (self.count + after).saturating_sub(before);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, context: &mut Context<'_>) {
        let waits = |queue: &Queue| queue.waiting.len() + queue.held.len() > 0 || queue.removed.is_some();
        let keys: Vec<Key> =
            self.queues.iter().filter(|(_, queue)| waits(queue)).map(|(key, _)| *key).collect();
        for key in keys {
            // A receive that was under way when the queue was removed may still be told of.
            let removed = self.queues.get(&key).and_then(|queue| queue.removed);
            if removed.is_some_and(|removed| context.overdue(removed)) {
                self.close(key, context);
            } else {
                self.settle(key, false, context);
            }
        }
    }

    /// Ends a queue: what is in it is unread.
    fn close(&mut self, key: Key, context: &mut Context<'_>) {
        self.settle(key, true, context);
        let Some(mut queue) = self.queues.remove(&key) else { return };
        self.count = self.count.saturating_sub(queue.holds());
        for sent in queue.sent.drain() {
            queue.left(sent, context);
        }
    }

    /// The end: what nobody took.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        let mut keys: Vec<Key> = self.queues.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            self.close(key, context);
        }
    }

    /// Makes room: the queue that holds most forgets the older half of it.
    fn evict(&mut self, context: &mut Context<'_>) {
        let Some(queue) = self.queues.values_mut().max_by_key(|queue| queue.holds()) else { return };
        let before = queue.holds();
        let held = queue.held.drain(..queue.held.len().div_ceil(2)).count() as u64;
        *context.evicted += queue.sent.drop_half() + queue.waiting.drop_half() + held;
        self.count = self.count.saturating_sub(before - queue.holds());
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
            *context.evicted += queue.messages();
            self.close(key, context);
        }
    }
}

/// Receives that are held at most: each new one looks at all of them.
const HELD: usize = 256;

/// As many messages are put in doubt with one at most: those of processes whose calls overlapped.
const RIVALS: usize = 64;

/// The message that a receive took.
struct Found {
    place: Place,
    exact: bool,
    /// It may have been one of the same content but of another priority.
    alternatives: bool,
    /// What is known of its content does not tell it from others: what others take, of whom more is known, may tell.
    open: bool,
}

/// A receive of which nothing tells what it took, and the message that it has until another claims it, if there is one.
#[derive(Debug)]
struct Held {
    taken: Taken,
    sent: Option<(Sent, bool)>,
}

impl Queue {
    /// One more message.
    fn put(&mut self, sent: Sent, context: &mut Context<'_>) {
        let alike = |one: &Sent, other: &Sent| {
            if one.number != 0 || other.number != 0 {
                return one.has(other.number) || other.has(one.number);
            }
            one.bytes == other.bytes
                && one.detail == other.detail
                && digest::agree(one.digest, other.digest, one.bytes, true)
        };
        if sent.is_nameless() {
            self.unknown = self.unknown.map(|unknown| unknown.saturating_sub(1));
            self.found = self.found.max(sent.time);
            // Sent meanwhile by a call that has been told of already.
            let mut others = self.sent.among(sent.among(), 0);
            if others.any(|(_, other)| !other.is_nameless() && alike(other, &sent)) {
                return;
            }
        } else {
            if (sent.enter != 0 && sent.enter <= self.found) || sent.number != 0 {
                // It was under way while what was in the queue was looked at: it may have been found there.
                let twice = |(_, other): &(Place, &Sent)| other.is_nameless() && alike(other, &sent);
                let found = self.sent.among(sent.among(), 0).filter(twice).map(|(place, _)| place);
                let found: Vec<Place> =
                    if sent.number == 0 { found.last().into_iter().collect() } else { found.collect() };
                found.into_iter().for_each(|place| drop(self.sent.remove(place)));
            }
            self.senders.note(sent.process(), sent.time);
            self.pending.told(sent.enter, sent.time);
        }
        // Those that waited for it have taken it. Where they wait for what others send meanwhile, all have their turn together.
        let together = (self.senders.crowd() && sent.number == 0) || !self.opening.is_over(false, context);
        let (among, enter) = (sent.among(), sent.enter);
        let place = self.sent.add(sent);
        if together || self.serve(place, among, enter, context) {
            self.settle_in_time(context);
        }
    }

    /// Gives what has come to that place to those that wait for it, which are among these and took it after `enter`. False: one of them still
    /// waits.
    fn serve(&mut self, place: Place, among: Among, enter: u64, context: &mut Context<'_>) -> bool {
        loop {
            // What is left of several may stand elsewhere.
            let takes = |taken: &Taken| match taken.number {
                0 => self.sent.get(place).is_some_and(|sent| sent.fits(taken)),
                _ => self.find(taken).is_some(),
            };
            let mut waiting = self.waiting.among(among, enter);
            let Some((waiting, _)) = waiting.find(|(_, taken)| takes(taken)) else { return true };
            if !self.retry(waiting, false, context) {
                return false;
            }
        }
    }

    /// Joins what has waited for [`LINGER`]; the more there is, the less often.
    fn settle_in_time(&mut self, context: &mut Context<'_>) {
        /// As many as are looked at in a fraction of that time.
        const MANY: u64 = 4096;
        let pause = LINGER + LINGER / MANY * self.waiting.len() as u64;
        if self.senders.crowd() && context.now.saturating_sub(self.settled) >= pause {
            self.settle(false, context);
        }
    }

    /// One more receive. False: it waits.
    fn take(&mut self, taken: &mut Taken, context: &mut Context<'_>) -> bool {
        // First those like it that wait.
        let kind = taken.kind();
        let mut waiting = self.waiting.among(Among::like(kind), 0).map(|(_, other)| other.kind());
        let is_first = !waiting.any(|other| other.may_be(kind));
        drop(waiting);
        is_first && self.opening.is_over(false, context) && self.receive(taken, false, context)
    }

    /// A receive waits for its send.
    fn wait(&mut self, taken: Taken, context: &mut Context<'_>) {
        self.waiting.add(taken);
        self.settle_in_time(context);
    }

    /// Joins the waiting receives to their sends, as far as these have come.
    fn settle(&mut self, force: bool, context: &mut Context<'_>) {
        if !self.opening.is_over(force, context) {
            return;
        }
        self.settled = context.now;
        for place in self.waiting.places() {
            self.retry(place, force, context);
        }
        self.release(force, context);
    }

    /// The same for one of them. False: it still waits.
    fn retry(&mut self, place: Place, force: bool, context: &mut Context<'_>) -> bool {
        // Before all that wait are looked at.
        if self.waiting.get(place).is_some_and(|taken| self.must_wait(taken, force, context)) {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut done = false;
        if let Some(mut taken) = waiting.remove(place) {
            let (who, enter, time) = (taken.who.identity(), taken.enter, taken.time);
            let is_rival =
                |other: &Taken| other.who.identity() != who && other.enter <= time && enter <= other.time;
            taken.rivalled = waiting.among(Among::like(taken.kind()), 0).any(|(_, other)| is_rival(other));
            done = self.receive(&mut taken, force, context);
            if !done {
                waiting.put_back(place, taken);
            }
        }
        self.waiting = waiting;
        done
    }

    /// Writes a receive as far as its sends are known, or will not come. False: it, or the rest of it, waits.
    fn receive(&mut self, taken: &mut Taken, force: bool, context: &mut Context<'_>) -> bool {
        while taken.messages > 0 {
            if !self.receive_some(taken, force, context) {
                return false;
            }
        }
        true
    }

    /// The same for those of its messages that one record tells the send of.
    fn receive_some(&mut self, taken: &mut Taken, force: bool, context: &mut Context<'_>) -> bool {
        if self.must_wait(taken, force, context) {
            return false;
        }
        self.pending.forget(taken);
        let found = self.find(taken);
        if let Some(open) = found.as_ref().filter(|found| found.open) {
            let sent = self.take_out(open.place, taken, 1).map(|sent| (sent, open.exact));
            self.held.push_back(Held { taken: taken.clone(), sent });
            self.receivers.note(taken.who.identity(), taken.time);
            taken.messages = 0;
            return true;
        }
        self.conclude(found, taken, force, context)
    }

    /// Whether of several senders one may not be done yet whose message was first.
    fn must_wait(&self, taken: &Taken, force: bool, context: &Context<'_>) -> bool {
        let several = self.senders.crowd() || taken.counted != 0 || self.pending.has(taken);
        taken.number == 0 && several && !self.is_settled(taken, force, context)
    }

    /// Whether what a receive took has been told of, if anything that was under way at its end ever is.
    fn is_settled(&self, taken: &Taken, force: bool, context: &Context<'_>) -> bool {
        let passed = context.now.saturating_sub(taken.time);
        force || passed >= PATIENCE || (passed >= LINGER && !self.pending.has(taken))
    }

    /// Takes out so many of the messages that stand there at most: the first, or from the one on that was taken, if that has a number.
    fn take_out(&mut self, place: Place, taken: &Taken, most: u64) -> Option<Sent> {
        let sent = self.sent.get_mut(place)?;
        // Those before it, which others have taken or will, stay behind.
        let ahead = if sent.number == 0 { 0 } else { taken.number.saturating_sub(sent.number) };
        if ahead == 0 && sent.messages <= most {
            return self.sent.remove(place);
        }
        if sent.number == 0 {
            sent.messages -= most;
            return Some(sent.part(0, most, sent.messages));
        }
        let sent = self.sent.remove(place)?;
        let these = most.min(sent.messages - ahead);
        let behind = sent.messages - ahead - these;
        if ahead > 0 {
            self.sent.add(sent.part(0, ahead, these + behind));
        }
        if behind > 0 {
            self.sent.put_back(place, sent.part(ahead + these, behind, 0));
        }
        Some(sent.part(ahead, these, behind))
    }

    /// The same once it is not open any more.
    fn conclude(
        &mut self,
        found: Option<Found>,
        taken: &mut Taken,
        force: bool,
        context: &mut Context<'_>,
    ) -> bool {
        let settled = self.is_settled(taken, force, context);
        // Late enough for a receive that seems to have taken what another was given.
        let late = force || context.overdue(taken.since);
        match found.or_else(|| late.then(|| self.find_swapped(taken)).flatten()) {
            Some(found) => {
                if !found.exact {
                    self.doubt_rivals(found.place, taken);
                }
                if self.senders.crowd()
                    && self.sent.get(found.place).is_some_and(|sent| self.is_doubtful(sent, taken, context))
                {
                    self.doubt_next(found.place, taken);
                }
                let Some(mut sent) = self.take_out(found.place, taken, taken.messages) else { return false };
                if self.is_unasked(taken) {
                    self.guesses.add(sent.kind(), sent.process());
                }
                if taken.number == 0 && self.senders.crowd() {
                    self.given.note(&sent, taken.time);
                }
                if found.alternatives {
                    sent.detail = None;
                }
                taken.joined(sent.messages);
                let latency = (!found.alternatives && !sent.is_nameless())
                    .then(|| taken.end().saturating_sub(sent.time));
                self.write(&sent, taken, found.exact, latency, context);
            }
            None if settled && let Some((sent, exact)) = self.claim(taken) => {
                taken.joined(sent.messages);
                let latency = (!sent.is_nameless()).then(|| taken.time.saturating_sub(sent.time));
                self.write(&sent, taken, exact, latency, context);
            }
            None => {
                let Some(why) = self.missing(taken, force, context) else { return false };
                let sent = Sent {
                    who: End::Unknown(why),
                    enter: 0,
                    time: 0,
                    bytes: taken.bytes,
                    detail: None,
                    digest: 0,
                    number: 0,
                    payload: Bytes::new(),
                    messages: self.missing_in_front(taken),
                    alike: taken.alike,
                    span: Span::default(),
                    doubt: false,
                    gone: false,
                };
                taken.joined(sent.messages);
                self.write(&sent, taken, true, None, context);
            }
        }
        self.receivers.note(taken.who.identity(), taken.time);
        true
    }

    /// The message of which another receive is not known to have taken it, which is given the next one.
    fn claim(&mut self, taken: &Taken) -> Option<(Sent, bool)> {
        let claims = |held: &Held| held.sent.as_ref().is_some_and(|(sent, _)| sent.fits(taken));
        let index = self.held.iter().position(claims)?;
        let (sent, _) = self.held[index].sent.take()?;
        if let Some(next) = self.find(&self.held[index].taken) {
            let taken = self.held[index].taken.clone();
            self.held[index].sent = self.take_out(next.place, &taken, 1).map(|sent| (sent, next.exact));
        }
        let others = self.held.iter().filter(|held| claims(held)).filter_map(|held| held.sent.as_ref());
        let exact = others.into_iter().all(|(other, _)| other.process() == sent.process());
        Some((sent, exact))
    }

    /// Writes receives whose messages nobody has claimed for long enough.
    fn release(&mut self, force: bool, context: &mut Context<'_>) {
        while let Some(held) = self.held.front()
            && (force || self.held.len() > HELD || context.overdue(held.taken.since))
            && let Some(Held { mut taken, sent }) = self.held.pop_front()
        {
            match sent {
                Some((sent, exact)) => {
                    taken.messages = 0;
                    let latency =
                        (exact && !sent.is_nameless()).then(|| taken.time.saturating_sub(sent.time));
                    self.write(&sent, &taken, exact, latency, context);
                }
                // All of those that it may have taken are others': its own has not come.
                None => {
                    let found = self.find(&taken);
                    self.conclude(found, &mut taken, true, context);
                }
            }
        }
    }

    /// How many messages in front of a receive have no send: of those with numbers, up to the first of which there is one.
    fn missing_in_front(&self, taken: &Taken) -> u64 {
        if taken.number == 0 {
            return taken.messages;
        }
        let numbers = self.sent.among(Among::Numbers(taken.number, taken.messages), 0);
        let ahead = numbers.filter_map(|(_, sent)| sent.number.checked_sub(taken.number));
        ahead.filter(|ahead| *ahead > 0).min().unwrap_or(taken.messages).min(taken.messages)
    }

    /// Why there is no send, if none is waited for any more.
    fn missing(&mut self, taken: &Taken, force: bool, context: &Context<'_>) -> Option<Why> {
        // A message with a number was sent, or found, since then; one that was seen and has none was not.
        let before_start = taken.number == 0 && (taken.seen || self.unknown != Some(0));
        let why = if before_start && context.loss.is_none() { Why::BeforeStart } else { Why::Lost };
        if !force && !context.given_up(taken.since, before_start) {
            return None;
        }
        if taken.number == 0 {
            self.unknown = self.unknown.map(|unknown| unknown.saturating_sub(taken.messages));
        }
        Some(why)
    }

    /// The first message that fits, of the highest priority if the receiver did not ask which it has.
    fn find(&self, taken: &Taken) -> Option<Found> {
        let among = Among::like(taken.kind());
        let fitting = || self.sent.begun(among, taken.time).filter(|(_, sent)| sent.fits(taken));
        if taken.number != 0 {
            let (place, _) = fitting().next()?;
            return Some(Found { place, exact: true, alternatives: false, open: false });
        }
        let highest =
            if self.is_unasked(taken) { fitting().filter_map(|(_, sent)| sent.detail).max() } else { None };
        let (place, chosen) = fitting().find(|(_, sent)| highest.is_none() || sent.detail == highest)?;
        let overlapped = self.overlapped(taken);
        // Another process's equal message that may have been first, or may have been taken by a receiver at the same time.
        let nameless = Among::like(Kind::Nameless);
        let several =
            self.senders.crowd() || self.sent.among(nameless, 0).any(|(_, other)| other.is_nameless());
        let others = if several { usize::MAX } else { 0 };
        let mut rivals = fitting().take(others).filter(|(_, other)| other.process() != chosen.process());
        // What could not be read of one of the two may be what would tell it from the other. Where there was no need to, the first is it.
        let short = taken.is_short() && fitting().any(|(_, other)| other.bytes > taken.bytes);
        let unread = (taken.digest == 0 && !taken.alike) || (chosen.digest == 0 && !chosen.alike);
        let blind = unread || short;
        // One of a higher priority may have come too late.
        let there = taken.detail.is_some() || chosen.time < taken.enter;
        let certain = there && !blind && !overlapped;
        let claimed = |held: &Held| {
            let other = held.sent.as_ref().filter(|(sent, _)| sent.fits(taken));
            other.is_some_and(|(other, _)| other.process() != chosen.process())
        };
        let doubtful = chosen.doubt
            || self.held.iter().any(claimed)
            || (overlapped && self.given.since(taken, chosen.process()));
        let exact = rivals.all(|(_, other)| certain && !other.overlaps(chosen))
            && !doubtful
            && !(self.guesses.doubt(taken.kind(), chosen.process()) && self.others(taken).next().is_some());
        // The highest came too late, or another receive took it at the same time, of which may not have been told yet.
        let sure = there && !self.receivers.others(taken.who.identity());
        let alternatives =
            self.is_unasked(taken) && !sure && fitting().any(|(_, other)| other.detail != chosen.detail);
        let differs = |other: &Sent| (other.bytes, other.digest) != (chosen.bytes, chosen.digest);
        let open = taken.cut && fitting().any(|(_, other)| differs(other));
        Some(Found { place, exact, alternatives, open })
    }

    /// Which of a message and those that it may as well have been is left when one of them is given away is as much in doubt as which was
    /// taken.
    fn doubt_rivals(&mut self, place: Place, taken: &Taken) {
        let Some(chosen) = self.sent.get(place) else { return };
        let another = |other: &Sent| other.fits(taken) && other.process() != chosen.process();
        // Of two that receive at once either may have taken the first, and the other has the next.
        let overlapped = self.overlapped(taken);
        let among = self.sent.begun(Among::like(taken.kind()), taken.time);
        let rivals: Vec<Place> = among
            .filter(|(_, other)| another(other))
            .enumerate()
            .filter(|(index, (_, other))| other.overlaps(chosen) || (overlapped && *index == 0))
            .map(|(_, (place, _))| place)
            .take(RIVALS)
            .collect();
        for place in rivals {
            if let Some(rival) = self.sent.get_mut(place) {
                rival.doubt = true;
            }
        }
    }

    /// A receive of which the record was lost may have taken the message that this one is given: then this one has taken the next, and that is
    /// as if its receive were lost.
    fn doubt_next(&mut self, place: Place, taken: &Taken) {
        let mut others = self.sent.begun(Among::like(taken.kind()), taken.time);
        let next = others.find(|(other, sent)| *other != place && sent.fits(taken)).map(|(place, _)| place);
        drop(others);
        if let Some(next) = next.and_then(|place| self.sent.get_mut(place)) {
            next.gone = true;
        }
    }

    /// Whether another process was receiving at the same time.
    fn overlapped(&self, taken: &Taken) -> bool {
        taken.overlaps || taken.rivalled || self.receivers.overlaps(taken.who.identity(), taken.enter)
    }

    /// Whether it took a message of the highest priority there was, and did not ask for that.
    fn is_unasked(&self, taken: &Taken) -> bool {
        self.mechanism == Mechanism::PosixMq && taken.number == 0 && taken.detail.is_none()
    }

    /// What is left of the messages of which one was given to a receive that took another: that receive took it, or what was
    /// given to yet another, which took it; and this one took what was given away. Where all of them are of one process, each has
    /// its sender all the same.
    fn find_swapped(&mut self, taken: &Taken) -> Option<Found> {
        let given = if self.is_unasked(taken) {
            // What it took was left over then, and has been found to be another's.
            (!self.guesses.is_empty()).then_some(None)?
        } else {
            Some(self.guesses.take(taken.kind())?)
        };
        let (place, chosen) = self.others(taken).next()?;
        let sender = given.unwrap_or(chosen.process());
        let rivals = self.others(taken).any(|(_, other)| other.process() != sender);
        Some(Found { place, exact: !rivals, alternatives: true, open: false })
    }

    /// Messages of the content that was received, but of another priority.
    fn others(&self, taken: &Taken) -> impl Iterator<Item = (Place, &Sent)> {
        let all = self.sent.among(Among::All, 0);
        all.filter(|(_, sent)| sent.detail != taken.detail && sent.has_content_of(taken))
    }

    /// Whether the receive of that message may have been lost: what was taken now is then another, whose send may have been lost too.
    /// Of a send that is missing nothing is told. Where all messages were alike when it was taken, one process had sent them.
    fn is_doubtful(&self, sent: &Sent, taken: &Taken, context: &Context<'_>) -> bool {
        sent.number == 0 && sent.time != 0 && !taken.alike && sent.may_be_gone(context)
    }

    /// Writes what was received, and what of the message did not fit and is gone.
    fn write(
        &self,
        sent: &Sent,
        taken: &Taken,
        exact: bool,
        latency: Option<u64>,
        context: &mut Context<'_>,
    ) {
        let exact = exact && !self.is_doubtful(sent, taken, context);
        // As sent, for the receiver may have changed it since; but no more of it than was received.
        let payload = if sent.payload.is_empty() { &taken.payload } else { &sent.payload };
        let length = payload.len().min(usize::try_from(taken.bytes).unwrap_or(usize::MAX));
        let received = Transfer {
            time: taken.end(),
            receiver: End::Known(Rc::clone(&taken.who)),
            bytes: taken.bytes * sent.messages,
            latency,
            exact,
            payload: (length > 0).then(|| payload.slice(..length)),
            ..self.transfer(sent, taken.detail)
        };
        context.out.push(Event::Transfer(received));
        if sent.bytes > taken.bytes {
            let rest = Transfer {
                time: taken.time,
                bytes: sent.bytes - taken.bytes,
                exact,
                truncated: true,
                payload: None,
                ..self.transfer(sent, taken.detail)
            };
            context.out.push(Event::Transfer(rest));
        }
    }

    /// Writes a message that nobody took.
    fn left(&self, sent: Sent, context: &mut Context<'_>) {
        let exact = !sent.doubt && !sent.may_be_gone(context);
        context.out.push(Event::Transfer(Transfer { exact, ..self.transfer(&sent, None) }));
    }

    /// A message that nobody took.
    fn transfer(&self, sent: &Sent, detail: Option<i64>) -> Transfer {
        let detail = detail.or(sent.detail);
        let posix = self.mechanism == Mechanism::PosixMq;
        Transfer {
            time: sent.time,
            mechanism: self.mechanism,
            channel: Rc::clone(&self.channel),
            sender: sent.who.clone(),
            receiver: End::Unknown(Why::Unread),
            bytes: sent.bytes * sent.messages,
            messages: sent.messages,
            latency: None,
            exact: true,
            truncated: false,
            payload: (!sent.payload.is_empty()).then(|| sent.payload.clone()),
            priority: detail.filter(|_| posix).and_then(|priority| u32::try_from(priority).ok()),
            msg_type: detail.filter(|_| !posix),
            value: None,
        }
    }
}

#[cfg(test)]
mod tests;
