//! `unix_stream`: a prefork server, and a socketpair.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ipctrace_common::Mechanism;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket, socketpair,
};

use super::Demo;
use super::stage::{self, Folder, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "unix_stream",
    summary: "a prefork server: the parent listens at a path, its children accept and serve",
    story: "Three clients ask, two workers answer, and the listener does neither: it is named nowhere. Then two\n\
            children talk over a socketpair that their parent made.",
    mechanisms: &[Mechanism::UnixStream],
    play,
};

const CLIENTS: usize = 3;
const REQUEST: usize = 500;
const ANSWER: usize = 3000;

/// Where a client leaves the inode of its socket, and its worker that of the other end: in a place of the client's, that of
/// its mark, or so far behind it.
const OTHER_END: usize = 32;

fn play(stage: &Stage) -> Result<()> {
    let folder = Folder::new()?;
    let address = UnixAddr::new(&folder.path().join("server"))?;
    let listener = stage.child("listener", |stage| serve(stage, &address))?;
    stage.wait_for(0, 1)?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(stage.child(&format!("client-{number}"), |stage| ask(stage, &address))?);
    }
    stage.reap(&clients)?;
    stage.reap(&[listener])?;
    pair(stage)
}

fn serve(stage: &Stage, address: &UnixAddr) -> Result<()> {
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), address)?;
    listen(&listener, Backlog::new(8)?)?;
    // One worker serves two clients, the other one.
    let mut workers = Vec::new();
    for (name, turns) in [("worker-0", 2), ("worker-1", CLIENTS - 2)] {
        workers.push(stage.child(name, |stage| {
            for _ in 0..turns {
                let connection = stage::accept_one(&listener)?;
                let request = stage::read_exactly(&connection, REQUEST)?;
                let client = usize::from(*request.first().context("an empty request")?);
                let ours = stage::inode(&connection)?;
                stage.put(client + OTHER_END, ours);
                stage.heard("unix_stream", Some(stage::socket_id(stage.get(client), ours)), &request)?;
                stage::write_all(&connection, &stage.marked(ANSWER))?;
            }
            stage.sent("unix_stream", turns * ANSWER, None)
        })?);
    }
    stage.raise(0);
    stage.reap(&workers)
}

fn ask(stage: &Stage, address: &UnixAddr) -> Result<()> {
    let connection = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let (client, ours) = (usize::from(stage.mark()), stage::inode(&connection)?);
    stage.put(client, ours);
    connect(connection.as_raw_fd(), address)?;
    // In two pieces: the worker may see them as one.
    stage::write_all(&connection, &stage.marked(REQUEST - 7))?;
    stage::write_all(&connection, &stage.marked(7))?;
    stage.sent("unix_stream", REQUEST, None)?;
    let answer = stage::read_exactly(&connection, ANSWER)?;
    let theirs = stage.get(client + OTHER_END);
    stage.heard("unix_stream", Some(stage::socket_id(theirs, ours)), &answer)
}

fn pair(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let mut children = Vec::new();
    for (name, end, other, says, hears) in
        [("left", &left, &right, 1234, 777), ("right", &right, &left, 777, 1234)]
    {
        children.push(stage.child(name, |stage| {
            stage::write_all(end, &stage.marked(says))?;
            stage.sent("unix_stream", says, None)?;
            let heard = stage::read_exactly(end, hears)?;
            let id = stage::socket_id(stage::inode(other)?, stage::inode(end)?);
            stage.heard("unix_stream", Some(id), &heard)
        })?);
    }
    stage.reap(&children)
}
