//! Every system call that can take bytes out of a channel.

use std::io::Result;
use std::os::fd::RawFd;
use std::ptr::null_mut;

use fastrand::Rng;

use super::account::Account;
use super::channels::{Kind, Lane};
use super::send::{Source, checked, header, size, waits_as};

/// Receives once, and counts what came by its marks. Gives whether anything came.
///
/// # Errors
/// Those of the call: nothing was received then.
pub(super) fn receive(
    lanes: &[Lane],
    index: usize,
    source: &Source,
    rng: &mut Rng,
    account: &mut Account,
) -> Result<bool> {
    let lane = &lanes[index];
    match lane.kind {
        Kind::Pipe | Kind::Stream => {
            let bytes = stream(lane, source, rng)?;
            account.got(index, &bytes);
            Ok(!bytes.is_empty())
        }
        Kind::Datagram => {
            let messages = datagrams(lane, rng)?;
            messages.iter().for_each(|message| account.got_message(index, message));
            Ok(!messages.is_empty())
        }
        Kind::PosixQueue => {
            let mut room = vec![0; 4096];
            let mut priority = 0;
            let until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let wanted = if rng.bool() { &raw mut priority } else { null_mut() };
            // SAFETY: room for the largest message. A time that is past: the call waits for nothing.
            let len = checked(unsafe {
                libc::mq_timedreceive(lane.receive, room.as_mut_ptr().cast(), room.len(), wanted, &until)
            })?;
            account.got_message(index, &room[..len]);
            Ok(true)
        }
        Kind::SysvQueue => {
            let short = rng.u32(0..20) == 0;
            let size = if short { rng.usize(1..40) } else { 4096 };
            let mut room = vec![0u8; 8 + size];
            let (kind, mut flags) = match rng.u32(0..4) {
                0 => (0, 0),
                1 => (rng.i64(1..6), 0),
                2 => (-rng.i64(1..6), 0),
                _ => (rng.i64(1..6), libc::MSG_EXCEPT),
            };
            flags |= libc::IPC_NOWAIT | if short { libc::MSG_NOERROR } else { 0 };
            // SAFETY: room for a type and that many bytes.
            let len =
                checked(unsafe { libc::msgrcv(lane.receive, room.as_mut_ptr().cast(), size, kind, flags) })?;
            account.got_message(index, &room[8..8 + len]);
            Ok(true)
        }
    }
}

fn stream(lane: &Lane, source: &Source, rng: &mut Rng) -> Result<Vec<u8>> {
    let fd = lane.receive;
    let len = size(rng, 70_000).max(rng.usize(1..400));
    let mut room = vec![0; len];
    let socket = lane.kind == Kind::Stream;
    let came = match (socket, rng.u32(0..10)) {
        (true, 0) => {
            // A look takes nothing.
            // SAFETY: room for that many bytes.
            checked(unsafe {
                libc::recv(fd, room.as_mut_ptr().cast(), len, libc::MSG_PEEK | libc::MSG_DONTWAIT)
            })?;
            room.fill(0);
            // SAFETY: as above.
            checked(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT) })?
        }
        (true, 1..4) => {
            let flags = if rng.bool() { libc::MSG_DONTWAIT } else { 0 };
            // SAFETY: as above.
            checked(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), len, flags) })?
        }
        (true, 4) => recvmsg(fd, &mut room, rng)?,
        (true, 5) => return recvmmsg(fd, rng, len.min(2000)).map(|messages| messages.concat()),
        (_, 6) => readv(fd, &mut room, rng, false)?,
        (false, 7) => readv(fd, &mut room, rng, true)?,
        (_, 8) => return by_splice(fd, source, len.min(60_000), rng),
        (false, 9) => {
            let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: len };
            // SAFETY: room for that many bytes; of a pipe's reading end vmsplice copies.
            checked(unsafe { libc::vmsplice(fd, &raw mut part, 1, waits_as(fd)) })?
        }
        // SAFETY: room for that many bytes.
        (_, _) => checked(unsafe { libc::read(fd, room.as_mut_ptr().cast(), len) })?,
    };
    room.truncate(came);
    Ok(room)
}

/// The room in two parts.
fn parts(room: &mut [u8], rng: &mut Rng) -> Vec<libc::iovec> {
    let (one, two) = room.split_at_mut(rng.usize(0..=room.len()));
    [one, two].map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() }).into()
}

fn readv(fd: RawFd, room: &mut [u8], rng: &mut Rng, at: bool) -> Result<usize> {
    let parts = parts(room, rng);
    // SAFETY: the parts name room that is there. An offset of -1 is none.
    checked(unsafe {
        if at { libc::preadv2(fd, parts.as_ptr(), 2, -1, 0) } else { libc::readv(fd, parts.as_ptr(), 2) }
    })
}

fn recvmsg(fd: RawFd, room: &mut [u8], rng: &mut Rng) -> Result<usize> {
    let mut parts = parts(room, rng);
    let mut header = header(&mut parts);
    let flags = if rng.bool() { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: the header names room that is there.
    checked(unsafe { libc::recvmsg(fd, &mut header, flags) })
}

/// Several messages, each with room for `size` bytes; on a stream what comes, in portions.
fn recvmmsg(fd: RawFd, rng: &mut Rng, size: usize) -> Result<Vec<Vec<u8>>> {
    let count = rng.usize(1..=6);
    let mut rooms = vec![vec![0u8; size.max(1)]; count];
    let mut vectors: Vec<libc::iovec> = rooms
        .iter_mut()
        .map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| libc::mmsghdr { msg_hdr: header(std::slice::from_mut(vector)), msg_len: 0 })
        .collect();
    // SAFETY: the headers name room that is there.
    let came = unsafe {
        libc::recvmmsg(fd, headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT as _, null_mut())
    };
    let came = checked(came as isize)?;
    let lens: Vec<usize> = headers[..came].iter().map(|header| header.msg_len as usize).collect();
    rooms.truncate(came);
    rooms.iter_mut().zip(lens).for_each(|(room, len)| room.truncate(len));
    rooms.retain(|room| !room.is_empty());
    Ok(rooms)
}

/// Into the private pipe, and read from there.
fn by_splice(fd: RawFd, source: &Source, len: usize, rng: &mut Rng) -> Result<Vec<u8>> {
    let (reader, writer) = source.private;
    let flags = if rng.bool() { libc::SPLICE_F_NONBLOCK } else { 0 };
    // SAFETY: descriptors, no offsets.
    let moved = checked(unsafe { libc::splice(fd, null_mut(), writer, null_mut(), len, flags) })?;
    let mut bytes = vec![0; moved];
    let mut done = 0;
    while done < moved {
        // SAFETY: room for that many bytes.
        match checked(unsafe { libc::read(reader, bytes[done..].as_mut_ptr().cast(), moved - done) }) {
            Ok(more) => done += more,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn datagrams(lane: &Lane, rng: &mut Rng) -> Result<Vec<Vec<u8>>> {
    let fd = lane.receive;
    let len = if rng.u32(0..20) == 0 { rng.usize(1..100) } else { lane.kind.largest() };
    let mut room = vec![0; len];
    let came = match rng.u32(0..8) {
        0 => {
            // A look takes nothing.
            // SAFETY: room for that many bytes.
            checked(unsafe {
                libc::recv(fd, room.as_mut_ptr().cast(), len, libc::MSG_PEEK | libc::MSG_DONTWAIT)
            })?;
            // SAFETY: as above.
            checked(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT) })?
        }
        1..3 => {
            let flags = if rng.bool() { libc::MSG_DONTWAIT } else { 0 };
            // SAFETY: as above.
            checked(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), len, flags) })?
        }
        3 => recvmsg(fd, &mut room, rng)?,
        4..6 => return recvmmsg(fd, rng, len),
        6 => readv(fd, &mut room, rng, false)?,
        // SAFETY: room for that many bytes.
        _ => checked(unsafe { libc::read(fd, room.as_mut_ptr().cast(), len) })?,
    };
    room.truncate(came);
    Ok(if room.is_empty() { Vec::new() } else { vec![room] })
}
