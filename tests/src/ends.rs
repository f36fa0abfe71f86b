//! Two ends of a channel of each mechanism, to send messages of one size from the one to the other.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use ipctrace::demo::stage::{PosixQueue, SysvQueue};

/// Bytes of each message.
pub const SIZE: usize = 64;

/// Sends one message, in one call.
pub type Send = Box<dyn FnMut(&[u8; SIZE]) -> Result<()> + std::marker::Send>;
/// Receives one, in one call.
pub type Receive = Box<dyn FnMut(&mut [u8; SIZE]) -> Result<()> + std::marker::Send>;

/// Bytes of which each call moves all or none: calls are what is counted.
fn whole(moved: usize) -> Result<()> {
    ensure!(moved == SIZE, "a call moved {moved} bytes, not {SIZE}");
    Ok(())
}

fn stream(
    mut send: impl Write + std::marker::Send + 'static,
    mut receive: impl Read + std::marker::Send + 'static,
) -> (Send, Receive) {
    (
        Box::new(move |message| whole(send.write(message)?)),
        Box::new(move |message| whole(receive.read(message)?)),
    )
}

/// The two ends of a new channel.
///
/// # Errors
/// If it cannot be made, or there is none of that name.
pub fn ends(mechanism: &str) -> Result<(Send, Receive)> {
    Ok(match mechanism {
        "pipe" => {
            let (reader, writer) = std::io::pipe()?;
            stream(writer, reader)
        }
        "unix_stream" => {
            let (one, other) = UnixStream::pair()?;
            stream(one, other)
        }
        "unix_dgram" => {
            let (one, other) = UnixDatagram::pair()?;
            (
                Box::new(move |message| whole(one.send(message)?)),
                Box::new(move |message| whole(other.recv(message)?)),
            )
        }
        "tcp" => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            client.set_nodelay(true)?;
            stream(client, listener.accept()?.0)
        }
        "udp" => {
            let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            sender.connect(receiver.local_addr()?)?;
            (
                Box::new(move |message| whole(sender.send(message)?)),
                Box::new(move |message| whole(receiver.recv(message)?)),
            )
        }
        "posix_mq" => {
            let queue = Arc::new(PosixQueue::new("ends", 10, SIZE as i64, 0)?);
            let receiver = Arc::clone(&queue);
            (
                Box::new(move |message| Ok(queue.send(message, 0)?)),
                Box::new(move |message| {
                    message.copy_from_slice(&receiver.receive()?.0);
                    Ok(())
                }),
            )
        }
        "sysv_msg" => {
            let queue = Arc::new(SysvQueue::new()?);
            let receiver = Arc::clone(&queue);
            (
                Box::new(move |message| Ok(queue.send(1, message, 0)?)),
                Box::new(move |message| {
                    message.copy_from_slice(&receiver.receive(0, SIZE, 0)?.1);
                    Ok(())
                }),
            )
        }
        other => bail!("no ends of: {other}"),
    })
}
