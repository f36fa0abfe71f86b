//! What is timed: two processes (or one) that do one thing many times.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipctrace::demo::stage;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{pipe, read, write};

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Writes of 64 bytes through a pipe to a process that reads them.
    PipeSmall,
    /// The same with 64 KiB.
    PipeLarge,
    /// One byte to and fro between two processes over two pipes.
    PipePingPong,
    /// The same over a unix stream socket.
    UnixPingPong,
    /// The same by futexes in shared memory.
    FutexPingPong,
    /// Wake-ups at a futex that is private to the process, and at which nobody waits: the call is no IPC.
    FutexPrivate,
    /// A system call that does next to nothing and is no IPC.
    Getpid,
    /// Reads of one byte from /dev/zero: the call is traced, its object is no channel.
    DevZero,
}

impl Workload {
    /// All of them.
    pub const ALL: &'static [Workload] = &[
        Workload::PipeSmall,
        Workload::PipeLarge,
        Workload::PipePingPong,
        Workload::UnixPingPong,
        Workload::FutexPingPong,
        Workload::FutexPrivate,
        Workload::Getpid,
        Workload::DevZero,
    ];

    /// The name in reports and on the command line of the process that runs it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::PipeSmall => "pipe-64B",
            Workload::PipeLarge => "pipe-64KiB",
            Workload::PipePingPong => "pipe-ping-pong",
            Workload::UnixPingPong => "unix-ping-pong",
            Workload::FutexPingPong => "futex-ping-pong",
            Workload::FutexPrivate => "futex-private",
            Workload::Getpid => "getpid",
            Workload::DevZero => "dev-zero",
        }
    }

    /// Operations of one run.
    fn operations(self) -> f64 {
        match self {
            Workload::PipeSmall => 400_000.0,
            Workload::PipeLarge => 20_000.0,
            Workload::PipePingPong | Workload::UnixPingPong | Workload::FutexPingPong => 60_000.0,
            Workload::Getpid | Workload::FutexPrivate => 3_000_000.0,
            Workload::DevZero => 1_500_000.0,
        }
    }

    /// Runs it in a process of its own (and a child of that) and gives how long its work took.
    ///
    /// # Errors
    /// If the process fails.
    pub fn run(self, scale: f64) -> Result<Duration> {
        let operations = (self.operations() * scale).max(1.0) as u64;
        let output = Command::new(std::env::current_exe()?)
            .args(["__workload", self.name(), &operations.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("the workload {} ended with {}", self.name(), output.status);
        }
        let nanoseconds = String::from_utf8(output.stdout)?.trim().parse().context("a workload's time")?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Does the work, in the process that was made for it.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn work(self, operations: u64) -> Result<Duration> {
        match self {
            Workload::PipeSmall => stream(operations, 64),
            Workload::PipeLarge => stream(operations, 64 << 10),
            Workload::PipePingPong => {
                let (there, put_there) = pipe()?;
                let (back, put_back) = pipe()?;
                ping_pong(operations, (back, put_there), (there, put_back))
            }
            Workload::UnixPingPong => {
                let (ours, theirs) =
                    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
                ping_pong(operations, (ours.try_clone()?, ours), (theirs.try_clone()?, theirs))
            }
            Workload::FutexPingPong => futex_ping_pong(operations),
            Workload::FutexPrivate => {
                let futex = AtomicU32::new(0);
                let start = Instant::now();
                for _ in 0..operations {
                    stage::futex_wake(&futex, 1, libc::FUTEX_PRIVATE_FLAG)?;
                }
                Ok(start.elapsed())
            }
            Workload::Getpid => {
                let start = Instant::now();
                for _ in 0..operations {
                    // SAFETY: a system call without arguments. The C library may keep its own getpid, hence syscall(2).
                    unsafe { libc::syscall(libc::SYS_getpid) };
                }
                Ok(start.elapsed())
            }
            Workload::DevZero => {
                let mut zero = std::fs::File::open("/dev/zero")?;
                let start = Instant::now();
                for _ in 0..operations {
                    zero.read_exact(&mut [0])?;
                }
                Ok(start.elapsed())
            }
        }
    }
}

/// Writes `size` bytes `operations` times to a child that reads them all. Until the child has.
fn stream(operations: u64, size: usize) -> Result<Duration> {
    let (reader, writer) = pipe()?;
    let start = Instant::now();
    let child = fork(|| {
        // The write end is the parent's; with it open here there would be no end.
        nix::unistd::close(writer.as_raw_fd())?;
        let mut buffer = vec![0; 64 << 10];
        while read(&reader, &mut buffer)? > 0 {}
        Ok(())
    })?;
    drop(reader);
    let mut writer = std::fs::File::from(writer);
    let data = vec![1; size];
    for _ in 0..operations {
        writer.write_all(&data)?;
    }
    drop(writer);
    reap(child)?;
    Ok(start.elapsed())
}

/// A byte to and fro; each side has one end to read and one to write.
fn ping_pong(operations: u64, ours: (OwnedFd, OwnedFd), theirs: (OwnedFd, OwnedFd)) -> Result<Duration> {
    let child = fork(|| {
        for _ in 0..operations {
            read(&theirs.0, &mut [0])?;
            write(&theirs.1, &[1])?;
        }
        Ok(())
    })?;
    let start = Instant::now();
    for _ in 0..operations {
        write(&ours.1, &[1])?;
        read(&ours.0, &mut [0])?;
    }
    let elapsed = start.elapsed();
    reap(child)?;
    Ok(elapsed)
}

/// Two processes that let each other go on in turn.
fn futex_ping_pong(operations: u64) -> Result<Duration> {
    // SAFETY: zeroed memory that is never unmapped; shared between processes as atomics may be.
    let [there, back] = unsafe { stage::shared::<[AtomicU32; 2]>()?.as_ref() };
    let wait_for = |futex: &AtomicU32, turn: u32| loop {
        match futex.load(Ordering::SeqCst) {
            now if now == turn => break,
            // That it is no longer so is what is waited for.
            now => drop(stage::futex_wait(futex, now, 0)),
        }
    };
    let pass = |futex: &AtomicU32, turn: u32| {
        futex.store(turn, Ordering::SeqCst);
        stage::futex_wake(futex, 1, 0)
    };
    let turns = 1..=operations as u32;
    let child = fork(|| {
        for turn in turns.clone() {
            wait_for(there, turn);
            pass(back, turn)?;
        }
        Ok(())
    })?;
    let start = Instant::now();
    for turn in turns.clone() {
        pass(there, turn)?;
        wait_for(back, turn);
    }
    let elapsed = start.elapsed();
    reap(child)?;
    Ok(elapsed)
}

/// A child that does `work` and ends.
fn fork(work: impl FnOnce() -> Result<()>) -> Result<nix::unistd::Pid> {
    // SAFETY: the process has one thread, so the child finds no lock held.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let status = i32::from(work().is_err());
            std::process::exit(status);
        }
    }
}

fn reap(child: nix::unistd::Pid) -> Result<()> {
    let status = nix::sys::wait::waitpid(child, None)?;
    ensure!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "the child ended with {status:?}");
    Ok(())
}
