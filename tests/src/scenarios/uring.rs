//! Reads, writes, sends and receives that are no system calls: io_uring.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use ipctrace::demo::stage::Ring;
use ipctrace::demo::{Stage, stage};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "rings_write_and_a_call_reads", play: rings_write },
    Scenario { name: "calls_write_and_a_ring_reads", play: ring_reads },
    Scenario { name: "rings_of_registered_files", play: registered },
    Scenario { name: "a_hundred_requests_at_once", play: batches },
    Scenario { name: "sockets_through_rings", play: sockets },
    Scenario { name: "tcp_through_rings", play: tcp },
    Scenario { name: "udp_through_rings", play: udp },
    Scenario { name: "messages_through_rings", play: messages },
    Scenario { name: "one_request_receives_many_times", play: multishot },
    Scenario { name: "requests_that_wait_and_that_are_cancelled", play: waiting },
    Scenario { name: "sends_without_completions", play: without_completions },
    Scenario { name: "splice_through_a_ring", play: spliced },
];

/// How a ring is made.
type Make = fn() -> Result<Ring>;

/// How a writer writes.
type Write = fn(&OwnedFd, &[u8]) -> Result<()>;

fn by_calls(pipe: &OwnedFd, bytes: &[u8]) -> Result<()> {
    (0..200).try_for_each(|_| stage::write_all(pipe, bytes))
}

fn by(mut ring: Ring, pipe: &OwnedFd, bytes: &[u8]) -> Result<()> {
    (0..200).try_for_each(|_| ring.write_all(pipe, bytes))
}

/// A ring, a ring that a thread of the kernel's looks after, one whose requests go to workers, and plain calls.
fn rings_write(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let writers: [(&str, Write); 4] = [
        ("ring", |pipe, bytes| by(Ring::new()?, pipe, bytes)),
        ("polled", |pipe, bytes| by(Ring::polled()?, pipe, bytes)),
        ("workers", |pipe, bytes| by(Ring::new()?.by_workers(), pipe, bytes)),
        ("calls", by_calls),
    ];
    let mut children = Vec::new();
    for (name, write) in writers {
        children.push(stage.child(name, |stage| {
            stage::close(&reader)?;
            stage.wait_for(0, 1)?;
            write(&writer, &stage.marked(111))
        })?);
    }
    children.push(stage.child("reader", |stage| {
        stage::close(&writer)?;
        stage.raise(0);
        let bytes = stage::read_to_end(&reader, 1009)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?);
    drop((reader, writer));
    stage.reap(&children)
}

/// The reverse, with two readers that share an end: each takes what it gets.
fn ring_reads(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut children = Vec::new();
    let readers: [(&str, Make); 3] =
        [("ring", Ring::new), ("polled", Ring::polled), ("workers", || Ok(Ring::new()?.by_workers()))];
    for (name, ring) in readers {
        children.push(stage.child(name, |stage| {
            stage::close(&writer)?;
            stage.raise(0);
            let bytes = ring()?.read_to_end(&reader, 97)?;
            stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
        })?);
    }
    for name in ["writer-a", "writer-b"] {
        children.push(stage.child(name, |stage| {
            stage::close(&reader)?;
            stage.wait_for(0, 3)?;
            by_calls(&writer, &stage.marked(150))
        })?);
    }
    drop((reader, writer));
    stage.reap(&children)
}

/// Files by their place in the ring, on both ends; the channels were never touched otherwise.
fn registered(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let sender = stage.child("sender", |stage| {
        let mut ring = Ring::new()?;
        ring.register(&[&writer, &left])?;
        ring.write_all_fixed(0, &stage.marked(3000))?;
        ring.write_all_fixed(1, &stage.marked(2000))
    })?;
    let receiver = stage.child("receiver", |stage| {
        let mut ring = Ring::polled()?;
        ring.register(&[&right, &reader])?;
        let bytes = ring.read_exactly_fixed(1, 3000)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)?;
        let bytes = ring.read_exactly_fixed(0, 2000)?;
        let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
        stage.heard("unix_stream", Some(channel), &bytes)
    })?;
    stage.reap(&[sender, receiver])
}

/// The completions of all come after the last of them.
fn batches(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut children = Vec::new();
    for name in ["batch-a", "batch-b"] {
        children.push(stage.child(name, |stage| {
            stage::close(&reader)?;
            stage.wait_for(0, 1)?;
            let mut ring = Ring::new()?;
            for _ in 0..5 {
                let bytes = stage.marked(30);
                let entry = opcode::Write::new(Fd(writer.as_raw_fd()), bytes.as_ptr(), 30).build();
                // SAFETY: the bytes outlive the requests, which are waited for.
                let done = unsafe { ring.submit(&vec![entry; 100], 100) }?;
                ensure!(done.iter().all(|done| done.result() == 30), "{done:?}");
            }
            Ok(())
        })?);
    }
    children.push(stage.child("reader", |stage| {
        stage::close(&writer)?;
        stage.raise(0);
        let bytes = stage::read_to_end(&reader, 1009)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?);
    drop((reader, writer));
    stage.reap(&children)
}

/// Streams: send and recv, read and write, both ways, by the call and through workers.
fn sockets(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let (to_right, to_left) = (
        stage::socket_id(stage::inode(&left)?, stage::inode(&right)?),
        stage::socket_id(stage::inode(&right)?, stage::inode(&left)?),
    );
    let client = stage.child("client", |stage| {
        let mut ring = Ring::new()?;
        ring.write_all(&left, &stage.marked(700))?;
        ensure!(ring.send(&left, &stage.marked(300))? == 300);
        let mut all = Vec::new();
        let mut buffer = [0; 64];
        while all.len() < 500 {
            ensure!(ring.receive(&left, &mut buffer, libc::MSG_PEEK)? > 0);
            let length = ring.receive(&left, &mut buffer, 0)?;
            all.extend_from_slice(&buffer[..length]);
        }
        stage.heard("unix_stream", Some(to_left.clone()), &all)
    })?;
    let server = stage.child("server", |stage| {
        let bytes = stage::read_exactly(&right, 1000)?;
        stage.heard("unix_stream", Some(to_right.clone()), &bytes)?;
        let mut ring = Ring::polled()?.by_workers();
        ring.write_all(&right, &stage.marked(200))?;
        stage::write_all(&right, &stage.marked(200))?;
        ensure!(ring.send(&right, &stage.marked(100))? == 100);
        Ok(())
    })?;
    stage.reap(&[client, server])
}

/// TCP, both ways: rings on one side, and on both.
fn tcp(stage: &Stage) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let server = stage.child("server", |stage| {
        let (connection, _) = listener.accept()?;
        let id = format!("tcp:{}->{}", connection.peer_addr()?, connection.local_addr()?);
        let connection = OwnedFd::from(connection);
        let mut ring = Ring::new()?;
        let mut all = Vec::new();
        let mut buffer = [0; 300];
        while all.len() < 5000 {
            let length = ring.receive(&connection, &mut buffer, 0)?;
            all.extend_from_slice(&buffer[..length]);
        }
        stage.heard("tcp", Some(id), &all)?;
        stage::write_all(&connection, &stage.marked(100))?;
        Ring::polled()?.by_workers().write_all(&connection, &stage.marked(200))
    })?;
    let client = stage.child("client", |stage| {
        let connection = TcpStream::connect(address)?;
        let id = format!("tcp:{}->{}", connection.peer_addr()?, connection.local_addr()?);
        let connection = OwnedFd::from(connection);
        let mut ring = Ring::new()?;
        ring.register(&[&connection])?;
        ring.write_all_fixed(0, &stage.marked(3000))?;
        stage::write_all(&connection, &stage.marked(1000))?;
        ensure!(ring.send(&connection, &stage.marked(1000))? == 1000);
        let bytes = stage::read_exactly(&connection, 300)?;
        stage.heard("tcp", Some(id), &bytes)
    })?;
    stage.reap(&[server, client])
}

/// UDP: rings on one side, and on both.
fn udp(stage: &Stage) -> Result<()> {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = receiver.local_addr()?;
    let receiver = OwnedFd::from(receiver);
    let child = stage.child("receiver", |stage| {
        let mut rings = [Ring::new()?, Ring::polled()?, Ring::new()?.by_workers()];
        let mut buffer = [0; 200];
        for index in 0..60 {
            if index % 4 == 3 {
                let length = nix::unistd::read(&receiver, &mut buffer)?;
                stage.heard_message("udp", &buffer[..length])?;
                continue;
            }
            let ring = &mut rings[index % 3];
            ensure!(ring.receive(&receiver, &mut buffer, libc::MSG_PEEK)? > 0);
            let length = ring.receive(&receiver, &mut buffer, 0)?;
            stage.heard_message("udp", &buffer[..length])?;
        }
        Ok(())
    })?;
    let mut children = vec![child];
    for name in ["sender-a", "sender-b"] {
        children.push(stage.child(name, |_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(address)?;
            let socket = OwnedFd::from(socket);
            let mut ring = Ring::new()?;
            for _ in 0..15 {
                ensure!(ring.send(&socket, &stage.marked(50))? == 50);
                stage::write_all(&socket, &stage.marked(50))?;
            }
            Ok(())
        })?);
    }
    stage.reap(&children)
}

/// Messages of equal length by several senders to one socket: each to its own.
fn messages(stage: &Stage) -> Result<()> {
    let kinds = [("unix_dgram", SockType::Datagram), ("unix_seqpacket", SockType::SeqPacket)];
    let mut children = Vec::new();
    for (mechanism, kind) in kinds {
        let (left, right) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty())?;
        let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
        children.push(stage.child("sender", |stage| {
            let mut ring = Ring::new()?;
            for _ in 0..20 {
                ensure!(ring.send(&left, &stage.marked(40))? == 40);
                stage::write_all(&left, &stage.marked(41))?;
            }
            Ok(())
        })?);
        children.push(stage.child("receiver", |stage| {
            let mut rings = [Ring::new()?, Ring::polled()?, Ring::new()?.by_workers()];
            let mut buffer = [0; 100];
            for index in 0..40 {
                let ring = &mut rings[index % 3];
                ensure!(ring.receive(&right, &mut buffer, libc::MSG_PEEK)? >= 40);
                let length = ring.receive(&right, &mut buffer, 0)?;
                stage.heard_message_on(mechanism, Some(channel.clone()), &buffer[..length])?;
            }
            Ok(())
        })?);
    }
    stage.reap(&children)
}

/// One request, and a completion for each time that it received: from a socket, and from a pipe.
fn multishot(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let (reader, writer) = pipe()?;
    // Since Linux 6.7.
    let reads = Ring::new()?.knows(opcode::ReadMulti::CODE)?;
    let sender = stage.child("sender", |stage| {
        for turn in 1..=10 {
            stage.wait_for(0, turn)?;
            stage::write_all(&left, &stage.marked(50))?;
        }
        if !reads {
            return Ok(());
        }
        for turn in 1..=10 {
            stage.wait_for(1, turn)?;
            stage::write_all(&writer, &stage.marked(60))?;
        }
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        let mut ring = Ring::new()?;
        let mut pool = vec![0u8; 32 * 128];
        let provide = opcode::ProvideBuffers::new(pool.as_mut_ptr(), 128, 32, 7, 0).build();
        // SAFETY: the pool outlives the ring.
        unsafe { ring.one(provide) }?;
        let receive = opcode::RecvMulti::new(Fd(right.as_raw_fd()), 7).build().user_data(1);
        let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
        let got = each(stage, 0, &mut ring, receive, 500, &pool)?;
        stage.heard("unix_stream", Some(channel), &got)?;
        if !reads {
            return Ok(());
        }
        let read = opcode::ReadMulti::new(Fd(reader.as_raw_fd()), 0, 7).build().user_data(2);
        let got = each(stage, 1, &mut ring, read, 600, &pool)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &got)
    })?;
    stage.reap(&[sender, receiver])
}

/// Submits a request that receives `total` bytes in ten completions; asks for each by a flag.
fn each(
    stage: &Stage,
    flag: usize,
    ring: &mut Ring,
    entry: io_uring::squeue::Entry,
    total: usize,
    pool: &[u8],
) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut entries = vec![entry];
    while all.len() < total {
        stage.raise(flag);
        // SAFETY: what the request points to is the pool, which outlives the ring.
        let done = unsafe { ring.submit(&entries, 1) }?;
        entries.clear();
        for one in done {
            ensure!(one.result() > 0, "{one:?}");
            let buffer = usize::from(cqueue::buffer_select(one.flags()).context("a buffer")?) * 128;
            all.extend_from_slice(&pool[buffer..buffer + one.result() as usize]);
        }
    }
    Ok(all)
}

/// A read that waits until there is something, and one that is cancelled and takes nothing.
fn waiting(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let child = stage.child("reader", |stage| {
        let mut ring = Ring::new()?;
        let mut buffer = [0; 100];
        let fd = Fd(reader.as_raw_fd());
        let doomed = opcode::Read::new(fd, buffer.as_mut_ptr(), 100).build().user_data(1);
        let cancel = opcode::AsyncCancel::new(1).build().user_data(2);
        // SAFETY: the buffer outlives the requests, which are waited for.
        let done = unsafe { ring.submit(&[doomed, cancel], 2) }?;
        ensure!(done.iter().all(|one| one.result() <= 0), "{done:?}");
        stage.raise(0);
        let entry = opcode::Read::new(fd, buffer.as_mut_ptr(), 100).build();
        // SAFETY: as above.
        let length = unsafe { ring.one(entry) }?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &buffer[..length])
    })?;
    let writer_child = stage.child("writer", |stage| {
        stage.wait_for(0, 1)?;
        stage.wait_until(|| stage::sleeps(child))?;
        stage::write_all(&writer, &stage.marked(77))
    })?;
    stage.reap(&[child, writer_child])
}

/// `IOSQE_CQE_SKIP_SUCCESS`: nothing says that they are done.
fn without_completions(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let sender = stage.child("sender", |stage| {
        let mut ring = Ring::new()?;
        let bytes = stage.marked(80);
        let entry = opcode::Send::new(Fd(left.as_raw_fd()), bytes.as_ptr(), 80).build();
        let quiet = entry.clone().flags(Flags::SKIP_SUCCESS);
        // SAFETY: the bytes outlive the requests: the last is waited for, and they are carried out in order.
        let done = unsafe { ring.submit_as_they_are(&[quiet.clone(), quiet, entry], 1) }?;
        ensure!(done.len() == 1 && done[0].result() == 80, "{done:?}");
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        let bytes = stage::read_exactly(&right, 240)?;
        let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
        stage.heard("unix_stream", Some(channel), &bytes)
    })?;
    stage.reap(&[sender, receiver])
}

/// From a pipe to a pipe, and from a pipe to a socket.
fn spliced(stage: &Stage) -> Result<()> {
    let (first, into_first) = pipe()?;
    let (second, into_second) = pipe()?;
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let source = stage.child("source", |stage| stage::write_all(&into_first, &stage.marked(900)))?;
    let mover = stage.child("mover", |stage| {
        let mut ring = Ring::new()?;
        let from = Fd(first.as_raw_fd());
        for (to, count) in [(&into_second, 400), (&left, 500)] {
            let mut done = 0;
            while done < count {
                let rest = (count - done) as u32;
                let entry = opcode::Splice::new(from, -1, Fd(to.as_raw_fd()), -1, rest).build();
                // SAFETY: it points to nothing.
                done += unsafe { ring.one(entry) }?;
            }
        }
        stage.tell(&moved("pipe", stage::pipe_id(&first)?, 1, stage.me(), 900))
    })?;
    let sink = stage.child("sink", |stage| {
        stage::read_exactly(&second, 400)?;
        stage.tell(&moved("pipe", stage::pipe_id(&second)?, 2, stage.me(), 400))?;
        stage::read_exactly(&right, 500)?;
        let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
        stage.tell(&moved("unix_stream", channel, 2, stage.me(), 500))
    })?;
    stage.reap(&[source, mover, sink])
}

/// Bytes from the child that was made as the `from`th.
fn moved(
    mechanism: &str,
    channel: String,
    from: u8,
    to: ipctrace::demo::truth::Party,
    bytes: u64,
) -> ipctrace::demo::truth::Truth {
    ipctrace::demo::truth::Truth::Transfer {
        mechanism: mechanism.to_owned(),
        channel: Some(channel),
        from: ipctrace::demo::truth::Party::Mark(from),
        to,
        bytes,
        messages: None,
    }
}
