//! `signals`: what can become of one.

use anyhow::{Context, Result, ensure};
use ipctrace_common::Mechanism;
use nix::libc;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction, sigprocmask,
};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::Demo;
use super::stage::{self, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "signals",
    summary: "kill, sigqueue with a value, and signals ignored, blocked and already pending",
    story: "A sender treats a receiver to one of each kind; the last one ends it, of which the kernel tells the parent.\n\
            Look at the outcomes, and at the kernel as the sender of SIGCHLD.",
    mechanisms: &[Mechanism::Signal],
    play,
};

/// What the real-time signal carries.
const VALUE: usize = 4711;

extern "C" fn nothing(_signal: libc::c_int) {}

fn play(stage: &Stage) -> Result<()> {
    let receiver = stage.child("receiver", |stage| {
        let handler = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe {
            sigaction(Signal::SIGUSR1, &handler)?;
            sigaction(Signal::SIGWINCH, &ignore)?;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            ensure!(libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut()) == 0);
        }
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGUSR2);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        stage.raise(0);
        loop {
            nix::unistd::pause();
        }
    })?;
    let sender = stage.child("sender", |stage| {
        stage.wait_for(0, 1)?;
        send(stage, receiver)
    })?;
    // First the sender: had it failed, the receiver would wait for ever.
    stage.reap(&[sender])?;
    let end = stage.wait_for_end(receiver)?;
    ensure!(matches!(end, WaitStatus::Signaled(_, Signal::SIGTERM, _)), "the receiver: {end:?}");
    Ok(())
}

fn send(stage: &Stage, receiver: Pid) -> Result<()> {
    let to = || stage::party(receiver);
    let settle = || stage.wait_until(|| stage::sleeps(receiver));
    settle()?;
    kill(receiver, Signal::SIGUSR1)?;
    tell(stage, "SIGUSR1", stage.me(), to(), "delivered", None)?;
    settle()?;
    let value = libc::sigval { sival_ptr: VALUE as *mut libc::c_void };
    // SAFETY: a system call that takes numbers.
    let queued = unsafe { libc::sigqueue(receiver.as_raw(), libc::SIGRTMIN(), value) };
    ensure!(queued == 0, "sigqueue: {}", std::io::Error::last_os_error());
    tell(stage, "SIGRTMIN", stage.me(), to(), "delivered", Some(VALUE as u64))?;
    settle()?;
    kill(receiver, Signal::SIGWINCH).context("SIGWINCH")?;
    tell(stage, "SIGWINCH", stage.me(), to(), "ignored", None)?;
    kill(receiver, Signal::SIGUSR2)?;
    tell(stage, "SIGUSR2", stage.me(), to(), "blocked", None)?;
    kill(receiver, Signal::SIGUSR2)?;
    tell(stage, "SIGUSR2", stage.me(), to(), "already-pending", None)?;
    kill(receiver, Signal::SIGTERM)?;
    tell(stage, "SIGTERM", stage.me(), to(), "delivered", None)
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
