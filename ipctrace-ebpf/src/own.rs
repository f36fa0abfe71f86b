//! What each mechanism does in its own way. With `object`, which finds out what a descriptor is of, and the hooks that serve
//! one mechanism alone, the only place that tells them apart; everything else goes by [`Shape`].

use ipctrace_common::wire::{NAME_MAX, channel_flag};
use ipctrace_common::{Mechanism, Shape};

use crate::channel::{bound_name, path};
use crate::emit::{self, has_messages};
use crate::inflight::{self, InFlight, Side};
use crate::object::is_at_object;
use crate::{eventfd, inet, pipe, posix_mq, pty, sysv_msg, udp, unix};

/// Whether more is looked for at the end of a call than how many bytes it moved; its books then count calls.
#[inline(always)]
pub(crate) fn is_looked_into(mechanism: u8) -> bool {
    const SET: u32 = Mechanism::of_shape(Shape::Counter) | Mechanism::of_shape(Shape::Terminal);
    SET >> (mechanism & 31) & 1 != 0
}

/// Notes with a call on such a mechanism, the one in flight of thread `tid`, what it did. Gives how much of what was queued a
/// receive has taken.
#[inline(always)]
pub(crate) fn look(tid: u32, call: &mut InFlight) -> u64 {
    if call.sides[0].mechanism == Mechanism::Eventfd as u8 {
        return eventfd::value(call);
    }
    pty::pty_expected(tid);
    call.moved.bytes
}

/// Tells of such a call. The verifier looks at it by itself, but where it is part of its caller.
#[cfg_attr(feature = "loads", inline(always))]
#[cfg_attr(not(feature = "loads"), unsafe(no_mangle), inline(never))]
pub extern "C" fn exited_looked_into(tid: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        let call = unsafe { &mut *call };
        if call.moved.bytes != 0 {
            look(tid, call);
            emit::op(tid, call, 0);
        }
    }
    0
}

/// Tells what else there is to tell of a channel whose books have just been opened.
#[inline(always)]
pub(crate) fn opened(mechanism: u8, object: u64) {
    if mechanism == Mechanism::Udp as u8 {
        udp::tell_queued(object);
    }
}

/// Whether the mechanism's objects share one inode, and are told apart by a number of their own.
#[inline(always)]
pub(crate) fn is_numbered(mechanism: u8) -> bool {
    const NUMBERED: u32 = Mechanism::Eventfd.bit() | Mechanism::Pty.bit();
    NUMBERED >> (mechanism & 31) & 1 != 0
}

/// [`channel_flag`]s.
#[inline(always)]
pub(crate) fn flags(side: &Side) -> u16 {
    if side.mechanism != Mechanism::Eventfd as u8 {
        return 0;
    }
    let complete = if is_at_object(Mechanism::Eventfd as u8) { channel_flag::COMPLETE } else { 0 };
    complete | if eventfd::is_semaphore(side.object) { channel_flag::SEMAPHORE } else { 0 }
}

/// What is in the channel now.
#[inline(always)]
pub(crate) fn queued(side: &Side) -> u64 {
    match Mechanism::from_wire(side.mechanism) {
        Some(Mechanism::Pipe | Mechanism::Fifo) => pipe::queued(side.object),
        Some(Mechanism::UnixStream | Mechanism::UnixDgram | Mechanism::UnixSeqpacket) => {
            let owner = if side.receive != 0 { side.object } else { side.peer };
            unix::queued(owner, has_messages(side.mechanism))
        }
        Some(Mechanism::Eventfd) => eventfd::queued(side.object),
        Some(Mechanism::Pty) => pty::pty_queued(side.object),
        Some(Mechanism::PosixMq) => posix_mq::queued(side.object),
        Some(Mechanism::SysvMsg) => sysv_msg::queued(side.object),
        Some(Mechanism::Tcp) => inet::queued(side),
        // Each is told of by itself: `udp::tell_queued`.
        Some(Mechanism::Udp) => 0,
        Some(
            Mechanism::SysvShm
            | Mechanism::PosixShm
            | Mechanism::Memfd
            | Mechanism::SharedFile
            | Mechanism::SharedAnon
            | Mechanism::SysvSem
            | Mechanism::Futex
            | Mechanism::ProcessVm
            | Mechanism::Signal,
        )
        | None => u64::MAX,
    }
}

/// Writes the channel's name and gives its length; 0 if it has none.
#[inline(always)]
pub(crate) fn name(side: &Side, place: &mut [u8; NAME_MAX + 256]) -> usize {
    match Mechanism::from_wire(side.mechanism) {
        Some(Mechanism::Fifo) => path(side.last.file, place),
        Some(Mechanism::UnixStream | Mechanism::UnixDgram | Mechanism::UnixSeqpacket) => {
            let (receiver, sender) =
                if side.receive != 0 { (side.object, side.peer) } else { (side.peer, side.object) };
            match bound_name(receiver, place) {
                Ok(0) | Err(_) => bound_name(sender, place).unwrap_or(0),
                Ok(len) => len,
            }
        }
        // SAFETY: the place is longer than any such name.
        Some(Mechanism::PosixMq) => unsafe { posix_mq::name(side.fd as u32, place.as_mut_ptr()) },
        // SAFETY: as above.
        Some(Mechanism::SysvMsg) => unsafe { sysv_msg::name(side.object, place.as_mut_ptr()) },
        Some(Mechanism::Tcp | Mechanism::Udp) => inet::name(side.object, place),
        Some(
            Mechanism::Pipe
            | Mechanism::SysvShm
            | Mechanism::PosixShm
            | Mechanism::Memfd
            | Mechanism::SharedFile
            | Mechanism::SharedAnon
            | Mechanism::SysvSem
            | Mechanism::Futex
            | Mechanism::Eventfd
            | Mechanism::Pty
            | Mechanism::ProcessVm
            | Mechanism::Signal,
        )
        | None => 0,
    }
}

/// The same of a channel that is told of at its object, whose name is short.
///
/// # Safety
/// The place must be valid for writes of [`posix_mq::NAMED`] bytes.
#[inline(always)]
pub(crate) unsafe fn short_name(side: &Side, place: *mut u8) -> usize {
    if side.mechanism == Mechanism::PosixMq as u8 {
        // SAFETY: valid by contract.
        unsafe { posix_mq::name(side.fd as u32, place) }
    } else if side.mechanism == Mechanism::SysvMsg as u8 {
        // SAFETY: as above.
        unsafe { sysv_msg::name(side.object, place) }
    } else if side.mechanism == Mechanism::Tcp as u8 || side.mechanism == Mechanism::Udp as u8 {
        // SAFETY: as above; they are shorter.
        unsafe { inet::short_name(side.object, place) }
    } else {
        0
    }
}
