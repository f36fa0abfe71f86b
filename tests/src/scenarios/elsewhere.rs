//! Processes in other PID and mount namespaces than the tracer, and process ids that are used again.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Result, bail, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::{Pid, getpid, mkfifo, pipe};

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "other_pid_namespace", play: other_pid_namespace },
    Scenario { name: "signal_to_all", play: to_all },
    Scenario { name: "other_mount_namespace", play: other_mount_namespace },
    Scenario { name: "a_pid_that_is_used_again", play: pid_reuse },
];

extern "C" fn nothing(_signal: libc::c_int) {}

fn handle(signal: Signal) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any moment.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// This process's id in the initial PID namespace, of whose /proc nothing has been taken away.
fn host_pid() -> Result<u32> {
    Ok(std::fs::read_link("/proc/self")?.to_string_lossy().parse()?)
}

/// As [`Stage::me`] and `Stage::join`, for a process that has another id on the host than in its own namespace.
fn join(stage: &Stage, mark: u8, name: &str) -> Result<Party> {
    let pid = host_pid()?;
    nix::sys::prctl::set_name(&std::ffi::CString::new(name)?)?;
    stage.tell(&Truth::Member { mark, pid, name: name.to_owned() })?;
    Ok(Party::Pid(pid))
}

/// Makes a process without the stage's help, which would report it with the id that it has in its namespace.
fn fork(work: impl FnOnce() -> Result<()>) -> Result<Pid> {
    // SAFETY: the process has one thread, so the child finds no lock held by another.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let outcome =
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into).and_then(|()| work());
            if let Err(error) = &outcome {
                eprintln!("{error:#}");
            }
            // SAFETY: ends the process; nothing has to be cleaned up.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
    }
}

/// A writer and a reader that are 1 and 2 in a namespace of their own.
fn other_pid_namespace(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let keeper = stage.child("keeper", |stage| {
        unshare(CloneFlags::CLONE_NEWPID)?;
        let first = fork(|| {
            ensure!(getpid() == Pid::from_raw(1), "not the first of the namespace");
            let me = join(stage, 100, "first")?;
            let second = fork(|| {
                ensure!(getpid() == Pid::from_raw(2), "not the second of the namespace");
                let me = join(stage, 101, "second")?;
                let bytes = stage::read_exactly(&reader, 500)?;
                ensure!(bytes.iter().all(|byte| *byte == 100));
                stage.tell(&Truth::Transfer {
                    mechanism: "pipe".to_owned(),
                    channel: None,
                    from: Party::Mark(100),
                    to: me,
                    bytes: 500,
                    messages: None,
                })
            })?;
            stage::write_all(&writer, &[100; 500])?;
            nix::sys::wait::waitpid(second, None)?;
            bereaved(stage, me)
        })?;
        stage.reap(&[first])
    })?;
    stage.reap(&[keeper])
}

fn bereaved(stage: &Stage, who: Party) -> Result<()> {
    signal(stage, "SIGCHLD", Party::None("kernel".to_owned()), who, "ignored")
}

fn signal(stage: &Stage, signal: &str, from: Party, to: Party, outcome: &str) -> Result<()> {
    stage.tell(&Truth::Signal {
        signal: signal.to_owned(),
        from,
        to,
        outcome: outcome.to_owned(),
        value: None,
    })
}

/// kill(-1): all processes that the sender may signal but itself and the first. Done in a namespace of its own, where it
/// reaches nobody else.
fn to_all(stage: &Stage) -> Result<()> {
    let keeper = stage.child("keeper", |stage| {
        unshare(CloneFlags::CLONE_NEWPID)?;
        let init = fork(|| {
            ensure!(getpid() == Pid::from_raw(1), "kill(-1) would reach the host");
            let me = join(stage, 100, "init")?;
            let mut receivers = Vec::new();
            for index in 0..3 {
                receivers.push(fork(|| {
                    handle(Signal::SIGUSR1)?;
                    let me = join(stage, 101 + index, &format!("receiver-{index}"))?;
                    if index == 2 {
                        // SAFETY: no handler is set.
                        unsafe { nix::sys::signal::signal(Signal::SIGUSR1, SigHandler::SigIgn) }?;
                    }
                    let outcome = if index == 2 { "ignored" } else { "delivered" };
                    signal(stage, "SIGUSR1", Party::Mark(110), me, outcome)?;
                    stage.put(usize::from(index), u64::from(host_pid()?));
                    stage.raise(0);
                    if index == 2 {
                        stage.wait_for(1, 1)?;
                    } else {
                        nix::unistd::pause();
                    }
                    Ok(())
                })?);
            }
            let sender = fork(|| {
                join(stage, 110, "sender")?;
                stage.wait_for(0, 3)?;
                for index in 0..2 {
                    let receiver = Pid::from_raw(stage.get(index) as i32);
                    stage.wait_until(|| stage::sleeps(receiver))?;
                }
                let inside = getpid().as_raw() < 10 && host_pid()? != getpid().as_raw() as u32;
                ensure!(inside, "kill(-1) would reach the host");
                kill(Pid::from_raw(-1), Signal::SIGUSR1)?;
                stage.raise(1);
                Ok(())
            })?;
            for child in receivers.into_iter().chain([sender]) {
                nix::sys::wait::waitpid(child, None)?;
                bereaved(stage, me.clone())?;
            }
            Ok(())
        })?;
        stage.reap(&[init])
    })?;
    stage.reap(&[keeper])
}

/// One FIFO that two processes reach by different paths, in mount namespaces of their own.
fn other_mount_namespace(stage: &Stage) -> Result<()> {
    let base = std::env::temp_dir().join(format!("ipctrace-mounts-{}", std::process::id()));
    let (here, there) = (base.join("here"), base.join("there"));
    std::fs::create_dir_all(&here)?;
    std::fs::create_dir_all(&there)?;
    mkfifo(&here.join("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
    let private = || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some(&here), &there, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };
    let reader = stage.child("reader", |stage| {
        private()?;
        let fifo = std::fs::File::open(there.join("fifo"))?;
        let bytes = stage::read_exactly(&fifo.into(), 300)?;
        stage.heard("fifo", None, &bytes)
    })?;
    let writer = stage.child("writer", |stage| {
        private()?;
        let mut fifo = OpenOptions::new().write(true).open(here.join("fifo"))?;
        fifo.write_all(&stage.marked(300))?;
        Ok(())
    })?;
    let outcome = stage.reap(&[reader, writer]);
    std::fs::remove_dir_all(&base)?;
    outcome
}

/// `struct clone_args` of clone3(2), as far as it is used here.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// A process with that id, which must be free.
fn fork_as(pid: Pid, work: impl FnOnce() -> Result<()>) -> Result<Pid> {
    let wanted = pid.as_raw();
    let arguments = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: (&raw const wanted) as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: as fork(2), in a process that has one thread; the arguments are valid and of the size that is given.
    let made = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    match made {
        0 => {
            let outcome = work();
            if let Err(error) = &outcome {
                eprintln!("{error:#}");
            }
            // SAFETY: ends the process; nothing has to be cleaned up.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        made if made > 0 => Ok(Pid::from_raw(made as i32)),
        _ => bail!("clone3 as {pid}: {}", std::io::Error::last_os_error()),
    }
}

/// Two writers with the same process id, one after the other; both are gone when what they wrote is read, at once.
fn pid_reuse(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let first = stage.child("writer", |stage| stage::write_all(&writer, &stage.marked(70)))?;
    stage.reap(&[first])?;
    let second = fork_as(first, || {
        let outcome = join(stage, 100, "again").map(|_| ());
        outcome.and_then(|()| stage::write_all(&writer, &[100; 80]))
    })?;
    stage.reap(&[second])?;
    let taker = stage.child("taker", |stage| {
        let mut bytes = [0; 200];
        let count = nix::unistd::read(&reader, &mut bytes)?;
        stage.heard("pipe", None, &bytes[..count])
    })?;
    stage.reap(&[taker])
}
