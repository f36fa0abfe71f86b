//! TCP on this host: who called send and who called recv, whichever process's time the packets were handled in.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send,
    sendmsg, socketpair,
};
use nix::unistd::pipe;

use super::Scenario;
use super::namespaces::{apart, joined};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "tcp_prefork_server", play: prefork },
    Scenario { name: "tcp_connected_by_the_parent", play: connected_by_parent },
    Scenario { name: "tcp_many_connections_of_one_pair", play: many_connections },
    Scenario { name: "tcp_two_writers_on_one_connection", play: two_writers },
    Scenario { name: "tcp_by_every_call", play: every_call },
    Scenario { name: "tcp_accepted_socket_passed_on", play: passed_on },
    Scenario { name: "tcp_while_others_are_busy", play: while_busy },
    Scenario { name: "tcp_between_namespaces", play: between_namespaces },
    Scenario { name: "tcp_equal_addresses_in_two_namespaces", play: equal_addresses },
];

/// A server on any port.
fn listen(six: bool) -> Result<(TcpListener, SocketAddr)> {
    let any = if six { (Ipv6Addr::LOCALHOST, 0).into() } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
    let listener = TcpListener::bind(any)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn accept(listener: &TcpListener) -> Result<(OwnedFd, String)> {
    let (connection, _) = listener.accept()?;
    let id = incoming(&connection)?;
    Ok((connection.into(), id))
}

/// What the trace calls that which comes in.
fn incoming(connection: &TcpStream) -> Result<String> {
    Ok(format!("tcp:{}->{}", connection.peer_addr()?, connection.local_addr()?))
}

/// The parent listens and neither sends nor receives; its children accept and serve.
fn prefork(stage: &Stage) -> Result<()> {
    for six in [false, true] {
        let (listener, address) = listen(six)?;
        let mut children = Vec::new();
        for index in 0..2 {
            children.push(stage.child(&format!("worker-{index}"), |stage| {
                for _ in 0..2 {
                    let (connection, id) = accept(&listener)?;
                    let bytes = stage::read_exactly(&connection, 500)?;
                    stage.heard("tcp", Some(id), &bytes)?;
                    stage::write_all(&connection, &stage.marked(300))?;
                }
                Ok(())
            })?);
        }
        for index in 0..4 {
            children.push(stage.child(&format!("client-{index}"), |stage| {
                let connection = TcpStream::connect(address)?;
                let id = incoming(&connection)?;
                let connection = OwnedFd::from(connection);
                stage::write_all(&connection, &stage.marked(200))?;
                stage::write_all(&connection, &stage.marked(300))?;
                let bytes = stage::read_exactly(&connection, 300)?;
                stage.heard("tcp", Some(id), &bytes)
            })?);
        }
        stage.reap(&children)?;
    }
    Ok(())
}

/// connect in the parent, write in the child.
fn connected_by_parent(stage: &Stage) -> Result<()> {
    let (listener, address) = listen(false)?;
    let server = stage.child("server", |stage| {
        let (connection, id) = accept(&listener)?;
        let bytes = stage::read_exactly(&connection, 2000)?;
        stage.heard("tcp", Some(id), &bytes)
    })?;
    let connection = OwnedFd::from(TcpStream::connect(address)?);
    let writer = stage.child("writer", |stage| stage::write_all(&connection, &stage.marked(2000)))?;
    stage.reap(&[server, writer])
}

/// Twenty connections between two processes: twenty channels, each with its own bytes.
fn many_connections(stage: &Stage) -> Result<()> {
    let (listener, address) = listen(false)?;
    let server = stage.child("server", |stage| {
        let mut connections = Vec::new();
        for _ in 0..20 {
            connections.push(accept(&listener)?);
        }
        for (connection, id) in &connections {
            let bytes = stage::read_to_end(connection, 64)?;
            stage.heard("tcp", Some(id.clone()), &bytes)?;
        }
        Ok(())
    })?;
    let client = stage.child("client", |_| {
        let connections: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(address)).collect::<Result<_, _>>()?;
        for (index, connection) in connections.iter().enumerate().rev() {
            stage::write_all(&connection.as_fd().try_clone_to_owned()?, &stage.marked(10 + index))?;
        }
        Ok(())
    })?;
    stage.reap(&[server, client])
}

/// Two processes share one end: each byte is credited to its writer.
fn two_writers(stage: &Stage) -> Result<()> {
    let (listener, address) = listen(false)?;
    let connection = OwnedFd::from(TcpStream::connect(address)?);
    let mut children = Vec::new();
    for name in ["writer-a", "writer-b"] {
        children.push(stage.child(name, |stage| {
            for round in 0..200 {
                stage::write_all(&connection, &stage.marked(50 + round))?;
            }
            Ok(())
        })?);
    }
    let total = 2 * (0..200).map(|round| 50 + round).sum::<usize>();
    children.push(stage.child("reader", |stage| {
        let (connection, id) = accept(&listener)?;
        let bytes = stage::read_exactly(&connection, total)?;
        stage.heard("tcp", Some(id), &bytes)
    })?);
    stage.reap(&children)
}

/// However bytes get into a socket and out of it; what is only looked at is not received.
fn every_call(stage: &Stage) -> Result<()> {
    const EACH: usize = 600;
    const WAYS: usize = 6;
    let (listener, address) = listen(false)?;
    let writer = stage.child("writer", |stage| {
        let connection = OwnedFd::from(TcpStream::connect(address)?);
        let data = stage.marked(EACH);
        stage::write_all(&connection, &data)?;
        let (one, two) = data.split_at(100);
        ensure!(nix::sys::uio::writev(&connection, &[IoSlice::new(one), IoSlice::new(two)])? == EACH);
        ensure!(send(connection.as_raw_fd(), &data, MsgFlags::empty())? == EACH);
        let vector = [IoSlice::new(one), IoSlice::new(two)];
        ensure!(sendmsg::<()>(connection.as_raw_fd(), &vector, &[], MsgFlags::empty(), None)? == EACH);
        let file = nix::sys::memfd::memfd_create(c"content", nix::sys::memfd::MFdFlags::empty())?;
        stage::write_all(&file, &data)?;
        nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekSet)?;
        ensure!(nix::sys::sendfile::sendfile(&connection, &file, None, EACH)? == EACH);
        let (out, into) = pipe()?;
        stage::write_all(&into, &data)?;
        ensure!(splice(&out, None, &connection, None, EACH, SpliceFFlags::empty())? == EACH);
        stage.tell(&Truth::Transfer {
            mechanism: "pipe".to_owned(),
            channel: Some(stage::pipe_id(&out)?),
            from: stage.me(),
            to: stage.me(),
            bytes: EACH as u64,
            messages: None,
        })
    })?;
    let reader = stage.child("reader", |stage| {
        let (connection, id) = accept(&listener)?;
        let fd = connection.as_raw_fd();
        let mut buffer = vec![0; EACH / 2];
        ensure!(recv(fd, &mut buffer, MsgFlags::MSG_PEEK)? > 0);
        let mut all = stage::read_exactly(&connection, EACH)?;
        let count = recv(fd, &mut buffer, MsgFlags::MSG_WAITALL)?;
        all.extend_from_slice(&buffer[..count]);
        let count = nix::sys::uio::readv(&connection, &mut [IoSliceMut::new(&mut buffer)])?;
        all.extend_from_slice(&buffer[..count]);
        let count = recvmsg::<()>(fd, &mut [IoSliceMut::new(&mut buffer)], None, MsgFlags::empty())?.bytes;
        all.extend_from_slice(&buffer[..count]);
        let (out, into) = pipe()?;
        let mut spliced = 0;
        while all.len() + spliced < EACH * WAYS {
            let rest = EACH * WAYS - all.len() - spliced;
            spliced += splice(&connection, None, &into, None, rest, SpliceFFlags::empty())?;
        }
        let own = stage::read_exactly(&out, spliced)?;
        stage.tell(&Truth::Transfer {
            mechanism: "pipe".to_owned(),
            channel: Some(stage::pipe_id(&out)?),
            from: stage.me(),
            to: stage.me(),
            bytes: own.len() as u64,
            messages: None,
        })?;
        all.extend_from_slice(&own);
        stage.heard("tcp", Some(id), &all)
    })?;
    stage.reap(&[writer, reader])
}

/// One process accepts and passes the connection on; another reads from it. The descriptor itself is a hand-over.
fn passed_on(stage: &Stage) -> Result<()> {
    let (listener, address) = listen(false)?;
    let (give, take) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let acceptor = stage.child("acceptor", |stage| {
        let (connection, _) = accept(&listener)?;
        let (byte, passed) = (stage.marked(1), [connection.as_raw_fd()]);
        let control = [ControlMessage::ScmRights(&passed)];
        sendmsg::<()>(give.as_raw_fd(), &[IoSlice::new(&byte)], &control, MsgFlags::empty(), None)?;
        Ok(())
    })?;
    let server = stage.child("server", |stage| {
        let mut byte = [0];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(take.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())?;
        let passed = message.cmsgs()?.find_map(|control| {
            if let ControlMessageOwned::ScmRights(passed) = control { passed.first().copied() } else { None }
        });
        // SAFETY: the kernel has just made it for us.
        let connection = unsafe { OwnedFd::from_raw_fd(passed.context("no descriptor came")?) };
        stage.heard("unix_stream", None, &byte)?;
        stage.tell(&Truth::Handoff {
            from: Party::Mark(byte[0]),
            to: stage.me(),
            object: format!("socket:[{}]", stage::inode(&connection)?),
        })?;
        let bytes = stage::read_exactly(&connection, 1234)?;
        let id = incoming(&TcpStream::from(connection.try_clone()?))?;
        stage.heard("tcp", Some(id), &bytes)?;
        stage::write_all(&connection, &stage.marked(4321))
    })?;
    let client = stage.child("client", |stage| {
        let connection = TcpStream::connect(address)?;
        let id = incoming(&connection)?;
        let connection = OwnedFd::from(connection);
        stage::write_all(&connection, &stage.marked(1234))?;
        let bytes = stage::read_exactly(&connection, 4321)?;
        stage.heard("tcp", Some(id), &bytes)
    })?;
    stage.reap(&[acceptor, server, client])
}

/// The receiving softirq runs in whichever task is current: processes that compute and do nothing else are named nowhere.
fn while_busy(stage: &Stage) -> Result<()> {
    const TURNS: usize = 1000;
    let (listener, address) = listen(false)?;
    let mut busy = Vec::new();
    for index in 0..4 {
        busy.push(stage.child(&format!("busy-{index}"), |stage| {
            let mut turns = 0u64;
            while stage.get(0) == 0 {
                turns = std::hint::black_box(turns.wrapping_mul(31).wrapping_add(7));
            }
            Ok(())
        })?);
    }
    let server = stage.child("server", |stage| {
        let (connection, id) = accept(&listener)?;
        let mut heard = Vec::new();
        for _ in 0..TURNS {
            heard.extend(stage::read_exactly(&connection, 100)?);
            stage::write_all(&connection, &stage.marked(40))?;
        }
        stage.heard("tcp", Some(id), &heard)
    })?;
    let client = stage.child("client", |stage| {
        let connection = TcpStream::connect(address)?;
        let id = incoming(&connection)?;
        let connection = OwnedFd::from(connection);
        let mut heard = Vec::new();
        for _ in 0..TURNS {
            stage::write_all(&connection, &stage.marked(100))?;
            heard.extend(stage::read_exactly(&connection, 40)?);
        }
        stage.heard("tcp", Some(id), &heard)
    })?;
    stage.reap(&[server, client])?;
    stage.put(0, 1);
    stage.reap(&busy)
}

/// One end in each of two network namespaces.
fn between_namespaces(stage: &Stage) -> Result<()> {
    joined(
        stage,
        |stage, side| {
            let listener = TcpListener::bind((side.own(), 4000))?;
            stage.raise(0);
            let (connection, id) = accept(&listener)?;
            let bytes = stage::read_exactly(&connection, 20_000)?;
            stage.heard("tcp", Some(id), &bytes)?;
            stage::write_all(&connection, &stage.marked(300))
        },
        |stage, side| {
            stage.wait_for(0, 1)?;
            let connection = TcpStream::connect((side.other(), 4000))?;
            let id = incoming(&connection)?;
            let connection = OwnedFd::from(connection);
            stage::write_all(&connection, &stage.marked(20_000))?;
            let bytes = stage::read_exactly(&connection, 300)?;
            stage.heard("tcp", Some(id), &bytes)
        },
    )
}

/// The same addresses and ports in two namespaces, at the same time: each server hears its own client.
fn equal_addresses(stage: &Stage) -> Result<()> {
    let mut children = Vec::new();
    for index in 0..2 {
        children.push(stage.child(&format!("space-{index}"), move |stage| {
            apart(stage)?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 4000))?;
            let server = stage.child(&format!("server-{index}"), |stage| {
                let (connection, id) = accept(&listener)?;
                let bytes = stage::read_exactly(&connection, 1000 + index)?;
                stage.heard("tcp", Some(id + &stage::space("net")?), &bytes)
            })?;
            let client = stage.child(&format!("client-{index}"), |stage| {
                // The one port that clients of this namespace can have.
                std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "5000 5000")?;
                let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, 4000))?;
                ensure!(connection.local_addr()?.port() == 5000, "the case is not made");
                let connection = OwnedFd::from(connection);
                // Both are connected before either sends.
                stage.raise(1);
                stage.wait_for(1, 2)?;
                stage::write_all(&connection, &stage.marked(1000 + index))
            })?;
            stage.reap(&[server, client])
        })?);
    }
    stage.reap(&children)
}
