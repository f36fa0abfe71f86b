//! `tcp`: a prefork server on loopback, and two processes that share one connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::Result;
use ipctrace_common::Mechanism;

use super::Demo;
use super::stage::{self, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "tcp",
    summary: "a prefork server on loopback, over IPv4 and IPv6, and two processes on one connection",
    story: "Three clients ask, two workers answer; the listener is named nowhere, though the port is its own. Then one\n\
            process connects and its two children write: the bytes are the children's.",
    mechanisms: &[Mechanism::Tcp],
    play,
};

const CLIENTS: usize = 3;
const REQUEST: usize = 500;
const ANSWER: usize = 30_000;
const SHARE: usize = 2000;

/// Where the port of the server stands for all to see.
const PORT: usize = 0;

fn play(stage: &Stage) -> Result<()> {
    serve_and_ask(stage)?;
    share(stage)
}

/// What the trace calls that which comes in.
fn incoming(connection: &TcpStream) -> Result<String> {
    Ok(format!("tcp:{}->{}", connection.peer_addr()?, connection.local_addr()?))
}

fn serve_and_ask(stage: &Stage) -> Result<()> {
    let listener = stage.child("listener", serve)?;
    stage.wait_for(0, 1)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, stage.get(PORT) as u16));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(stage.child(&format!("client-{number}"), |stage| {
            let connection = TcpStream::connect(address)?;
            let id = incoming(&connection)?;
            let connection = OwnedFd::from(connection);
            // In two pieces: the worker may see them as one.
            stage::write_all(&connection, &stage.marked(REQUEST - 7))?;
            stage::write_all(&connection, &stage.marked(7))?;
            stage.sent("tcp", REQUEST, None)?;
            let answer = stage::read_exactly(&connection, ANSWER)?;
            stage.heard("tcp", Some(id), &answer)
        })?);
    }
    stage.reap(&clients)?;
    stage.reap(&[listener])
}

fn serve(stage: &Stage) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    stage.put(PORT, u64::from(listener.local_addr()?.port()));
    // One worker serves two clients, the other one.
    let mut workers = Vec::new();
    for (name, turns) in [("worker-0", 2), ("worker-1", CLIENTS - 2)] {
        workers.push(stage.child(name, |stage| {
            for _ in 0..turns {
                let (connection, _) = listener.accept()?;
                let id = incoming(&connection)?;
                let connection = OwnedFd::from(connection);
                let request = stage::read_exactly(&connection, REQUEST)?;
                stage.heard("tcp", Some(id), &request)?;
                stage::write_all(&connection, &stage.marked(ANSWER))?;
            }
            stage.sent("tcp", turns * ANSWER, None)
        })?);
    }
    stage.raise(0);
    stage.reap(&workers)
}

fn share(stage: &Stage) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?;
    let connection = OwnedFd::from(TcpStream::connect(listener.local_addr()?)?);
    let mut children = Vec::new();
    for name in ["left", "right"] {
        children.push(stage.child(name, |stage| {
            for _ in 0..SHARE / 100 {
                stage::write_all(&connection, &stage.marked(100))?;
            }
            stage.sent("tcp", SHARE, None)
        })?);
    }
    children.push(stage.child("reader", |stage| {
        let (connection, _) = listener.accept()?;
        let id = incoming(&connection)?;
        let bytes = stage::read_exactly(&OwnedFd::from(connection), 2 * SHARE)?;
        stage.heard("tcp", Some(id), &bytes)
    })?);
    stage.reap(&children)
}
