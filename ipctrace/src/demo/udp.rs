//! `udp`: datagrams over loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::sys::socket::{MsgFlags, recv};

use super::Demo;
use super::stage::Stage;
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "udp",
    summary: "datagrams over loopback, by connection and by address, and a server that answers",
    story: "Two clients send, one connected, one naming the server each time. The server looks at each datagram before it\n\
            takes it (no transfer), answers the one, and takes the last with too small a buffer: what did not fit is\n\
            gone, and shown so.",
    mechanisms: &[Mechanism::Udp],
    play,
};

/// Sizes of the datagrams of the connected client; each is answered.
const CONNECTED: [usize; 3] = [1, 100, 5000];
/// Size of an answer.
const ANSWER: usize = 50;
/// Sizes of the other's, of which the last is taken short.
const BY_ADDRESS: [usize; 2] = [33, 900];
/// Room for it.
const SHORT: usize = 250;

/// Flag: the connected client has all its answers.
const ANSWERED: usize = 0;

fn play(stage: &Stage) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    let server = stage.child("server", |stage| serve(stage, &socket, address))?;
    let connected = stage.child("connected", |stage| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let own = socket.local_addr()?;
        socket.connect(address)?;
        for size in CONNECTED {
            socket.send(&stage.marked(size))?;
            let mut answer = [0; ANSWER];
            let len = socket.recv(&mut answer)?;
            stage.heard_message_on("udp", Some(format!("udp:{address}->{own}")), &answer[..len])?;
        }
        stage.sent("udp", CONNECTED.iter().sum(), Some(CONNECTED.len()))?;
        stage.raise(ANSWERED);
        Ok(())
    })?;
    let by_address = stage.child("by-address", |stage| {
        stage.wait_for(ANSWERED, 1)?;
        // Bound to no address: which one it sends from is decided on the way.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for size in BY_ADDRESS {
            socket.send_to(&stage.marked(size), address)?;
        }
        stage.sent("udp", BY_ADDRESS.iter().sum(), Some(BY_ADDRESS.len()))
    })?;
    stage.reap(&[server, connected, by_address])
}

fn serve(stage: &Stage, socket: &UdpSocket, own: SocketAddr) -> Result<()> {
    let mut buffer = [0; 8192];
    for answers in [true, true, true, false] {
        let peeked = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
        let (taken, from) = socket.recv_from(&mut buffer)?;
        ensure!(peeked == taken, "looked at {peeked} bytes and took {taken}");
        stage.heard_message_on("udp", Some(format!("udp:{from}->{own}")), &buffer[..taken])?;
        if answers {
            socket.send_to(&stage.marked(ANSWER), from)?;
        }
    }
    stage.sent("udp", CONNECTED.len() * ANSWER, Some(CONNECTED.len()))?;
    let (fitted, from) = socket.recv_from(&mut buffer[..SHORT])?;
    let id = format!("udp:{from}->{own}");
    stage.heard_message_on("udp", Some(id.clone()), &buffer[..fitted])?;
    stage.tell(&Truth::Transfer {
        mechanism: "udp".to_owned(),
        channel: Some(id),
        from: Party::Mark(buffer[0]),
        to: Party::None("unread".to_owned()),
        bytes: (BY_ADDRESS[1] - fitted) as u64,
        messages: Some(1),
    })
}
