//! Internet addresses: the ends of a socket, and which addresses are this host's.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipctrace_common::wire;
use zerocopy::FromBytes;

use super::naming::Home;

/// The ends of an internet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// Its own.
    pub(super) local: SocketAddr,
    /// The other.
    pub(super) remote: SocketAddr,
    /// Network namespace that it is in.
    pub(super) netns: u32,
}

/// An address as the programs write it: IPv4 as IPv6 maps it.
pub(super) fn address(bytes: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(bytes).to_canonical(), port)
}

impl Ends {
    /// As the name of a `Channel` record has them; `None` if it has none.
    pub(super) fn read(name: &[u8]) -> Option<Ends> {
        let (ends, _) = wire::Ends::read_from_prefix(name).ok()?;
        Some(Ends {
            local: address(ends.local, ends.local_port),
            remote: address(ends.remote, ends.remote_port),
            netns: ends.netns,
        })
    }
}

/// The id of what goes from one address to another, met in the network namespace `netns`.
///
/// Each namespace has a loopback of its own, with the same addresses: those of others say in which they are. Other addresses do
/// not: what they are of can be seen from several namespaces.
pub(super) fn id(mechanism: &str, from: SocketAddr, to: SocketAddr, netns: u32, home: Home) -> String {
    let id = format!("{mechanism}:{from}->{to}");
    if from.ip().is_loopback() || to.ip().is_loopback() { home.net(id, u64::from(netns)) } else { id }
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a network namespace of this host.
    Here,
    /// On another host.
    Elsewhere,
    /// What is known of this host's addresses is too old to say.
    Unknown,
}

/// The addresses of this host, in all its network namespaces, as far as the correlator was told of them.
#[derive(Debug, Default)]
pub(super) struct Locals {
    known: HashSet<IpAddr>,
    /// From when to when they were gathered.
    gathered: (u64, u64),
    /// Somebody asked for an address that was not known.
    wanted: bool,
}

impl Locals {
    /// Where `address` is, which was met at `since`; `now` is the latest time known.
    pub(super) fn place(&mut self, address: IpAddr, since: u64, now: u64) -> Place {
        if address.is_loopback() || self.known.contains(&address) {
            return Place::Here;
        }
        let (from, to) = self.gathered;
        if from < since || from == 0 {
            self.wanted = true;
            return Place::Unknown;
        }
        // A process that ended while they were gathered has taken its namespace with it: what it did until then is seen first.
        if now < to { Place::Unknown } else { Place::Elsewhere }
    }

    /// Whether they should be gathered (anew).
    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    /// These are all that there were throughout `gathered`.
    pub(super) fn learn(&mut self, addresses: HashSet<IpAddr>, gathered: (u64, u64)) {
        self.known = addresses;
        self.gathered = gathered;
        self.wanted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_users_know_them() {
        let four = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]).octets();
        let six = Ipv6Addr::LOCALHOST.octets();
        let home = Home { ipc: 0, net: 9 };
        let (from, to) = (address(four, 4000), address(six, 5));
        assert_eq!(id("tcp", from, to, 9, home), "tcp:127.0.0.1:4000->[::1]:5");
        assert_eq!(id("tcp", from, to, 8, home), "tcp:127.0.0.1:4000->[::1]:5@net:[8]");
        let [one, two] = [([10, 0, 0, 1], 5), ([10, 0, 0, 2], 6)].map(SocketAddr::from);
        assert_eq!(id("udp", one, two, 8, home), "udp:10.0.0.1:5->10.0.0.2:6");
    }

    #[test]
    fn an_address_is_elsewhere_only_if_it_was_looked_for_since() {
        let mut locals = Locals::default();
        let (here, there): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(locals.place([127, 3, 0, 1].into(), 5, 6), Place::Here);
        assert!(!locals.wanted());
        assert_eq!(locals.place(here, 5, 6), Place::Unknown);
        assert!(locals.wanted());
        locals.learn(HashSet::from([here]), (7, 8));
        assert_eq!((locals.place(here, 5, 7), locals.place(there, 5, 7)), (Place::Here, Place::Unknown));
        assert!(!locals.wanted(), "what was done meanwhile is looked at before");
        assert_eq!(locals.place(there, 5, 8), Place::Elsewhere);
        assert_eq!(locals.place(there, 9, 9), Place::Unknown);
    }

    #[test]
    fn what_is_no_pair_of_ends_is_none() {
        assert_eq!(Ends::read(&[0; 39]), None);
        assert!(Ends::read(&[0; 40]).is_some());
    }
}
