//! Signals that would end us, so that they end us in order.

use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// The signals that would end us.
#[derive(Debug)]
pub(super) struct Ending {
    interrupt: Awaited,
    terminate: Awaited,
    hangup: Awaited,
}

impl Ending {
    /// From here on they do not.
    ///
    /// # Errors
    /// If there can be no more handlers.
    pub(super) fn of_a_trace() -> Result<Ending> {
        Ok(Ending {
            // Scripts end in this way what they have in the background, where Ctrl-C is ignored.
            interrupt: Awaited::always(SignalKind::interrupt())?,
            terminate: Awaited::always(SignalKind::terminate())?,
            hangup: Awaited::unless_ignored(SignalKind::hangup())?,
        })
    }

    /// The same where a command is started: what that was to ignore it ignores, and so do we. To be made before anything is started that
    /// one of them is to reach.
    ///
    /// # Errors
    /// As there.
    pub(super) fn of_a_command() -> Result<Ending> {
        Ok(Ending {
            interrupt: Awaited::unless_ignored(SignalKind::interrupt())?,
            terminate: Awaited::unless_ignored(SignalKind::terminate())?,
            hangup: Awaited::unless_ignored(SignalKind::hangup())?,
        })
    }

    /// The next of them. Nothing is lost if the wait is given up.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = self.interrupt.come() => Signal::SIGINT,
            () = self.terminate.come() => Signal::SIGTERM,
            () = self.hangup.come() => Signal::SIGHUP,
        }
    }

    /// One that came before there was anything that it could have reached.
    pub(super) async fn pending(&mut self) -> Option<Signal> {
        // They come by way of the runtime, which has a look now.
        const MOMENT: Duration = Duration::from_millis(1);
        tokio::time::timeout(MOMENT, self.next()).await.ok()
    }
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

    /// The same, unless it was ignored when we were started: nohup(1) has it so for SIGHUP, and a shell for Ctrl-C of what it runs in the
    /// background. It then stays ignored, by what we start as well.
    ///
    /// # Errors
    /// As there.
    fn unless_ignored(kind: SignalKind) -> Result<Awaited> {
        if is_ignored(kind) { Ok(Awaited::never()) } else { Awaited::always(kind) }
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

/// Whether nothing happens at that signal.
fn is_ignored(kind: SignalKind) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action sigaction(2) only writes the one there is.
    let status = unsafe { libc::sigaction(kind.as_raw_value(), ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written, if it succeeded.
    status == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
