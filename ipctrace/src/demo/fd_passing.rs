//! `fd_passing`: an accepted connection is handed to another process.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use ipctrace_common::Mechanism;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};
use nix::unistd::pipe;

use super::Demo;
use super::stage::{self, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "fd_passing",
    summary: "an accepted connection is handed to the process that serves it",
    story: "The acceptor accepts and passes the descriptor on with SCM_RIGHTS; the server, which never accepted anything,\n\
            talks to the client. A thief, meanwhile, takes a pipe of the stage's with pidfd_getfd. Look for both hand-overs,\n\
            and for the server, not the acceptor, at the client's flows.",
    mechanisms: &[Mechanism::UnixStream, Mechanism::Pipe],
    play,
};

const REQUEST: usize = 321;
const ANSWER: usize = 4321;
/// What is written through a descriptor that was taken.
const LOOT: usize = 99;

/// Where the ends of the connection that is handed over leave the inodes of their sockets.
const CLIENT_END: usize = 0;
const SERVER_END: usize = 1;

fn play(stage: &Stage) -> Result<()> {
    let address = UnixAddr::new_abstract(format!("ipctrace-pass-{}", std::process::id()).as_bytes())?;
    let (give, take) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let server = stage.child("server", |stage| {
        let id = stage::socket_id(stage::inode(&give)?, stage::inode(&take)?);
        let connection = receive(stage, &take, id)?;
        let request = stage::read_exactly(&connection, REQUEST)?;
        let id = stage::socket_id(stage.get(CLIENT_END), stage::inode(&connection)?);
        stage.heard("unix_stream", Some(id), &request)?;
        stage::write_all(&connection, &stage.marked(ANSWER))?;
        stage.sent("unix_stream", ANSWER, None)
    })?;
    let acceptor = stage.child("acceptor", |stage| accept_and_pass(stage, &address, &give))?;
    let client = stage.child("client", |stage| {
        stage.wait_for(0, 1)?;
        let connection = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let ours = stage::inode(&connection)?;
        stage.put(CLIENT_END, ours);
        connect(connection.as_raw_fd(), &address)?;
        stage::write_all(&connection, &stage.marked(REQUEST))?;
        stage.sent("unix_stream", REQUEST, None)?;
        let answer = stage::read_exactly(&connection, ANSWER)?;
        stage.heard("unix_stream", Some(stage::socket_id(stage.get(SERVER_END), ours)), &answer)
    })?;
    let (reader, writer) = pipe()?;
    let (owner, number) = (std::process::id(), writer.as_raw_fd());
    let thief = stage.child("thief", |stage| steal(stage, owner, number))?;
    let heir = stage.child("heir", |stage| {
        let bytes = stage::read_exactly(&reader, LOOT)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    stage.reap(&[acceptor, client, server, thief, heir])
}

/// Takes a descriptor of another process, which need not agree, and writes to it.
fn steal(stage: &Stage, owner: u32, number: i32) -> Result<()> {
    // SAFETY: a system call that takes numbers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, owner, 0) };
    ensure!(process >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: as above.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) };
    ensure!(taken >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made it for us.
    let taken = unsafe { OwnedFd::from_raw_fd(i32::try_from(taken)?) };
    let (from, to, object) = (Party::Pid(owner), stage.me(), stage::pipe_id(&taken)?);
    stage.tell(&Truth::Handoff { from, to, object })?;
    stage::write_all(&taken, &stage.marked(LOOT))?;
    stage.sent("pipe", LOOT, None)
}

fn accept_and_pass(stage: &Stage, address: &UnixAddr, channel: &OwnedFd) -> Result<()> {
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), address)?;
    listen(&listener, Backlog::new(1)?)?;
    stage.raise(0);
    let connection = stage::accept_one(&listener)?;
    stage.put(SERVER_END, stage::inode(&connection)?);
    let passed = [connection.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&passed)];
    let byte = stage.marked(1);
    let sent = sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(&byte)], &control, MsgFlags::empty(), None)?;
    stage.sent("unix_stream", sent, None)
}

/// Takes the byte, on the channel of that id, and the descriptor that comes with it.
fn receive(stage: &Stage, channel: &OwnedFd, id: String) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())?;
    let passed = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::ScmRights(passed) = control { passed.first().copied() } else { None }
    });
    let Some(passed) = passed else {
        bail!("no descriptor came");
    };
    // SAFETY: the kernel has just made it for us.
    let connection = unsafe { OwnedFd::from_raw_fd(passed) };
    stage.heard("unix_stream", Some(id), &byte)?;
    let inode = stage::inode(&connection).context("what was passed")?;
    stage.tell(&Truth::Handoff {
        from: Party::Mark(byte[0]),
        to: stage.me(),
        object: format!("socket:[{inode}]"),
    })?;
    Ok(connection)
}
