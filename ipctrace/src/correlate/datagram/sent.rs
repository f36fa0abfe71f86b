//! Datagrams that have left their sockets.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use foldhash::HashMap;
use ipctrace_common::Mechanism;
use ipctrace_common::wire;

use crate::correlate::address::{self, Ends};
use crate::correlate::naming::Home;
use crate::model::{Channel, End, Event, Proc, Transfer, Why};

/// The call that sent a datagram.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) who: Rc<Proc>,
    pub(super) time: u64,
    pub(super) bytes: u64,
    pub(super) inode: u64,
    pub(super) payload: Bytes,
}

/// A datagram that has left its socket.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) way: Way,
    /// Digest of its content; 0 if none was taken.
    pub(super) digest: u64,
    pub(super) netns: u32,
    pub(super) sock: u64,
    /// Inode of that socket; 0 if it had none.
    pub(super) inode: u64,
    pub(super) data: u64,
    /// The first device that it left by; 0 if that is not known.
    pub(super) device: u32,
    /// In whose call it left.
    pub(super) who: Option<Rc<Proc>>,
    /// The beginning of that call; 0 if it left outside of it.
    pub(super) enter: u64,
    pub(super) time: u64,
    pub(super) call: Option<Called>,
    /// It was seen to enter a queue.
    pub(super) arrived: bool,
    /// It was received: all of it, if it was cut into segments on its way.
    pub(super) received: bool,
    /// Bytes of it that were received.
    pub(super) heard: u64,
    /// It has left the queue, though nobody was seen to receive it.
    pub(super) gone: bool,
    /// What was received may have been this and not another like it.
    pub(super) doubt: bool,
}

impl Sent {
    /// Identity of its sender, if that is known.
    pub(super) fn process(&self) -> Option<(u32, u64)> {
        let who = self.call.as_ref().map(|call| &call.who).or(self.who.as_ref());
        who.map(|who| who.identity())
    }

    /// Whether it may go to the socket with these ends.
    pub(super) fn reaches(&self, ends: Option<Ends>) -> bool {
        let to = self.way.to;
        ends.is_some_and(|ends| {
            let here = ends.local.ip().is_unspecified() || ends.local.ip() == to.ip() || self.way.spreads();
            let near = !to.ip().is_loopback() || ends.netns == self.netns;
            ends.local.port() == to.port() && here && near
        })
    }

    /// As what nobody here received. `None` if its call is not known: it has failed.
    pub(super) fn unreceived(&self, why: Why, home: Home) -> Option<Event> {
        let call = self.call.as_ref()?;
        let transfer = sent_by(&self.way.channel(self.netns, home), call, why);
        let bytes = transfer.bytes.saturating_sub(self.heard);
        Some(Event::Transfer(Transfer { bytes, exact: !self.doubt, ..transfer }))
    }
}

/// What a datagram says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) len: u64,
}

impl Way {
    pub(super) fn of(record: &wire::Datagram) -> Way {
        Way {
            from: address::address(record.from, record.from_port),
            to: address::address(record.to, record.to_port),
            len: u64::from(record.len),
        }
    }

    /// Met in the network namespace `netns`.
    pub(super) fn channel(self, netns: u32, home: Home) -> Rc<Channel> {
        Rc::new(Channel { id: address::id("udp", self.from, self.to, netns, home), name: None })
    }

    /// Whether several sockets may get it.
    pub(super) fn spreads(self) -> bool {
        match self.to.ip() {
            // Of other addresses that end so some are broadcast addresses of a network.
            IpAddr::V4(to) => to.is_multicast() || to.octets()[3] == 255,
            IpAddr::V6(to) => to.is_multicast(),
        }
    }

    /// Where it comes from, as [`wire::Op::detail`] has it.
    pub(super) fn source(self) -> i64 {
        let last = match self.from.ip() {
            IpAddr::V4(from) => from.to_bits(),
            IpAddr::V6(from) => from.to_bits() as u32,
        };
        i64::from(self.from.port()) << 32 | i64::from(last)
    }
}

/// What the ways of datagrams are called, as it was put together last.
#[derive(Debug, Default)]
pub(super) struct Channels {
    known: HashMap<(SocketAddr, SocketAddr, u32), Rc<Channel>>,
}

impl Channels {
    /// How many are kept.
    const KEPT: usize = 4096;

    /// As [`Way::channel`].
    pub(super) fn of(&mut self, way: Way, netns: u32, home: Home) -> Rc<Channel> {
        let key = (way.from, way.to, netns);
        if let Some(channel) = self.known.get(&key) {
            return Rc::clone(channel);
        }
        if self.known.len() >= Channels::KEPT {
            self.known.clear();
        }
        let channel = way.channel(netns, home);
        self.known.insert(key, Rc::clone(&channel));
        channel
    }
}

/// What a call sent, to nobody.
pub(super) fn sent_by(channel: &Rc<Channel>, call: &Called, why: Why) -> Transfer {
    let sender = End::Known(Rc::clone(&call.who));
    transfer(channel, sender, End::Unknown(why), call.bytes, call.time, call.payload.clone())
}

/// A transfer of one datagram.
pub(super) fn transfer(
    channel: &Rc<Channel>,
    sender: End,
    receiver: End,
    bytes: u64,
    time: u64,
    payload: Bytes,
) -> Transfer {
    Transfer {
        payload: (!payload.is_empty()).then_some(payload),
        ..Transfer::new(Mechanism::Udp, Rc::clone(channel), sender, receiver, bytes, time)
    }
}
