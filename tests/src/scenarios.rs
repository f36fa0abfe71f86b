//! Workloads that make the cases in which other tools name the wrong process. Each knows what it did.

mod descriptors;
mod ends;
mod memory;
mod messages;
mod names;
mod signals;
mod streams;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::Truth;
use ipctrace::demo::{Stage, truth};
use serde_json::Value;

use crate::check::check;
use crate::pause_until;
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
    ends::SCENARIOS,
    memory::SCENARIOS,
    messages::SCENARIOS,
    names::SCENARIOS,
    signals::SCENARIOS,
    streams::SCENARIOS,
];

/// Those that begin before tracing does, and go on once [`GO`] names a file that exists.
pub const LATE: &[Scenario] = memory::LATE;

/// Environment variable of those.
pub const GO: &str = "IPCTRACE_GO";

/// Plays a scenario in this process.
///
/// # Errors
/// If there is none of that name, or it fails.
pub fn play(name: &str, report: &Path) -> Result<()> {
    let scenario = SCENARIOS
        .iter()
        .flat_map(|scenarios| scenarios.iter())
        .chain(LATE)
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

/// Plays a scenario of which the first half is over when tracing begins; gives the trace's lines for more questions.
///
/// `is_ready` says of what it has reported whether the first half is over.
///
/// # Errors
/// With every difference.
pub fn verify_late(name: &str, is_ready: impl Fn(&[Truth]) -> bool) -> Result<(Vec<Truth>, Vec<Value>)> {
    let (report, go) = (Scratch::new(".report"), Scratch::new(".go"));
    let actor = Command::new(actor()?)
        .arg(name)
        .arg(report.path())
        .env(GO, go.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    pause_until("the first half of the scenario", || {
        Ok(report.path().exists() && is_ready(&truth::read(report.path())?))
    })?;
    let before = truth::read(report.path())?.len();
    let trace = Trace::start(&["-s"])?;
    std::fs::write(go.path(), "")?;
    let actor = actor.wait_with_output()?;
    let lines = trace.stop()?;
    ensure!(actor.status.success(), "the scenario {name} ended with {}: {}", actor.status, said(&actor));
    let all = truth::read(report.path())?;
    let told = all
        .iter()
        .enumerate()
        .filter(|(index, line)| *index >= before || matches!(line, Truth::Member { .. }))
        .map(|(_, line)| line.clone())
        .collect::<Vec<_>>();
    check(&told, &lines).with_context(|| format!("scenario {name}"))?;
    Ok((all, lines))
}

/// Plays a scenario under a trace of the whole host and holds the trace to what the scenario says of itself.
///
/// # Errors
/// With every difference.
pub fn verify(name: &str) -> Result<()> {
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
    check(&truth::read(report.path())?, &lines).with_context(|| format!("scenario {name}"))
}
