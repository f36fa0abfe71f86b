//! UDP: datagrams on their way from socket to socket.
//!
//! Three kinds of record meet here. The call that sent a datagram says who did and when; the datagram itself is seen leaving
//! one socket and entering the queue of another (or of several), by the address of its buffer; and the queue is first in,
//! first out, so the call that receives takes the one that entered first.

mod socket;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Key, datagram, op_flag};

use crate::decode;
use crate::model::{Channel, End, Event, Proc, Transfer, Why};

use super::address::{self, Locals, Place};
use super::context::Context;

use socket::{Arrival, Socket, Taken};

/// Datagrams among which one that was not seen to arrive is looked for.
const REACH: usize = 1024;

/// The call that sent a datagram.
#[derive(Debug)]
struct Called {
    who: Arc<Proc>,
    time: u64,
    bytes: u64,
    inode: u64,
    payload: Bytes,
}

/// A datagram that has left its socket.
#[derive(Debug)]
struct Sent {
    way: Way,
    netns: u32,
    sock: u64,
    data: u64,
    /// In whose call it left.
    who: Option<Arc<Proc>>,
    /// The beginning of that call; 0 if it left outside of it.
    enter: u64,
    time: u64,
    call: Option<Called>,
    /// It was seen to enter a queue.
    arrived: bool,
    /// It was received.
    received: bool,
}

/// What a datagram says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    from: SocketAddr,
    to: SocketAddr,
    len: u64,
}

impl Way {
    fn of(record: &wire::Datagram) -> Way {
        Way {
            from: address::address(record.from, record.from_port),
            to: address::address(record.to, record.to_port),
            len: u64::from(record.len),
        }
    }

    fn channel(self) -> Arc<Channel> {
        Arc::new(Channel { id: address::id("udp", self.from, self.to), name: None })
    }

    /// Whether several sockets may get it.
    fn spreads(self) -> bool {
        match self.to.ip() {
            // Of other addresses that end so some are broadcast addresses of a network.
            IpAddr::V4(to) => to.is_multicast() || to.octets()[3] == 255,
            IpAddr::V6(to) => to.is_multicast(),
        }
    }
}

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
    /// Those that may be for another host.
    far: Vec<u64>,
    sockets: HashMap<Key, Socket>,
    /// Sockets at which receives wait.
    waiting: Vec<Key>,
}

/// The key of what a socket receives.
fn key(sock: u64) -> Key {
    Key { id: sock, space: Key::SOCKET | Key::RECEIVES }
}

impl Datagrams {
    /// What the kernel says of a socket when it first sees it receive, or sees it again.
    pub(super) fn opened(&mut self, record: &wire::Channel, name: &[u8], context: &mut Context<'_>) {
        let socket = self.socket(record.key, record.receiver_inode, context);
        socket.ends = address::Ends::read(name);
        // What the queue holds is told next, one by one.
        socket.told = usize::try_from(record.queued).unwrap_or(0).min(socket.arrivals.len());
        socket.books = 0;
    }

    /// The socket with that key; another one at the same address begins anew.
    fn socket(&mut self, key: Key, inode: u64, context: &Context<'_>) -> &mut Socket {
        let socket = self.sockets.entry(key).or_default();
        if socket.inode != 0 && inode != 0 && socket.inode != inode {
            *socket = Socket::default();
        }
        socket.inode = if inode == 0 { socket.inode } else { inode };
        socket.used = context.now;
        socket
    }

    /// A datagram was seen on its way; `who` is the sender, if it was in its call. `None`: nowhere that is known.
    pub(super) fn seen(
        &mut self,
        record: &wire::Datagram,
        who: Option<Arc<Proc>>,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) -> Option<()> {
        match record.header.flags {
            datagram::SENT => self.left(record, who, locals, context),
            datagram::ARRIVED | datagram::QUEUED => {
                let queued = record.header.flags == datagram::QUEUED;
                let arrival = self.arrival(record, queued);
                self.socket(key(record.sock), record.inode, context).enqueue(arrival, queued);
            }
            datagram::TAKEN => {
                let arrival = self.arrival(record, false);
                self.socket(key(record.sock), record.inode, context).take_in(arrival);
            }
            _ => return None,
        }
        Some(())
    }

    /// A datagram left its socket.
    fn left(
        &mut self,
        record: &wire::Datagram,
        who: Option<Arc<Proc>>,
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
        if tunnelled {
            // The same packet with another header before it.
            return;
        }
        while self.sent.len() >= context.limits.messages {
            self.evict(context);
        }
        self.number += 1;
        let number = self.number;
        let sent = Sent {
            way,
            netns: record.netns,
            sock: record.sock,
            data: record.data,
            who,
            enter: record.enter,
            time: record.header.time,
            call: None,
            arrived: false,
            received: false,
        };
        self.sent.insert(number, sent);
        self.by_data.insert(record.data, number);
        if record.enter == 0
            && let Some(calls) = self.unsent.get_mut(&record.sock)
            && let Some(index) = calls.iter().position(|call| call.bytes == way.len)
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

    /// What entered a queue, and which of those sent it is.
    fn arrival(&mut self, record: &wire::Datagram, queued: bool) -> Arrival {
        if record.data == 0 {
            return Arrival { way: None, sent: None, data: 0, queued, time: record.header.time };
        }
        let way = Way::of(record);
        let sent = self.by_data.get(&record.data).copied().filter(|number| {
            self.sent.get_mut(number).is_some_and(|sent| {
                // Where addresses are translated on the way, one of them changes.
                let same = sent.way.len == way.len && (sent.way.from == way.from || sent.way.to == way.to);
                sent.arrived |= same;
                same
            })
        });
        Arrival { way: Some(way), sent, data: record.data, queued, time: record.header.time }
    }

    /// One call.
    pub(super) fn push(
        &mut self,
        record: decode::Op,
        who: Arc<Proc>,
        locals: &mut Locals,
        context: &mut Context<'_>,
    ) {
        let op = &record.fixed;
        let has = |flag: u16| op.header.flags & flag != 0;
        let enter = if has(op_flag::STRADDLES_START) { 0 } else { op.enter.min(op.header.time) };
        if has(op_flag::RECEIVE) {
            let taken = Taken {
                who,
                enter,
                time: op.header.time,
                bytes: op.bytes,
                front: op.pos_enter,
                payload: record.payload.clone(),
                since: context.now,
            };
            let before = has(op_flag::SEQUENCED).then_some(op.before);
            let key = op.key;
            let socket = self.socket(key, op.receiver_inode, context);
            let lost = socket.receive(taken, before);
            if lost > 0 {
                self.lose(key, lost, context);
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
        match self.departure(sock, tid, op.enter, op.bytes) {
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
    fn departure(&mut self, sock: u64, tid: u32, enter: u64, bytes: u64) -> Option<u64> {
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
        let outside =
            |number: &u64| sent.get(number).is_some_and(|sent| sent.enter == 0 && sent.way.len == bytes);
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
        if !arrived && !way.to.ip().is_multicast() && locals.place(way.to.ip(), context.now) != Place::Here {
            self.far.push(number);
        }
        for key in self.waiting.clone() {
            self.settle(key, false, locals, context);
        }
    }

    /// A datagram has been received. It is needed no longer unless others may receive it too.
    fn retire(&mut self, number: u64) {
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.received = true;
        if sent.way.spreads() || sent.call.is_none() {
            return;
        }
        let data = sent.data;
        self.sent.remove(&number);
        if self.by_data.get(&data) == Some(&number) {
            self.by_data.remove(&data);
        }
    }

    /// Receives of which the record is lost have taken so many of a queue.
    fn lose(&mut self, key: Key, count: u64, context: &mut Context<'_>) {
        for _ in 0..count {
            let Some(arrival) = self.sockets.get_mut(&key).and_then(|socket| socket.arrivals.pop_front())
            else {
                return;
            };
            if let Some(number) = arrival.sent
                && let Some(sent) = self.sent.get(&number)
            {
                context.out.extend(unreceived(sent, Why::Lost));
                self.retire(number);
            }
        }
    }

    /// Joins the waiting receives of a socket to what was sent, as far as that is known.
    fn settle(&mut self, key: Key, force: bool, locals: &mut Locals, context: &mut Context<'_>) {
        while let Some(socket) = self.sockets.get_mut(&key) {
            let Some(taken) = socket.next(force, context) else { break };
            let arrival = socket.arrival(&taken);
            let arrival = arrival.or_else(|| self.missed(key, &taken));
            let patient = !force && !context.overdue(taken.since);
            let Some(arrival) = arrival else {
                // Its arrival always comes before it, unless it is lost; 0 is also what a closed socket gives.
                if taken.bytes > 0 && patient {
                    if let Some(socket) = self.sockets.get_mut(&key) {
                        socket.waiting.push_front(taken);
                    }
                    break;
                }
                if taken.bytes > 0 {
                    self.unexplained(key, taken, context);
                }
                continue;
            };
            match self.sender(key, &arrival, &taken, patient, locals, context) {
                Some(found) => self.write(key, &arrival, taken, found, context),
                None => {
                    if let Some(socket) = self.sockets.get_mut(&key) {
                        socket.arrivals.push_front(arrival);
                        socket.waiting.push_front(taken);
                    }
                    break;
                }
            }
        }
        if self.sockets.get(&key).is_none_or(|socket| socket.waiting.is_empty()) {
            self.waiting.retain(|other| *other != key);
        }
    }

    /// What a receive took that was not seen to arrive: it stood first in the queue when the call began, or it is the only
    /// one that can have come since.
    fn missed(&self, key: Key, taken: &Taken) -> Option<Arrival> {
        let number = if taken.front == 0 {
            let nothing = Arrival { way: None, sent: None, data: 0, queued: false, time: taken.time };
            self.candidate(key, &nothing, taken).filter(|found| found.exact)?.number?
        } else {
            *self.by_data.get(&taken.front)?
        };
        let sent = self.sent.get(&number).filter(|sent| sent.way.len >= taken.bytes && taken.bytes > 0)?;
        let (way, data) = (Some(sent.way), sent.data);
        Some(Arrival { way, sent: Some(number), data, queued: false, time: taken.time })
    }

    /// Who sent what arrived; `None` if that is still to be told.
    fn sender(
        &self,
        key: Key,
        arrival: &Arrival,
        taken: &Taken,
        patient: bool,
        locals: &mut Locals,
        context: &Context<'_>,
    ) -> Option<Found> {
        if let Some(number) = arrival.sent
            && let Some(sent) = self.sent.get(&number)
        {
            return match (&sent.call, &sent.who) {
                (None, _) if patient => None,
                (Some(call), _) => Some(Found::sent(number, &call.who, true)),
                (None, Some(who)) => Some(Found::sent(number, who, true)),
                (None, None) => Some(Found::unknown(Why::Lost)),
            };
        }
        if arrival.queued {
            return Some(Found::unknown(Why::BeforeStart));
        }
        if let Some(way) = arrival.way {
            match locals.place(way.from.ip(), context.now) {
                Place::Elsewhere => return Some(Found::unknown(Why::Remote(way.from.to_string()))),
                Place::Unknown if patient => return None,
                Place::Unknown | Place::Here => {}
            }
        }
        match self.candidate(key, arrival, taken) {
            Some(found) => Some(found),
            None if patient => None,
            None => Some(Found::unknown(Why::Lost)),
        }
    }

    /// Among what was sent the first that may be it: of segments, and of what was gone before it could be looked at, only
    /// the addresses and the length tell.
    fn candidate(&self, key: Key, arrival: &Arrival, taken: &Taken) -> Option<Found> {
        let ends = self.sockets.get(&key).and_then(|socket| socket.ends);
        let fits = |sent: &Sent| {
            let to = sent.way.to;
            let reaches = ends.is_some_and(|ends| {
                let here = ends.local.ip().is_unspecified() || ends.local.ip() == to.ip();
                ends.local.port() == to.port() && here && (!to.ip().is_loopback() || ends.netns == sent.netns)
            });
            match arrival.way {
                Some(way) => (sent.way.from, to) == (way.from, way.to) && sent.way.len >= way.len && reaches,
                None => !sent.arrived && sent.way.len >= taken.bytes && reaches,
            }
        };
        let recent = self.sent.iter().rev().take(REACH);
        let mut fitting =
            recent.filter(|(_, sent)| sent.time <= taken.time && sent.call.is_some() && fits(sent));
        let (mut number, sent) = fitting.next()?;
        let who = &sent.call.as_ref()?.who;
        let mut exact = true;
        for (other, sent) in fitting {
            number = other;
            exact &= sent.call.as_ref().is_some_and(|call| call.who.identity() == who.identity());
        }
        let who = &self.sent.get(number)?.call.as_ref()?.who;
        Some(Found::sent(*number, who, exact))
    }

    /// A receive of which not even the arrival is known.
    fn unexplained(&mut self, key: Key, taken: Taken, context: &mut Context<'_>) {
        let Some(socket) = self.sockets.get_mut(&key) else { return };
        socket.done(&taken);
        let to = socket.ends.map_or_else(|| format!("[{}]", socket.inode), |ends| ends.local.to_string());
        let channel = Arc::new(Channel { id: format!("udp:?->{to}"), name: None });
        let nobody = End::Unknown(Why::Lost);
        let who = End::Known(Arc::clone(&taken.who));
        let received = transfer(&channel, nobody, who, taken.bytes, taken.time, taken.payload);
        context.out.push(Event::Transfer(received));
    }

    /// Writes what was received, and what of it did not fit and is gone.
    fn write(&mut self, key: Key, arrival: &Arrival, taken: Taken, found: Found, context: &mut Context<'_>) {
        let sent = found.number.and_then(|number| self.sent.get(&number));
        let Some(way) = arrival.way.or(sent.map(|sent| sent.way)) else {
            self.unexplained(key, taken, context);
            return;
        };
        let channel = way.channel();
        let call = sent.and_then(|sent| sent.call.as_ref());
        let payload = call.map_or(&taken.payload, |call| &call.payload).clone();
        let latency = call.map(|call| taken.time.saturating_sub(call.time));
        // One that came while the call waited and was not seen to arrive may have been the one.
        let rival = taken.front == 0
            && self.sent.values().rev().take(64).any(|other| {
                let when = (taken.enter..=taken.time).contains(&other.time);
                let who = other.who.as_ref().map(|who| who.identity());
                let same = who == found.sender.process().map(|who| who.identity());
                !other.arrived && when && !same && other.way.to == way.to && other.way.len >= taken.bytes
            });
        let certain = self.sockets.get_mut(&key).is_some_and(|socket| socket.note(&taken, &found.sender));
        let exact = found.exact && certain && !rival;
        let who = End::Known(Arc::clone(&taken.who));
        if taken.bytes > 0 || way.len == 0 {
            let received = transfer(&channel, found.sender.clone(), who, taken.bytes, taken.time, payload);
            context.out.push(Event::Transfer(Transfer { latency, exact, ..received }));
        }
        if way.len > taken.bytes {
            let rest = way.len - taken.bytes;
            let nobody = End::Unknown(Why::Unread);
            let rest = transfer(&channel, found.sender, nobody, rest, taken.time, Bytes::new());
            context.out.push(Event::Transfer(Transfer { exact, truncated: true, ..rest }));
        }
        if let Some(number) = found.number {
            self.retire(number);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, force: bool, locals: &mut Locals, context: &mut Context<'_>) {
        for key in self.waiting.clone() {
            self.settle(key, force, locals, context);
        }
        for number in std::mem::take(&mut self.far) {
            let Some(sent) = self.sent.get(&number) else { continue };
            if sent.arrived || sent.received {
                continue;
            }
            match locals.place(sent.way.to.ip(), sent.time) {
                Place::Here => {}
                Place::Elsewhere if force || context.overdue(sent.time) => {
                    context.out.extend(unreceived(sent, Why::Remote(sent.way.to.to_string())));
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
        for sent in std::mem::take(&mut self.sent).into_values() {
            if !sent.received {
                context.out.extend(unreceived(&sent, Why::Unread));
            }
        }
        for call in std::mem::take(&mut self.unsent).into_values().flatten() {
            let channel = Arc::new(Channel { id: format!("udp:[{}]->?", call.inode), name: None });
            context.out.push(Event::Transfer(sent_by(&channel, &call, Why::Unread)));
        }
        *self = Datagrams::default();
    }

    /// Forgets the oldest.
    fn evict(&mut self, context: &mut Context<'_>) {
        let Some((number, sent)) = self.sent.pop_first() else { return };
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

/// The sender of what was received.
struct Found {
    number: Option<u64>,
    sender: End,
    exact: bool,
}

impl Found {
    fn sent(number: u64, who: &Arc<Proc>, exact: bool) -> Found {
        Found { number: Some(number), sender: End::Known(Arc::clone(who)), exact }
    }

    fn unknown(why: Why) -> Found {
        Found { number: None, sender: End::Unknown(why), exact: true }
    }
}

/// A datagram that nobody here received. None if its call is not known: it has failed.
fn unreceived(sent: &Sent, why: Why) -> Option<Event> {
    let call = sent.call.as_ref()?;
    Some(Event::Transfer(sent_by(&sent.way.channel(), call, why)))
}

/// What a call sent, to nobody.
fn sent_by(channel: &Arc<Channel>, call: &Called, why: Why) -> Transfer {
    let sender = End::Known(Arc::clone(&call.who));
    transfer(channel, sender, End::Unknown(why), call.bytes, call.time, call.payload.clone())
}

fn transfer(
    channel: &Arc<Channel>,
    sender: End,
    receiver: End,
    bytes: u64,
    time: u64,
    payload: Bytes,
) -> Transfer {
    Transfer {
        time,
        mechanism: Mechanism::Udp,
        channel: Arc::clone(channel),
        sender,
        receiver,
        bytes,
        messages: 1,
        latency: None,
        exact: true,
        truncated: false,
        payload: (!payload.is_empty()).then_some(payload),
        priority: None,
        msg_type: None,
        value: None,
    }
}

#[cfg(test)]
mod tests;
