//! As many transfers as the machine makes, each of them of the same few bytes, counted by who makes them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipctrace::demo::stage::{PosixQueue, SysvQueue};

/// Bytes of each transfer.
pub const SIZE: usize = 64;
/// Sends between two looks at the clock.
const STRETCH: u64 = 256;

/// What can be loaded.
pub const MECHANISMS: [&str; 5] = ["pipe", "unix_stream", "unix_dgram", "posix_mq", "sysv_msg"];

/// Content of a message but the last.
const GO_ON: [u8; SIZE] = [1; SIZE];
/// Content of the last.
const END: [u8; SIZE] = [0; SIZE];

/// Sends one, of that content.
type Send = Box<dyn FnMut(&[u8; SIZE]) -> Result<()> + std::marker::Send>;
/// Receives one.
type Receive = Box<dyn FnMut(&mut [u8; SIZE]) -> Result<()> + std::marker::Send>;

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

fn ends(mechanism: &str) -> Result<(Send, Receive)> {
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
        "posix_mq" => {
            let queue = Arc::new(PosixQueue::new("load", 10, SIZE as i64, 0)?);
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
        other => bail!("no such load: {other}"),
    })
}

/// Has one thread send and another receive for so many seconds, and writes to `report` how many calls both made: `__load
/// MECHANISM SECONDS REPORT`.
///
/// # Errors
/// If a call fails, or moves less than it was to.
pub fn act(arguments: &[String]) -> Result<()> {
    let [mechanism, seconds, report] = arguments else {
        bail!("usage: actor __load MECHANISM SECONDS REPORT")
    };
    let time = Duration::from_secs_f64(seconds.parse().context("seconds")?);
    let (mut send, mut receive) = ends(mechanism)?;
    let receiver = std::thread::spawn(move || -> Result<u64> {
        let mut message = GO_ON;
        let mut calls = 0;
        while message != END {
            receive(&mut message)?;
            calls += 1;
        }
        Ok(calls)
    });
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < time {
        for _ in 0..STRETCH {
            send(&GO_ON)?;
        }
        calls += STRETCH;
    }
    send(&END)?;
    let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    ensure!(received == calls + 1, "{calls} sent, but the last, and {received} received");
    std::fs::write(Path::new(report), (calls + 1).to_string())?;
    Ok(())
}
