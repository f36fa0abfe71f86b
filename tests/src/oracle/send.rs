//! Every system call that can put bytes into a channel.

use std::io::{Error, Result};
use std::os::fd::RawFd;
use std::ptr::null_mut;

use fastrand::Rng;

use super::channels::{Kind, Lane};

/// What a process sends from: memory full of its mark that is never written again, so that pages given away by vmsplice(2)
/// keep what they say; and a file and a pipe of its own for the calls that move from one descriptor to another.
pub(super) struct Source {
    memory: &'static [u8],
    file: RawFd,
    /// Reading and writing end of the private pipe. It is empty between operations.
    pub(super) private: (RawFd, RawFd),
}

impl Source {
    /// What it is full of.
    pub(super) fn mark(&self) -> u8 {
        self.memory[0]
    }

    pub(super) fn new(mark: u8) -> anyhow::Result<Source> {
        use std::os::fd::IntoRawFd;
        let memory: &'static [u8] = vec![mark; 80_000].leak();
        let file = nix::sys::memfd::memfd_create(c"source", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        ipctrace::demo::stage::write_all(&file, memory)?;
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20))?;
        Ok(Source { memory, file: file.into_raw_fd(), private: (reader.into_raw_fd(), writer.into_raw_fd()) })
    }
}

/// A size: mostly small, sometimes as large as it may be.
pub(super) fn size(rng: &mut Rng, largest: usize) -> usize {
    match rng.u32(0..10) {
        0..5 => rng.usize(1..=64),
        5..8 => rng.usize(1..=largest.min(4500)),
        8 => rng.usize(1..=largest),
        _ => 1 << rng.usize(0..=12).min(largest.ilog2() as usize),
    }
}

pub(super) fn checked(returned: isize) -> Result<usize> {
    usize::try_from(returned).map_err(|_| Error::last_os_error())
}

/// Sends once. Gives how many bytes went, in how many messages (calls, on a stream).
///
/// # Errors
/// Those of the call: nothing was sent then.
pub(super) fn send(lane: &Lane, source: &Source, rng: &mut Rng) -> Result<(u64, u64)> {
    let len = size(rng, lane.kind.largest());
    match lane.kind {
        Kind::Pipe => match rng.u32(0..9) {
            0..4 => plain(lane.send, &source.memory[..len]),
            4 => vector(lane.send, &source.memory[..len], rng, false),
            5 => vector(lane.send, &source.memory[..len], rng, true),
            6 => give(lane.send, &source.memory[..len]),
            7 => from_file(lane.send, source, len),
            _ => from_pipe(lane.send, source, len.min(8192), rng),
        },
        Kind::Stream => match rng.u32(0..10) {
            0..3 => plain(lane.send, &source.memory[..len]),
            3 => vector(lane.send, &source.memory[..len], rng, false),
            4..6 => sendto(lane.send, &source.memory[..len], rng),
            6 => sendmsg(lane.send, &source.memory[..len], rng),
            7 => sendmmsg(lane.send, source, rng, lane.kind),
            8 => from_file(lane.send, source, len),
            _ => from_pipe(lane.send, source, len.min(8192), rng),
        },
        Kind::Datagram => match rng.u32(0..8) {
            0..2 => plain(lane.send, &source.memory[..len]),
            2 => vector(lane.send, &source.memory[..len], rng, false),
            3..5 => sendto(lane.send, &source.memory[..len], rng),
            5 => sendmsg(lane.send, &source.memory[..len], rng),
            _ => sendmmsg(lane.send, source, rng, lane.kind),
        },
        Kind::PosixQueue => {
            let until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the memory is that long. A time that is past: the call waits for nothing.
            let status = unsafe {
                libc::mq_timedsend(lane.send, source.memory.as_ptr().cast(), len, rng.u32(0..4), &until)
            };
            checked(status as isize).map(|_| (len as u64, 1))
        }
        Kind::SysvQueue => {
            let mut message = vec![0u8; 8 + len];
            message[..8].copy_from_slice(&rng.i64(1..6).to_ne_bytes());
            message[8..].copy_from_slice(&source.memory[..len]);
            // SAFETY: a type and that many bytes.
            let status = unsafe { libc::msgsnd(lane.send, message.as_ptr().cast(), len, libc::IPC_NOWAIT) };
            checked(status as isize).map(|_| (len as u64, 1))
        }
    }
}

fn plain(fd: RawFd, bytes: &[u8]) -> Result<(u64, u64)> {
    // SAFETY: the bytes are there.
    checked(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }).map(|sent| (sent as u64, 1))
}

/// The bytes in two or three parts.
fn parts(bytes: &[u8], rng: &mut Rng) -> Vec<libc::iovec> {
    let cut = rng.usize(0..=bytes.len());
    let (one, two) = bytes.split_at(cut);
    let cut = rng.usize(0..=two.len());
    let (two, three) = two.split_at(cut);
    let vector =
        |part: &[u8]| libc::iovec { iov_base: part.as_ptr() as *mut libc::c_void, iov_len: part.len() };
    [one, two, three].map(vector).into()
}

fn vector(fd: RawFd, bytes: &[u8], rng: &mut Rng, at: bool) -> Result<(u64, u64)> {
    let parts = parts(bytes, rng);
    let count = parts.len() as i32;
    // SAFETY: the parts name bytes that are there. An offset of -1 is none.
    checked(unsafe {
        if at {
            libc::pwritev2(fd, parts.as_ptr(), count, -1, 0)
        } else {
            libc::writev(fd, parts.as_ptr(), count)
        }
    })
    .map(|sent| (sent as u64, 1))
}

/// Flags of vmsplice(2) that make it wait, or not, as others do on that descriptor.
pub(super) fn waits_as(fd: RawFd) -> u32 {
    // SAFETY: a descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags & libc::O_NONBLOCK == 0 { 0 } else { libc::SPLICE_F_NONBLOCK }
}

fn give(fd: RawFd, bytes: &[u8]) -> Result<(u64, u64)> {
    let part = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the bytes are there, and are never written again.
    checked(unsafe { libc::vmsplice(fd, &part, 1, waits_as(fd)) }).map(|sent| (sent as u64, 1))
}

fn from_file(fd: RawFd, source: &Source, len: usize) -> Result<(u64, u64)> {
    let mut offset = 0;
    // SAFETY: descriptors and a number.
    checked(unsafe { libc::sendfile(fd, source.file, &mut offset, len) }).map(|sent| (sent as u64, 1))
}

/// By way of the private pipe: spliced, or copied where both are pipes.
fn from_pipe(fd: RawFd, source: &Source, len: usize, rng: &mut Rng) -> Result<(u64, u64)> {
    let (reader, writer) = source.private;
    plain(writer, &source.memory[..len])?;
    let flags = if rng.bool() { libc::SPLICE_F_NONBLOCK } else { 0 };
    // SAFETY: descriptors, no offsets.
    let moved = checked(unsafe { libc::splice(reader, null_mut(), fd, null_mut(), len, flags) });
    let left = len - moved.as_ref().map_or(0, |moved| *moved);
    let mut rest = vec![0; left];
    let mut done = 0;
    while done < left {
        // SAFETY: room for that many bytes.
        match checked(unsafe { libc::read(reader, rest[done..].as_mut_ptr().cast(), left - done) }) {
            Ok(more) => done += more,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    moved.map(|sent| (sent as u64, 1))
}

fn wait_or_not(rng: &mut Rng) -> i32 {
    libc::MSG_NOSIGNAL | if rng.bool() { libc::MSG_DONTWAIT } else { 0 }
}

fn sendto(fd: RawFd, bytes: &[u8], rng: &mut Rng) -> Result<(u64, u64)> {
    // SAFETY: the bytes are there.
    checked(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), wait_or_not(rng)) })
        .map(|sent| (sent as u64, 1))
}

/// A header for these parts.
pub(super) fn header(parts: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: numbers and null pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len();
    header
}

fn sendmsg(fd: RawFd, bytes: &[u8], rng: &mut Rng) -> Result<(u64, u64)> {
    let mut parts = parts(bytes, rng);
    let header = header(&mut parts);
    // SAFETY: the header names bytes that are there.
    checked(unsafe { libc::sendmsg(fd, &header, wait_or_not(rng)) }).map(|sent| (sent as u64, 1))
}

fn sendmmsg(fd: RawFd, source: &Source, rng: &mut Rng, kind: Kind) -> Result<(u64, u64)> {
    let count = rng.usize(1..=6);
    let largest = kind.largest().min(6000);
    let mut vectors: Vec<Vec<libc::iovec>> =
        (0..count).map(|_| parts(&source.memory[..size(rng, largest)], rng)).collect();
    let mut headers: Vec<libc::mmsghdr> =
        vectors.iter_mut().map(|parts| libc::mmsghdr { msg_hdr: header(parts), msg_len: 0 }).collect();
    // SAFETY: the headers name bytes that are there.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count as u32, wait_or_not(rng)) };
    let sent = checked(sent as isize)?;
    let bytes = headers[..sent].iter().map(|header| u64::from(header.msg_len)).sum();
    Ok((bytes, sent as u64))
}
