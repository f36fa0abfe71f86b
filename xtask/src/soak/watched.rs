//! A tracer of the whole host that lives through a soak, and does not have it easy.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;

use crate::command::{as_root, read, run};

/// Memory that a tracer may take, KiB: ring buffer, model, and what was held back while it was stopped.
const MEMORY: u64 = 512 << 10;

/// What became of it so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    ended: u32,
    killed: u32,
    stopped: u32,
    /// The most memory that one of them had resident, KiB.
    memory: u64,
    /// The fullest map: name, keys, room.
    fullest: Option<(String, u64, u64)>,
    /// What the last one that ended by itself said.
    last: String,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Watched { ended, killed, stopped, memory, fullest, last } = self;
        write!(
            f,
            "a tracer beside it: ended {ended} times, killed {killed}, stopped {stopped}; {} MiB at most",
            memory >> 10
        )?;
        if let Some((name, keys, room)) = fullest {
            write!(f, "; fullest map {name}, {keys} of {room}")?;
        }
        write!(f, "; last said: {last}")
    }
}

impl Watched {
    /// Keeps a tracer running until `done`: ended, killed, stopped for longer than its ring has room, and started again, at
    /// random.
    ///
    /// # Errors
    /// If it does what it should not: fails, takes too much memory, fills a map.
    pub(crate) fn keep(&mut self, binary: &Path, done: &AtomicBool) -> Result<()> {
        while !done.load(Ordering::Relaxed) {
            let tracer = Tracer::start(binary)?;
            let end = Instant::now() + Duration::from_millis(random(4_000, 20_000)?);
            while Instant::now() < end && !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(random(300, 1_500)?));
                self.look(binary, &tracer)?;
                if random(0, 4)? == 0 {
                    tracer.signal("STOP")?;
                    std::thread::sleep(Duration::from_millis(random(100, 3_000)?));
                    tracer.signal("CONT")?;
                    self.stopped += 1;
                }
            }
            if random(0, 2)? == 0 {
                tracer.signal("KILL")?;
                tracer.wait()?;
                self.killed += 1;
            } else {
                tracer.signal("TERM")?;
                self.last = tracer.wait()?;
                self.ended += 1;
            }
        }
        Ok(())
    }

    fn look(&mut self, binary: &Path, tracer: &Tracer) -> Result<()> {
        let memory = tracer.memory()?;
        self.memory = self.memory.max(memory);
        ensure!(memory < MEMORY, "the tracer has {} MiB resident", memory >> 10);
        for map in read(as_root(binary).args(["doctor", "--maps"]))?.lines() {
            let words: Vec<&str> = map.split_whitespace().collect();
            let &[name, keys, room] = words.as_slice() else { continue };
            let (keys, room): (u64, u64) = (keys.parse()?, room.parse()?);
            // The kernel drops the oldest of these by itself.
            let drops = ["REQUEUED", "FUTEX_FILES", "THREADS"].contains(&name);
            ensure!(drops || keys < room, "the map {name} is full");
            let fuller = |(_, other, room_of_other): &(String, u64, u64)| keys * room_of_other > other * room;
            if !drops && self.fullest.as_ref().is_none_or(fuller) {
                self.fullest = Some((name.to_owned(), keys, room));
            }
        }
        Ok(())
    }
}

/// A number from `least` on, below `limit`. It need not be good.
fn random(least: u64, limit: u64) -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    Ok(least + (now / 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (limit - least))
}

/// A running tracer.
struct Tracer {
    child: Child,
    pid: String,
}

impl Tracer {
    fn start(binary: &Path) -> Result<Tracer> {
        let mut command = as_root(binary);
        command.args(["trace", "-f", "json", "-o", "/dev/null"]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting a tracer")?;
        // Behind sudo it is a child's child.
        let mut pid = child.id().to_string();
        if !geteuid().is_root() {
            std::thread::sleep(Duration::from_secs(1));
            let children = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
            pid = std::fs::read_to_string(children)?.split_whitespace().next().unwrap_or(&pid).to_owned();
        }
        Ok(Tracer { child, pid })
    }

    fn signal(&self, name: &str) -> Result<()> {
        run(as_root("kill").args([&format!("-{name}"), &self.pid]))
    }

    fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .context("the tracer has ended by itself")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.and_then(|line| line.split_whitespace().next()).map_or(Ok(0), str::parse)?)
    }

    /// Waits for its end; gives the last line that it said.
    fn wait(self) -> Result<String> {
        let output = self.child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        // Killed, it has no exit code; what we ask to end ends well.
        ensure!(output.status.code().is_none_or(|code| code == 0 || code == 137), "a tracer failed: {said}");
        Ok(said.trim().lines().last().unwrap_or_default().to_owned())
    }
}
