//! As many transfers as the machine makes, each of them of the same few bytes, counted by who makes them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::ends::{SIZE, ends};

/// Sends between two looks at the clock.
const STRETCH: u64 = 256;

/// What can be loaded.
pub const MECHANISMS: [&str; 5] = ["pipe", "unix_stream", "unix_dgram", "posix_mq", "sysv_msg"];

/// Content of a message but the last.
const GO_ON: [u8; SIZE] = [1; SIZE];
/// Content of the last.
const END: [u8; SIZE] = [0; SIZE];

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
