//! Where the processes of a workload meet: they are forked here, wait for each other here, and report here.

mod channel;
mod descriptor;
mod folder;
mod memory;
mod queue;
mod ring;
mod wait;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::prctl::set_name;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

pub use channel::{eventfd_id, fifo_id, inode, pipe_id, socket_id, space};
pub use descriptor::{accept_one, close, read_exactly, read_to_end, write_all};
pub use folder::Folder;
pub use memory::{Memory, PAGE, Segment, file_id};
pub use queue::{PosixQueue, SysvQueue, queued_with_priority, queued_with_type};
pub use ring::Ring;
pub use wait::{AT_FUTEXES, AT_SEMAPHORES, Semaphores, futex_wait, futex_wake, shared, sits_in};

use super::truth::{Party, Truth};

/// How long anything on a stage may take, if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How much longer a workload lives that did not notice that it took too long.
const GRACE: Duration = Duration::from_secs(5);

/// How often it is looked for what is waited for: at first, and after a while.
const LOOK: Duration = Duration::from_micros(200);
const MOST: Duration = Duration::from_millis(20);

/// The longest command name that the kernel keeps; a longer one it cuts.
const NAME_MAX: usize = 15;

/// Flags that processes can raise for each other.
const FLAGS: usize = 64;

/// What all processes of a workload see. Memory, not messages: what they do to keep order among themselves is no traffic
/// that the trace could show.
struct Shared {
    /// How often each flag was raised.
    flags: [AtomicU32; FLAGS],
    /// The next process's mark.
    mark: AtomicU32,
    /// What processes tell each other.
    numbers: [AtomicU64; FLAGS],
}

/// The stage. Every process of a workload has it, each with a mark of its own.
pub struct Stage {
    report: File,
    shared: &'static Shared,
    mark: AtomicU8,
    /// How long anything may take.
    patience: Duration,
}

impl Stage {
    /// A stage in a process that has one thread and no children yet, reporting to a new file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(report: &Path) -> Result<Stage> {
        Stage::with_patience(report, PATIENCE)
    }

    /// The same, where anything may take so long.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn with_patience(report: &Path, patience: Duration) -> Result<Stage> {
        let report = OpenOptions::new()
            .create(true)
            .append(true)
            .open(report)
            .with_context(|| format!("opening {}", report.display()))?;
        let size = size_of::<Shared>().try_into()?;
        // SAFETY: new memory, of which nobody else knows.
        let memory = unsafe {
            mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)
        }?;
        // SAFETY: zeroed, page-aligned, of that size and never unmapped; shared between processes as atomics may be.
        let shared = unsafe { memory.cast::<Shared>().as_ref() };
        shared.mark.store(1, Ordering::SeqCst);
        // A workload that hangs is ended by the kernel, and with it (see `child`) its children. What waits for longer than
        // it should fails before that, so that the workload can clear up.
        nix::unistd::alarm::set((patience + GRACE).as_secs() as u32);
        let stage = Stage { report, shared, mark: AtomicU8::new(0), patience };
        stage.join("stage")?;
        Ok(stage)
    }

    /// Makes a process that does `work` and ends.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn child(&self, name: &str, work: impl FnOnce(&Stage) -> Result<()>) -> Result<Pid> {
        let mark = self.shared.mark.fetch_add(1, Ordering::SeqCst);
        let mark = u8::try_from(mark).context("more than 255 processes on a stage")?;
        let parent = getpid();
        // SAFETY: the process has one thread (see `new`), so the child finds no lock held by another.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                self.mark.store(mark, Ordering::SeqCst);
                let outcome = die_with(parent).and_then(|()| self.join(name)).and_then(|()| work(self));
                if let Err(error) = &outcome {
                    eprintln!("{name}: {error:#}");
                }
                // Without running what the parent has registered to run at its own end.
                // SAFETY: ends the process; nothing has to be cleaned up.
                unsafe { nix::libc::_exit(i32::from(outcome.is_err())) }
            }
        }
    }

    fn join(&self, name: &str) -> Result<()> {
        ensure!(name.len() <= NAME_MAX, "the kernel would cut the name {name}");
        set_name(&std::ffi::CString::new(name)?)?;
        self.tell(&Truth::Member { mark: self.mark(), pid: self::pid(), name: name.to_owned() })
    }

    /// What this process puts on its bytes.
    pub fn mark(&self) -> u8 {
        self.mark.load(Ordering::SeqCst)
    }

    /// `count` bytes with this process's mark.
    pub fn marked(&self, count: usize) -> Vec<u8> {
        vec![self.mark(); count]
    }

    /// This process.
    pub fn me(&self) -> Party {
        Party::Pid(self::pid())
    }

    /// Adds a line to the report.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn tell(&self, truth: &Truth) -> Result<()> {
        let mut line = serde_json::to_vec(truth)?;
        line.push(b'\n');
        // One write to a file opened for appending: lines of several processes do not mix.
        (&self.report).write_all(&line)?;
        Ok(())
    }

    /// Reports what this process has put into channels of one kind: what its calls returned, all in all. `messages` is for
    /// mechanisms that keep them apart.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sent(&self, mechanism: &str, bytes: usize, messages: Option<usize>) -> Result<()> {
        self.tell(&Truth::Sent {
            mechanism: mechanism.to_owned(),
            by: self.me(),
            bytes: bytes as u64,
            messages: messages.map(|messages| messages as u64),
        })
    }

    /// Reports what this process heard on a stream: how many bytes with each mark.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn heard(&self, mechanism: &str, channel: Option<String>, bytes: &[u8]) -> Result<()> {
        let mut counts = [0u64; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        for (mark, bytes) in (0..=255).zip(counts).filter(|(_, bytes)| *bytes > 0) {
            self.tell(&Truth::Transfer {
                mechanism: mechanism.to_owned(),
                channel: channel.clone(),
                from: Party::Mark(mark),
                to: self.me(),
                bytes,
                messages: None,
            })?;
        }
        Ok(())
    }

    /// Reports one message that this process heard on a channel whose id it does not know.
    ///
    /// # Errors
    /// If it cannot be written, or the message is empty and so bears no mark.
    pub fn heard_message(&self, mechanism: &str, message: &[u8]) -> Result<()> {
        self.heard_message_on(mechanism, None, message)
    }

    /// Reports one message that this process heard on that channel.
    ///
    /// # Errors
    /// If it cannot be written, or the message is empty and so bears no mark.
    pub fn heard_message_on(&self, mechanism: &str, channel: Option<String>, message: &[u8]) -> Result<()> {
        let mark = *message.first().context("an empty message has no mark")?;
        self.tell(&Truth::Transfer {
            mechanism: mechanism.to_owned(),
            channel,
            from: Party::Mark(mark),
            to: self.me(),
            bytes: message.len() as u64,
            messages: Some(1),
        })
    }

    /// Raises a flag for all to see.
    pub fn raise(&self, flag: usize) {
        self.shared.flags[flag].fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until a flag has been raised so many times.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn wait_for(&self, flag: usize, times: u32) -> Result<()> {
        self.wait_until(|| self.shared.flags[flag].load(Ordering::SeqCst) >= times)
    }

    /// Leaves a number for the others.
    pub fn put(&self, place: usize, number: u64) {
        self.shared.numbers[place].store(number, Ordering::SeqCst);
    }

    /// The number that was left there.
    pub fn get(&self, place: usize) -> u64 {
        self.shared.numbers[place].load(Ordering::SeqCst)
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn wait_until(&self, is_so: impl Fn() -> bool) -> Result<()> {
        self.wait_until_ok(|| Ok(is_so()))
    }

    fn wait_until_ok(&self, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !is_so()? {
            if start.elapsed() > self.patience {
                bail!("waited too long");
            }
            // The longer it takes, the more seldom it is looked for: those who wait leave the processor to those who work.
            std::thread::sleep((start.elapsed() / 16).clamp(LOOK, MOST));
        }
        Ok(())
    }

    /// Waits for children to end, all well, in any order. If one does not, the others are not waited for: they end with this
    /// process, which is to end with the error.
    ///
    /// # Errors
    /// If one does not, or that takes too long.
    pub fn reap(&self, children: &[Pid]) -> Result<()> {
        let mut left = children.to_vec();
        self.wait_until_ok(|| {
            let mut alive = Vec::new();
            for child in left.drain(..) {
                let status = waitpid(child, Some(WaitPidFlag::WNOHANG))?;
                if status == WaitStatus::StillAlive {
                    alive.push(child);
                } else {
                    ensure!(
                        matches!(status, WaitStatus::Exited(_, 0)),
                        "a process of the workload ended with {status:?}"
                    );
                }
            }
            left = alive;
            Ok(left.is_empty())
        })?;
        children.iter().try_for_each(|_| self.bereaved())
    }

    /// Waits for one child to end, however it does.
    ///
    /// # Errors
    /// If there is no such child, or that takes too long.
    pub fn wait_for_end(&self, child: Pid) -> Result<WaitStatus> {
        let mut end = WaitStatus::StillAlive;
        self.wait_until_ok(|| {
            end = waitpid(child, Some(WaitPidFlag::WNOHANG))?;
            Ok(end != WaitStatus::StillAlive)
        })?;
        self.bereaved()?;
        Ok(end)
    }

    /// Reports that a child of this process has ended: the kernel tells the parent, which has no handler for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn bereaved(&self) -> Result<()> {
        self.tell(&Truth::Signal {
            signal: "SIGCHLD".to_owned(),
            from: Party::None("kernel".to_owned()),
            to: self.me(),
            outcome: "ignored".to_owned(),
            value: None,
        })
    }
}

/// Has the kernel kill this process when its parent ends, so that no workload leaves one behind.
fn die_with(parent: Pid) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // It may have ended before it was asked for.
    // A parent in another PID namespace has no number here.
    ensure!(getppid() == parent || getppid().as_raw() == 0, "the parent has ended");
    Ok(())
}

/// The number that the host has for this process, as /proc, which is the host's, says it: in a PID namespace of its own it
/// has another.
pub fn pid() -> u32 {
    let link = std::fs::read_link("/proc/self").ok();
    link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id)
}

/// The number of a process that may be known by its [`Pid`] only.
pub fn party(pid: Pid) -> Party {
    Party::Pid(pid.as_raw() as u32)
}

/// Whether the process sits in a system call or sleeps: state `S` in /proc.
pub fn sleeps(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}
