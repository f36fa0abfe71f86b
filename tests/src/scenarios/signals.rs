//! Signals: to whom, from whom, and what became of them.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, sigaction, sigprocmask,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, gettid, setpgid};
use serde_json::Value;

use super::Scenario;
use crate::kernel::is_older_than;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "signal_to_a_thread", play: to_a_thread },
    Scenario { name: "signal_to_a_group", play: to_a_group },
    Scenario { name: "signals_of_the_kernel", play: of_the_kernel },
    Scenario { name: "signal_taken_by_sigwait", play: by_sigwait },
    Scenario { name: "real_time_signals_queue_up", play: real_time },
    Scenario { name: "ctrl_c_at_a_terminal", play: ctrl_c },
];

/// Who got the Ctrl-C of [`ctrl_c`] is told of with the terminal.
pub(super) fn name_the_terminal(lines: &[Value]) -> Result<()> {
    let signals: Vec<_> = lines
        .iter()
        .filter(|line| line["signal"] == "SIGINT" && line["sender_why"] == "kernel")
        .filter(|line| line["receiver"]["comm"] == "leader" || line["receiver"]["comm"] == "follower")
        .collect();
    ensure!(signals.len() == 2, "not two signals: {signals:?}");
    for line in signals {
        ensure!(line["tty"].as_str().is_some_and(|tty| tty.starts_with("pts")), "{line}");
    }
    Ok(())
}

extern "C" fn nothing(_signal: libc::c_int) {}

fn handle(signal: Signal) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any moment.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

fn tell(
    stage: &Stage,
    signal: &str,
    from: Party,
    to: Party,
    outcome: &str,
    value: Option<u64>,
) -> Result<()> {
    stage.tell(&Truth::Signal { signal: signal.to_owned(), from, to, outcome: outcome.to_owned(), value })
}

fn kernel() -> Party {
    Party::None("kernel".to_owned())
}

/// tgkill to a thread that is not the first.
fn to_a_thread(stage: &Stage) -> Result<()> {
    let receiver = stage.child("receiver", |stage| {
        handle(Signal::SIGUSR1)?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                stage.put(0, gettid().as_raw() as u64);
                stage.raise(0);
                nix::unistd::pause();
            });
        });
        Ok(())
    })?;
    let sender = stage.child("sender", |stage| {
        stage.wait_for(0, 1)?;
        let thread = stage.get(0) as i32;
        stage.wait_until(|| stage::sleeps(Pid::from_raw(thread)))?;
        // SAFETY: a system call that takes numbers.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, receiver.as_raw(), thread, libc::SIGUSR1) };
        ensure!(sent == 0, "tgkill: {}", std::io::Error::last_os_error());
        tell(stage, "SIGUSR1", stage.me(), stage::party(receiver), "delivered", None)
    })?;
    stage.reap(&[receiver, sender])
}

/// kill(-pgid): each member gets one.
fn to_a_group(stage: &Stage) -> Result<()> {
    let mut members: Vec<Pid> = Vec::new();
    for index in 0..3 {
        let member = stage.child(&format!("member-{index}"), |stage| {
            handle(Signal::SIGUSR2)?;
            stage.wait_for(1, 1)?;
            stage.raise(0);
            nix::unistd::pause();
            Ok(())
        })?;
        setpgid(member, *members.first().unwrap_or(&member))?;
        members.push(member);
    }
    stage.raise(1);
    stage.wait_for(0, 3)?;
    let group = members[0];
    let sender = stage.child("sender", |stage| {
        for member in &members {
            stage.wait_until(|| stage::sleeps(*member))?;
        }
        killpg(group, Signal::SIGUSR2)?;
        for member in &members {
            tell(stage, "SIGUSR2", stage.me(), stage::party(*member), "delivered", None)?;
        }
        Ok(())
    })?;
    stage.reap(&members)?;
    stage.reap(&[sender])
}

/// SIGPIPE, SIGSEGV, a timer's SIGALRM: the kernel sends them, whoever runs at the time.
fn of_the_kernel(stage: &Stage) -> Result<()> {
    let (reader, writer) = nix::unistd::pipe()?;
    drop(reader);
    let piper = stage.child("piper", |stage| {
        handle(Signal::SIGPIPE)?;
        ensure!(nix::unistd::write(&writer, &[1]).is_err());
        tell(stage, "SIGPIPE", kernel(), stage.me(), "delivered", None)
    })?;
    stage.reap(&[piper])?;
    let sleeper = stage.child("sleeper", |stage| {
        handle(Signal::SIGALRM)?;
        nix::unistd::alarm::set(1);
        nix::unistd::pause();
        tell(stage, "SIGALRM", kernel(), stage.me(), "delivered", None)
    })?;
    stage.reap(&[sleeper])?;
    let crasher = stage.child("crasher", |stage| {
        tell(stage, "SIGSEGV", kernel(), stage.me(), "delivered", None)?;
        // SAFETY: nothing is done in the memory: the address is none, and reading it is what is to be signalled. The
        // default action ends the process, for which core dumps are off.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            std::ptr::read_volatile(std::ptr::without_provenance::<u8>(8));
        }
        Ok(())
    })?;
    let status = waitpid(crasher, None)?;
    ensure!(matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _)), "{status:?}");
    stage.bereaved()
}

/// A blocked signal that is waited for is delivered by the wait.
fn by_sigwait(stage: &Stage) -> Result<()> {
    let receiver = stage.child("receiver", |stage| {
        let mut set = SigSet::empty();
        set.add(Signal::SIGUSR1);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        stage.raise(0);
        ensure!(set.wait()? == Signal::SIGUSR1);
        Ok(())
    })?;
    let sender = stage.child("sender", |stage| {
        stage.wait_for(0, 1)?;
        stage.wait_until(|| stage::sleeps(receiver))?;
        kill(receiver, Signal::SIGUSR1)?;
        tell(stage, "SIGUSR1", stage.me(), stage::party(receiver), "delivered", None)
    })?;
    stage.reap(&[receiver, sender])
}

/// Real-time signals of one number queue up, each with its value.
fn real_time(stage: &Stage) -> Result<()> {
    let number = libc::SIGRTMIN() + 1;
    let receiver = stage.child("receiver", |stage| {
        // SAFETY: the handler does nothing; the sets are valid and initialised by the calls.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            ensure!(libc::sigaction(number, &raw const action, std::ptr::null_mut()) == 0);
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, number);
            ensure!(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) == 0);
            stage.raise(0);
            stage.wait_for(1, 1)?;
            ensure!(libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) == 0);
        }
        Ok(())
    })?;
    let sender = stage.child("sender", |stage| {
        stage.wait_for(0, 1)?;
        for value in 1..=5_usize {
            let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
            // SAFETY: a system call that takes numbers.
            ensure!(unsafe { libc::sigqueue(receiver.as_raw(), number, value) } == 0);
        }
        for value in 1..=5 {
            tell(stage, "SIGRTMIN+1", stage.me(), stage::party(receiver), "delivered", Some(value))?;
        }
        stage.raise(1);
        Ok(())
    })?;
    stage.reap(&[receiver, sender])
}

/// Ctrl-C: the kernel signals each process of the terminal's foreground group, and none of another.
fn ctrl_c(stage: &Stage) -> Result<()> {
    let pty = nix::pty::openpty(None, None)?;
    let leader = stage.child("leader", |stage| {
        nix::unistd::setsid()?;
        // SAFETY: makes the terminal that of the session which was just begun.
        ensure!(unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) } == 0);
        let waits = |stage: &Stage| -> Result<()> {
            handle(Signal::SIGINT)?;
            tell(stage, "SIGINT", kernel(), stage.me(), "delivered", None)?;
            stage.raise(0);
            nix::unistd::pause();
            Ok(())
        };
        let follower = stage.child("follower", waits)?;
        let background = stage.child("background", |stage| {
            handle(Signal::SIGINT)?;
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            stage.raise(1);
            stage.wait_for(2, 1)
        })?;
        stage.put(0, follower.as_raw() as u64);
        stage.wait_for(1, 1)?;
        waits(stage)?;
        stage.raise(2);
        stage.reap(&[follower, background])?;
        // When the leader of a session ends, the terminal hangs up: it still counts itself to the foreground.
        // Signals to a process that is ending are dropped since Linux 6.0; before, they were left to wait for ever.
        let outcome = if is_older_than(6, 0) { "undelivered" } else { "ignored" };
        tell(stage, "SIGHUP", kernel(), stage.me(), outcome, None)
    })?;
    stage.wait_for(0, 2)?;
    let follower = Pid::from_raw(stage.get(0) as i32);
    stage.wait_until(|| stage::sleeps(leader) && stage::sleeps(follower))?;
    stage::write_all(&pty.master, &[3])?;
    stage.reap(&[leader])
}
