//! Processes that change hands, names and places while they talk.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, bind, connect, listen, socket,
};
use nix::unistd::pipe;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "connected_by_the_parent", play: connected_by_parent },
    Scenario { name: "prefork_server", play: prefork },
    Scenario { name: "the_sender_is_gone", play: sender_gone },
    Scenario { name: "a_new_program_has_a_new_name", play: exec },
    Scenario { name: "threads_send_and_receive", play: threads },
    Scenario { name: "read_before_the_server_accepts", play: before_accept },
    Scenario { name: "connections_nobody_accepted", play: never_accepted },
    Scenario { name: "a_client_reads_before_it_is_accepted", play: reads_before_accepted },
];

/// A listening socket.
pub(super) fn listen_at(address: &UnixAddr) -> Result<OwnedFd> {
    listen_as(SockType::Stream, address)
}

fn listen_as(kind: SockType, address: &UnixAddr) -> Result<OwnedFd> {
    let listener = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), address)?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// A connected socket.
pub(super) fn connect_to(address: &dyn SockaddrLike) -> Result<OwnedFd> {
    connect_as(SockType::Stream, address)
}

fn connect_as(kind: SockType, address: &dyn SockaddrLike) -> Result<OwnedFd> {
    let connection = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    connect(connection.as_raw_fd(), address)?;
    Ok(connection)
}

fn address(name: &str) -> Result<UnixAddr> {
    Ok(UnixAddr::new_abstract(format!("ipctrace-{name}-{}", std::process::id()).as_bytes())?)
}

/// connect in the parent, write in the child.
fn connected_by_parent(stage: &Stage) -> Result<()> {
    let address = address("connected")?;
    let server = stage.child("server", |stage| {
        let listener = listen_at(&address)?;
        stage.raise(0);
        let connection = stage::accept_one(&listener)?;
        let bytes = stage::read_exactly(&connection, 2000)?;
        stage.heard("unix_stream", None, &bytes)
    })?;
    stage.wait_for(0, 1)?;
    let connection = connect_to(&address)?;
    let writer = stage.child("writer", |stage| stage::write_all(&connection, &stage.marked(2000)))?;
    stage.reap(&[server, writer])
}

/// The parent listens, the child accepts and reads.
fn prefork(stage: &Stage) -> Result<()> {
    let address = address("prefork")?;
    let listener = listen_at(&address)?;
    let worker = stage.child("worker", |stage| {
        let connection = stage::accept_one(&listener)?;
        let bytes = stage::read_exactly(&connection, 100)?;
        stage.heard("unix_stream", None, &bytes)
    })?;
    let client = stage.child("client", |stage| {
        let connection = connect_to(&address)?;
        stage::write_all(&connection, &stage.marked(100))
    })?;
    stage.reap(&[worker, client])
}

/// What is written before the server accepts goes to a socket that has no inode yet.
fn before_accept(stage: &Stage) -> Result<()> {
    let address = address("early")?;
    let listener = listen_at(&address)?;
    let client = stage.child("client", |stage| {
        let connection = connect_to(&address)?;
        stage::write_all(&connection, &stage.marked(1500))
    })?;
    stage.reap(&[client])?;
    let server = stage.child("server", |stage| {
        let connection = stage::accept_one(&listener)?;
        let bytes = stage::read_exactly(&connection, 1500)?;
        stage.heard("unix_stream", None, &bytes)
    })?;
    stage.reap(&[server])
}

const CONNECTIONS: [(SockType, &str); 2] =
    [(SockType::Stream, "unix_stream"), (SockType::SeqPacket, "unix_seqpacket")];

/// How many messages one send is, if they are kept apart.
fn has_messages(kind: SockType) -> Option<u64> {
    (kind == SockType::SeqPacket).then_some(1)
}

/// Reports what one send was that this process received.
fn heard(stage: &Stage, (kind, mechanism): (SockType, &str), bytes: &[u8]) -> Result<()> {
    if has_messages(kind).is_some() {
        stage.heard_message(mechanism, bytes)
    } else {
        stage.heard(mechanism, None, bytes)
    }
}

/// A process connects, sends 7 bytes and ends; nobody accepts.
fn send_unaccepted(stage: &Stage, (kind, mechanism): (SockType, &str), address: &UnixAddr) -> Result<()> {
    let early = stage.child("early", |stage| {
        let connection = connect_as(kind, address)?;
        stage::write_all(&connection, &stage.marked(7))?;
        stage.tell(&Truth::Transfer {
            mechanism: mechanism.to_owned(),
            channel: None,
            from: stage.me(),
            to: Party::None("unread".to_owned()),
            bytes: 7,
            messages: has_messages(kind),
        })
    })?;
    stage.reap(&[early])
}

/// What was sent to a server that ended before it accepted the connection is not what the next connection's receiver gets, whose
/// socket the kernel makes where that of the first was.
fn never_accepted(stage: &Stage) -> Result<()> {
    for (kind, mechanism) in CONNECTIONS {
        for round in 0..20 {
            let address = address(&format!("accepts-{mechanism}-{round}"))?;
            let listener = listen_as(kind, &address)?;
            send_unaccepted(stage, (kind, mechanism), &address)?;
            drop(listener);
            let listener = listen_as(kind, &address)?;
            let late = stage.child("late", |stage| {
                let connection = connect_as(kind, &address)?;
                stage::write_all(&connection, &stage.marked(10))
            })?;
            // In some rounds while its sender is there, in some when it has ended.
            if round % 2 == 0 {
                stage.reap(&[late])?;
            }
            let server = stage.child("server", |stage| {
                let connection = stage::accept_one(&listener)?;
                let bytes = stage::read_exactly(&connection, 10)?;
                heard(stage, (kind, mechanism), &bytes)
            })?;
            stage.reap(&[server])?;
            if round % 2 != 0 {
                stage.reap(&[late])?;
            }
        }
    }
    Ok(())
}

/// Nor is it what a client gets whose socket the kernel makes there, and which waits for its answer before it is accepted: then it is
/// the other end that has no inode.
fn reads_before_accepted(stage: &Stage) -> Result<()> {
    for (kind, mechanism) in CONNECTIONS {
        for round in 0..10 {
            let address = address(&format!("answers-{mechanism}-{round}"))?;
            let listener = listen_as(kind, &address)?;
            send_unaccepted(stage, (kind, mechanism), &address)?;
            drop(listener);
            // One of them is where the socket was that nobody accepted.
            let new = || socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
            let connections = [new()?, new()?, new()?];
            let listener = listen_as(kind, &address)?;
            let mut clients = Vec::new();
            for connection in &connections {
                connect(connection.as_raw_fd(), &address)?;
                let client = stage.child("client", |stage| {
                    let bytes = stage::read_exactly(connection, 10)?;
                    heard(stage, (kind, mechanism), &bytes)
                })?;
                stage.wait_until(|| stage::sleeps(client))?;
                clients.push(client);
            }
            let server = stage.child("server", |stage| {
                for _ in &connections {
                    let connection = stage::accept_one(&listener)?;
                    stage::write_all(&connection, &stage.marked(10))?;
                }
                Ok(())
            })?;
            stage.reap(&clients)?;
            stage.reap(&[server])?;
        }
    }
    Ok(())
}

/// The sender has ended, and been reaped, before the receiver reads.
fn sender_gone(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    for name in ["first", "second"] {
        let sender = stage.child(name, |stage| stage::write_all(&writer, &stage.marked(40)))?;
        stage.reap(&[sender])?;
    }
    drop(writer);
    let receiver = stage.child("receiver", |stage| {
        let bytes = stage::read_to_end(&reader, 4096)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    drop(reader);
    stage.reap(&[receiver])
}

/// A process writes under one name, and under another once it has become another program.
fn exec(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let before = stage.child("before-exec", |stage| stage::write_all(&writer, &stage.marked(11)))?;
    stage.reap(&[before])?;
    // `cat` is no member of the stage: it is known by its pid and its name.
    let mut cat = Command::new("cat")
        .stdin(std::fs::File::open("/proc/self/comm")?)
        .stdout(writer.try_clone()?)
        .spawn()?;
    let pid = cat.id();
    let status = cat.wait()?;
    ensure!(status.success());
    stage.bereaved()?;
    stage.tell(&Truth::Member { mark: 200, pid, name: "cat".to_owned() })?;
    drop(writer);
    let receiver = stage.child("receiver", |stage| {
        let id = Some(stage::pipe_id(&reader)?);
        let bytes = stage::read_to_end(&reader, 4096)?;
        stage.heard("pipe", id.clone(), &bytes[..11])?;
        stage.tell(&Truth::Transfer {
            mechanism: "pipe".to_owned(),
            channel: id,
            from: Party::Mark(200),
            to: stage.me(),
            bytes: (bytes.len() - 11) as u64,
            messages: None,
        })
    })?;
    drop(reader);
    stage.reap(&[receiver])
}

/// Both ends are threads other than the first; they are known by their process, and the trace has their tid beside.
fn threads(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let sender = stage.child("sender", |stage| {
        stage::close(&reader)?;
        let data = stage.marked(5000);
        std::thread::scope(|scope| scope.spawn(|| stage::write_all(&writer, &data)).join().expect("no panic"))
    })?;
    let receiver = stage.child("receiver", |stage| {
        stage::close(&writer)?;
        let bytes = std::thread::scope(|scope| {
            scope.spawn(|| stage::read_to_end(&reader, 512)).join().expect("no panic")
        })?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    drop((reader, writer));
    stage.reap(&[sender, receiver])
}
