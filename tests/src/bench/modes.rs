//! What goes on while a workload is timed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::floor;
use crate::binary;

/// How a workload is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Untraced,
    /// Empty programs on `sys_enter` and `sys_exit`: the floor.
    Floor,
    /// Empty programs on the tracepoints of the single calls that carry data.
    FloorEachCall,
    /// `ipctrace trace -f json` to a file.
    Trace,
}

impl Mode {
    /// All of them.
    pub const ALL: &'static [Mode] = &[Mode::Untraced, Mode::Floor, Mode::FloorEachCall, Mode::Trace];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Untraced => "untraced",
            Mode::Floor => "empty programs",
            Mode::FloorEachCall => "empty, per call",
            Mode::Trace => "trace -f json",
        }
    }

    /// Starts it; it goes on until it is stopped.
    ///
    /// # Errors
    /// If the programs cannot be attached, or the tracer does not start.
    pub fn start(self) -> Result<Running> {
        Ok(match self {
            Mode::Untraced => Running::Nothing,
            Mode::Floor => Running::Programs(Box::new(floor::on_all_calls()?)),
            Mode::FloorEachCall => Running::Programs(Box::new(floor::on_each_call()?)),
            Mode::Trace => Running::Tracer(tracer()?),
        })
    }
}

/// What goes on.
pub enum Running {
    /// Nothing.
    Nothing,
    /// Programs that are attached as long as this exists.
    Programs(Box<Ebpf>),
    /// The tracer, and the file that it writes.
    Tracer((Child, PathBuf)),
}

impl Running {
    /// Ends it.
    ///
    /// # Errors
    /// If the tracer fails.
    pub fn stop(self) -> Result<()> {
        match self {
            Running::Nothing | Running::Programs(_) => Ok(()),
            Running::Tracer((mut child, file)) => {
                kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
                let status = child.wait()?;
                std::fs::remove_file(&file)?;
                if !status.success() {
                    bail!("the tracer ended with {status}");
                }
                Ok(())
            }
        }
    }
}

/// Starts the tracer and waits for its first line, which comes when everything is attached.
fn tracer() -> Result<(Child, PathBuf)> {
    let file = std::env::temp_dir().join(format!("ipctrace-bench-{}.json", std::process::id()));
    let child = Command::new(binary()?)
        .args(["trace", "-f", "json", "-o"])
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting ipctrace")?;
    for _ in 0..1000 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let first = std::fs::File::open(&file).ok().and_then(|file| BufReader::new(file).lines().next());
        if first.is_some_and(|line| line.is_ok_and(|line| line.contains("\"hello\""))) {
            return Ok((child, file));
        }
    }
    bail!("ipctrace did not start within 10 s")
}
