//! Unix domain sockets: `struct unix_sock`, include/net/af_unix.h, net/unix/af_unix.c.

use ipctrace_common::Mechanism;
use ipctrace_common::wire::Key;

use crate::config::offset;
use crate::inflight::Side;
use crate::kernel::{Result, read};
use crate::object::is_on;
use crate::repeat::{Repeat, opaque, repeat};

const AF_UNIX: u16 = 1;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const SOCK_SEQPACKET: u16 = 5;

/// Fills in a unix socket's side of a call, if it is traced.
#[inline(always)]
pub(crate) fn describe(sock: u64, inode: u64, side: &mut Side) -> Result<()> {
    let mechanism = match read::<u16>(sock, offset!(sock_type))? {
        SOCK_STREAM => Mechanism::UnixStream,
        SOCK_DGRAM => Mechanism::UnixDgram,
        SOCK_SEQPACKET => Mechanism::UnixSeqpacket,
        _ => return Ok(()),
    };
    if !is_on(mechanism) {
        return Ok(());
    }
    side.mechanism = mechanism as u8;
    side.object = sock;
    side.own_inode = if offset!(sock_ino) == 0 {
        read(inode, offset!(inode_ino))?
    } else {
        read(sock, offset!(sock_ino))?
    };
    side.peer = read(sock, offset!(unix_peer))?;
    side.peer_inode = if side.peer == 0 { 0 } else { inode_of(side.peer)? };
    side.pos_enter = 0;
    side.pos_locked = 0;
    let owner = if side.receive != 0 { sock } else { side.peer };
    side.key = if owner == 0 { Key { id: 0, space: 0 } } else { Key { id: owner, space: Key::SOCKET } };
    Ok(())
}

/// Inode of a socket; 0 if it is closed or not accepted yet.
#[inline(always)]
pub(crate) fn inode_of(sock: u64) -> Result<u64> {
    if offset!(sock_ino) != 0 {
        return read(sock, offset!(sock_ino));
    }
    let socket: u64 = read(sock, offset!(sock_socket))?;
    if socket == 0 { Ok(0) } else { read(beside(socket), offset!(inode_ino)) }
}

/// Whether a receiver that is connected has been accepted and its peer closed since: a peer without an inode that is not closed has not
/// been accepted itself.
///
/// `sock_orphan`, include/net/sock.h, says that a socket is closed before it takes its inode away.
#[inline(always)]
pub(crate) fn has_lost_peer(sock: u64) -> Result<bool> {
    /// Bit of `SOCK_DEAD`, the first of `enum sock_flags`.
    const DEAD: u64 = 1;
    let peer: u64 = read(sock, offset!(unix_peer))?;
    Ok(peer != 0 && read::<u64>(peer, offset!(sock_flags))? & DEAD != 0)
}

/// The inode of a `struct socket`: `SOCK_INODE`, include/net/sock.h.
#[inline(always)]
pub(crate) fn beside(socket: u64) -> u64 {
    socket - offset!(socket_alloc_socket) as u64 + offset!(socket_alloc_inode) as u64
}

/// Whether it is one of [`Mechanism::UNIX_CONNECTIONS`].
#[inline(always)]
pub(crate) fn is_connection(mechanism: u8) -> bool {
    Mechanism::UNIX_CONNECTIONS >> (mechanism & 31) & 1 != 0
}

/// Whether that side of a call receives from a unix socket to which its peer alone can send.
#[inline(always)]
pub(crate) fn is_connected(side: &Side) -> bool {
    is_connection(side.mechanism) || (side.mechanism == Mechanism::UnixDgram as u8 && side.peer != 0)
}

/// Whether it is a unix socket that keeps messages apart.
#[inline(always)]
pub(crate) fn keeps_messages(mechanism: u8) -> bool {
    const SET: u32 = Mechanism::UnixDgram.bit() | Mechanism::UnixSeqpacket.bit();
    SET >> (mechanism & 31) & 1 != 0
}

/// Whether nothing more can be received from a socket, of whatever kind, than is in it.
///
/// # Errors
/// If it could not be read.
#[inline(always)]
pub(crate) fn is_shut(sock: u64) -> Result<bool> {
    /// `RCV_SHUTDOWN`, include/net/sock.h.
    const RECEIVING: u8 = 1;
    Ok(read::<u8>(sock, offset!(sock_shutdown))? & RECEIVING != 0)
}

/// Whether receives wait until there is more than one byte (`SO_RCVLOWAT`, socket(7)).
#[inline(always)]
pub(crate) fn waits_for_more_than_one(sock: u64) -> bool {
    read::<u32>(sock, offset!(sock_rcvlowat)).is_ok_and(|bytes| bytes > 1)
}

/// Whether a buffer belongs to a unix socket.
#[inline(always)]
pub(crate) fn is_unix(sock: u64) -> bool {
    read::<u16>(sock, offset!(sock_family)) == Ok(AF_UNIX)
}

/// Adds up a receive queue.
struct Count {
    /// The list's head, which closes the ring of buffers.
    queue: u64,
    buffer: u64,
    bytes: u64,
}

impl Repeat for Count {
    const LIMIT: u32 = 16_384;
    const PLAIN_LIMIT: u32 = 64;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.buffer == self.queue {
            return true;
        }
        // unix_skb_len, net/unix/af_unix.c.
        let len = read::<u32>(self.buffer, offset!(skb_len)).unwrap_or(0);
        let consumed = read::<u32>(self.buffer, offset!(skb_cb) + offset!(unix_cb_consumed)).unwrap_or(0);
        self.bytes += u64::from(len.saturating_sub(consumed));
        match read(self.buffer, offset!(skb_next)) {
            Ok(next) => {
                self.buffer = next;
                false
            }
            Err(_) => true,
        }
    }
}

/// What waits in a socket's receive queue: messages, or bytes of a stream not read yet. `u64::MAX` if that could not be
/// read.
#[inline(never)]
pub(crate) fn queued(sock: u64, messages: bool) -> u64 {
    let queue = sock + offset!(sock_receive_queue) as u64;
    if messages {
        return read::<u32>(queue, offset!(queue_len)).map_or(u64::MAX, u64::from);
    }
    let Ok(buffer) = read::<u64>(queue, offset!(skb_next)) else {
        return u64::MAX;
    };
    let mut count = Count { queue, buffer, bytes: opaque(0) };
    repeat(&mut count);
    if count.buffer != queue { u64::MAX } else { count.bytes }
}
