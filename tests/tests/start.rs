//! The first moments of a trace: calls that are under way when it begins.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipctrace_tests::pause_until;
use ipctrace_tests::trace::Trace;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;

/// Transfers through what `id` is part of the name of.
fn transfers<'a>(lines: &'a [Value], id: &str) -> Vec<&'a Value> {
    let through = |line: &&Value| line["channel"]["id"].as_str().is_some_and(|channel| channel.contains(id));
    lines.iter().filter(|line| line["type"] == "transfer").filter(through).collect()
}

#[test]
fn a_reader_that_waits_while_tracing_begins_gets_what_is_written_meanwhile() -> Result<()> {
    // Whenever tracing begins, a read is under way, and within half a millisecond a write ends it.
    let (mut reader, mut writer) = std::io::pipe()?;
    let id = format!("pipe:[{}]", nix::sys::stat::fstat(&reader)?.st_ino);
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let reads = thread::spawn(move || while reader.read(&mut [0; 16]).is_ok_and(|count| count != 0) {});
    let writes = thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) && writer.write(&[0]).is_ok() {
            thread::sleep(Duration::from_micros(500));
        }
    });
    let mut traces = Vec::new();
    for _ in 0..3 {
        let trace = Trace::start(&["-m", "pipe", "--every"])?;
        thread::sleep(Duration::from_millis(300));
        traces.push(trace.stop()?);
    }
    over.store(true, Ordering::Relaxed);
    ensure!(writes.join().is_ok() && reads.join().is_ok(), "no thread panics");
    let own = std::process::id();
    for lines in &traces {
        ensure!(lines.last().context("an end")?["lost"] == serde_json::json!({}), "something was lost");
        let told = transfers(lines, &id);
        assert!(told.len() > 100, "{told:?}");
        for transfer in told {
            // A write that is on a processor at that moment may stay without a name; nothing that is seen may.
            assert_ne!(transfer["receiver_why"], "lost", "{transfer}");
            let right = |end: &Value| end.is_null() || end["pid"] == own;
            assert!(right(&transfer["sender"]) && right(&transfer["receiver"]), "{transfer}");
        }
    }
    Ok(())
}

#[test]
fn a_look_that_began_before_tracing_takes_nothing() -> Result<()> {
    let (mut sender, mut receiver) = UnixStream::pair()?;
    let id = format!("socket:[{}]", nix::sys::stat::fstat(&receiver)?.st_ino);
    let (tell, told) = std::sync::mpsc::channel();
    let looks = thread::spawn(move || -> Result<(usize, usize)> {
        tell.send(nix::unistd::gettid().as_raw())?;
        let seen = recv(receiver.as_raw_fd(), &mut [0; 100], MsgFlags::MSG_PEEK)?;
        Ok((seen, receiver.read(&mut [0; 100])?))
    });
    let thread = told.recv()?;
    pause_until("the receiver looks", || {
        let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall"))?;
        Ok(call.starts_with(&format!("{} ", libc::SYS_recvfrom)))
    })?;
    let trace = Trace::start(&["-m", "unix_stream"])?;
    sender.write_all(&[0; 10])?;
    assert_eq!(looks.join().ok().context("no panic")??, (10, 10));
    let lines = trace.stop()?;
    let told: Vec<_> = transfers(&lines, &id)
        .iter()
        .map(|line| (line["bytes"].as_u64(), line["receiver"]["pid"].as_u64(), line["exact"].as_bool()))
        .collect();
    assert_eq!(told, [(Some(10), Some(u64::from(std::process::id())), Some(true))], "{lines:?}");
    Ok(())
}
