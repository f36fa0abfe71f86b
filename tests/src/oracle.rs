//! A workload made from a seed that knows its own truth, and its comparison with a trace.
//!
//! Every process puts its own mark on every byte that it writes, so each reader knows exactly whom it heard from. What the
//! processes counted is held against the trace of the whole host: every byte, every message, every signal.

mod account;
mod channels;
mod compare;
mod couples;
mod player;
mod receive;
mod rivals;
mod send;
mod shared;
mod signals;
pub mod story;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

pub use compare::{Score, compare, compare_after_loss};
pub use rivals::{Rivalry, act as act_rivals};

use crate::scenarios::actor;
use crate::trace::{Scratch, Trace, said};

/// Mechanisms that the workload can use; those that are off are left out. `IPCTRACE_MECHANISMS` names fewer.
pub const MECHANISMS: &[&str] =
    &["pipe", "fifo", "unix_stream", "unix_dgram", "unix_seqpacket", "tcp", "udp", "posix_mq", "sysv_msg"];

/// What a seed is played with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Members that share channels which all of them keep to the end, and that fork and become other programs.
    Members,
    /// Couples that make channels anew all the time.
    Couples,
}

/// What the processes of one seed did, and what was traced of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    truth: Vec<account::Line>,
    /// The trace, line by line.
    pub lines: Vec<Value>,
}

impl Recorded {
    /// Compares the one with the other.
    ///
    /// # Errors
    /// With every difference.
    pub fn compare(&self) -> Result<Score> {
        compare(&self.truth, &self.lines)
    }

    /// The member that started the others: its process and its name.
    pub fn parent(&self) -> Option<(u32, &str)> {
        self.truth.iter().find_map(|line| match line {
            account::Line::Member { pid, name, .. } => Some((*pid, name.as_str())),
            account::Line::Lane { .. }
            | account::Line::Sent { .. }
            | account::Line::Got { .. }
            | account::Line::Signalled { .. }
            | account::Line::Handled { .. }
            | account::Line::Done { .. } => None,
        })
    }

    /// Whether the channel is one of the workload's.
    pub fn has(&self, channel: &str) -> bool {
        self.truth.iter().any(|line| matches!(line, account::Line::Lane { id, .. } if id == channel))
    }
}

/// Plays one seed under a trace of the whole host.
///
/// # Errors
/// If the workload or the tracer fails.
pub fn record(seed: u64, operations: u64, options: &[&str]) -> Result<Recorded> {
    record_of(Cast::Members, MECHANISMS, seed, operations, options)
}

/// The same with no others than these mechanisms.
fn record_of(
    cast: Cast,
    mechanisms: &[&str],
    seed: u64,
    operations: u64,
    options: &[&str],
) -> Result<Recorded> {
    let trace = Trace::start(options)?;
    let mut on = trace.mechanisms()?;
    on.retain(|name| mechanisms.contains(&name.as_str()));
    let report = Scratch::new(".oracle");
    let played = play_apart(cast, seed, operations, &on, report.path());
    let lines = trace.stop()?;
    played?;
    Ok(Recorded { truth: account::read(report.path())?, lines })
}

/// Plays one seed under a trace of the whole host, with no others than these mechanisms, and compares.
///
/// # Errors
/// If the workload or the tracer fails, or with the differences and their shortest story.
pub fn verify(
    cast: Cast,
    mechanisms: &[&str],
    seed: u64,
    operations: u64,
    options: &[&str],
) -> Result<Score> {
    story::compare(operations, |operations| record_of(cast, mechanisms, seed, operations, options))
        .with_context(|| format!("seed {seed} of {cast:?} with {operations} operations of {mechanisms:?}"))
}

/// Plays one seed while the collector, which has little room for records, is stopped again and again; compares what is left.
///
/// # Errors
/// If the workload or the tracer fails, if nothing was lost, or with the differences.
pub fn verify_with_losses(seed: u64, operations: u64) -> Result<Score> {
    let trace = Trace::start(&["--buffer", "64", "--every"])?;
    let on = trace.mechanisms()?;
    let report = Scratch::new(".oracle");
    let tracer = trace.pid();
    let done = AtomicBool::new(false);
    let played = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(seed);
            while !done.load(Ordering::Relaxed) {
                for (signal, least) in [(Signal::SIGSTOP, 20), (Signal::SIGCONT, 5)] {
                    // It lives until it is told to end, below.
                    let _ = kill(tracer, signal);
                    std::thread::sleep(Duration::from_millis(rng.u64(least..least * 4)));
                }
            }
        });
        let played = play_apart(Cast::Members, seed, operations, &on, report.path());
        done.store(true, Ordering::Relaxed);
        played
    });
    kill(tracer, Signal::SIGCONT)?;
    let lines = trace.stop()?;
    played?;
    let truth = account::read(report.path())?;
    compare_after_loss(&truth, &lines).with_context(|| format!("seed {seed} with {operations} operations"))
}

/// Compares what the processes of one workload among others did with what was traced of it. What the trace lost is no difference
/// by itself. Gives the mechanisms that were used; of a failure those concerned.
///
/// # Errors
/// With the report's; with the differences and their story inside the mechanisms they concern.
pub fn compare_one(report: &Path, lines: &[Value]) -> Result<(BTreeSet<String>, Result<Score>)> {
    let truth = account::read(report)?;
    let outcome = compare::compare_whole(&truth, lines);
    let concerned: Option<&BTreeSet<String>> = outcome
        .as_ref()
        .err()
        .and_then(|error| error.downcast_ref::<compare::Differs>())
        .map(|differs| &differs.channels);
    let used = truth.iter().filter_map(|line| match line {
        account::Line::Lane { mechanism, id, .. }
            if concerned.is_none_or(|channels| channels.contains(id)) =>
        {
            Some(mechanism.clone())
        }
        account::Line::Lane { .. }
        | account::Line::Member { .. }
        | account::Line::Sent { .. }
        | account::Line::Got { .. }
        | account::Line::Signalled { .. }
        | account::Line::Handled { .. }
        | account::Line::Done { .. } => None,
    });
    let used = used.collect();
    let outcome = outcome.map_err(|error| {
        let story = story::story(lines, &error);
        error.context(format!("of the channels concerned:\n{story}"))
    });
    Ok((used, outcome))
}

/// Plays a seed in processes of its own and waits for them.
///
/// # Errors
/// If they fail.
pub fn play_apart(
    cast: Cast,
    seed: u64,
    operations: u64,
    mechanisms: &[String],
    report: &Path,
) -> Result<()> {
    let wanted = std::env::var("IPCTRACE_MECHANISMS").ok();
    let wanted = |name: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
    let on = |name: &str| mechanisms.iter().any(|on| on == name);
    let used: Vec<&str> = MECHANISMS.iter().copied().filter(|name| on(name) && wanted(name)).collect();
    ensure!(!used.is_empty(), "no mechanism of the workload is on");
    let output = Command::new(actor()?)
        .arg(match cast {
            Cast::Members => "__oracle",
            Cast::Couples => "__couples",
        })
        .args([&seed.to_string(), &operations.to_string(), &used.join(",")])
        .arg(report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    ensure!(
        output.status.success(),
        "seed {seed}: the workload ended with {}: {}",
        output.status,
        said(&output)
    );
    Ok(())
}

/// What the actor does when it is called for the workload.
///
/// # Errors
/// If a system call fails that must not.
pub fn act(arguments: &[String]) -> Result<()> {
    match arguments {
        [seed, operations, mechanisms, report] => {
            player::begin(seed.parse()?, operations.parse()?, mechanisms, Path::new(report))
        }
        [state] => player::go_on(state),
        _ => anyhow::bail!("usage: actor __oracle SEED OPERATIONS MECHANISMS REPORT"),
    }
}

/// The same of couples.
///
/// # Errors
/// If a system call fails that must not.
pub fn act_couples(arguments: &[String]) -> Result<()> {
    let [seed, operations, mechanisms, report] = arguments else {
        anyhow::bail!("usage: actor __couples SEED OPERATIONS MECHANISMS REPORT");
    };
    couples::begin(seed.parse()?, operations.parse()?, mechanisms, Path::new(report))
}

/// Has so many processes send that many equal messages each, and so many receive them, under a trace of the host. Gives how many of the
/// transfers were certain, and how many there were.
///
/// # Errors
/// If the workload or the tracer fails, if something was lost, or if a transfer that is called certain has the wrong sender.
pub fn verify_rivals(
    rivalry: Rivalry,
    senders: u32,
    receivers: u32,
    messages: u32,
) -> Result<(usize, usize)> {
    let trace = Trace::start(&["--every", "--buffer", "262144"])?;
    let report = Scratch::new(".rivals");
    let numbers = [senders, receivers, messages].map(|number| number.to_string());
    let output = Command::new(actor()?)
        .args(["__rivals", &rivalry.name()])
        .args(numbers)
        .arg(report.path())
        .output()?;
    let lines = trace.stop()?;
    ensure!(output.status.success(), "the workload ended with {}: {}", output.status, said(&output));
    crate::check::nothing_lost(&lines)?;
    rivals::compare(report.path(), receivers, &lines)
}
