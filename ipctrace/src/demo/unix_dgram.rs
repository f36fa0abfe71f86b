//! `unix_dgram`: messages to a bound socket.

use std::os::fd::AsRawFd;

use anyhow::Result;
use ipctrace_common::Mechanism;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv, send, sendto, socket,
};

use super::Demo;
use super::stage::Stage;
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "unix_dgram",
    summary: "messages to a bound socket, by connection and by name",
    story: "Two clients send, one connected, one naming the server each time. The server looks at a message before it\n\
            takes it (no transfer), and takes another with too small a buffer: what did not fit is gone, and shown so.",
    mechanisms: &[Mechanism::UnixDgram],
    play,
};

/// Sizes of the messages of each client; the first of the second client's is taken short.
const CONNECTED: [usize; 3] = [1, 100, 5000];
const NAMED: [usize; 2] = [900, 33];
const SHORT: usize = 250;

fn play(stage: &Stage) -> Result<()> {
    let address = UnixAddr::new_abstract(format!("ipctrace-dgram-{}", std::process::id()).as_bytes())?;
    let server = stage.child("server", |stage| {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &address)?;
        stage.raise(0);
        let mut buffer = [0; 8192];
        for _ in CONNECTED {
            let peeked = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
            let taken = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            anyhow::ensure!(peeked == taken, "looked at {peeked} bytes and took {taken}");
            stage.heard_message("unix_dgram", &buffer[..taken])?;
        }
        stage.raise(1);
        let short = recv(socket.as_raw_fd(), &mut buffer[..SHORT], MsgFlags::empty())?;
        stage.heard_message("unix_dgram", &buffer[..short])?;
        stage.tell(&Truth::Transfer {
            mechanism: "unix_dgram".to_owned(),
            channel: None,
            from: Party::Mark(buffer[0]),
            to: Party::None("unread".to_owned()),
            bytes: (NAMED[0] - SHORT) as u64,
            messages: Some(1),
        })?;
        let taken = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        stage.heard_message("unix_dgram", &buffer[..taken])
    })?;
    let connected = stage.child("connected", |stage| {
        stage.wait_for(0, 1)?;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &address)?;
        for size in CONNECTED {
            send(socket.as_raw_fd(), &stage.marked(size), MsgFlags::empty())?;
        }
        Ok(())
    })?;
    let named = stage.child("by-name", |stage| {
        stage.wait_for(1, 1)?;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        for size in NAMED {
            sendto(socket.as_raw_fd(), &stage.marked(size), &address, MsgFlags::empty())?;
        }
        Ok(())
    })?;
    stage.reap(&[server, connected, named])
}
