//! UDP on this host: each datagram from the process that sent it to the one that took it.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt::ReuseAddr,
};

use super::Scenario;
use super::messages::mmsg;
use super::namespaces::{apart, bridged, ip, joined};
use crate::kernel::messages_at_once;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "udp_connected_and_by_address", play: connected_and_not },
    Scenario { name: "udp_sendmmsg_and_recvmmsg", play: many_at_once },
    Scenario { name: "udp_by_read_and_write", play: by_read_and_write },
    Scenario { name: "udp_peeked_and_cut_short", play: peeked_and_cut_short },
    Scenario { name: "udp_many_senders_one_receiver", play: many_to_one },
    Scenario { name: "udp_two_senders_share_a_socket", play: shared_socket },
    Scenario { name: "udp_dropped_ones_are_unread", play: dropped },
    Scenario { name: "udp_while_others_are_busy", play: while_busy },
    Scenario { name: "udp_between_namespaces", play: between_namespaces },
    Scenario { name: "udp_over_a_bridge_between_namespaces", play: over_a_bridge },
    Scenario { name: "udp_multicast_and_broadcast_in_namespaces", play: to_many },
];

/// A socket on any port.
fn bound(six: bool) -> Result<(UdpSocket, SocketAddr)> {
    let any = if six { (Ipv6Addr::LOCALHOST, 0).into() } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
    let socket = UdpSocket::bind(any)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Receives one, and reports it by the addresses that recvfrom(2) gives.
fn hear(stage: &Stage, socket: &UdpSocket, to: SocketAddr) -> Result<SocketAddr> {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer)?;
    stage.heard_message_on("udp", Some(format!("udp:{from}->{to}")), &buffer[..len])?;
    Ok(from)
}

/// The same in a network namespace that is not the tracer's, over its loopback.
fn hear_apart(stage: &Stage, socket: &UdpSocket, to: SocketAddr) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer)?;
    let id = format!("udp:{from}->{to}{}", stage::space("net")?);
    stage.heard_message_on("udp", Some(id), &buffer[..len])
}

/// A connected sender, one that names the receiver each time, and one bound to no address of its own.
fn connected_and_not(stage: &Stage) -> Result<()> {
    for six in [false, true] {
        let (receiver, address) = bound(six)?;
        let mut children = Vec::new();
        children.push(stage.child("connected", |stage| {
            let (socket, _) = bound(six)?;
            socket.connect(address)?;
            for size in [1, 100, 5000] {
                ensure!(socket.send(&stage.marked(size))? == size);
            }
            Ok(())
        })?);
        children.push(stage.child("by-address", |stage| {
            let socket = if six {
                UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?
            } else {
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
            };
            for size in [2, 200, 60_000] {
                ensure!(socket.send_to(&stage.marked(size), address)? == size);
            }
            Ok(())
        })?);
        children.push(
            stage.child("receiver", |stage| {
                (0..6).try_for_each(|_| hear(stage, &receiver, address).map(drop))
            })?,
        );
        stage.reap(&children)?;
    }
    Ok(())
}

/// Each message by itself.
fn many_at_once(stage: &Stage) -> Result<()> {
    let count = messages_at_once().min(12);
    let (receiver, address) = bound(false)?;
    let sender = stage.child("sender", |stage| {
        let (socket, _) = bound(false)?;
        socket.connect(address)?;
        let mut buffers: Vec<_> = (1..=count).map(|index| stage.marked(index * 10)).collect();
        ensure!(mmsg(&socket.into(), &mut buffers, false)?.len() == count);
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        let mut heard = 0;
        let socket = receiver.as_fd().try_clone_to_owned()?;
        while heard < count {
            let mut buffers = vec![vec![0; 500]; count - heard];
            let lengths = mmsg(&socket, &mut buffers, true)?;
            for (buffer, len) in buffers.iter().zip(&lengths) {
                stage.heard_message("udp", &buffer[..*len as usize])?;
            }
            heard += lengths.len();
        }
        Ok(())
    })?;
    stage.reap(&[sender, receiver])
}

fn by_read_and_write(stage: &Stage) -> Result<()> {
    let ((one, one_address), (two, two_address)) = (bound(false)?, bound(false)?);
    one.connect(two_address)?;
    two.connect(one_address)?;
    let (one, two) = (OwnedFd::from(one), OwnedFd::from(two));
    let mut children = Vec::new();
    for (name, socket) in [("one", &one), ("two", &two)] {
        children.push(stage.child(name, |stage| {
            for size in [1, 10, 100] {
                stage::write_all(socket, &stage.marked(size))?;
            }
            let mut buffer = [0; 200];
            for size in [1, 10, 100] {
                // Without room nothing is taken.
                ensure!(nix::unistd::read(socket, &mut [])? == 0);
                let mut parts = [&mut [][..], &mut []].map(IoSliceMut::new);
                ensure!(nix::sys::uio::readv(socket, &mut parts)? == 0);
                ensure!(nix::unistd::read(socket, &mut buffer)? == size);
                stage.heard_message("udp", &buffer[..size])?;
            }
            Ok(())
        })?);
    }
    stage.reap(&children)
}

/// MSG_PEEK takes nothing; MSG_TRUNC tells the whole length; without it the rest is gone, unread.
fn peeked_and_cut_short(stage: &Stage) -> Result<()> {
    let (receiver, address) = bound(false)?;
    let sender = stage.child("sender", |stage| {
        let (socket, _) = bound(false)?;
        for size in [1000, 900] {
            socket.send_to(&stage.marked(size), address)?;
        }
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        let fd = receiver.as_raw_fd();
        let mut buffer = [0; 100];
        for _ in 0..3 {
            ensure!(recv(fd, &mut buffer, MsgFlags::MSG_PEEK)? == 100);
        }
        // Its call returned 1000, although 100 bytes fit.
        ensure!(recv(fd, &mut buffer, MsgFlags::MSG_TRUNC)? == 1000);
        stage.heard_message("udp", &vec![buffer[0]; 1000])?;
        ensure!(recv(fd, &mut buffer, MsgFlags::empty())? == 100);
        stage.heard_message("udp", &buffer)?;
        unread(stage, None, buffer[0], 800, 1)
    })?;
    stage.reap(&[sender, receiver])
}

/// Nobody took those.
fn unread(stage: &Stage, channel: Option<String>, mark: u8, bytes: usize, messages: usize) -> Result<()> {
    stage.tell(&Truth::Transfer {
        mechanism: "udp".to_owned(),
        channel,
        from: Party::Mark(mark),
        to: Party::None("unread".to_owned()),
        bytes: bytes as u64,
        messages: Some(messages as u64),
    })
}

/// Several send messages of one length to one socket, at the same time.
fn many_to_one(stage: &Stage) -> Result<()> {
    let (receiver, address) = bound(false)?;
    let mut children = Vec::new();
    for index in 0..4 {
        children.push(stage.child(&format!("sender-{index}"), |stage| {
            let (socket, _) = bound(false)?;
            socket.connect(address)?;
            stage.raise(0);
            stage.wait_for(0, 4)?;
            for _ in 0..50 {
                socket.send(&stage.marked(64))?;
            }
            Ok(())
        })?);
    }
    children.push(
        stage.child("receiver", |stage| {
            (0..200).try_for_each(|_| hear(stage, &receiver, address).map(drop))
        })?,
    );
    stage.reap(&children)
}

/// One socket, two processes that send through it: the datagrams look alike but for their bytes.
fn shared_socket(stage: &Stage) -> Result<()> {
    let (receiver, address) = bound(false)?;
    let (socket, _) = bound(false)?;
    let mut children = Vec::new();
    for index in 0..2 {
        children.push(stage.child(&format!("sender-{index}"), |stage| {
            stage.raise(0);
            stage.wait_for(0, 2)?;
            for _ in 0..100 {
                socket.send_to(&stage.marked(64), address)?;
            }
            Ok(())
        })?);
    }
    children.push(
        stage.child("receiver", |stage| {
            (0..200).try_for_each(|_| hear(stage, &receiver, address).map(drop))
        })?,
    );
    stage.reap(&children)
}

/// What does not fit the receiver's buffer is dropped.
fn dropped(stage: &Stage) -> Result<()> {
    const COUNT: usize = 500;
    let (receiver, address) = bound(false)?;
    let sender = stage.child("sender", |stage| {
        let (socket, _) = bound(false)?;
        for _ in 0..COUNT {
            socket.send_to(&stage.marked(1000), address)?;
        }
        stage.put(0, u64::from(stage.mark()));
        Ok(())
    })?;
    stage.reap(&[sender])?;
    let reader = stage.child("receiver", |stage| {
        receiver.set_nonblocking(true)?;
        let (mut heard, mut id) = (0, None);
        while let Ok(from) = hear(stage, &receiver, address) {
            heard += 1;
            id = Some(format!("udp:{from}->{address}"));
        }
        ensure!(heard > 0 && heard < COUNT, "the case is not made: {heard}");
        unread(stage, id, stage.get(0) as u8, (COUNT - heard) * 1000, COUNT - heard)
    })?;
    stage.reap(&[reader])
}

/// The receiving softirq runs in whichever task is current: processes that compute and do nothing else are named nowhere.
fn while_busy(stage: &Stage) -> Result<()> {
    const TURNS: usize = 500;
    let ((one, one_address), (two, two_address)) = (bound(false)?, bound(false)?);
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
    let asker = stage.child("asker", |stage| {
        for _ in 0..TURNS {
            one.send_to(&stage.marked(100), two_address)?;
            hear(stage, &one, one_address)?;
        }
        Ok(())
    })?;
    let answerer = stage.child("answerer", |stage| {
        for _ in 0..TURNS {
            let from = hear(stage, &two, two_address)?;
            two.send_to(&stage.marked(40), from)?;
        }
        Ok(())
    })?;
    stage.reap(&[asker, answerer])?;
    stage.put(0, 1);
    stage.reap(&busy)
}

/// One end in each of two network namespaces; large datagrams go in fragments.
fn between_namespaces(stage: &Stage) -> Result<()> {
    const SIZES: [usize; 3] = [10, 1000, 20_000];
    joined(
        stage,
        |stage, side| {
            let address = SocketAddr::from((side.own(), 4000));
            let socket = UdpSocket::bind(address)?;
            stage.raise(0);
            for size in SIZES {
                let from = hear(stage, &socket, address)?;
                socket.send_to(&stage.marked(size), from)?;
            }
            Ok(())
        },
        |stage, side| {
            stage.wait_for(0, 1)?;
            // Bound to no address: which one it has is only decided on the way.
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4001))?;
            for size in SIZES {
                socket.send_to(&stage.marked(size), (side.other(), 4000))?;
                hear(stage, &socket, (side.own(), 4001).into())?;
            }
            Ok(())
        },
    )
}

/// Each of three asks the two others and answers them, over a bridge: what one sends passes two devices or three.
fn over_a_bridge(stage: &Stage) -> Result<()> {
    const SIZES: [usize; 3] = [10, 1000, 20_000];
    bridged(stage, |stage, number, addresses| {
        let [asks, answers] = [4000, 4001].map(|port| SocketAddr::from((addresses[number], port)));
        let (asking, answering) = (UdpSocket::bind(asks)?, UdpSocket::bind(answers)?);
        stage.raise(0);
        stage.wait_for(0, 3)?;
        // One after the other: nothing is dropped while addresses are asked for.
        for turn in 0..3 {
            for size in SIZES {
                if turn == number {
                    for (_, other) in addresses.into_iter().enumerate().filter(|(other, _)| *other != number)
                    {
                        asking.send_to(&stage.marked(size), (other, 4001))?;
                        hear(stage, &asking, asks)?;
                    }
                } else {
                    let from = hear(stage, &answering, answers)?;
                    answering.send_to(&stage.marked(size), from)?;
                }
            }
        }
        Ok(())
    })
}

/// A socket on a port that others have too.
fn bound_with_others(port: u16) -> Result<UdpSocket> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    // SAFETY: a structure of numbers, which zeros are.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = port.to_be();
    let len = size_of_val(&address) as u32;
    // SAFETY: an address of that length.
    let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    ensure!(status == 0, "{}", std::io::Error::last_os_error());
    Ok(socket.into())
}

/// One send, two receivers: both are told.
fn to_many(stage: &Stage) -> Result<()> {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let all = Ipv4Addr::new(127, 255, 255, 255);
    apart(stage)?;
    ip(stage, "route add 239.0.0.0/8 dev lo")?;
    let mut children = Vec::new();
    for index in 0..2 {
        children.push(stage.child(&format!("receiver-{index}"), |stage| {
            let socket = bound_with_others(4000)?;
            socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)?;
            stage.raise(0);
            for to in [group, all] {
                for _ in 0..10 {
                    // A group may have members in several namespaces.
                    if to == group {
                        hear(stage, &socket, (to, 4000).into())?;
                    } else {
                        hear_apart(stage, &socket, (to, 4000).into())?;
                    }
                }
            }
            Ok(())
        })?);
    }
    children.push(stage.child("sender", |stage| {
        stage.wait_for(0, 2)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_broadcast(true)?;
        for to in [group, all] {
            for size in 1..=10 {
                socket.send_to(&stage.marked(size), (to, 4000))?;
            }
        }
        Ok(())
    })?);
    stage.reap(&children)
}
