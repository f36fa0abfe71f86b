//! Signals that would end us, so that they end us in order.

use std::mem::MaybeUninit;
use std::ptr;

use anyhow::{Context, Result};
use tokio::signal::unix::{self, SignalKind};

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
    pub(super) fn unless_ignored(kind: SignalKind) -> Result<Awaited> {
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
