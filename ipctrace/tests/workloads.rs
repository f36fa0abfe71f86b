//! Plays each demo's workload without a tracer: what its processes say must add up, and be what was designed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::balance::imbalances;
use ipctrace::demo::members::{Members, Who};
use ipctrace::demo::truth::{self, Truth};
use ipctrace::demo::{self, DEMOS};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, mkdtemp};

/// How long a workload may take, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(10);

/// What a workload is to do, all in all.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    /// Bytes that arrived.
    bytes: u64,
    /// Messages that arrived, where messages are kept apart.
    messages: u64,
    /// Bytes that were sent and that nobody took.
    unread: u64,
    /// Signals of processes.
    signals: u64,
    /// Ends of children, of which the kernel tells.
    ends: u64,
    /// Descriptors passed.
    handoffs: u64,
    /// Doings with shared memory.
    shares: u64,
    /// Pages that one process wrote and another read.
    pages: u64,
    /// Units of counters that arrived.
    units: u64,
    /// Waits that another process ended.
    wakes: u64,
    /// Channels that bytes arrived over.
    channels: usize,
}

impl Totals {
    fn of(truth: &[Truth]) -> Totals {
        let members = Members::of(truth);
        let is_process = |party| matches!(members.who(party), Who::Pid(_));
        let mut totals = Totals::default();
        let mut channels = BTreeSet::new();
        for line in truth {
            match line {
                Truth::Transfer { channel, to, bytes, messages, .. } if is_process(to) => {
                    totals.bytes += bytes;
                    totals.messages += messages.unwrap_or(0);
                    channels.insert(channel);
                }
                Truth::Transfer { bytes, .. } => totals.unread += bytes,
                Truth::Units { value, messages, .. } => {
                    totals.units += value;
                    totals.messages += messages;
                }
                Truth::Signal { from, .. } if is_process(from) => totals.signals += 1,
                Truth::Signal { .. } => totals.ends += 1,
                Truth::Handoff { .. } => totals.handoffs += 1,
                Truth::Share { .. } => totals.shares += 1,
                Truth::Evidence { pages, .. } => totals.pages += pages,
                Truth::Wake { .. } => totals.wakes += 1,
                Truth::Member { .. } | Truth::Sent { .. } | Truth::Named { .. } => {}
            }
        }
        totals.channels = channels.len();
        totals
    }
}

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Plays a workload; its temporary files go to `temporary`.
fn play(name: &str, report: &Path, temporary: &Path) -> Result<()> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ipctrace"))
        .args(["__demo-workload", name])
        .arg(report)
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .spawn()?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("{name} took longer than {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

/// Plays a demo and holds it to its design: who takes part, and what they do.
fn holds(name: &str, cast: &[&str], design: &Totals) -> Result<()> {
    let scratch = Scratch(mkdtemp(&std::env::temp_dir().join("ipctrace-workload-XXXXXX"))?);
    let (report, temporary) = (scratch.0.join("report"), scratch.0.join("tmp"));
    std::fs::create_dir(&temporary)?;
    play(name, &report, &temporary)?;

    let truth = truth::read(&report)?;
    ensure!(Totals::of(&truth) == *design, "{:?} was done, {design:?} was to be", Totals::of(&truth));
    let imbalances = imbalances(&truth);
    ensure!(imbalances.is_empty(), "{imbalances:#?}");
    every_end_is_known(&truth)?;

    let mut names = BTreeSet::new();
    for line in &truth {
        if let Truth::Member { pid, name, .. } = line {
            names.insert(name.as_str());
            ensure!(kill(Pid::from_raw(*pid as i32), None) == Err(Errno::ESRCH), "{name} was left behind");
        }
    }
    ensure!(names == cast.iter().copied().collect(), "the cast: {names:?}");
    let left = std::fs::read_dir(&temporary)?.next();
    ensure!(left.is_none(), "left behind: {left:?}");
    Ok(())
}

/// Every mark is somebody's, every process one of the workload, and every channel known.
fn every_end_is_known(truth: &[Truth]) -> Result<()> {
    let members = Members::of(truth);
    let known = |party| match members.who(party) {
        Who::None(why) => !why.starts_with("mark"),
        who @ (Who::Pid(_) | Who::Misnamed(..)) => members.contains(&who),
    };
    for line in truth {
        let known = match line {
            Truth::Transfer { from, to, channel, .. } => {
                let channel = channel.as_deref().context("a channel that is not known")?;
                known(from) && known(to) && !channel.contains("[0]")
            }
            Truth::Signal { from, to, .. }
            | Truth::Handoff { from, to, .. }
            | Truth::Evidence { from, to, .. }
            | Truth::Units { from, to, .. }
            | Truth::Wake { from, to, .. } => known(from) && known(to),
            Truth::Sent { by, .. } | Truth::Share { by, .. } => known(by),
            Truth::Member { .. } | Truth::Named { .. } => true,
        };
        ensure!(known, "an end is not known: {line:?}");
    }
    Ok(())
}

#[test]
fn eventfd() -> Result<()> {
    // 300 ones and 200 thousands; 10 of the semaphore.
    let design = Totals { units: 200_310, messages: 510, ends: 6, ..Totals::default() };
    let cast = ["stage", "ones", "thousands", "reader", "poster", "taker-a", "taker-b"];
    holds("eventfd", &cast, &design)
}

#[test]
fn pty() -> Result<()> {
    // 16 bytes typed and 17 echoed, 23 answered, and 2800 and 1530 raw.
    let design = Totals { bytes: 4386, ends: 3, channels: 1, ..Totals::default() };
    holds("pty", &["stage", "program", "other", "terminal"], &design)
}

#[test]
fn process_vm() -> Result<()> {
    let design = Totals { bytes: 70_321, ends: 2, channels: 1, ..Totals::default() };
    holds("process_vm", &["stage", "target", "caller"], &design)
}

#[test]
fn pipe() -> Result<()> {
    // 300 writes of 64 bytes, 200 of 100.
    let design = Totals { bytes: 39_200, ends: 3, channels: 1, ..Totals::default() };
    holds("pipe", &["stage", "writer-a", "writer-b", "reader"], &design)
}

#[test]
fn fifo() -> Result<()> {
    let design = Totals { bytes: 25_106, ends: 2, channels: 1, ..Totals::default() };
    holds("fifo", &["stage", "producer", "consumer"], &design)
}

#[test]
fn unix_stream() -> Result<()> {
    // Three times 500 bytes to ask and 3000 to answer; 1234 and 777 over the socketpair. Each direction is a channel.
    let design = Totals { bytes: 12_511, ends: 8, channels: 8, ..Totals::default() };
    let cast =
        ["stage", "listener", "worker-0", "worker-1", "client-0", "client-1", "client-2", "left", "right"];
    holds("unix_stream", &cast, &design)
}

#[test]
fn unix_dgram() -> Result<()> {
    // 1, 100 and 5000 bytes from one client; 900, of which 250 arrive, and 33 from the other, to a socket each.
    let design = Totals { bytes: 5384, messages: 5, unread: 650, ends: 3, channels: 3, ..Totals::default() };
    holds("unix_dgram", &["stage", "server", "connected", "by-name"], &design)
}

#[test]
fn unix_seqpacket() -> Result<()> {
    // 1, 70, 700 and 7000 bytes, and twice that.
    let design = Totals { bytes: 23_313, messages: 8, ends: 2, channels: 2, ..Totals::default() };
    holds("unix_seqpacket", &["stage", "asker", "answerer"], &design)
}

#[test]
fn fd_passing() -> Result<()> {
    // The byte that comes with the descriptor, the request and the answer, and what is written to the stolen pipe.
    let design = Totals { bytes: 4742, ends: 5, handoffs: 2, channels: 4, ..Totals::default() };
    holds("fd_passing", &["stage", "server", "acceptor", "client", "thief", "heir"], &design)
}

#[test]
fn signals() -> Result<()> {
    let design = Totals { signals: 6, ends: 2, ..Totals::default() };
    holds("signals", &["stage", "receiver", "sender"], &design)
}

#[test]
fn shared_memory() -> Result<()> {
    let cast = ["stage", "writer", "reader"];
    for (name, shares, pages) in [
        ("sysv_shm", 6, 1),
        ("posix_shm", 6, 1),
        ("memfd", 5, 1),
        ("shared_file", 4, 1),
        ("shared_anon", 7, 2),
    ] {
        holds(name, &cast, &Totals { shares, pages, ends: 2, ..Totals::default() })?;
    }
    Ok(())
}

#[test]
fn tcp() -> Result<()> {
    // Three requests and answers, and two shares of one connection.
    let bytes = 3 * (500 + 30_000) + 2 * 2000;
    let design = Totals { bytes, ends: 9, channels: 7, ..Totals::default() };
    let cast = ["client-0", "client-1", "client-2", "left", "listener", "reader", "right", "stage"];
    holds("tcp", &[&cast[..], &["worker-0", "worker-1"]].concat(), &design)
}

#[test]
fn udp() -> Result<()> {
    // Three datagrams and answers, and two by address, of the last of which 650 bytes did not fit.
    let bytes = 5101 + 3 * 50 + 33 + 250;
    let design = Totals { bytes, messages: 8, unread: 650, ends: 3, channels: 3, ..Totals::default() };
    holds("udp", &["stage", "server", "connected", "by-address"], &design)
}

#[test]
fn io_uring() -> Result<()> {
    // Three writers of 100 times 70 bytes, all of which is sent on, and three messages.
    let bytes = 2 * 3 * 100 * 70 + 3101;
    let design = Totals { bytes, messages: 3, ends: 5, channels: 3, ..Totals::default() };
    holds("io_uring", &["stage", "plain", "ring", "polled-ring", "ring-reader", "receiver"], &design)
}

#[test]
fn sysv_sem() -> Result<()> {
    // Four rounds of three runners.
    let design = Totals { ends: 3, wakes: 12, ..Totals::default() };
    holds("sysv_sem", &["stage", "runner-a", "runner-b", "runner-c"], &design)
}

#[test]
fn futex() -> Result<()> {
    // Semaphore, mutex, condition variable, bare futex.
    let design = Totals { ends: 2, wakes: 4, ..Totals::default() };
    holds("futex", &["stage", "sleeper", "waker"], &design)
}

#[test]
fn posix_mq() -> Result<()> {
    // Each priority is a channel here.
    let design = Totals { bytes: 193, messages: 7, signals: 1, ends: 3, channels: 5, ..Totals::default() };
    holds("posix_mq", &["stage", "consumer", "producer-a", "producer-b"], &design)
}

#[test]
fn sysv_msg() -> Result<()> {
    // 136 bytes did not fit, 99 were removed with the queue. Each type is a channel here.
    let design = Totals { bytes: 164, messages: 5, unread: 235, ends: 3, channels: 4, ..Totals::default() };
    holds("sysv_msg", &["stage", "sender-a", "sender-b", "receiver"], &design)
}

#[test]
fn every_demo_has_a_test() {
    let tested = [
        "pipe",
        "fifo",
        "unix_stream",
        "unix_dgram",
        "unix_seqpacket",
        "tcp",
        "udp",
        "fd_passing",
        "sysv_shm",
        "posix_shm",
        "memfd",
        "shared_file",
        "shared_anon",
        "eventfd",
        "process_vm",
        "pty",
        "signals",
        "io_uring",
        "posix_mq",
        "sysv_msg",
        "sysv_sem",
        "futex",
    ];
    assert_eq!(DEMOS.iter().map(|demo| demo.name).collect::<Vec<_>>(), tested);
}

#[test]
fn a_demo_that_is_not_there_is_refused() {
    let error = demo::workload("nothing", Path::new("/nowhere/report")).expect_err("there is none");
    assert!(error.to_string().contains("nothing"), "{error}");
}
