//! Internet sockets: `struct inet_sock`, include/net/inet_sock.h, and `struct tcp_sock`, include/linux/tcp.h.
//!
//! Nothing leads from one end of a connection to the other, so each end has books of its own for what it sends and what it
//! receives. User space finds the other end by the addresses and, for TCP, by the sequence numbers, which are the same
//! at both.

use ipctrace_common::wire::{Ends, Key, NAME_MAX, Op, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::inflight::{self, InFlight, Side};
use crate::kernel::{Result, copy, read};
use crate::object::is_on;
use crate::{channel, emit, ring};

const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
/// `1 << SOCK_DONE`, include/net/sock.h: the peer has ended its stream.
const SOCK_DONE: u64 = 1 << 1;
/// `TCP_SYN_SENT`, include/net/tcp_states.h.
const SYN_SENT: u8 = 2;

/// Of what [`inet_space`] gives: it is UDP.
const UDP: u64 = 1 << 61;
/// Of what [`inet_space`] gives: it is connected to nothing (yet).
const ALONE: u64 = 1 << 60;

/// Fills in an internet socket's side of a call, if it is traced.
#[inline(always)]
pub(crate) fn describe(sock: u64, inode: u64, side: &mut Side) -> Result<()> {
    let space = inet_space(sock);
    if space == 0 {
        return Ok(());
    }
    // Udp is Tcp + 1: without a branch the verifier has one path to follow.
    side.mechanism = Mechanism::Tcp as u8 + (space >> UDP.trailing_zeros() & 1) as u8;
    side.object = sock;
    side.own_inode = read(inode, offset!(inode_ino))?;
    side.peer = 0;
    side.peer_inode = side.own_inode;
    side.pos_enter = 0;
    side.pos_locked = 0;
    side.key = key(sock, space, side.receive != 0);
    if space & UDP != 0 {
        side.pos_enter = Op::UNKNOWN;
    }
    if space & (UDP | ALONE) == 0 {
        side.pos_enter = inet_position(sock, u32::from(side.receive));
        side.flags |= op_flag::POSITIONS;
    }
    Ok(())
}

/// The key of one direction.
#[inline(always)]
fn key(sock: u64, space: u64, receive: bool) -> Key {
    // Of datagrams that are sent the records of the datagrams themselves tell.
    if space & ALONE != 0 || (space & UDP != 0 && !receive) {
        return Key { id: 0, space: 0 };
    }
    Key { id: sock, space: (space & !UDP) | if receive { Key::RECEIVES } else { 0 } }
}

/// What distinguishes the keys of a socket from those of other sockets at the same address, with [`UDP`] and [`ALONE`];
/// 0 if it is not traced. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inet_space(sock: u64) -> u64 {
    match try_space(sock) {
        Ok(space) => space,
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

#[inline(always)]
fn try_space(sock: u64) -> Result<u64> {
    let protocol: u16 = read(sock, offset!(sock_protocol))?;
    let kind: u16 = read(sock, offset!(sock_type))?;
    if protocol == IPPROTO_UDP && kind == SOCK_DGRAM {
        return Ok(if is_on(Mechanism::Udp) { Key::SOCKET | UDP } else { 0 });
    }
    if protocol != IPPROTO_TCP || kind != SOCK_STREAM || !is_on(Mechanism::Tcp) {
        return Ok(0);
    }
    let remote: u16 = read(sock, offset!(sock_dport))?;
    let local: u16 = read(sock, offset!(inet_sport))?;
    // Until its peer has answered it does not know the peer's sequence number.
    if remote == 0 || read::<u8>(sock, offset!(sock_state))? == SYN_SENT {
        return Ok(Key::SOCKET | ALONE);
    }
    Ok(Key::SOCKET | u64::from(u16::from_be(local)) << 16 | u64::from(u16::from_be(remote)))
}

/// Writes the ends of a socket.
///
/// # Safety
/// `ends` must be valid for a write; it need not be aligned.
///
/// # Errors
/// If it could not be read.
#[inline(always)]
unsafe fn ends(sock: u64, ends: *mut Ends) -> Result<()> {
    let net: u64 = read(sock, offset!(sock_net))?;
    let (local, remote): (u16, u16) = (read(sock, offset!(inet_sport))?, read(sock, offset!(sock_dport))?);
    // SAFETY: valid by contract.
    unsafe {
        copy(&raw mut (*ends).netns, net, offset!(net_inum))?;
        (&raw mut (*ends).local_port).write_unaligned(u16::from_be(local));
        (&raw mut (*ends).remote_port).write_unaligned(u16::from_be(remote));
        if read::<u16>(sock, offset!(sock_family))? == AF_INET6 {
            copy(&raw mut (*ends).local, sock, offset!(sock_v6_rcv_saddr))?;
            copy(&raw mut (*ends).remote, sock, offset!(sock_v6_daddr))
        } else {
            mapped(&raw mut (*ends).local, sock, offset!(sock_rcv_saddr))?;
            mapped(&raw mut (*ends).remote, sock, offset!(sock_daddr))
        }
    }
}

/// Reads an IPv4 address and writes it as IPv6 maps it.
///
/// # Safety
/// `place` must be valid for a write.
///
/// # Errors
/// If it could not be read.
#[inline(always)]
pub(crate) unsafe fn mapped(place: *mut [u8; 16], address: u64, offset: usize) -> Result<()> {
    let bytes = place.cast::<u8>();
    // SAFETY: valid by contract.
    unsafe {
        *bytes.cast::<[u8; 10]>() = [0; 10];
        *bytes.add(10).cast::<[u8; 2]>() = [0xff; 2];
        bytes.add(12).cast::<u32>().write_unaligned(read(address, offset)?);
    }
    Ok(())
}

/// Writes the ends of a socket where the name of a channel goes, and gives their length.
#[inline(always)]
pub(crate) fn name(sock: u64, place: &mut [u8; NAME_MAX + 256]) -> usize {
    // SAFETY: there is room for it.
    unsafe { short_name(sock, place.as_mut_ptr()) }
}

/// The same, at a place that need not be aligned.
///
/// # Safety
/// It must be valid for a write of [`Ends`].
#[inline(always)]
pub(crate) unsafe fn short_name(sock: u64, place: *mut u8) -> usize {
    // SAFETY: valid by contract.
    match unsafe { ends(sock, place.cast()) } {
        Ok(()) => size_of::<Ends>(),
        Err(_) => 0,
    }
}

/// Sequence number of the next byte of a TCP connection in one direction.
///
/// # Errors
/// If it could not be read.
#[inline(always)]
pub(crate) fn sequence(sock: u64, receive: bool) -> Result<u32> {
    if receive { read(sock, offset!(tcp_copied_seq)) } else { read(sock, offset!(tcp_write_seq)) }
}

/// [`sequence`], or 0. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inet_position(sock: u64, receive: u32) -> u64 {
    sequence(sock, receive != 0).map_or(0, u64::from)
}

/// Bytes that have arrived and wait for a receiver; nothing for the other direction.
#[inline(always)]
pub(crate) fn queued(side: &Side) -> u64 {
    if side.receive == 0 {
        return 0;
    }
    arrived(side.object).map_or(u64::MAX, u64::from)
}

/// As SIOCINQ has it (`tcp_inq`, include/net/tcp.h): the end of a stream has a sequence number too.
#[inline(always)]
fn arrived(sock: u64) -> Result<u32> {
    let waits = || -> Result<u32> {
        Ok(read::<u32>(sock, offset!(tcp_rcv_nxt))?.wrapping_sub(sequence(sock, true)?))
    };
    let now = waits()?;
    if read::<u64>(sock, offset!(sock_flags))? & SOCK_DONE == 0 {
        return Ok(now);
    }
    // Looked at once more, for it may have ended since.
    Ok(waits()?.saturating_sub(1))
}

/// What is left to do where there is nothing to tell of a side: perhaps there is now.
#[inline(always)]
pub(crate) fn late(tid: u32, call: &InFlight, index: usize) {
    if is_connected_meanwhile(call, index) {
        connected_meanwhile(tid, index as u32);
    }
}

/// Whether a call moved something through a socket that was not connected when it began.
#[inline(always)]
pub(crate) fn is_connected_meanwhile(call: &InFlight, index: usize) -> bool {
    let side = &call.sides[index];
    side.mechanism == Mechanism::Tcp as u8 && side.key.id == 0 && call.moved.bytes != 0
}

/// Makes a side that was not connected when its call began that of the connection that there is now.
///
/// # Errors
/// If there is none.
#[inline(always)]
pub(crate) fn connect(side: &mut Side) -> Result<()> {
    let space = inet_space(side.object);
    if space == 0 || space & ALONE != 0 {
        return Err(Cause::ReadFailed);
    }
    side.key = key(side.object, space, side.receive != 0);
    Ok(())
}

/// Tells of a call on a socket that was not connected when it began (a connection that was being made, `MSG_FASTOPEN`):
/// the call belongs to the connection that it is now. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn connected_meanwhile(tid: u32, index: u32) -> i32 {
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let call = unsafe { &mut *call };
    let index = (index & 1) as usize;
    if let Err(cause) = connect(&mut call.sides[index]) {
        ring::count(cause);
        return 0;
    }
    channel::open(tid, call, index, call.moved.bytes);
    emit::op(tid, call, index);
    0
}
