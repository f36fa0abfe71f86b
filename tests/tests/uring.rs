//! Requests through io_uring of which not everything can be seen.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use ipctrace::demo::stage::{self, Ring};
use ipctrace_tests::trace::Trace;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{pipe, read, write};
use serde_json::Value;

/// Bytes on a channel by the sender's command name, or why there is none, and the receiver's pid.
fn sums(lines: &[Value], channel: &str) -> Vec<(String, u64, u64)> {
    let mut sums: Vec<(String, u64, u64)> = Vec::new();
    for line in lines.iter().filter(|line| line["type"] == "transfer" && line["channel"]["id"] == channel) {
        let who = line["sender"]["comm"].as_str().or(line["sender_why"].as_str()).unwrap_or_default();
        let (to, bytes) =
            (line["receiver"]["pid"].as_u64().unwrap_or(0), line["bytes"].as_u64().unwrap_or(0));
        match sums.iter_mut().find(|(other, other_to, _)| other == who && *other_to == to) {
            Some(sum) => sum.2 += bytes,
            None => sums.push((who.to_owned(), to, bytes)),
        }
    }
    sums
}

/// What the kernel says was lost, at the end.
fn lost(lines: &[Value]) -> &Value {
    &lines.last().expect("an end")["lost"]
}

/// `printf` of that text to the descriptor.
fn print(text: &str, to: &OwnedFd) -> Result<()> {
    let status = Command::new("printf").arg(text).stdout(Stdio::from(to.try_clone()?)).status()?;
    ensure!(status.success());
    Ok(())
}

#[test]
fn a_request_from_before_the_start_is_its_submitters() -> Result<()> {
    let own = u64::from(std::process::id());
    let (reader, writer) = pipe()?;
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    let counter = OwnedFd::from(nix::sys::eventfd::EventFd::new()?);
    let (mut bytes, mut message, mut value) = ([0u8; 100], [0u8; 100], [0u8; 8]);
    let mut ring = Ring::new()?;
    let entries = [
        opcode::Read::new(Fd(reader.as_raw_fd()), bytes.as_mut_ptr(), 100).build(),
        opcode::Recv::new(Fd(right.as_raw_fd()), message.as_mut_ptr(), 100).build(),
        opcode::Read::new(Fd(counter.as_raw_fd()), value.as_mut_ptr(), 8).build(),
    ];
    // SAFETY: the buffers outlive the requests, which are waited for below.
    unsafe { ring.submit(&entries, 0) }?;
    let trace = Trace::start(&[])?;
    print("seven b", &writer)?;
    print("a message", &left)?;
    ensure!(write(&counter, &5u64.to_ne_bytes())? == 8);
    // SAFETY: no request is submitted.
    let done = unsafe { ring.submit(&[], 3) }?;
    let lines = trace.stop()?;
    assert_eq!(done.iter().map(io_uring::cqueue::Entry::result).sum::<i32>(), 7 + 9 + 8);
    let wakeup = lines.iter().find(|line| line["mechanism"] == "eventfd" && line["receiver"]["pid"] == own);
    let wakeup = wakeup.context("the counter")?;
    assert_eq!((&wakeup["sender"]["pid"], &wakeup["value"]), (&own.into(), &5.into()), "{wakeup}");
    assert_eq!(sums(&lines, &stage::pipe_id(&reader)?), [("printf".to_owned(), own, 7)]);
    let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
    assert_eq!(sums(&lines, &channel), [("printf".to_owned(), own, 9)]);
    assert!(lost(&lines).as_object().is_some_and(serde_json::Map::is_empty), "{}", lost(&lines));
    Ok(())
}

#[test]
fn a_write_that_posts_no_completion_is_nobody_elses() -> Result<()> {
    let own = u64::from(std::process::id());
    let (reader, writer) = pipe()?;
    let trace = Trace::start(&[])?;
    print("before", &writer)?;
    let mut ring = Ring::new()?;
    let bytes = [b'x'; 10];
    let quiet = opcode::Write::new(Fd(writer.as_raw_fd()), bytes.as_ptr(), 10).build();
    // SAFETY: the bytes outlive the request, which is carried out at once.
    unsafe { ring.submit_as_they_are(&[quiet.flags(Flags::SKIP_SUCCESS)], 0) }?;
    print("behind it", &writer)?;
    let mut buffer = [0; 100];
    ensure!(read(&reader, &mut buffer)? == 25);
    let lines = trace.stop()?;
    assert_eq!(
        sums(&lines, &stage::pipe_id(&reader)?),
        [("printf".to_owned(), own, 15), ("lost".to_owned(), own, 10)],
    );
    assert_eq!(lost(&lines)["no-completion"], 1, "{}", lost(&lines));
    Ok(())
}

#[test]
fn completions_for_which_the_ring_has_no_room_count() -> Result<()> {
    let own = u64::from(std::process::id());
    let (reader, writer) = pipe()?;
    let trace = Trace::start(&[])?;
    let mut ring: IoUring = IoUring::builder().setup_cqsize(8).build(8).context("io_uring_setup(2)")?;
    let bytes = [b'x'; 3];
    for turn in 0..20u64 {
        let entry = opcode::Write::new(Fd(writer.as_raw_fd()), bytes.as_ptr(), 3).build().user_data(turn);
        // SAFETY: the bytes outlive the requests, which are carried out at once.
        unsafe { ring.submission().push(&entry) }?;
        ring.submit()?;
    }
    let mut buffer = [0; 100];
    ensure!(read(&reader, &mut buffer)? == 60);
    let lines = trace.stop()?;
    let sums = sums(&lines, &stage::pipe_id(&reader)?);
    assert!(sums.len() == 1 && sums[0].1 == own && sums[0].2 == 60, "{sums:?}");
    assert_ne!(sums[0].0, "lost");
    Ok(())
}

#[test]
fn plain_calls_of_a_process_that_has_a_ring_count_once() -> Result<()> {
    let own = u64::from(std::process::id());
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let trace = Trace::start(&[])?;
    let mut ring = Ring::new()?;
    let mut buffer = [0; 64];
    for _ in 0..10 {
        ensure!(write(&left, &[1; 20])? == 20);
        ensure!(ring.send(&left, &[1; 7])? == 7);
        let taken = read(&right, &mut buffer[..9])? + ring.receive(&right, &mut buffer, 0)?;
        ensure!(taken == 27, "{taken}");
    }
    let lines = trace.stop()?;
    let channel = stage::socket_id(stage::inode(&left)?, stage::inode(&right)?);
    let sums = sums(&lines, &channel);
    assert!(sums.len() == 1 && sums[0].1 == own && sums[0].2 == 270, "{sums:?}");
    Ok(())
}

#[test]
fn counters_through_rings_are_their_owners() -> Result<()> {
    let own = u64::from(std::process::id());
    let counter = OwnedFd::from(nix::sys::eventfd::EventFd::new()?);
    let trace = Trace::start(&["-m", "eventfd"])?;
    let mut ring = Ring::new()?;
    ring.write_all(&counter, &7u64.to_ne_bytes())?;
    let mut value = [0; 8];
    ensure!(read(&counter, &mut value)? == 8 && u64::from_ne_bytes(value) == 7);
    ensure!(write(&counter, &3u64.to_ne_bytes())? == 8);
    let entry = opcode::Read::new(Fd(counter.as_raw_fd()), value.as_mut_ptr(), 8).build();
    // SAFETY: the buffer outlives the request, which is waited for.
    ensure!(unsafe { ring.one(entry) }? == 8);
    let lines = trace.stop()?;
    let ours = |line: &&Value| line["type"] == "transfer" && line["receiver"]["pid"] == own;
    let values: Vec<_> = lines
        .iter()
        .filter(ours)
        .map(|line| (line["sender"]["pid"].as_u64(), line["value"].as_u64()))
        .collect();
    assert_eq!(values, [(Some(own), Some(7)), (Some(own), Some(3))]);
    assert!(lost(&lines).as_object().is_some_and(serde_json::Map::is_empty), "{}", lost(&lines));
    Ok(())
}

#[test]
fn terminals_through_rings_are_their_owners() -> Result<()> {
    let own = u64::from(std::process::id());
    let pty = nix::pty::openpty(None, None)?;
    let mut settings = nix::sys::termios::tcgetattr(&pty.slave)?;
    nix::sys::termios::cfmakeraw(&mut settings);
    nix::sys::termios::tcsetattr(&pty.slave, nix::sys::termios::SetArg::TCSANOW, &settings)?;
    let trace = Trace::start(&["-m", "pty"])?;
    let mut ring = Ring::new()?;
    ring.write_all(&pty.slave, b"to the screen")?;
    let mut buffer = [0; 100];
    ensure!(read(&pty.master, &mut buffer)? == 13);
    ensure!(write(&pty.slave, b"and more")? == 8);
    let entry = opcode::Read::new(Fd(pty.master.as_raw_fd()), buffer.as_mut_ptr(), 100).build();
    // SAFETY: the buffer outlives the request, which is waited for.
    ensure!(unsafe { ring.one(entry) }? == 8);
    let lines = trace.stop()?;
    let ours = |line: &&Value| line["type"] == "transfer" && line["receiver"]["pid"] == own;
    let sums: Vec<_> = lines
        .iter()
        .filter(ours)
        .map(|line| (line["sender"]["pid"].as_u64(), line["bytes"].as_u64()))
        .collect();
    assert_eq!(sums, [(Some(own), Some(13)), (Some(own), Some(8))]);
    Ok(())
}
