//! TCP: finds the two ends of a connection, in front of the streams.
//!
//! The programs see each direction of a connection at each end by itself: a half that sends and a half that receives. They
//! belong together if each has the other's addresses and their sequence numbers, which are the same at both ends, are no
//! farther apart than what can be under way. From then on they are the two sides of one [`Stream`].

use std::net::SocketAddr;
use std::rc::Rc;

use foldhash::HashMap;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Key};

use crate::model::{Channel, End, Event, Transfer, Why};

use super::address::{self, Ends, Locals, Place};
use super::call::Call;
use super::context::Context;
use super::naming::Home;
use super::stream::Stream;

/// How far the sender can be ahead of the receiver: more than the buffers of both hold.
const AHEAD: i64 = 512 << 20;
/// How far the receiver's records can be ahead of the sender's.
const BEHIND: i64 = 64 << 20;

/// One direction at one end.
#[derive(Debug)]
struct Half {
    receive: bool,
    ends: Ends,
    /// Inode of the socket.
    inode: u64,
    /// Sequence number at which the kernel's books of it begin.
    sequence: u32,
    /// What had arrived and waited for a receiver when the half was first seen.
    queued: u64,
    /// What is added to the kernel's books for an offset in the stream.
    shift: u64,
    /// What its calls have moved, by the kernel's books.
    moved: u64,
    /// When it was first seen.
    since: u64,
    used: u64,
    state: State,
}

/// What is known of the other end.
#[derive(Debug)]
enum State {
    /// Whether it is on this host is not known yet: calls wait.
    Asking(Vec<Call>),
    /// It is on another host.
    Remote(Rc<Channel>),
    /// It is on this host: a stream, which both ends will share.
    Stream(Key),
}

/// The streams' halves.
type Halves = [Option<Key>; 2];

/// The connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    halves: HashMap<Key, Half>,
    /// Halves without their other one, by own address, other address and direction.
    single: HashMap<(SocketAddr, SocketAddr, bool), Vec<Key>>,
    /// The halves of each stream: that which sends, that which receives.
    pairs: HashMap<Key, Halves>,
    /// Halves in state [`State::Asking`].
    asking: Vec<Key>,
    /// Streams of receivers of which the sender may yet show.
    early: Vec<Key>,
    /// Calls at halves that have not been told of.
    untold: Vec<Untold>,
    /// Numbers streams.
    number: u64,
}

/// A call at a half of which the record that tells of its ends has not come: the program that makes that has opened the books, and one on
/// another processor may have been faster from there on.
#[derive(Debug)]
struct Untold {
    key: Key,
    /// Inode of the socket.
    inode: u64,
    call: Call,
}

/// All streams.
pub(super) type Streams = HashMap<Key, Box<Stream>>;

impl Connections {
    /// What the kernel says of a half when it first sees it, or sees it again. `None`: the record has no ends.
    pub(super) fn opened(
        &mut self,
        record: &wire::Channel,
        name: &[u8],
        streams: &mut Streams,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) -> Option<()> {
        let ends = Ends::read(name)?;
        let receive = record.key.space & Key::RECEIVES != 0;
        let sequence = if receive { record.read_pos } else { record.write_pos } as u32;
        if let Some(half) = self.halves.get_mut(&record.key)
            && half.inode == record.receiver_inode
            && half.ends == ends
        {
            // The kernel had forgotten it: its books begin again here.
            let expected = half.sequence.wrapping_add(half.moved as u32);
            let skipped = i64::from(sequence.wrapping_sub(expected).cast_signed()).max(0);
            half.shift = half.shift.saturating_add(half.moved).saturating_add(skipped.unsigned_abs());
            half.moved = 0;
            half.sequence = sequence;
            return Some(());
        }
        self.drop_half(record.key);
        let half = Half {
            receive,
            ends,
            inode: record.receiver_inode,
            sequence,
            queued: if record.queued == u64::MAX { 0 } else { record.queued },
            shift: 0,
            moved: 0,
            since: record.header.time,
            used: context.now,
            state: State::Asking(Vec::new()),
        };
        let other = self.other(&half);
        self.halves.insert(record.key, half);
        let single = self.single.entry((ends.local, ends.remote, receive)).or_default();
        // A connection between the same addresses in the same place: the one before is over.
        let halves = &self.halves;
        single.retain(|other| halves.get(other).is_some_and(|other| other.ends.netns != ends.netns));
        single.push(record.key);
        if let Some((other, doubt)) = other {
            // Both ends are seen, wherever their addresses are.
            self.begin(other, streams, context);
            self.pair(record.key, other, doubt, streams, context);
        } else {
            if !self.place(record.key, streams, locals, context) {
                self.asking.push(record.key);
            }
        }
        let place = (record.key, record.receiver_inode);
        let of_it = |untold: &Untold| (untold.key, untold.inode) == place;
        let its: Vec<Untold> = self.untold.extract_if(.., |untold| of_it(untold)).collect();
        for untold in its {
            self.feed(untold.key, untold.call, streams, context);
        }
        Some(())
    }

    /// Decides about a half of which the other end is not seen. False: where that is is not known.
    fn place(
        &mut self,
        key: Key,
        streams: &mut Streams,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(half) = self.halves.get_mut(&key) else { return true };
        match locals.place(half.ends.remote.ip(), half.since, context.now) {
            Place::Unknown => return false,
            Place::Elsewhere => {
                let channel = Rc::new(Channel { id: half.id(context.home), name: None });
                if let State::Asking(calls) = &mut half.state {
                    for call in std::mem::take(calls) {
                        context.out.push(remote(half, &channel, call));
                    }
                    half.state = State::Remote(channel);
                    self.no_longer_single(key);
                }
            }
            Place::Here => self.begin(key, streams, context),
        }
        true
    }

    /// Begins the stream of a half whose other end is on this host, but not seen yet.
    fn begin(&mut self, key: Key, streams: &mut Streams, context: &mut Context<'_>) {
        let Some(half) = self.halves.get_mut(&key) else { return };
        let State::Asking(calls) = &mut half.state else { return };
        let calls = std::mem::take(calls);
        self.number += 1;
        let stream_key = Key { id: self.number, space: u64::MAX };
        half.state = State::Stream(stream_key);
        let mut stream = Stream::between(Mechanism::Tcp, stream_key, half.id(context.home), context.now);
        if half.receive && half.queued > 0 {
            // The sender's half may be told of any moment: until then nobody knows whose bytes these are.
            self.early.push(stream_key);
        } else {
            stream.begin(0, half.since, context);
        }
        streams.insert(stream_key, Box::new(stream));
        self.pairs.insert(stream_key, if half.receive { [None, Some(key)] } else { [Some(key), None] });
        self.asking.retain(|asking| *asking != key);
        for call in calls {
            self.feed(key, call, streams, context);
        }
    }

    /// Its other half is found, or not looked for any more.
    fn no_longer_single(&mut self, key: Key) {
        let Some(half) = self.halves.get(&key) else { return };
        let place = (half.ends.local, half.ends.remote, half.receive);
        if let Some(single) = self.single.get_mut(&place) {
            single.retain(|single| *single != key);
            if single.is_empty() {
                self.single.remove(&place);
            }
        }
    }

    /// The half that belongs to this one, and whether it might be another as well.
    fn other(&self, half: &Half) -> Option<(Key, bool)> {
        let candidates = self.single.get(&(half.ends.remote, half.ends.local, !half.receive))?;
        let mut fitting: Vec<(i64, Key)> = candidates
            .iter()
            .filter_map(|key| {
                let other = self.halves.get(key)?;
                let near = other.ends.netns == half.ends.netns;
                let apart = !near && half.ends.remote.ip().is_loopback();
                let (sender, receiver) = if half.receive { (other, half) } else { (half, other) };
                let under_way = sender.under_way(receiver);
                let fits = !apart && (-BEHIND..=AHEAD).contains(&under_way);
                // Of equal addresses in several places those of the same place come first, then the closest numbers.
                let distance = if under_way < 0 { AHEAD - under_way } else { under_way };
                fits.then_some((if near { 0 } else { 2 * AHEAD } + distance, *key))
            })
            .collect();
        fitting.sort_unstable();
        let (distance, key) = *fitting.first()?;
        Some((key, fitting.get(1).is_some_and(|(second, _)| *second == distance)))
    }

    /// Lets the half `key` share the stream of the half `other`.
    fn pair(&mut self, key: Key, other: Key, doubt: bool, streams: &mut Streams, context: &mut Context<'_>) {
        self.no_longer_single(key);
        self.no_longer_single(other);
        let Some(second) = self.halves.get(&other) else { return };
        let State::Stream(stream_key) = second.state else { return };
        let (first_sequence, first_receives) = match self.halves.get(&key) {
            Some(half) => (half.sequence, half.receive),
            None => return,
        };
        let (sent, taken) = if first_receives {
            (second.sequence, first_sequence)
        } else {
            (first_sequence, second.sequence)
        };
        let (queued, since) = (second.queued, second.since);
        let apart = i64::from(sent.wrapping_sub(taken).cast_signed());
        let mut shift = 0;
        if let Some(stream) = streams.get_mut(&stream_key) {
            let early = self.early.iter().position(|early| *early == stream_key);
            if first_receives {
                // The sender's half is older. What it had sent before is not its own.
                if apart >= 0 {
                    stream.precede(apart.unsigned_abs(), since);
                } else {
                    shift = apart.unsigned_abs();
                    stream.call(true, (0, 0), Call::missing(Why::Lost, shift, since), context);
                }
            } else if let Some(early) = early {
                self.early.swap_remove(early);
                if apart >= 0 {
                    stream.begin(apart.unsigned_abs(), since, context);
                } else {
                    stream.begin(0, since, context);
                    // The receiver took some of the sender's first bytes before it was seen.
                    stream.skip(apart.unsigned_abs());
                }
            } else {
                // The receiver's stream has begun with what was queued.
                let gap = apart - queued.cast_signed();
                if gap > 0 {
                    shift = gap.unsigned_abs();
                    stream.call(false, (0, 0), Call::missing(Why::BeforeStart, shift, since), context);
                } else {
                    stream.skip(gap.unsigned_abs());
                }
            }
            stream.suspect(doubt);
        }
        if let Some(half) = self.halves.get_mut(&key) {
            half.state = State::Stream(stream_key);
            half.shift = half.shift.saturating_add(shift);
        }
        if let Some(halves) = self.pairs.get_mut(&stream_key) {
            halves[usize::from(first_receives)] = Some(key);
        }
    }

    /// One call at one end.
    pub(super) fn call(
        &mut self,
        op: &wire::Op,
        call: Call,
        streams: &mut Streams,
        context: &mut Context<'_>,
    ) {
        match self.halves.get(&op.key) {
            Some(half) if half.inode == op.receiver_inode => self.feed(op.key, call, streams, context),
            Some(_) | None => {
                let untold = Untold { key: op.key, inode: op.receiver_inode, call };
                if self.untold.len() < context.limits.ranges {
                    self.untold.push(untold);
                } else {
                    context.out.push(untold.lost());
                }
            }
        }
    }

    /// Hands a call on to where its half belongs.
    fn feed(&mut self, key: Key, mut call: Call, streams: &mut Streams, context: &mut Context<'_>) {
        let Some(half) = self.halves.get_mut(&key) else { return };
        half.used = context.now;
        let end = call.before.unwrap_or(half.moved).saturating_add(call.bytes);
        half.moved = half.moved.max(end);
        match &mut half.state {
            State::Asking(calls) if calls.len() < context.limits.ranges => calls.push(call),
            State::Asking(_) => *context.evicted += 1,
            State::Remote(channel) => {
                let channel = Rc::clone(channel);
                context.out.push(remote(half, &channel, call));
            }
            State::Stream(stream) => {
                call.before = call.before.map(|before| before.saturating_add(half.shift));
                if let Some(stream) = streams.get_mut(stream) {
                    stream.used = context.now;
                    stream.call(half.receive, (0, 0), call, context);
                }
            }
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, streams: &mut Streams, locals: &mut Locals, context: &mut Context<'_>) {
        for key in std::mem::take(&mut self.asking) {
            if !self.place(key, streams, locals, context) {
                self.asking.push(key);
            }
        }
        let overdue: Vec<Untold> =
            self.untold.extract_if(.., |untold| context.overdue(untold.call.time)).collect();
        context.out.extend(overdue.into_iter().map(Untold::lost));
        let early = std::mem::take(&mut self.early);
        for key in early {
            let Some([_, Some(receiver)]) = self.pairs.get(&key) else { continue };
            let Some(half) = self.halves.get(receiver) else { continue };
            if !context.overdue(half.since) {
                self.early.push(key);
            } else if let Some(stream) = streams.get_mut(&key) {
                stream.begin(half.queued, half.since, context);
            }
        }
    }

    /// The end: nobody will say any more where the other ends are.
    pub(super) fn finish(&mut self, streams: &mut Streams, context: &mut Context<'_>) {
        for key in std::mem::take(&mut self.asking) {
            self.begin(key, streams, context);
        }
        context.out.extend(std::mem::take(&mut self.untold).into_iter().map(Untold::lost));
        for key in std::mem::take(&mut self.early) {
            let Some([_, Some(receiver)]) = self.pairs.get(&key) else { continue };
            if let (Some(half), Some(stream)) = (self.halves.get(receiver), streams.get_mut(&key)) {
                stream.begin(half.queued, half.since, context);
            }
        }
        self.halves.clear();
        self.single.clear();
        self.pairs.clear();
    }

    /// How many halves are known.
    pub(super) fn len(&self) -> usize {
        self.halves.len()
    }

    /// Halves that belong to no stream, and when each was last used.
    pub(super) fn ages(&self) -> impl Iterator<Item = (Key, u64)> {
        self.halves.iter().filter_map(|(key, half)| match half.state {
            State::Asking(_) | State::Remote(_) => Some((*key, half.used)),
            State::Stream(_) => None,
        })
    }

    /// Makes room: a stream, or a half without one, is given up. Its halves are added to `forgotten`; says whether
    /// there were any.
    pub(super) fn forget(&mut self, key: Key, forgotten: &mut Vec<Key>, context: &mut Context<'_>) -> bool {
        if let Some(halves) = self.pairs.remove(&key) {
            for half in halves.into_iter().flatten() {
                self.drop_half(half);
                forgotten.push(half);
            }
            return true;
        }
        match self.halves.get(&key) {
            Some(half) => {
                if let State::Asking(calls) = &half.state {
                    *context.evicted += calls.len() as u64;
                }
                self.drop_half(key);
                forgotten.push(key);
                true
            }
            None => false,
        }
    }

    /// Knows a half no longer; its stream, if it has one, stays for the other end.
    fn drop_half(&mut self, key: Key) {
        self.no_longer_single(key);
        let Some(half) = self.halves.remove(&key) else { return };
        self.asking.retain(|asking| *asking != key);
        if let State::Stream(stream) = half.state
            && let Some(halves) = self.pairs.get_mut(&stream)
        {
            halves.iter_mut().filter(|half| **half == Some(key)).for_each(|half| *half = None);
            if *halves == [None, None] {
                self.pairs.remove(&stream);
            }
        }
    }
}

impl Untold {
    /// The record that tells of its ends is lost.
    fn lost(self) -> Event {
        let receive = self.key.space & Key::RECEIVES != 0;
        let channel = Channel { id: format!("tcp:[{}]", self.inode), name: None };
        transfer(receive, &Rc::new(channel), self.call, Why::Lost)
    }
}

impl Half {
    /// From sender to receiver.
    fn id(&self, home: Home) -> String {
        let (from, to) = if self.receive {
            (self.ends.remote, self.ends.local)
        } else {
            (self.ends.local, self.ends.remote)
        };
        address::id("tcp", from, to, self.ends.netns, home)
    }

    /// How many bytes this half has sent that `receiver` has not taken, as far as records have come.
    fn under_way(&self, receiver: &Half) -> i64 {
        let sent = self.sequence.wrapping_add(self.moved as u32);
        let taken = receiver.sequence.wrapping_add(receiver.moved as u32);
        i64::from(sent.wrapping_sub(taken).cast_signed())
    }
}

/// A call of which the other end is on another host.
fn remote(half: &Half, channel: &Rc<Channel>, call: Call) -> Event {
    transfer(half.receive, channel, call, Why::Remote(half.ends.remote.to_string()))
}

/// A call of which the other end is not known.
fn transfer(receive: bool, channel: &Rc<Channel>, call: Call, why: Why) -> Event {
    let (who, nobody) = (call.who, End::Unknown(why));
    let (sender, receiver) = if receive { (nobody, who) } else { (who, nobody) };
    Event::Transfer(Transfer {
        messages: call.messages,
        payload: (!call.payload.is_empty()).then_some(call.payload),
        ..Transfer::new(Mechanism::Tcp, Rc::clone(channel), sender, receiver, call.bytes, call.time)
    })
}

#[cfg(test)]
mod tests;
