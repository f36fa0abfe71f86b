//! Where the processes of a workload meet: they are forked here, wait for each other here, and report here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::prctl::set_name;
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

use super::truth::{Party, Truth};

/// How long anything on a stage may take.
const PATIENCE: Duration = Duration::from_secs(20);

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
}

impl Stage {
    /// A stage in a process that has one thread and no children yet, reporting to a new file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(report: &Path) -> Result<Stage> {
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
        // A workload that hangs is ended by the kernel, and with it (see `child`) its children.
        nix::unistd::alarm::set(PATIENCE.as_secs() as u32);
        let stage = Stage { report, shared, mark: AtomicU8::new(0) };
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
        // SAFETY: the process has one thread (see `new`), so the child finds no lock held by another.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                self.mark.store(mark, Ordering::SeqCst);
                // Not left behind if the parent is killed.
                let ready = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                let outcome =
                    ready.map_err(Into::into).and_then(|()| self.join(name)).and_then(|()| work(self));
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
        set_name(&std::ffi::CString::new(name)?)?;
        self.tell(&Truth::Member { mark: self.mark(), pid: std::process::id(), name: name.to_owned() })
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
        Party::Pid(getpid().as_raw() as u32)
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

    /// Reports one message that this process heard.
    ///
    /// # Errors
    /// If it cannot be written, or the message is empty and so bears no mark.
    pub fn heard_message(&self, mechanism: &str, message: &[u8]) -> Result<()> {
        let mark = *message.first().context("an empty message has no mark")?;
        self.tell(&Truth::Transfer {
            mechanism: mechanism.to_owned(),
            channel: None,
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
        let start = Instant::now();
        while !is_so() {
            if start.elapsed() > PATIENCE {
                bail!("waited too long");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Waits for children to end, all well.
    ///
    /// # Errors
    /// If one does not.
    pub fn reap(&self, children: &[Pid]) -> Result<()> {
        for child in children {
            match waitpid(*child, None)? {
                WaitStatus::Exited(_, 0) => self.bereaved()?,
                status => bail!("a process of the workload ended with {status:?}"),
            }
        }
        Ok(())
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

/// The number of a process that may be known by its [`Pid`] only.
pub fn party(pid: Pid) -> Party {
    Party::Pid(pid.as_raw() as u32)
}

/// `pipe:[INODE]`, as the trace names the pipe behind a descriptor.
///
/// # Errors
/// If it is not open.
pub fn pipe_id(descriptor: impl AsFd) -> Result<String> {
    Ok(format!("pipe:[{}]", fstat(descriptor)?.st_ino))
}

/// Reads in portions of `size` bytes until the end.
///
/// # Errors
/// Those of read(2).
pub fn read_to_end(descriptor: &OwnedFd, size: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut portion = vec![0; size];
    loop {
        match nix::unistd::read(descriptor, &mut portion)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&portion[..count]),
        }
    }
}

/// Writes everything.
///
/// # Errors
/// Those of write(2).
pub fn write_all(descriptor: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let count = nix::unistd::write(descriptor, bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Whether the process sits in a system call or sleeps: state `S` in /proc.
pub fn sleeps(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Closes a descriptor that a process has inherited and does not want, so that others see the end.
///
/// # Errors
/// If it is not open.
pub fn close(descriptor: &OwnedFd) -> Result<()> {
    // The OwnedFd is the parent's too, which closes it in its own process: this one ends with _exit.
    nix::unistd::close(descriptor.as_raw_fd())?;
    Ok(())
}

/// Reads `count` bytes.
///
/// # Errors
/// Those of read(2), or if the end comes before.
pub fn read_exactly(descriptor: &OwnedFd, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut done = 0;
    while done < count {
        match nix::unistd::read(descriptor, &mut bytes[done..])? {
            0 => bail!("the end came after {done} of {count} bytes"),
            more => done += more,
        }
    }
    Ok(bytes)
}

/// Takes the next connection.
///
/// # Errors
/// Those of accept(2).
pub fn accept_one(listener: &OwnedFd) -> Result<OwnedFd> {
    let connection = nix::sys::socket::accept(listener.as_raw_fd())?;
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(connection) })
}
