//! Joins sends to receives: records in the order of their times go in, events come out.
//!
//! Pure: no clock, no I/O. Time is what the records say, and what the caller passes to [`Correlator::tick`]. One
//! module serves one [`Shape`]; `docs/architecture.md` has the rules.

mod address;
mod books;
mod cache;
mod call;
mod connection;
mod context;
mod counter;
mod datagram;
mod direct;
mod handoff;
mod intern;
mod join;
mod message;
mod naming;
mod opening;
mod order;
mod position;
mod put;
mod queue;
mod range;
mod sequence;
mod shared;
mod signal;
mod stream;
mod take;
mod terminal;
mod torn;
mod wake;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;

use std::borrow::Borrow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use ipctrace_common::config::CHANNELS_KNOWN;
use ipctrace_common::wire::{self, channel_flag, op_flag, process_event, wake_flag};
use ipctrace_common::{Cause, Mechanism, Shape};

use crate::decode::{self, Record};
use crate::model::{Channel, Event, Flow, Lost};

use address::Locals;
use call::Call;
use connection::{Connections, Streams};
use context::Context;
use counter::Counter;
use datagram::Datagrams;
use handoff::Handoffs;
use intern::Procs;
use message::Messages;
use queue::Queues;
use shared::Shared;
use signal::Signals;
use stream::Stream;
use terminal::Terminal;
use wake::Wakes;

pub use naming::Home;

/// Bounds on memory. What is pushed out by them is counted: see [`Correlator::evicted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queues of bytes or messages known at once. The eighth that was used longest ago makes room.
    pub streams: usize,
    /// Sends, and waiting calls of each side, held for one stream.
    pub ranges: usize,
    /// Messages sent and not yet received, and receives that wait for their send, in all.
    pub messages: usize,
    /// Signals generated and not yet delivered.
    pub signals: usize,
    /// Threads whose identity is kept at hand.
    pub processes: usize,
}

impl Default for Limits {
    /// Enough for a busy host, in the order of a hundred megabytes should all be reached.
    fn default() -> Limits {
        Limits {
            streams: CHANNELS_KNOWN as usize,
            ranges: 65_536,
            messages: 131_072,
            signals: 65_536,
            processes: 65_536,
        }
    }
}

/// More than any call moves, or any queue holds.
const LARGEST: u64 = 1 << 48;
/// More than any channel carries, and little enough that sums of it do not overflow.
const BOOKS: u64 = 1 << 56;

/// Joins sends to receives.
#[derive(Debug)]
pub struct Correlator {
    limits: Limits,
    procs: Procs,
    streams: Streams,
    counters: HashMap<wire::Key, Counter>,
    terminals: HashMap<wire::Key, Terminal>,
    connections: Connections,
    locals: Locals,
    messages: Messages,
    datagrams: Datagrams,
    queues: Queues,
    signals: Signals,
    handoffs: Handoffs,
    shared: Shared,
    wakes: Wakes,
    home: Home,
    /// The latest time seen.
    now: u64,
    /// When losses were last reported.
    loss: Option<u64>,
    evicted: u64,
    forgotten: Vec<wire::Key>,
}

/// A [`Context`] made of the correlator's parts, its other parts left free to be borrowed.
macro_rules! context {
    ($self:ident, $out:ident) => {
        Context {
            now: $self.now,
            loss: $self.loss,
            home: $self.home,
            limits: &$self.limits,
            evicted: &mut $self.evicted,
            out: $out,
        }
    };
}

impl Correlator {
    /// A correlator that has seen nothing.
    pub fn new(limits: Limits) -> Correlator {
        Correlator {
            limits,
            procs: Procs::default(),
            streams: Streams::default(),
            counters: HashMap::new(),
            terminals: HashMap::new(),
            connections: Connections::default(),
            locals: Locals::default(),
            messages: Messages::default(),
            datagrams: Datagrams::default(),
            queues: Queues::default(),
            signals: Signals::default(),
            handoffs: Handoffs::default(),
            shared: Shared::default(),
            wakes: Wakes::default(),
            home: Home::default(),
            now: 0,
            loss: None,
            evicted: 0,
            forgotten: Vec::new(),
        }
    }

    /// One record, in the order of their times. Events are appended to `out`.
    pub fn push(&mut self, record: impl Borrow<Record>, out: &mut Vec<Event>) {
        self.take(record.borrow(), out);
    }

    fn take(&mut self, record: &Record, out: &mut Vec<Event>) {
        let time = match record {
            Record::Channel(channel, _) => channel.header.time,
            Record::Op(op) => op.fixed.header.time,
            Record::Signal(signal) => signal.header.time,
            Record::Process(process) => process.header.time,
            Record::Handoff(handoff) => handoff.header.time,
            Record::Datagram(datagram) => datagram.header.time,
            Record::Share(share, _) => share.header.time,
            Record::Touch(touch) => touch.header.time,
            Record::Direct(direct) => direct.header.time,
            Record::Wake(wake) => wake.header.time,
        };
        self.now = self.now.max(time);
        let understood = match record {
            Record::Channel(channel, name) => self.channel(channel, name, out),
            Record::Op(op) => self.op(op, out),
            Record::Signal(signal) => self.signal(signal, out),
            Record::Process(process) => self.process(process, out),
            Record::Handoff(handoff) => self.handoff(**handoff, out),
            Record::Datagram(datagram) => self.datagram(datagram, out),
            Record::Share(share, name) => self.share(share, name, out),
            Record::Touch(touch) => {
                let who = self.procs.intern(&touch.task, self.limits.processes);
                self.shared.touch(touch, &who, &mut context!(self, out));
                Some(())
            }
            Record::Direct(direct) => self.direct(direct, out),
            Record::Wake(wake) => self.wake(wake, out),
        };
        if understood.is_none() {
            out.push(Event::Lost(Lost { time, cause: Cause::Malformed, count: 1 }));
        }
    }

    /// `None`: the record is of a mechanism that has no such records, or claims what cannot be.
    fn channel(&mut self, record: &wire::Channel, name: &Bytes, out: &mut Vec<Event>) -> Option<()> {
        let mechanism = Mechanism::from_wire(record.header.mechanism)?;
        if record.queued != u64::MAX && record.queued > LARGEST && mechanism.shape() != Shape::Counter {
            return None;
        }
        if mechanism == Mechanism::Tcp {
            self.make_room(out);
            let Correlator { connections, streams, locals, .. } = self;
            return connections.opened(record, name, streams, locals, &mut context!(self, out));
        }
        if mechanism == Mechanism::Udp {
            self.make_room(out);
            let Correlator { datagrams, locals, .. } = self;
            datagrams.opened(record, name, locals, &mut context!(self, out));
            return Some(());
        }
        match mechanism.shape() {
            Shape::Stream => {
                self.make_room(out);
                let now = self.now;
                let stream = self
                    .streams
                    .entry(record.key)
                    .or_insert_with(|| Box::new(Stream::new(mechanism, record.key, now)));
                stream.opened(record, name, &mut context!(self, out));
                Some(())
            }
            Shape::Message => {
                self.make_room(out);
                self.messages.opened(mechanism, record, name, &mut context!(self, out));
                Some(())
            }
            Shape::Counter => {
                self.make_room(out);
                let now = self.now;
                let counter =
                    self.counters.entry(record.key).or_insert_with(|| Counter::new(record.key, now));
                let made = record.header.flags & channel_flag::MADE != 0;
                let maker = made.then(|| self.procs.intern(&record.task, self.limits.processes));
                counter.opened(record, maker, &mut context!(self, out));
                Some(())
            }
            Shape::Queue => {
                if record.header.flags & channel_flag::REMOVED != 0 {
                    self.queues.removed(record.key, record.header.time);
                } else {
                    self.make_room(out);
                    self.queues.opened(mechanism, record, name, &mut context!(self, out));
                }
                Some(())
            }
            Shape::Terminal => {
                self.make_room(out);
                let now = self.now;
                let terminal =
                    self.terminals.entry(record.key).or_insert_with(|| Terminal::new(record.key, now));
                terminal.opened(record, &mut context!(self, out));
                let screen = wire::Key { space: record.key.space | 1, ..record.key };
                if record.key != screen
                    && let Some(screen) = self.terminals.get_mut(&screen)
                {
                    screen.other_opened(record.header.time);
                }
                Some(())
            }
            Shape::Wake => {
                self.wakes.named(record, name, self.limits.streams);
                Some(())
            }
            Shape::Shared | Shape::Direct | Shape::Signal => None,
        }
    }

    fn op(&mut self, op: &decode::Op, out: &mut Vec<Event>) -> Option<()> {
        let fixed = &op.fixed;
        let mechanism = Mechanism::from_wire(fixed.header.mechanism)?;
        if fixed.bytes.max(fixed.message_len) > LARGEST || fixed.before > BOOKS {
            return None;
        }
        let who = self.procs.intern(&fixed.task, self.limits.processes);
        if mechanism == Mechanism::Tcp {
            let call = Call::new(op, who);
            let Correlator { connections, streams, .. } = self;
            connections.call(fixed, call, streams, &mut context!(self, out));
            return Some(());
        }
        if mechanism == Mechanism::Udp {
            let Correlator { datagrams, locals, .. } = self;
            datagrams.push(op, who, locals, &mut context!(self, out));
            return Some(());
        }
        match mechanism.shape() {
            Shape::Stream => {
                let (key, now) = (fixed.key, self.now);
                let receive = fixed.header.flags & op_flag::RECEIVE != 0;
                let inodes = (fixed.sender_inode, fixed.receiver_inode);
                let stream = match self.streams.get_mut(&key) {
                    Some(stream) => stream,
                    None => {
                        self.make_room(out);
                        let new = || Box::new(Stream::new(mechanism, key, now));
                        self.streams.entry(key).or_insert_with(new)
                    }
                };
                stream.used = now;
                stream.call(receive, inodes, Call::new(op, who), &mut context!(self, out));
                Some(())
            }
            Shape::Message => {
                self.make_room(out);
                self.messages.push(mechanism, op, who, &mut context!(self, out));
                Some(())
            }
            Shape::Counter => {
                self.make_room(out);
                let now = self.now;
                let counter = self.counters.entry(fixed.key).or_insert_with(|| Counter::new(fixed.key, now));
                counter.used = now;
                counter.call(fixed, who, &mut context!(self, out));
                Some(())
            }
            Shape::Queue => {
                self.make_room(out);
                self.queues.push(mechanism, op, who, &mut context!(self, out));
                Some(())
            }
            Shape::Terminal => {
                self.make_room(out);
                let (key, now) = (fixed.key, self.now);
                let (echo, enter, time) = (fixed.digest, fixed.enter, fixed.header.time);
                if echo > LARGEST {
                    return None;
                }
                let screen = wire::Key { space: key.space | 1, ..key };
                if key != screen && fixed.header.flags & op_flag::RECEIVE == 0 && echo > 0 {
                    let terminal = self.terminals.entry(screen).or_insert_with(|| Terminal::new(screen, now));
                    terminal.echo(echo, enter, time, &mut context!(self, out));
                }
                let terminal = self.terminals.entry(key).or_insert_with(|| Terminal::new(key, now));
                terminal.used = now;
                terminal.call(op, who, &mut context!(self, out));
                Some(())
            }
            Shape::Shared | Shape::Wake | Shape::Direct | Shape::Signal => None,
        }
    }

    fn signal(&mut self, record: &wire::Signal, out: &mut Vec<Event>) -> Option<()> {
        let task = self.procs.intern(&record.task, self.limits.processes);
        let target = self.procs.intern(&record.target, self.limits.processes);
        self.signals.trim(self.limits.signals);
        self.signals.push(record, task, target, &mut context!(self, out)).ok()
    }

    fn process(&mut self, record: &wire::Process, out: &mut Vec<Event>) -> Option<()> {
        match record.header.flags {
            process_event::FORK => {
                let child = self.procs.intern(&record.task, self.limits.processes);
                let (parent, same) = (record.parent.tgid, record.same_memory != 0);
                self.shared.forked(parent, &child, same, record.header.time, &mut context!(self, out));
            }
            process_event::EXEC => {
                // Its name is that of the new program already.
                self.shared.left(record.task.tgid, None, record.header.time, &mut context!(self, out));
            }
            process_event::EXIT => {
                let who = self.procs.intern(&record.task, self.limits.processes);
                let time = record.header.time;
                self.shared.left(record.task.tgid, Some(&who), time, &mut context!(self, out));
                self.procs.forget(record.task.tid);
                self.signals.exited(record.task.tgid, &mut context!(self, out));
            }
            _ => return None,
        }
        Some(())
    }

    fn direct(&mut self, record: &wire::Direct, out: &mut Vec<Event>) -> Option<()> {
        let mechanism = Mechanism::from_wire(record.header.mechanism)?;
        if record.bytes > LARGEST {
            return None;
        }
        let caller = self.procs.intern(&record.task, self.limits.processes);
        let target = self.procs.intern(&record.target, self.limits.processes);
        out.push(direct::event(record, mechanism, caller, target));
        Some(())
    }

    fn wake(&mut self, record: &wire::Wake, out: &mut Vec<Event>) -> Option<()> {
        let woken = self.procs.intern(&record.task, self.limits.processes);
        let waker = (record.header.flags & wake_flag::WAKER != 0)
            .then(|| self.procs.intern(&record.waker, self.limits.processes));
        out.push(Event::Wake(self.wakes.event(record, waker, woken, self.home, self.limits.streams)?));
        Some(())
    }

    /// What is passed, under the name that its own events have.
    fn passed(&self, record: &wire::Handoff) -> Rc<Channel> {
        // An inode number alone does not make a file the same: what these tell of is there now.
        let filed = handoff::mechanism(record).is_none();
        let key = wire::Key { id: record.object_inode, space: record.object_device };
        let known = self.shared.channel(&key).or_else(|| self.queues.channel(&key)).filter(|_| filed);
        known.map_or_else(|| Rc::new(handoff::object(record)), Rc::clone)
    }

    fn handoff(&mut self, record: wire::Handoff, out: &mut Vec<Event>) -> Option<()> {
        if record.header.flags & op_flag::GETFD != 0 {
            let taker = self.procs.intern(&record.task, self.limits.processes);
            let gone = record.owner.tgid == 0;
            let owner = (!gone).then(|| self.procs.intern(&record.owner, self.limits.processes));
            let object = self.passed(&record);
            out.push(handoff::taken(&record, owner, taker, object));
            return Some(());
        }
        let mechanism = Mechanism::from_wire(record.header.mechanism)?;
        let who = self.procs.intern(&record.task, self.limits.processes);
        let key = record.key;
        let inodes = (record.sender_inode, record.receiver_inode);
        let stream = self.streams.get(&key).and_then(|stream| stream.name_of(mechanism, inodes));
        let message = || self.messages.name_of(&key, mechanism, inodes);
        let name = stream.or_else(message).map(<[u8]>::to_vec);
        let receive = record.header.flags & op_flag::RECEIVE != 0;
        let object = self.passed(&record);
        self.handoffs.push(record, mechanism, receive, who, name, object, &mut context!(self, out));
        Some(())
    }

    fn datagram(&mut self, record: &wire::Datagram, out: &mut Vec<Event>) -> Option<()> {
        self.make_room(out);
        let who = (record.enter != 0).then(|| self.procs.intern(&record.task, self.limits.processes));
        let Correlator { datagrams, locals, .. } = self;
        datagrams.seen(record, who, locals, &mut context!(self, out))
    }

    fn share(&mut self, record: &wire::Share, name: &[u8], out: &mut Vec<Event>) -> Option<()> {
        let who = self.procs.intern(&record.task, self.limits.processes);
        self.shared.push(record, name, &who, &mut context!(self, out))
    }

    /// Ids in these namespaces are shown as they are, those of others with the namespace.
    pub fn at_home(&mut self, home: Home) {
        self.home = home;
    }

    /// The latest time known, ns since boot.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// What no event shows: for each piece of shared memory the pairs of a process that can write and another that has it
    /// mapped, with the size of the memory, up to `now`.
    pub fn pairs(&self, now: u64) -> Vec<Flow> {
        self.shared.pairs(now)
    }

    /// The kernel reported `count` losses of this cause since the last call; `now` is ns since boot.
    ///
    /// What is missing from now on, or has been missing for a while, may be one of them.
    pub fn lost(&mut self, now: u64, cause: Cause, count: u64, out: &mut Vec<Event>) {
        if count == 0 {
            return;
        }
        // What happened before it may still be under way.
        self.loss = self.loss.max(Some(now));
        out.push(Event::Lost(Lost { time: now, cause, count }));
    }

    /// Time has passed (call it about every 100 ms): settles what was held back for long enough.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Event>) {
        self.now = self.now.max(now);
        let mut context = context!(self, out);
        self.connections.tick(&mut self.streams, &mut self.locals, &mut context);
        for stream in self.streams.values_mut() {
            if stream.holds() > 0 {
                stream.settle(false, &mut context);
            } else {
                stream.give_back(&context);
            }
        }
        for terminal in self.terminals.values_mut() {
            if terminal.waits() {
                terminal.settle(false, &mut context);
            }
        }
        for counter in self.counters.values_mut() {
            if counter.waits() {
                counter.settle(false, &mut context);
            }
        }
        self.messages.tick(false, &mut context);
        self.datagrams.tick(false, &mut self.locals, &mut context);
        self.queues.tick(&mut context);
        self.handoffs.join(false, &mut context);
    }

    /// The end: what nobody took becomes transfers `unread`, signals on their way are blocked or undelivered.
    pub fn finish(&mut self, now: u64, out: &mut Vec<Event>) {
        self.now = self.now.max(now);
        let mut context = context!(self, out);
        self.connections.finish(&mut self.streams, &mut context);
        let mut streams: Vec<(wire::Key, Box<Stream>)> = self.streams.drain().collect();
        streams.sort_unstable_by_key(|(key, _)| *key);
        for (_, mut stream) in streams {
            stream.finish(&mut context);
        }
        let mut counters: Vec<(wire::Key, Counter)> = self.counters.drain().collect();
        counters.sort_unstable_by_key(|(key, _)| *key);
        for (_, mut counter) in counters {
            counter.finish(&mut context);
        }
        let mut terminals: Vec<(wire::Key, Terminal)> = self.terminals.drain().collect();
        terminals.sort_unstable_by_key(|(key, _)| *key);
        for (_, mut terminal) in terminals {
            terminal.finish(&mut context);
        }
        self.messages.finish(&mut context);
        self.datagrams.finish(&mut self.locals, &mut context);
        self.queues.finish(&mut context);
        self.handoffs.finish(&mut context);
        self.signals.finish(&mut context);
    }

    /// Whether an internet address has been met of which it is not known whether it is this host's: the caller should find
    /// all of them and [`Correlator::learn`].
    pub fn wants_addresses(&self) -> bool {
        self.locals.wanted()
    }

    /// The addresses that this host has in any of its network namespaces; `gathered`: from when to when (ns since boot).
    pub fn learn(&mut self, addresses: HashSet<IpAddr>, gathered: (u64, u64)) {
        self.locals.learn(addresses, gathered);
    }

    /// How many sends, receives and signals have been forgotten before they were matched, for want of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Channels that are no longer known here: the kernel may forget its books of them too.
    pub fn take_forgotten(&mut self) -> Vec<wire::Key> {
        std::mem::take(&mut self.forgotten)
    }

    /// Forgets the eighth of all queues that was used longest ago, if there are too many.
    fn make_room(&mut self, out: &mut Vec<Event>) {
        let keys = self.streams.len()
            + self.counters.len()
            + self.terminals.len()
            + self.messages.len()
            + self.connections.len()
            + self.datagrams.len()
            + self.queues.len();
        if keys < self.limits.streams {
            return;
        }
        let streams = self.streams.iter().map(|(key, stream)| (stream.used, *key));
        let counters = self.counters.iter().map(|(key, counter)| (counter.used, *key));
        let terminals = self.terminals.iter().map(|(key, terminal)| (terminal.used, *key));
        let queues = self.messages.ages().chain(self.queues.ages()).map(|(key, used)| (used, key));
        let halves = self.connections.ages().map(|(key, used)| (used, key));
        let sockets = self.datagrams.ages().map(|(key, used)| (used, key));
        let mut ages: Vec<(u64, wire::Key)> =
            streams.chain(counters).chain(terminals).chain(queues).chain(halves).chain(sockets).collect();
        let part = (ages.len() / 8).max(1).min(ages.len());
        if part < ages.len() {
            ages.select_nth_unstable(part);
        }
        let mut context = context!(self, out);
        for (_, key) in ages.into_iter().take(part) {
            if let Some(mut stream) = self.streams.remove(&key) {
                *context.evicted += stream.holds();
                stream.finish(&mut context);
            }
            if let Some(mut counter) = self.counters.remove(&key) {
                *context.evicted += counter.holds();
                counter.finish(&mut context);
            }
            if !self.connections.forget(key, &mut self.forgotten, &mut context) {
                if let Some(mut terminal) = self.terminals.remove(&key) {
                    *context.evicted += terminal.holds();
                    terminal.finish(&mut context);
                }
                self.messages.forget(key, &mut context);
                self.datagrams.forget(key, &mut context);
                self.queues.forget(key, &mut context);
                self.forgotten.push(key);
            }
        }
    }
}
