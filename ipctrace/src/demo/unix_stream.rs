//! `unix_stream`: a prefork server, and a socketpair.

use std::os::fd::AsRawFd;

use anyhow::Result;
use ipctrace_common::Mechanism;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket, socketpair,
};

use super::Demo;
use super::stage::{self, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "unix_stream",
    summary: "a prefork server: the parent listens, its children accept and serve",
    story: "Three clients ask, two workers answer, and the listener does neither: it is named nowhere. Then two\n\
            children talk over a socketpair that their parent made.",
    mechanisms: &[Mechanism::UnixStream],
    play,
};

const CLIENTS: u32 = 3;
const REQUEST: usize = 500;
const ANSWER: usize = 3000;

fn play(stage: &Stage) -> Result<()> {
    // An abstract name: nothing to remove, gone with the socket.
    let address = UnixAddr::new_abstract(format!("ipctrace-demo-{}", std::process::id()).as_bytes())?;
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
                stage.heard("unix_stream", None, &request)?;
                stage::write_all(&connection, &stage.marked(ANSWER))?;
            }
            Ok(())
        })?);
    }
    stage.raise(0);
    stage.reap(&workers)
}

fn ask(stage: &Stage, address: &UnixAddr) -> Result<()> {
    let connection = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(connection.as_raw_fd(), address)?;
    // In two pieces: the worker may see them as one.
    stage::write_all(&connection, &stage.marked(REQUEST - 7))?;
    stage::write_all(&connection, &stage.marked(7))?;
    let answer = stage::read_exactly(&connection, ANSWER)?;
    stage.heard("unix_stream", None, &answer)
}

fn pair(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let children =
        [("left", &left, 1234, 777), ("right", &right, 777, 1234)].map(|(name, end, says, hears)| {
            stage.child(name, |stage| {
                stage::write_all(end, &stage.marked(says))?;
                let heard = stage::read_exactly(end, hears)?;
                stage.heard("unix_stream", None, &heard)
            })
        });
    for child in children {
        stage.reap(&[child?])?;
    }
    Ok(())
}
