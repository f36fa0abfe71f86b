//! Workloads that make the cases in which other tools name the wrong process. Each knows what it did.

mod descriptors;
mod ends;
mod messages;
mod names;
mod namespaces;
mod signals;
mod streams;
mod tcp;
mod udp;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::{Stage, truth};

use crate::check::check;
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
    ends::SCENARIOS,
    messages::SCENARIOS,
    names::SCENARIOS,
    signals::SCENARIOS,
    streams::SCENARIOS,
    tcp::SCENARIOS,
    udp::SCENARIOS,
];

/// Plays a scenario in this process.
///
/// # Errors
/// If there is none of that name, or it fails.
pub fn play(name: &str, report: &Path) -> Result<()> {
    let scenario = SCENARIOS
        .iter()
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
    if name.contains("namespaces")
        && let Some(reason) = namespaces::missing()
    {
        return skip(name, reason);
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
    check(&truth::read(report.path())?, &lines).with_context(|| format!("scenario {name}"))
}
