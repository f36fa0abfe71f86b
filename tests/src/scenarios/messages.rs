//! Messages are matched one to one.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv, send, sendto, socket,
    socketpair,
};

use super::Scenario;
use crate::kernel::messages_at_once;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "sendmmsg_and_recvmmsg", play: many_at_once },
    Scenario { name: "one_sender_many_receivers", play: one_to_many },
    Scenario { name: "many_senders_one_receiver", play: many_to_one },
    Scenario { name: "peeked_and_cut_short", play: peeked_and_cut_short },
    Scenario { name: "messages_by_read_and_write", play: by_read_and_write },
    Scenario { name: "a_receiver_that_starts_again", play: starts_again },
];

const COUNT: usize = 12;

/// Calls `sendmmsg` or `recvmmsg` on messages with these buffers.
pub(super) fn mmsg(socket: &OwnedFd, buffers: &mut [Vec<u8>], receive: bool) -> Result<Vec<u32>> {
    let mut vectors: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: numbers and null pointers.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let (fd, len) = (socket.as_raw_fd(), headers.len() as u32);
    // SAFETY: the headers name buffers that live until the call returns.
    let moved = unsafe {
        if receive {
            libc::recvmmsg(fd, headers.as_mut_ptr(), len, libc::MSG_WAITFORONE, std::ptr::null_mut())
        } else {
            libc::sendmmsg(fd, headers.as_mut_ptr(), len, 0)
        }
    };
    ensure!(moved > 0, "{}", std::io::Error::last_os_error());
    Ok(headers[..moved as usize].iter().map(|header| header.msg_len).collect())
}

/// Each message by itself, with its size, on datagrams; the sum on a stream.
fn many_at_once(stage: &Stage) -> Result<()> {
    let count = COUNT.min(messages_at_once());
    for (kind, name) in [(SockType::Datagram, "unix_dgram"), (SockType::SeqPacket, "unix_seqpacket")] {
        let (left, right) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty())?;
        let sender = stage.child("sender", |stage| {
            let mut buffers: Vec<_> = (1..=count).map(|index| stage.marked(index * 10)).collect();
            let sent = mmsg(&left, &mut buffers, false)?;
            ensure!(sent.len() == count);
            Ok(())
        })?;
        let receiver = stage.child("receiver", |stage| {
            let mut heard = 0;
            while heard < count {
                let mut buffers = vec![vec![0; 500]; count - heard];
                let lengths = mmsg(&right, &mut buffers, true)?;
                for (buffer, len) in buffers.iter().zip(&lengths) {
                    stage.heard_message(name, &buffer[..*len as usize])?;
                }
                heard += lengths.len();
            }
            Ok(())
        })?;
        stage.reap(&[sender, receiver])?;
    }
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let sender = stage.child("streamer", |stage| {
        let mut buffers = vec![stage.marked(100); 3];
        ensure!(mmsg(&left, &mut buffers, false)? == [100, 100, 100]);
        Ok(())
    })?;
    let receiver = stage.child("listener", |stage| {
        let bytes = stage::read_exactly(&right, 300)?;
        stage.heard("unix_stream", None, &bytes)
    })?;
    stage.reap(&[sender, receiver])
}

fn bound(name: &str) -> Result<(OwnedFd, UnixAddr)> {
    let address = UnixAddr::new_abstract(format!("ipctrace-{name}-{}", std::process::id()).as_bytes())?;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok((socket, address))
}

/// One socket sends to several by name, messages of equal length among them: each goes where it was sent.
fn one_to_many(stage: &Stage) -> Result<()> {
    let receivers = [bound("many-0")?, bound("many-1")?, bound("many-2")?];
    let mut children = Vec::new();
    for (index, (socket, _)) in receivers.iter().enumerate() {
        children.push(stage.child(&format!("receiver-{index}"), |stage| {
            let mut buffer = [0; 100];
            for _ in 0..20 {
                let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
                stage.heard_message("unix_dgram", &buffer[..len])?;
            }
            Ok(())
        })?);
    }
    children.push(stage.child("sender", |stage| {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        for turn in 0..20 {
            for (_, address) in &receivers {
                let size = if turn % 2 == 0 { 64 } else { 33 };
                sendto(socket.as_raw_fd(), &stage.marked(size), address, MsgFlags::empty())?;
            }
        }
        Ok(())
    })?);
    stage.reap(&children)
}

/// Several send messages of one length to one socket, at the same time.
fn many_to_one(stage: &Stage) -> Result<()> {
    let (socket_in, address) = bound("one")?;
    let mut children = Vec::new();
    for index in 0..4 {
        children.push(stage.child(&format!("sender-{index}"), |stage| {
            let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            connect(socket.as_raw_fd(), &address)?;
            stage.raise(0);
            stage.wait_for(0, 4)?;
            for _ in 0..100 {
                send(socket.as_raw_fd(), &stage.marked(64), MsgFlags::empty())?;
            }
            Ok(())
        })?);
    }
    children.push(stage.child("receiver", |stage| {
        let mut buffer = [0; 100];
        for _ in 0..400 {
            let len = recv(socket_in.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            stage.heard_message("unix_dgram", &buffer[..len])?;
        }
        Ok(())
    })?);
    stage.reap(&children)
}

/// MSG_PEEK takes nothing; MSG_TRUNC tells the whole length of a message that did not fit.
fn peeked_and_cut_short(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    let sender = stage.child("sender", |stage| {
        send(left.as_raw_fd(), &stage.marked(1000), MsgFlags::empty())?;
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        let mut buffer = [0; 100];
        for _ in 0..3 {
            ensure!(recv(right.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)? == 100);
        }
        // Its call returned 1000, although 100 bytes fit.
        ensure!(recv(right.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)? == 1000);
        stage.heard_message("unix_dgram", &vec![buffer[0]; 1000])
    })?;
    stage.reap(&[sender, receiver])
}

/// A receiver ends with a message unread, and the next one binds the same name: what it gets is what was sent since.
fn starts_again(stage: &Stage) -> Result<()> {
    let name = format!("ipctrace-again-{}", std::process::id());
    let receiver = || -> Result<OwnedFd> {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
        Ok(socket)
    };
    let sender = || socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let address = UnixAddr::new_abstract(name.as_bytes())?;
    let kept = sender()?;
    for round in 0..20 {
        // In some rounds by one socket, in some each by its own, whose place in memory the next one gets.
        let send = |stage: &Stage| -> Result<()> {
            let own = sender()?;
            let socket = if round % 2 == 0 { &kept } else { &own };
            ensure!(sendto(socket.as_raw_fd(), &stage.marked(9), &address, MsgFlags::empty())? == 9);
            Ok(())
        };
        let first = receiver()?;
        let early = stage.child("early", |stage| {
            send(stage)?;
            stage.tell(&Truth::Transfer {
                mechanism: "unix_dgram".to_owned(),
                channel: None,
                from: stage.me(),
                to: Party::None("unread".to_owned()),
                bytes: 9,
                messages: Some(1),
            })
        })?;
        stage.reap(&[early])?;
        drop(first);
        let second = receiver()?;
        let late = stage.child("late", |stage| send(stage))?;
        stage.reap(&[late])?;
        let server = stage.child("server", |stage| {
            let mut buffer = [0; 20];
            ensure!(recv(second.as_raw_fd(), &mut buffer, MsgFlags::empty())? == 9);
            stage.heard_message("unix_dgram", &buffer[..9])
        })?;
        stage.reap(&[server])?;
    }
    Ok(())
}

fn by_read_and_write(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())?;
    let sender = stage.child("sender", |stage| {
        for size in [1, 10, 100] {
            stage::write_all(&left, &stage.marked(size))?;
        }
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        let mut buffer = [0; 200];
        for size in [1, 10, 100] {
            ensure!(nix::unistd::read(&right, &mut buffer)? == size);
            stage.heard_message("unix_seqpacket", &buffer[..size])?;
        }
        Ok(())
    })?;
    stage.reap(&[sender, receiver])
}
