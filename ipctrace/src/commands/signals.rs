//! Signals that would end us, so that they end us in order.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};

use crate::{dispositions, patience};

/// Those that came, by number. What their handlers write is there at once, also for a child that was made meanwhile.
static CAME: AtomicU32 = AtomicU32::new(0);

/// Signals by which users end programs.
pub(super) const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The signals that would end us.
#[derive(Debug)]
pub(super) struct Ending {
    interrupt: Awaited,
    quit: Awaited,
    terminate: Awaited,
    hangup: Awaited,
}

/// For a trace, which scripts end by SIGINT in the background, too, where shells have it ignored: tcpdump(8) can be ended so as well.
/// From here on it ends us; to be called before anything else, for what comes earlier is lost.
pub(super) fn heed_interrupts() {
    if dispositions::was_ignored(libc::SIGINT) {
        dispositions::heed(libc::SIGINT);
    }
}

impl Ending {
    /// From here on they do not. One that was ignored when we were started stays so, for what we start as well, unless it is heeded
    /// ([`heed_interrupts`]): nohup(1) has it so for SIGHUP. To be made before anything is started that one of them is to reach.
    ///
    /// # Errors
    /// If there can be no more handlers.
    pub(super) fn new() -> Result<Ending> {
        Ending::of(&[])
    }

    /// The same beside a command: the first of what a terminal sends to both of us is the command's alone, which may well go on.
    ///
    /// # Errors
    /// As there.
    pub(super) fn beside_a_command() -> Result<Ending> {
        Ending::of(&[Signal::SIGINT, Signal::SIGQUIT])
    }

    /// `shared`: see there.
    fn of(shared: &[Signal]) -> Result<Ending> {
        patience::begin().context("waiting for a signal")?;
        // Each comes to two handlers: to none of them before there are both.
        let ours: SigSet = ENDING.into_iter().collect();
        let before = ours.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("blocking signals")?;
        let ending = Ending::handled(shared);
        before.thread_set_mask().context("unblocking signals")?;
        ending
    }

    fn handled(shared: &[Signal]) -> Result<Ending> {
        let ending = |signal| ending(signal, shared.contains(&signal));
        Ok(Ending {
            interrupt: ending(Signal::SIGINT)?,
            quit: ending(Signal::SIGQUIT)?,
            terminate: ending(Signal::SIGTERM)?,
            hangup: ending(Signal::SIGHUP)?,
        })
    }

    /// The next of them. Nothing is lost if the wait is given up.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = self.interrupt.come() => Signal::SIGINT,
            () = self.quit.come() => Signal::SIGQUIT,
            () = self.terminate.come() => Signal::SIGTERM,
            () = self.hangup.come() => Signal::SIGHUP,
        }
    }
}

/// One that has come, if any has.
pub(super) fn came() -> Option<Signal> {
    let came = CAME.load(Ordering::SeqCst);
    ENDING.into_iter().find(|signal| came & bit(*signal) != 0)
}

fn bit(signal: Signal) -> u32 {
    1 << signal as u32
}

/// Lets that signal come to us, unless it is ignored.
fn ending(signal: Signal, shared: bool) -> Result<Awaited> {
    if dispositions::ignores(signal as libc::c_int) {
        return Ok(Awaited::never());
    }
    let came = move || {
        let before = CAME.fetch_or(bit(signal), Ordering::SeqCst);
        if !shared || before & bit(signal) != 0 {
            patience::told_to_end();
        }
    };
    // SAFETY: the action works on atomics and sets a timer, which signal handlers may.
    unsafe { signal_hook_registry::register(signal as libc::c_int, came) }.context("waiting for a signal")?;
    Awaited::always(SignalKind::from_raw(signal as libc::c_int))
}

/// Lets a command have what signals do, and which are blocked, as we were started with it. One that came to us before there was the command,
/// but after [`came()`] was asked, is the command's, too; so is one that comes to the child before it is the command, when it would
/// still find our handlers.
pub(super) fn hand_on(command: &mut Command) {
    let hand_on = || {
        dispositions::hand_on();
        let came = CAME.load(Ordering::SeqCst);
        for signal in ENDING.into_iter().filter(|signal| came & bit(*signal) != 0) {
            // SAFETY: takes a number.
            if unsafe { libc::raise(signal as libc::c_int) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: what is called between fork and exec is on the list of signal-safety(7), and nothing is allocated.
    unsafe { command.pre_exec(hand_on) };
}

/// A signal that is waited for, or none.
#[derive(Debug)]
pub(super) struct Awaited(Option<unix::Signal>);

impl Awaited {
    /// From here on that signal does nothing but come here.
    ///
    /// # Errors
    /// If there can be no more handlers.
    pub(super) fn always(kind: SignalKind) -> Result<Awaited> {
        unix::signal(kind).map(Some).map(Awaited).context("waiting for a signal")
    }

    /// None.
    pub(super) fn never() -> Awaited {
        Awaited(None)
    }

    /// Waits for it.
    pub(super) async fn come(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}
