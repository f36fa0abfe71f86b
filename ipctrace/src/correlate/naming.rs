//! What users call a channel.

use std::rc::Rc;

use ipctrace_common::wire::channel_flag;
use ipctrace_common::{Mechanism, wire};

use crate::model::Channel;

/// What /proc appends to the path of a file that has been removed.
const DELETED: &[u8] = b" (deleted)";

/// The address family of unix sockets.
const AF_UNIX: u16 = 1;

/// The namespaces of the tracer, by their numbers as /proc/PID/ns shows them; 0 is unknown. What is in them is called as tools
/// that run beside the tracer call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// IPC namespace.
    pub ipc: u64,
    /// Network namespace.
    pub net: u64,
}

impl Home {
    /// The id of something that `ipcs` shows in the IPC namespace `space` (0: unknown).
    pub(super) fn ipc(self, id: String, space: u64) -> String {
        within(id, "ipc", space, self.ipc)
    }

    /// The id of something that `ss` shows in the network namespace `space` (0: unknown).
    pub(super) fn net(self, id: String, space: u64) -> String {
        within(id, "net", space, self.net)
    }
}

/// Appends to an id in which namespace it counts, unless it is at home: there are equal ones in others.
fn within(id: String, kind: &str, space: u64, home: u64) -> String {
    if space == home || space == 0 || home == 0 { id } else { format!("{id}@{kind}:[{space}]") }
}

/// Whether two records may be of one socket, by its inode (or address) as they have it; 0 is unknown.
pub(super) fn may_be_same(one: u64, other: u64) -> bool {
    one == other || one == 0 || other == 0
}

/// The id of a socket pair, as ss and lsof show its ends.
pub(super) fn sockets(sender: u64, receiver: u64) -> String {
    let end = |inode: u64| match inode {
        0 => "socket:[?]".to_owned(),
        inode => format!("socket:[{inode}]"),
    };
    format!("{}->{}", end(sender), end(receiver))
}

/// Where users find the slave of a pseudoterminal.
pub(super) fn terminal(number: u64) -> String {
    format!("/dev/pts/{number}")
}

/// The id of something on a file system: the kernel's internal `dev_t` has 20 bits of minor number.
pub(super) fn file(kind: &str, device: u64, inode: u64) -> String {
    format!("{kind}:[{}:{}:{inode}]", device >> 20, device & 0xf_ffff)
}

/// A path as /proc shows it, `memfd:name`, or none for memory without a name.
pub(super) fn file_name(flags: u16, name: &[u8]) -> Option<Vec<u8>> {
    let pseudo = flags & channel_flag::PSEUDO != 0;
    let name = super::intern::until_nul(name);
    match name {
        [] => None,
        // Shared anonymous memory: the kernel's names for it say nothing.
        b"dev/zero" | b"anon_hugepage" if pseudo => None,
        // System V shared memory: `SYSV` and the key in eight digits, as ipcs has it; 0 is none.
        [b'S', b'Y', b'S', b'V', key @ ..] if pseudo => {
            let key = u32::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok()?;
            (key != 0).then(|| format!("{key:#x}").into_bytes())
        }
        name if !pseudo && flags & channel_flag::DELETED != 0 => Some([name, DELETED].concat()),
        name => Some(name.to_vec()),
    }
}

/// A name as users write it: a pathname without its NUL, an abstract one with `@` for its leading NUL.
pub(super) fn readable(name: &[u8]) -> Option<Vec<u8>> {
    match name {
        [] | [0] => None,
        [0, rest @ ..] => Some([b"@", rest].concat()),
        [path @ .., 0] => Some(path.to_vec()),
        path => Some(path.to_vec()),
    }
}

/// The name in a `struct sockaddr_un`, if it is one.
pub(super) fn unix_address(address: &[u8]) -> Option<Vec<u8>> {
    let (family, name) = address.split_first_chunk()?;
    if u16::from_ne_bytes(*family) != AF_UNIX {
        return None;
    }
    // A pathname ends at its first NUL, whatever length the caller gave.
    match name {
        [0, ..] => readable(name),
        path => readable(super::intern::until_nul(path)),
    }
}

/// What is known of a channel's ends and name.
#[derive(Debug)]
pub(super) struct Naming {
    mechanism: Mechanism,
    key: wire::Key,
    sender: u64,
    receiver: u64,
    name: Option<Vec<u8>>,
    channel: Option<Rc<Channel>>,
    /// What it is called once and for all.
    id: Option<String>,
}

impl Naming {
    /// A channel of which only its key is known.
    pub(super) fn new(mechanism: Mechanism, key: wire::Key) -> Naming {
        Naming { mechanism, key, sender: 0, receiver: 0, name: None, channel: None, id: None }
    }

    /// A channel that is known by this id, whatever sockets its ends are.
    pub(super) fn called(mechanism: Mechanism, key: wire::Key, id: String) -> Naming {
        Naming { id: Some(id), ..Naming::new(mechanism, key) }
    }

    /// Whether this is a channel of that mechanism.
    pub(super) fn is_of(&self, mechanism: Mechanism) -> bool {
        self.mechanism == mechanism
    }

    /// Whether the receiving socket is another one at the same address, by the inodes (or a counter's number) that a record has; 0 is
    /// unknown.
    pub(super) fn is_other(&self, sender: u64, receiver: u64) -> bool {
        if self.receiver != 0 && receiver != 0 {
            return receiver != self.receiver;
        }
        if self.mechanism.is_unix_connection() && self.sender != 0 && sender != 0 {
            // As long as a socket is not accepted, who is at its other end tells which one it is.
            return sender != self.sender;
        }
        // One for datagrams is never accepted.
        self.receiver != 0 && self.mechanism != Mechanism::UnixDgram
    }

    /// The same where the kernel opens books anew: it would have kept those of a connection that was accepted meanwhile. Between the two
    /// a socket of another kind may have been at the address.
    pub(super) fn is_other_now(&self, sender: u64, receiver: u64) -> bool {
        let never_accepted = self.mechanism.is_unix_connection() && self.sender != 0 && self.receiver == 0;
        self.is_other(sender, receiver) || (never_accepted && sender == 0)
    }

    /// The inodes of both sockets as a record has them; 0 is unknown.
    pub(super) fn meet(&mut self, sender: u64, receiver: u64) {
        if (sender != 0 && sender != self.sender) || (receiver != 0 && receiver != self.receiver) {
            self.sender = if sender == 0 { self.sender } else { sender };
            self.receiver = if receiver == 0 { self.receiver } else { receiver };
            self.channel = None;
        }
    }

    /// The name as a `Channel` record has it.
    pub(super) fn named(&mut self, name: &[u8]) {
        let name = readable(name);
        if name.is_some() && name != self.name {
            self.name = name;
            self.channel = None;
        }
    }

    /// The name, if it has one.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The name, if this is a channel of that mechanism between those sockets: the address that makes the key is used again, for sockets
    /// of another kind, too.
    pub(super) fn name_of(&self, mechanism: Mechanism, (sender, receiver): (u64, u64)) -> Option<&[u8]> {
        self.name().filter(|_| self.is_of(mechanism) && !self.is_other(sender, receiver))
    }

    /// The receiving socket's inode; 0 if unknown.
    pub(super) fn receiver(&self) -> u64 {
        self.receiver
    }

    /// The channel as it is known now.
    pub(super) fn channel(&mut self) -> &Rc<Channel> {
        let Naming { mechanism, key, sender, receiver, name, channel, id } = self;
        channel.get_or_insert_with(|| {
            if let Some(id) = id {
                return Rc::new(Channel { id: id.clone(), name: name.clone() });
            }
            let id = match mechanism {
                Mechanism::Pipe => format!("pipe:[{}]", key.id),
                // Above the device stands the inode's generation.
                Mechanism::Fifo => file("fifo", u64::from(key.space as u32), key.id),
                Mechanism::UnixStream | Mechanism::UnixDgram | Mechanism::UnixSeqpacket => {
                    sockets(*sender, *receiver)
                }
                Mechanism::Pty => {
                    let path = terminal(receiver.saturating_sub(1));
                    *name = Some(path.clone().into_bytes());
                    format!("pty:{path}")
                }
                Mechanism::Eventfd => format!("eventfd:{}", receiver.saturating_sub(1)),
                Mechanism::Tcp
                | Mechanism::Udp
                | Mechanism::PosixMq
                | Mechanism::SysvMsg
                | Mechanism::SysvShm
                | Mechanism::PosixShm
                | Mechanism::Memfd
                | Mechanism::SharedFile
                | Mechanism::SharedAnon
                | Mechanism::SysvSem
                | Mechanism::Futex
                | Mechanism::ProcessVm
                | Mechanism::Signal => format!("{}:{}:{}", mechanism.name(), key.space, key.id),
            };
            Rc::new(Channel { id, name: name.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_bytes() {
        assert_eq!(readable(b""), None);
        assert_eq!(readable(b"\0abs\0x").as_deref(), Some(&b"@abs\0x"[..]));
        assert_eq!(readable(b"/tmp/\xff\0").as_deref(), Some(&b"/tmp/\xff"[..]));
        let address = |name: &[u8]| [&AF_UNIX.to_ne_bytes()[..], name].concat();
        assert_eq!(unix_address(&address(b"/a\0junk")).as_deref(), Some(&b"/a"[..]));
        assert_eq!(unix_address(&address(b"\0a\0")).as_deref(), Some(&b"@a\0"[..]));
        assert_eq!(unix_address(&[2, 0, 1]), None);
        assert_eq!(unix_address(&[1]), None);
    }

    #[test]
    fn what_is_not_at_home_says_where_it_is() {
        let home = Home { ipc: 7, net: 8 };
        let id = || "x".to_owned();
        assert_eq!((home.ipc(id(), 7), home.net(id(), 7)), (id(), "x@net:[7]".to_owned()));
        assert_eq!((home.ipc(id(), 9), home.net(id(), 8)), ("x@ipc:[9]".to_owned(), id()));
        assert_eq!((home.ipc(id(), 0), Home::default().ipc(id(), 9)), (id(), id()), "unknown");
    }

    #[test]
    fn ids_are_those_that_other_tools_show() {
        let key = |id, space| wire::Key { id, space };
        assert_eq!(Naming::new(Mechanism::Pipe, key(47, 13)).channel().id, "pipe:[47]");
        assert_eq!(Naming::new(Mechanism::Fifo, key(9, 7 << 32 | 8 << 20 | 1)).channel().id, "fifo:[8:1:9]");
        let mut socket = Naming::new(Mechanism::UnixStream, key(1, wire::Key::SOCKET));
        socket.meet(52, 0);
        assert_eq!(socket.channel().id, "socket:[52]->socket:[?]");
        socket.meet(0, 53);
        assert_eq!(socket.channel().id, "socket:[52]->socket:[53]");
    }

    #[test]
    fn a_socket_is_another_if_the_one_that_it_is_connected_to_is() {
        let met = |mechanism, sender, receiver| {
            let mut socket = Naming::new(mechanism, wire::Key { id: 1, space: wire::Key::SOCKET });
            socket.meet(sender, receiver);
            socket
        };
        let accepted = met(Mechanism::UnixStream, 52, 53);
        assert!(accepted.is_other(52, 54) && accepted.is_other(50, 54) && !accepted.is_other(0, 53));
        assert!(!accepted.is_other(52, 0), "who looked before it was accepted");
        assert!(accepted.is_other(50, 0) && accepted.is_other(0, 0));
        let waits = met(Mechanism::UnixSeqpacket, 52, 0);
        assert!(waits.is_other(50, 0) && waits.is_other(50, 53) && !waits.is_other(52, 53));
        assert!(!waits.is_other(0, 53), "the one that has been accepted, whose other end is closed");
        assert!(waits.is_other_now(0, 53) && !waits.is_other_now(52, 53));
        let orphan = met(Mechanism::UnixStream, 0, 53);
        assert!(orphan.is_other(52, 0) && !orphan.is_other(52, 53));
        let datagrams = met(Mechanism::UnixDgram, 0, 53);
        assert!(!datagrams.is_other(52, 0) && datagrams.is_other(52, 54));
    }
}
