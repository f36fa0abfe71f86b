//! UDP: datagrams on their way from socket to socket.
//!
//! Three kinds of record meet here. The call that sent a datagram says who did and when; the datagram itself is seen leaving
//! one socket and entering the queue of another (or of several), by the address of its buffer; and the call that receives
//! says what it took: which buffer, or else how long it was, from where, and how it began. Among those that are alike the
//! queue is first in, first out.
//!
//! That a datagram has left its socket is always told before it is received. That it has entered a queue may be told later
//! than that, or not at all, where several come at once.

mod sent;
mod settle;
mod socket;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use foldhash::HashMap;
use ipctrace_common::wire::{self, Key, datagram, op_flag};

use crate::decode;
use crate::model::{Channel, Event, Proc, Why};

use super::address::{self, Locals, Place};
use super::context::Context;
use super::naming::may_be_same;
use super::sequence::give_back;

use sent::{Called, Channels, Sent, Way, sent_by};
use socket::{Arrival, Socket, Taken};

/// Datagrams among which one that was not seen to arrive is looked for.
const REACH: usize = 1024;
/// Datagrams whose arrival may still be told a second time.
const RECENT: usize = 64;

/// All datagrams under way.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// Those that have left, by number: older ones have lower numbers.
    sent: BTreeMap<u64, Sent>,
    number: u64,
    /// The last one that was in each buffer.
    by_data: HashMap<u64, u64>,
    /// Those of which the call is not told yet, by sending socket.
    leaving: HashMap<u64, VecDeque<u64>>,
    /// Calls of which the datagram has not left yet, by sending socket.
    unsent: HashMap<u64, VecDeque<Called>>,
    /// Those that were not seen to arrive, by the port that they go to and their length.
    flying: BTreeMap<(u16, u64), VecDeque<u64>>,
    /// Those that were received last, by their buffers.
    done: VecDeque<(u64, Way)>,
    /// Those that may be for another host.
    far: Vec<u64>,
    sockets: HashMap<Key, Socket>,
    /// Ports and lengths, the least and the greatest, of receives that may have taken another datagram, be it of the same process, and
    /// when the last of each ended: the record of that one may have come later.
    doubts: BTreeMap<(u16, (u64, u64)), u64>,
    /// Sockets at which receives wait.
    waiting: Vec<Key>,
    channels: Channels,
}

/// The key of what a socket receives.
fn key(sock: u64) -> Key {
    Key { id: sock, space: Key::SOCKET | Key::RECEIVES }
}

impl Datagrams {
    /// What the kernel says of a socket when it first sees it receive, or sees it again.
    pub(super) fn opened(
        &mut self,
        record: &wire::Channel,
        name: &[u8],
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) {
        let socket = self.socket(record.key, record.receiver_inode, locals, context);
        socket.ends = address::Ends::read(name);
        // What the queue holds is told next, one by one.
        socket.told = usize::try_from(record.queued).unwrap_or(0).min(socket.arrivals.len());
        socket.books = 0;
    }

    /// The socket with that key; another one at the same address begins anew.
    fn socket(
        &mut self,
        key: Key,
        inode: u64,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) -> &mut Socket {
        let another = |socket: &Socket| socket.inode != 0 && inode != 0 && socket.inode != inode;
        if self.sockets.get(&key).is_some_and(another) {
            // What waits was received from the one before: no more will be known of it.
            self.settle(key, true, locals, context);
            if let Some(socket) = self.sockets.remove(&key) {
                let gone = socket.arrivals.iter().filter(|arrival| arrival.gone != 0);
                gone.for_each(|arrival| self.left_unseen(arrival));
            }
        }
        let socket = self.sockets.entry(key).or_default();
        socket.inode = if inode == 0 { socket.inode } else { inode };
        socket.used = context.now;
        socket
    }

    /// A datagram was seen on its way; `who` is the sender, if it was in its call. `None`: nowhere that is known.
    pub(super) fn seen(
        &mut self,
        record: &wire::Datagram,
        who: Option<Rc<Proc>>,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) -> Option<()> {
        if record.data == 0 {
            // It could not be read, which is counted, or was gone before it could be looked at.
            return Some(());
        }
        match record.header.flags {
            datagram::SENT => self.left(record, who, locals, context),
            datagram::ARRIVED | datagram::QUEUED | datagram::TAKEN => {
                self.arrived_at(record, locals, context)
            }
            _ => return None,
        }
        Some(())
    }

    /// A datagram left its socket.
    fn left(
        &mut self,
        record: &wire::Datagram,
        who: Option<Rc<Proc>>,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) {
        let way = Way::of(record);
        let before = self.by_data.get(&record.data).and_then(|number| self.sent.get(number));
        let tunnelled = before.is_some_and(|before| {
            (before.sock, before.enter) == (record.sock, record.enter)
                && before.way.len < way.len
                && (before.way.from, before.way.to) != (way.from, way.to)
        });
        // A bridge, a VLAN and their like are devices before the one that it leaves by. What they hand on outside of the call
        // is the same as long as nobody has received it.
        let handed_on = before.is_some_and(|before| {
            let within = before.enter == record.enter && record.enter != 0;
            (before.sock, before.inode, before.digest, before.way)
                == (record.sock, record.inode, record.digest, way)
                && ![0, before.device].contains(&record.device)
                && (within || (record.enter == 0 && !before.arrived && !before.received))
        });
        if tunnelled || handed_on {
            // The same packet, perhaps with another header before it.
            return;
        }
        while self.sent.len() >= context.limits.messages {
            self.evict(context);
        }
        self.number += 1;
        let number = self.number;
        let sent = Sent {
            way,
            digest: record.digest,
            netns: record.netns,
            sock: record.sock,
            inode: record.inode,
            data: record.data,
            device: record.device,
            who,
            enter: record.enter,
            time: record.header.time,
            call: None,
            arrived: false,
            received: false,
            heard: 0,
            gone: false,
            doubt: false,
        };
        self.sent.insert(number, sent);
        self.by_data.insert(record.data, number);
        self.flying.entry((way.to.port(), way.len)).or_default().push_back(number);
        if record.enter == 0
            && let Some(calls) = self.unsent.get_mut(&record.sock)
            && let Some(index) =
                calls.iter().position(|call| call.bytes == way.len && may_be_same(call.inode, record.inode))
            && let Some(call) = calls.remove(index)
        {
            if calls.is_empty() {
                self.unsent.remove(&record.sock);
            }
            self.called(number, call, locals, context);
            return;
        }
        self.leaving.entry(record.sock).or_default().push_back(number);
    }

    /// A datagram entered a queue.
    fn arrived_at(&mut self, record: &wire::Datagram, locals: &mut Locals, context: &mut Context<'_>) {
        let key = key(record.sock);
        let sent = self.which(record, key);
        let (data, way) = (record.data, Way::of(record));
        let known = |arrival: &Arrival| arrival.sent.is_some() && (arrival.data, arrival.way) == (data, way);
        let there = self.sockets.get(&key).is_some_and(|socket| socket.arrivals.iter().any(known));
        if record.header.flags == datagram::TAKEN {
            // It may have been in the queue when the socket was first seen.
            let same = |arrival: &Arrival| arrival.data == data && arrival.sent == sent;
            if self.sockets.get(&key).is_some_and(|socket| socket.arrivals.iter().any(same)) {
                return;
            }
        }
        if sent.is_none() && (there || self.done.contains(&(data, way))) {
            // Where several came at once, it has been told of before.
            return;
        }
        let socket = self.socket(key, record.inode, locals, context);
        if let Some(index) = socket.early.iter().position(|early| Some(*early) == sent) {
            // It was told to have been received before this record came.
            socket.early.remove(index);
        } else {
            let queued = record.header.flags == datagram::QUEUED;
            let (digest, time) = (record.digest, record.header.time);
            socket.enqueue(Arrival { way, digest, sent, data, queued, time, gone: 0, doubt: false });
        }
        if let Some(number) = sent {
            self.landed(number);
            self.drop_if_done(number);
        }
    }

    /// Which of those sent a datagram is that was seen in a queue.
    fn which(&self, record: &wire::Datagram, key: Key) -> Option<u64> {
        let way = Way::of(record);
        let alike = |number: &u64| {
            self.sent.get(number).is_some_and(|sent| {
                // Where addresses are translated on the way, one of them changes.
                let same = sent.way.len == way.len && (sent.way.from == way.from || sent.way.to == way.to);
                let digests = sent.digest == record.digest || sent.digest == 0 || record.digest == 0;
                sent.data == record.data && same && digests
            })
        };
        // By the time its record comes, it may have been received and its buffer be another's.
        let early = || self.sockets.get(&key).into_iter().flat_map(|socket| &socket.early).copied();
        let flying = || self.flying.get(&(way.to.port(), way.len)).into_iter().flatten().copied();
        let last = self.by_data.get(&record.data).copied();
        last.into_iter().chain(early()).chain(flying().rev()).find(alike)
    }

    /// A datagram was seen to arrive. One that goes to several sockets may not have been seen at another.
    fn landed(&mut self, number: u64) {
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.arrived = true;
        if !sent.way.spreads() {
            self.flies_no_more(number);
        }
    }

    fn flies_no_more(&mut self, number: u64) {
        let Some(sent) = self.sent.get(&number) else { return };
        let place = (sent.way.to.port(), sent.way.len);
        if let Some(flying) = self.flying.get_mut(&place) {
            // Mostly it is the latest, or the oldest.
            if flying.front() == Some(&number) {
                flying.pop_front();
            } else if let Some(index) = flying.iter().rposition(|other| *other == number) {
                flying.remove(index);
            }
            if flying.is_empty() {
                self.flying.remove(&place);
            }
        }
    }

    /// One call.
    pub(super) fn push(
        &mut self,
        record: &decode::Op,
        who: Rc<Proc>,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) {
        let op = &record.fixed;
        let has = |flag: u16| op.header.flags & flag != 0;
        if has(op_flag::RECEIVE) {
            let before = has(op_flag::SEQUENCED).then_some(op.before);
            let key = op.key;
            let taken = Taken::new(record, who, context.now);
            let gap = self.socket(key, op.receiver_inode, locals, context).receive(taken, before);
            if gap && context.loss.is_some() {
                self.doubt_all(key);
            }
            if !self.waiting.contains(&key) {
                self.waiting.push(key);
            }
            self.settle(key, false, locals, context);
            return;
        }
        let (sock, tid) = (op.sender_sock, who.tid);
        let call = Called {
            who,
            time: op.header.time,
            bytes: op.bytes,
            inode: op.sender_inode,
            payload: record.payload.clone(),
        };
        match self.departure(op, tid) {
            Some(number) => self.called(number, call, locals, context),
            None => {
                let calls = self.unsent.entry(sock).or_default();
                if calls.len() >= REACH {
                    calls.pop_front();
                    *context.evicted += 1;
                }
                calls.push_back(call);
            }
        }
    }

    /// The datagram that left in that call, or else one of that length that left outside of any.
    fn departure(&mut self, op: &wire::Op, tid: u32) -> Option<u64> {
        let (sock, enter) = (op.sender_sock, op.enter);
        let sent = &self.sent;
        let leaving = self.leaving.get_mut(&sock)?;
        // Those of earlier calls of the thread, which have failed.
        let stale = |number: &u64| {
            sent.get(number).is_none_or(|sent| {
                sent.enter != 0 && sent.enter < enter && sent.who.as_ref().is_some_and(|who| who.tid == tid)
            })
        };
        leaving.retain(|number| !stale(number));
        let of_call = |number: &u64| {
            sent.get(number).is_some_and(|sent| {
                sent.enter == enter && sent.who.as_ref().is_some_and(|who| who.tid == tid)
            })
        };
        let outside = |number: &u64| {
            sent.get(number).is_some_and(|sent| {
                sent.enter == 0 && sent.way.len == op.bytes && may_be_same(sent.inode, op.sender_inode)
            })
        };
        let index = leaving.iter().position(of_call).or_else(|| leaving.iter().position(outside));
        let number = index.and_then(|index| leaving.remove(index));
        if leaving.is_empty() {
            self.leaving.remove(&sock);
        }
        number
    }

    /// The call that sent a datagram is told.
    fn called(&mut self, number: u64, call: Called, locals: &mut Locals, context: &mut Context<'_>) {
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.call = Some(call);
        let (way, arrived) = (sent.way, sent.arrived);
        if sent.received {
            self.retire(number);
        }
        if !arrived
            && !way.to.ip().is_multicast()
            && locals.place(way.to.ip(), context.now, context.now) != Place::Here
        {
            self.far.push(number);
        }
        for key in self.waiting.clone() {
            self.settle(key, false, locals, context);
        }
    }

    /// So many bytes of a datagram have been received.
    fn heard(&mut self, number: u64, bytes: u64) {
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.heard = sent.heard.saturating_add(bytes);
        if sent.heard >= sent.way.len {
            self.retire(number);
        }
    }

    /// A datagram has been received.
    fn retire(&mut self, number: u64) {
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.received = true;
        if self.done.len() >= RECENT {
            self.done.pop_front();
        }
        self.done.push_back((sent.data, sent.way));
        if !sent.way.spreads() {
            self.flies_no_more(number);
        }
        self.drop_if_done(number);
    }

    /// Forgets a datagram that is needed no longer: it has been received, others cannot receive it too, and nothing is to be
    /// told of it any more.
    fn drop_if_done(&mut self, number: u64) {
        let Some(sent) = self.sent.get(&number) else { return };
        if !sent.received || !sent.arrived || sent.way.spreads() || sent.call.is_none() {
            return;
        }
        let data = sent.data;
        self.sent.remove(&number);
        if self.by_data.get(&data) == Some(&number) {
            self.by_data.remove(&data);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, force: bool, locals: &mut Locals, context: &mut Context<'_>) {
        for key in self.waiting.clone() {
            self.settle(key, force, locals, context);
        }
        for socket in self.sockets.values_mut().filter(|socket| context.overdue(socket.used)) {
            give_back(&mut socket.arrivals);
            give_back(&mut socket.waiting);
        }
        for number in std::mem::take(&mut self.far) {
            let Some(sent) = self.sent.get(&number) else { continue };
            if sent.arrived || sent.received {
                continue;
            }
            match locals.place(sent.way.to.ip(), sent.time, context.now) {
                Place::Here => {}
                Place::Elsewhere if force || context.overdue(sent.time) => {
                    context.out.extend(sent.unreceived(Why::Remote(sent.way.to.to_string()), context.home));
                    self.retire(number);
                    self.sent.remove(&number);
                }
                Place::Elsewhere | Place::Unknown => self.far.push(number),
            }
        }
    }

    /// The end: what nobody received.
    pub(super) fn finish(&mut self, locals: &mut Locals, context: &mut Context<'_>) {
        self.tick(true, locals, context);
        for socket in std::mem::take(&mut self.sockets).into_values() {
            socket
                .arrivals
                .iter()
                .filter(|arrival| arrival.gone != 0)
                .for_each(|gone| self.left_unseen(gone));
        }
        let doubts = std::mem::take(&mut self.doubts);
        for mut sent in std::mem::take(&mut self.sent).into_values().filter(|sent| !sent.received) {
            let may_be = |((_, lengths), time): (&(u16, (u64, u64)), &u64)| {
                (lengths.0..=lengths.1).contains(&sent.way.len) && sent.time <= *time
            };
            // At 0 those of sockets of which the port is not known.
            let of = |port| doubts.range((port, (0, 0))..=(port, (u64::MAX, u64::MAX)));
            sent.doubt |= of(0).chain(of(sent.way.to.port())).any(may_be);
            let lost = sent.gone && context.loss.is_some();
            context.out.extend(sent.unreceived(if lost { Why::Lost } else { Why::Unread }, context.home));
        }
        for call in std::mem::take(&mut self.unsent).into_values().flatten() {
            let channel = Rc::new(Channel { id: format!("udp:[{}]->?", call.inode), name: None });
            context.out.push(Event::Transfer(sent_by(&channel, &call, Why::Unread)));
        }
        *self = Datagrams::default();
    }

    /// Forgets the oldest.
    fn evict(&mut self, context: &mut Context<'_>) {
        let Some(number) = self.sent.keys().next().copied() else { return };
        self.flies_no_more(number);
        let Some(sent) = self.sent.remove(&number) else { return };
        if self.by_data.get(&sent.data) == Some(&number) {
            self.by_data.remove(&sent.data);
        }
        match &sent.call {
            Some(_) => *context.evicted += u64::from(!sent.received),
            None => {
                if let Some(leaving) = self.leaving.get_mut(&sent.sock) {
                    leaving.retain(|other| *other != number);
                    if leaving.is_empty() {
                        self.leaving.remove(&sent.sock);
                    }
                }
            }
        }
    }

    /// How many sockets are known.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Sockets and when each was last used.
    pub(super) fn ages(&self) -> impl Iterator<Item = (Key, u64)> {
        self.sockets.iter().map(|(key, socket)| (*key, socket.used))
    }

    /// Makes room: a socket is known no longer.
    pub(super) fn forget(&mut self, key: Key, context: &mut Context<'_>) {
        if let Some(socket) = self.sockets.remove(&key) {
            *context.evicted += socket.waiting.len() as u64;
            self.waiting.retain(|other| *other != key);
        }
    }
}

#[cfg(test)]
mod tests;
