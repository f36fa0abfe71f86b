//! Runs the binary under test and reads what it writes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{binary, slowed};

/// How long the tracer may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Exit status of `ipctrace` where something cannot be done on this kernel.
const IMPOSSIBLE: i32 = 3;

/// What was asked for cannot be traced on this kernel: what the tracer said.
#[derive(Debug)]
pub struct Impossible(pub String);

impl std::fmt::Display for Impossible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not possible on this kernel: {}", self.0)
    }
}

impl std::error::Error for Impossible {}

/// A file that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A name that no other test uses.
    pub fn new(suffix: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Scratch(std::env::temp_dir().join(format!("ipctrace-test-{}-{number}{suffix}", std::process::id())))
    }

    /// Where it is, or will be.
    pub fn path(&self) -> &PathBuf {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}

/// A trace of the whole host that is going on.
pub struct Trace {
    child: Child,
    file: Scratch,
}

impl Trace {
    /// Starts it and waits until the programs are attached.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(options: &[&str]) -> Result<Trace> {
        let file = Scratch::new(".json");
        let mut child = Command::new(binary()?)
            .args(["trace", "-f", "json", "-o"])
            .arg(file.path())
            .args(options)
            .args(hooks(options))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ipctrace")?;
        let start = Instant::now();
        while !fs::read_to_string(file.path()).unwrap_or_default().contains('\n') {
            if let Some(status) = child.try_wait()? {
                let output = child.wait_with_output()?;
                if status.code() == Some(IMPOSSIBLE) {
                    return Err(Impossible(said(&output)).into());
                }
                bail!("ipctrace ended with {status}: {}", said(&output));
            }
            ensure!(start.elapsed() < slowed(PATIENCE), "ipctrace did not start");
            std::thread::sleep(
                (start.elapsed() / 16).clamp(Duration::from_millis(5), Duration::from_millis(50)),
            );
        }
        Ok(Trace { child, file })
    }

    /// The mechanisms that are on, as its first line says.
    ///
    /// # Errors
    /// If that is no `hello`.
    pub fn mechanisms(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.file.path())?;
        let hello: Value = serde_json::from_str(text.lines().next().context("no first line")?)?;
        let mechanisms = hello["mechanisms"].as_object().context("hello without mechanisms")?;
        Ok(mechanisms.iter().filter(|(_, state)| *state == "on").map(|(name, _)| name.clone()).collect())
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Ends it as Ctrl-C would and gives its lines, every one of which must be JSON.
    ///
    /// # Errors
    /// If it fails, or a line is none.
    pub fn stop(self) -> Result<Vec<Value>> {
        kill(self.pid(), Signal::SIGINT)?;
        let Trace { child, file } = self;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ipctrace ended with {}: {}", output.status, said(&output));
        lines(&fs::read_to_string(file.path())?)
    }
}

/// With the environment variable `IPCTRACE_HOOKS`, the kind of hooks for traces that are not of certain mechanisms alone.
fn hooks(options: &[&str]) -> Vec<String> {
    let kind = std::env::var("IPCTRACE_HOOKS").ok().filter(|_| !options.contains(&"-m"));
    kind.map(|kind| format!("--hooks={kind}")).into_iter().collect()
}

/// What a process said on stderr.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// NDJSON.
///
/// # Errors
/// If a line is no JSON object, or the first is not `hello`, or the last not `end`.
pub fn lines(text: &str) -> Result<Vec<Value>> {
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect::<Result<_>>()?;
    ensure!(lines.iter().all(Value::is_object), "a line is no object");
    ensure!(lines.first().is_some_and(|line| line["type"] == "hello"), "the first line is not hello");
    ensure!(lines.last().is_some_and(|line| line["type"] == "end"), "the last line is not end");
    Ok(lines)
}

/// Runs the binary under test to its end.
///
/// # Errors
/// If it cannot be started.
pub fn run(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(arguments).stdin(Stdio::null()).output().context("starting ipctrace")
}
