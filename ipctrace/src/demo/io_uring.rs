//! `io_uring`: reads and writes that are no system calls.

use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe;

use super::Demo;
use super::stage::{self, Ring, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "io_uring",
    summary: "reads and writes through rings, mixed with plain ones",
    story: "Three processes write to a pipe: by plain calls, through a ring, and through a ring that a thread of the\n\
            kernel's looks after. A fourth reads it through a ring, and sends on what it read over a socket, through\n\
            worker threads. Look for the owners of the rings as senders and receivers.",
    mechanisms: &[Mechanism::Pipe, Mechanism::UnixStream, Mechanism::UnixDgram],
    play,
};

/// Writes of each writer, and their size.
const COUNT: usize = 100;
const SIZE: usize = 70;
/// What the reader takes at a time: its borders are seldom those of writes.
const PORTION: usize = 997;
/// Sizes of the messages.
const MESSAGES: [usize; 3] = [1, 100, 3000];

/// How a writer writes.
type Write = fn(&OwnedFd, &[u8]) -> Result<()>;

fn play(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let (near, far) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let (from, to) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    let writers: [(&str, Write); 3] =
        [("plain", by_calls), ("ring", by_ring), ("polled-ring", by_polled_ring)];
    let mut children = Vec::new();
    for (name, write) in writers {
        children.push(stage.child(name, |stage| {
            stage::close(&reader)?;
            stage.wait_for(0, 1)?;
            write(&writer, &stage.marked(SIZE))?;
            stage.sent("pipe", COUNT * SIZE, None)
        })?);
    }
    children.push(stage.child("ring-reader", |stage| {
        stage::close(&writer)?;
        stage.raise(0);
        let mut ring = Ring::new()?;
        let bytes = ring.read_to_end(&reader, PORTION)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)?;
        Ring::new()?.by_workers().write_all(&near, &stage.marked(bytes.len()))?;
        stage.sent("unix_stream", bytes.len(), None)?;
        for size in MESSAGES {
            ensure!(ring.send(&from, &stage.marked(size))? == size, "a message was cut short");
        }
        stage.sent("unix_dgram", MESSAGES.iter().sum(), Some(MESSAGES.len()))
    })?);
    children.push(stage.child("receiver", |stage| {
        stage::close(&writer)?;
        let bytes = stage::read_exactly(&far, 3 * COUNT * SIZE)?;
        let channel = stage::socket_id(stage::inode(&near)?, stage::inode(&far)?);
        stage.heard("unix_stream", Some(channel), &bytes)?;
        let mut ring = Ring::polled()?;
        let mut buffer = [0; 4096];
        let channel = stage::socket_id(stage::inode(&from)?, stage::inode(&to)?);
        for _ in MESSAGES {
            let length = ring.receive(&to, &mut buffer, 0)?;
            stage.heard_message_on("unix_dgram", Some(channel.clone()), &buffer[..length])?;
        }
        Ok(())
    })?);
    drop((reader, writer));
    stage.reap(&children)
}

fn by_calls(pipe: &OwnedFd, bytes: &[u8]) -> Result<()> {
    (0..COUNT).try_for_each(|_| stage::write_all(pipe, bytes))
}

fn by_ring(pipe: &OwnedFd, bytes: &[u8]) -> Result<()> {
    let mut ring = Ring::new()?;
    (0..COUNT).try_for_each(|_| ring.write_all(pipe, bytes))
}

fn by_polled_ring(pipe: &OwnedFd, bytes: &[u8]) -> Result<()> {
    let mut ring = Ring::polled()?;
    (0..COUNT).try_for_each(|_| ring.write_all(pipe, bytes))
}
