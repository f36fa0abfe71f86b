//! `unix_dgram`: messages to bound sockets.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use ipctrace_common::Mechanism;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv, recvmsg, send, sendto, socket,
};

use super::Demo;
use super::stage::{self, Folder, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "unix_dgram",
    summary: "messages to bound sockets, by connection, by path and by abstract name",
    story: "Two clients send, one connected, one naming the server each time. The server looks at a message before it\n\
            takes it (no transfer), and takes another with too small a buffer: what did not fit is gone, and shown so.",
    mechanisms: &[Mechanism::UnixDgram],
    play,
};

/// Sizes of the messages of the connected client.
const CONNECTED: [usize; 3] = [1, 100, 5000];
/// Size of the other's message to the path, which is taken short.
const TO_PATH: usize = 900;
/// Room for it.
const SHORT: usize = 250;
/// Size of its message to the abstract name.
const TO_ABSTRACT: usize = 33;

/// Flag: the server is bound.
const BOUND: usize = 0;
/// Flag: all of the connected client's messages are taken.
const TAKEN: usize = 1;

fn play(stage: &Stage) -> Result<()> {
    let folder = Folder::new()?;
    let addresses = Addresses {
        path: UnixAddr::new(&folder.path().join("server"))?,
        abstracted: UnixAddr::new_abstract(format!("ipctrace-dgram-{}", std::process::id()).as_bytes())?,
    };
    let server = stage.child("server", |stage| serve(stage, &addresses))?;
    let connected = stage.child("connected", |stage| {
        stage.wait_for(BOUND, 1)?;
        let socket = new_socket(stage)?;
        connect(socket.as_raw_fd(), &addresses.abstracted)?;
        for size in CONNECTED {
            send(socket.as_raw_fd(), &stage.marked(size), MsgFlags::empty())?;
        }
        stage.sent("unix_dgram", CONNECTED.iter().sum(), Some(CONNECTED.len()))
    })?;
    let named = stage.child("by-name", |stage| {
        stage.wait_for(TAKEN, 1)?;
        let socket = new_socket(stage)?;
        sendto(socket.as_raw_fd(), &stage.marked(TO_PATH), &addresses.path, MsgFlags::empty())?;
        sendto(socket.as_raw_fd(), &stage.marked(TO_ABSTRACT), &addresses.abstracted, MsgFlags::empty())?;
        stage.sent("unix_dgram", TO_PATH + TO_ABSTRACT, Some(2))
    })?;
    stage.reap(&[server, connected, named])
}

/// Where the server receives.
struct Addresses {
    path: UnixAddr,
    abstracted: UnixAddr,
}

/// A socket whose inode stands for all to see in the place of its process's mark.
fn new_socket(stage: &Stage) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    stage.put(usize::from(stage.mark()), stage::inode(&socket)?);
    Ok(socket)
}

fn serve(stage: &Stage, addresses: &Addresses) -> Result<()> {
    let (at_path, at_abstract) = (new_socket(stage)?, new_socket(stage)?);
    bind(at_path.as_raw_fd(), &addresses.path)?;
    bind(at_abstract.as_raw_fd(), &addresses.abstracted)?;
    stage.raise(BOUND);
    let mut buffer = [0; 8192];
    for _ in CONNECTED {
        let peeked = recv(at_abstract.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
        let taken = recv(at_abstract.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        ensure!(peeked == taken, "looked at {peeked} bytes and took {taken}");
        heard(stage, &at_abstract, &buffer[..taken])?;
    }
    stage.raise(TAKEN);
    let (fitted, cut) = {
        let mut room = [IoSliceMut::new(&mut buffer[..SHORT])];
        let message = recvmsg::<()>(at_path.as_raw_fd(), &mut room, None, MsgFlags::empty())?;
        (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC))
    };
    ensure!(cut && fitted == SHORT, "{fitted} bytes of a message fit; cut short: {cut}");
    let id = heard(stage, &at_path, &buffer[..fitted])?;
    stage.tell(&Truth::Transfer {
        mechanism: "unix_dgram".to_owned(),
        channel: Some(id),
        from: Party::Mark(buffer[0]),
        to: Party::None("unread".to_owned()),
        bytes: (TO_PATH - fitted) as u64,
        messages: Some(1),
    })?;
    let taken = recv(at_abstract.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    heard(stage, &at_abstract, &buffer[..taken])?;
    Ok(())
}

/// Reports a message that came to one of the server's sockets; gives the id of its channel.
fn heard(stage: &Stage, socket: &OwnedFd, message: &[u8]) -> Result<String> {
    let sender = stage.get(usize::from(*message.first().context("an empty message")?));
    let id = stage::socket_id(sender, stage::inode(socket)?);
    stage.heard_message_on("unix_dgram", Some(id.clone()), message)?;
    let own: UnixAddr = nix::sys::socket::getsockname(socket.as_raw_fd())?;
    let name = match (own.path(), own.as_abstract()) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
        (None, None) => return Ok(id),
    };
    stage.tell(&Truth::Named { channel: id.clone(), name })?;
    Ok(id)
}
