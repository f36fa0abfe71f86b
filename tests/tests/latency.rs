//! `latency_ns` against clocks that the processes themselves read: one sends, the other receives at once or after a known sleep.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipctrace_tests::ends::{Receive, SIZE, Send, ends};
use ipctrace_tests::trace::Trace;
use nix::time::{ClockId, clock_gettime};

/// Messages of each mechanism.
const MESSAGES: usize = 100;
/// How long every other message lies before somebody takes it.
const SLEEP: Duration = Duration::from_millis(3);
/// How far the median may be from what the processes measured, ns.
const NEAR: u64 = 50_000;

/// Nanoseconds since boot: the clock of the trace.
fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Has one thread send and this one receive; gives how long each message took by their clocks, 0 where the receiver was done
/// first.
fn measure((mut send, mut receive): (Send, Receive)) -> Result<Vec<u64>> {
    let (sent, when) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let sender = std::thread::spawn(move || -> Result<()> {
        for number in 0..MESSAGES {
            send(&[number as u8; SIZE])?;
            sent.send(now()?)?;
            gone.recv()?;
            // The receiver is to wait already.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let mut took = Vec::with_capacity(MESSAGES);
    for number in 0..MESSAGES {
        let mut message = [0; SIZE];
        let waited = number % 2 == 1;
        let early = if waited { Some(when.recv()?) } else { None };
        if waited {
            std::thread::sleep(SLEEP);
        }
        receive(&mut message)?;
        let received = now()?;
        ensure!(message[0] == number as u8, "message {number} is another");
        let sent = match early {
            Some(sent) => sent,
            None => when.recv()?,
        };
        took.push(received.saturating_sub(sent));
        go.send(())?;
    }
    sender.join().expect("the sender does not panic")?;
    Ok(took)
}

/// Traces such messages and compares.
fn check(mechanism: &str) -> Result<()> {
    let trace = Trace::start(&["--every", "-m", mechanism, "-p", &std::process::id().to_string()])?;
    let measured = measure(ends(mechanism)?)?;
    let lines = trace.stop()?;
    let traced = lines
        .iter()
        .filter(|line| line["type"] == "transfer" && line["bytes"] == SIZE && line["receiver"].is_object())
        .map(|line| {
            line["latency_ns"].as_u64().with_context(|| format!("no latency, or less than none: {line}"))
        })
        .collect::<Result<Vec<u64>>>()?;
    ensure!(traced.len() == MESSAGES, "{} of {MESSAGES} messages are in the trace", traced.len());
    let mut differences: Vec<u64> =
        measured.iter().zip(&traced).map(|(measured, traced)| measured.abs_diff(*traced)).collect();
    let short =
        traced.iter().skip(1).step_by(2).filter(|latency| u128::from(**latency) < SLEEP.as_nanos()).count();
    ensure!(short == 0, "{short} messages that lay for {SLEEP:?} are said to have taken less");
    differences.sort_unstable();
    let median = differences[MESSAGES / 2];
    println!("{mechanism}: median difference {median} ns, greatest {} ns", differences[MESSAGES - 1]);
    ensure!(median <= NEAR, "{mechanism}: latencies are {median} ns off in the median");
    Ok(())
}

#[test]
fn latencies_are_those_that_the_processes_measure() -> Result<()> {
    // One after the other: each trace shows this process's calls.
    ["pipe", "unix_stream", "unix_dgram", "tcp", "udp"].into_iter().try_for_each(check)
}
