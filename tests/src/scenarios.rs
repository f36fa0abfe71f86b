//! Workloads that make the cases in which other tools name the wrong process. Each knows what it did.

mod descriptors;
mod elsewhere;
mod ends;
mod eventfd;
mod futex;
mod memory;
mod messages;
mod names;
mod namespaces;
mod posix_mq;
mod process_vm;
mod pty;
mod queues;
mod signals;
mod streams;
mod sysv_msg;
mod sysv_sem;
mod tcp;
mod udp;
mod uring;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::Truth;
use ipctrace::demo::{Stage, truth};
use ipctrace_common::Mechanism;
use nix::unistd::Pid;
use serde_json::Value;

use crate::check::check;
use crate::kernel;
use crate::pause_until;
use crate::skip;
use crate::trace::{Scratch, Trace, said};

/// A workload.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Plays it, in a process of its own that has one thread.
    pub play: fn(&Stage) -> Result<()>,
}

/// All of them.
pub const SCENARIOS: &[&[Scenario]] = &[
    descriptors::SCENARIOS,
    elsewhere::SCENARIOS,
    ends::SCENARIOS,
    memory::SCENARIOS,
    eventfd::SCENARIOS,
    futex::SCENARIOS,
    messages::SCENARIOS,
    names::SCENARIOS,
    process_vm::SCENARIOS,
    pty::SCENARIOS,
    queues::SCENARIOS,
    posix_mq::SCENARIOS,
    signals::SCENARIOS,
    streams::SCENARIOS,
    uring::SCENARIOS,
    sysv_msg::SCENARIOS,
    sysv_sem::SCENARIOS,
    tcp::SCENARIOS,
    udp::SCENARIOS,
];

/// Those that begin before tracing does: [`verify_in_the_middle`].
pub const IN_THE_MIDDLE: &[&[Scenario]] =
    &[memory::IN_THE_MIDDLE, posix_mq::IN_THE_MIDDLE, sysv_msg::IN_THE_MIDDLE];

/// Names the files by which a scenario tells that tracing may begin, and is told that it has.
const MIDDLE: &str = "IPCTRACE_MIDDLE";

/// Waits until tracing has begun.
///
/// # Errors
/// If that takes too long.
fn middle(stage: &Stage) -> Result<()> {
    let files = PathBuf::from(std::env::var_os(MIDDLE).context("not played in the middle")?);
    fs::write(files.with_extension("ready"), [])?;
    stage.wait_until(|| files.with_extension("go").exists())
}

/// Whether a process is blocked in a system call.
fn blocks_in(process: Pid, call: libc::c_long) -> bool {
    let now = fs::read_to_string(format!("/proc/{process}/syscall")).unwrap_or_default();
    now.split_whitespace().next() == Some(call.to_string().as_str())
}

/// Plays a scenario in this process.
///
/// # Errors
/// If there is none of that name, or it fails.
pub fn play(name: &str, report: &Path) -> Result<()> {
    let scenario = SCENARIOS
        .iter()
        .chain(IN_THE_MIDDLE)
        .flat_map(|scenarios| scenarios.iter())
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("no scenario {name}"))?;
    (scenario.play)(&Stage::new(report)?)
}

/// The program that plays scenarios: beside the test executables.
///
/// # Errors
/// If it is not there.
pub fn actor() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("tests stand in target/PROFILE/deps")?;
    let actor = folder.join("actor");
    ensure!(actor.exists(), "{} is not built: run `cargo xtask test`", actor.display());
    Ok(actor)
}

/// Plays a scenario under a trace of the whole host and holds the trace to what the scenario says of itself.
///
/// # Errors
/// With every difference.
pub fn verify(name: &str) -> Result<()> {
    verified(name).map(|_| ())
}

/// The same, for a look at the lines; none if the scenario cannot be played here.
///
/// # Errors
/// With every difference.
pub fn verified(name: &str) -> Result<Vec<serde_json::Value>> {
    if name.contains("namespaces")
        && let Some(reason) = namespaces::missing()
    {
        return skip(name, reason).map(|()| Vec::new());
    }
    if uring::SCENARIOS.iter().any(|scenario| scenario.name == name)
        && let Some(reason) = kernel::rings_off()
    {
        return skip(name, reason).map(|()| Vec::new());
    }
    // Where futexes are off the newer of their calls are not there either.
    if futex::SCENARIOS.iter().any(|scenario| scenario.name == name)
        && let Some(reason) = kernel::off(Mechanism::Futex)
    {
        return skip(name, reason).map(|()| Vec::new());
    }
    let report = Scratch::new(".report");
    let trace = Trace::start(&[])?;
    let actor = Command::new(actor()?)
        .arg(name)
        .arg(report.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let lines = trace.stop()?;
    ensure!(actor.status.success(), "the scenario {name} ended with {}: {}", actor.status, said(&actor));
    let truth = match kernel::possible(truth::read(report.path())?) {
        Ok(truth) => truth,
        Err(reason) => return skip(name, reason).map(|()| Vec::new()),
    };
    check(&truth, &lines).with_context(|| format!("scenario {name}"))?;
    Ok(lines)
}

/// The same, but the trace begins when the scenario says so.
///
/// # Errors
/// With every difference.
pub fn verify_in_the_middle(name: &str) -> Result<()> {
    trace_in_the_middle(name, &[]).map(|_| ())
}

/// The same with options of the tracer; gives what the scenario says and what was traced, for more questions.
///
/// # Errors
/// With every difference.
pub fn trace_in_the_middle(name: &str, options: &[&str]) -> Result<(Vec<Truth>, Vec<Value>)> {
    let report = Scratch::new(".report");
    let ready = Scratch::new(".ready");
    let files = ready.path().clone();
    let mut playing = Command::new(actor()?)
        .arg(name)
        .arg(report.path())
        .env(MIDDLE, &files)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let begun = pause_until("the scenario is ready for tracing", || {
        Ok(files.exists() || playing.try_wait()?.is_some())
    });
    let trace = Trace::start(options)?;
    let go = files.with_extension("go");
    fs::write(&go, [])?;
    let actor = playing.wait_with_output()?;
    fs::remove_file(&go)?;
    let lines = trace.stop()?;
    begun?;
    ensure!(actor.status.success(), "the scenario {name} ended with {}: {}", actor.status, said(&actor));
    let truth = match kernel::possible(truth::read(report.path())?) {
        Ok(truth) => truth,
        Err(reason) => return skip(name, reason).map(|()| (Vec::new(), Vec::new())),
    };
    check(&truth, &lines).with_context(|| format!("scenario {name}"))?;
    Ok((truth, lines))
}
