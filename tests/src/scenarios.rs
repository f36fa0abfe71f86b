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
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::Truth;
use ipctrace::demo::{Stage, stage, truth};
use ipctrace_common::Mechanism;
use nix::unistd::Pid;
use serde_json::Value;

use crate::check::check;
use crate::kernel;
use crate::trace::{Scratch, Trace, said};
use crate::{pause_until, skip, slowed};

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
    (scenario.play)(&Stage::with_patience(report, slowed(stage::PATIENCE))?)
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

/// Why a scenario cannot be played here, if it cannot.
pub fn impossible(name: &str) -> Option<&'static str> {
    let is_one_of = |scenarios: &[Scenario]| scenarios.iter().any(|scenario| scenario.name == name);
    if name.contains("namespaces") {
        namespaces::missing(name.contains("bridge"))
    } else if is_one_of(uring::SCENARIOS) {
        let quiet = || kernel::quiet_sends_off().filter(|_| name == "sends_without_completions");
        kernel::rings_off().or_else(quiet)
    } else if is_one_of(futex::SCENARIOS) {
        // Where futexes are off the newer of their calls are not there either.
        kernel::off(Mechanism::Futex)
    } else {
        None
    }
}

/// The command that plays a scenario.
///
/// # Errors
/// If the program that does is not there.
pub fn playing(name: &str, report: &Path) -> Result<Command> {
    let mut command = Command::new(actor()?);
    command.arg(name).arg(report).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(command)
}

/// The same, for a look at the lines; none if the scenario cannot be played here.
///
/// # Errors
/// With every difference.
pub fn verified(name: &str) -> Result<Vec<serde_json::Value>> {
    if let Some(reason) = impossible(name) {
        return skip(name, reason).map(|()| Vec::new());
    }
    let report = Scratch::new(".report");
    let trace = Trace::start(&[])?;
    let actor = playing(name, report.path())?.output()?;
    let lines = trace.stop()?;
    ensure!(actor.status.success(), "the scenario {name} ended with {}: {}", actor.status, said(&actor));
    let truth = match kernel::possible(truth::read(report.path())?) {
        Ok(truth) => truth,
        Err(reason) => return skip(name, reason).map(|()| Vec::new()),
    };
    check(&truth, &lines).with_context(|| format!("scenario {name}"))?;
    Ok(lines)
}

/// What there is to say of a scenario's trace besides: the lines of what it did must pass.
pub type Besides = fn(&[Value]) -> Result<()>;

/// What else is looked at, as a test of its own: its name, of which scenario.
pub const BESIDES: &[(&str, &str, Besides)] =
    &[("a_terminals_signals_name_the_terminal", "ctrl_c_at_a_terminal", signals::name_the_terminal)];

/// Plays a scenario and looks at that.
///
/// # Errors
/// With every difference, and if there is no such test.
pub fn verify_besides(test: &str) -> Result<()> {
    let (_, name, look) =
        BESIDES.iter().find(|(found, ..)| *found == test).with_context(|| format!("no test {test}"))?;
    let lines = verified(name)?;
    if lines.is_empty() { Ok(()) } else { look(&lines) }
}

/// A scenario that waits for tracing to begin.
pub struct InTheMiddle {
    playing: Child,
    files: Scratch,
}

impl InTheMiddle {
    /// Starts it and waits until it is ready for tracing.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, report: &Path) -> Result<InTheMiddle> {
        let files = Scratch::new(".ready");
        let mut playing = playing(name, report)?.env(MIDDLE, files.path()).spawn()?;
        pause_until("the scenario is ready for tracing", || {
            Ok(files.path().exists() || playing.try_wait()?.is_some())
        })?;
        Ok(InTheMiddle { playing, files })
    }

    /// Tells it that tracing has begun, and waits for its end.
    ///
    /// # Errors
    /// If that cannot be told.
    pub fn go_on(self) -> Result<Output> {
        let go = self.files.path().with_extension("go");
        fs::write(&go, [])?;
        let output = self.playing.wait_with_output()?;
        fs::remove_file(&go)?;
        Ok(output)
    }
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
    let scenario = InTheMiddle::start(name, report.path())?;
    let trace = Trace::start(options)?;
    let actor = scenario.go_on()?;
    let lines = trace.stop()?;
    ensure!(actor.status.success(), "the scenario {name} ended with {}: {}", actor.status, said(&actor));
    let truth = match kernel::possible(truth::read(report.path())?) {
        Ok(truth) => truth,
        Err(reason) => return skip(name, reason).map(|()| (Vec::new(), Vec::new())),
    };
    check(&truth, &lines).with_context(|| format!("scenario {name}"))?;
    Ok((truth, lines))
}
