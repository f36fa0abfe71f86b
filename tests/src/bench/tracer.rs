//! The tracer under test, seen as a process: what it takes, and what it says at its end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

use crate::binary;
use crate::trace::Scratch;

/// Arguments of a trace of everything.
pub const TRACE: &[&str] = &["trace", "-f", "json"];
/// Arguments of the live table.
pub const TOP: &[&str] = &["top", "-f", "json"];

/// How long what a workload did may take to be read and told, before the tracer's time is looked at.
const SETTLE: Duration = Duration::from_millis(100);

/// What the tracer took for a run of a workload.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its CPU time, seconds for each operation.
    pub cpu: f64,
    /// The most memory that it had resident until then, in bytes.
    pub peak: u64,
    /// What it lost, by its own account, of all causes.
    pub lost: u64,
}

/// A tracer at work.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    file: Scratch,
}

impl Tracer {
    /// Starts it and waits for its first line, which comes when everything is attached.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(arguments: &[&str]) -> Result<Tracer> {
        let file = Scratch::new(".json");
        let child = Command::new(binary()?)
            .args(arguments)
            .arg("-o")
            .arg(file.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting ipctrace")?;
        let mut tracer = Tracer { child, file };
        for _ in 0..20_000 {
            std::thread::sleep(Duration::from_micros(500));
            let first =
                fs::File::open(tracer.file.path()).ok().and_then(|file| BufReader::new(file).lines().next());
            if first.is_some_and(|line| line.is_ok_and(|line| line.contains("\"hello\""))) {
                return Ok(tracer);
            }
            if let Some(status) = tracer.child.try_wait()? {
                bail!("ipctrace ended with {status}");
            }
        }
        bail!("ipctrace did not start within 10 s")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// CPU time of all its threads so far.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(clock_gettime(clock_getcpuclockid(self.pid())?)?.into())
    }

    /// What it took since it had taken `before`, for so many operations.
    ///
    /// # Errors
    /// If it has ended.
    pub fn own(&self, before: Duration, operations: u64) -> Result<Own> {
        std::thread::sleep(SETTLE);
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak: u64 = peak.context("no VmHWM in its status")?.parse()?;
        let cpu = self.cpu()?.saturating_sub(before).as_secs_f64() / operations as f64;
        Ok(Own { cpu, peak: peak << 10, lost: 0 })
    }

    /// Ends it and gives what it lost.
    ///
    /// # Errors
    /// If it fails, or does not say.
    pub fn stop(mut self) -> Result<u64> {
        kill(self.pid(), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "ipctrace ended with {status}");
        let mut file = fs::File::open(self.file.path())?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut tail = String::new();
        file.read_to_string(&mut tail)?;
        let end: Value = serde_json::from_str(tail.lines().last().unwrap_or_default())?;
        ensure!(end["type"] == "end", "the last line is no `end`: {end}");
        let lost = end["lost"].as_object().context("`end` without `lost`")?;
        Ok(lost.values().filter_map(Value::as_u64).sum())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It has ended, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
