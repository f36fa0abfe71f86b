//! What can happen while a table is shown.

use std::pin::Pin;

use anyhow::Result;
use crossterm::event::Event;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Interval;

/// One thing that happened.
#[derive(Debug)]
pub(super) enum Happening {
    /// An interval has passed.
    Tick,
    /// A key, or another size.
    Terminal(Event),
    /// It is time to end, or we were told to.
    Over,
    /// The terminal has gone.
    Gone,
    /// We were told to stop for a while.
    Suspended,
    /// We were told to go on.
    Resumed,
}

/// The signals that would end us or stop us.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Option<Signal>,
    stop: Option<Signal>,
    resume: Option<Signal>,
}

impl Signals {
    /// From here on they do not. Those of job control keep their meaning unless there is a screen to be given back.
    ///
    /// # Errors
    /// If there can be no more handlers.
    pub(super) fn new(on_screen: bool) -> Result<Signals> {
        let job = |kind| on_screen.then(|| signal(kind)).transpose();
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: job(SignalKind::quit())?,
            stop: job(SignalKind::from_raw(libc::SIGTSTP))?,
            resume: job(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }
}

/// Waits for what happens next. Nothing is lost if the wait is given up.
pub(super) async fn next(
    ticks: &mut Interval,
    keys: &mut Option<mpsc::UnboundedReceiver<Event>>,
    signals: &mut Signals,
    over: Pin<&mut impl Future<Output = ()>>,
) -> Happening {
    let Signals { interrupt, terminate, hangup, quit, stop, resume } = signals;
    tokio::select! {
        biased;
        _ = interrupt.recv() => Happening::Over,
        _ = terminate.recv() => Happening::Over,
        _ = hangup.recv() => Happening::Over,
        () = received(quit) => Happening::Over,
        () = received(stop) => Happening::Suspended,
        () = received(resume) => Happening::Resumed,
        event = pressed(keys) => event.map_or(Happening::Gone, Happening::Terminal),
        _ = ticks.tick() => Happening::Tick,
        () = over => Happening::Over,
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

async fn pressed(keys: &mut Option<mpsc::UnboundedReceiver<Event>>) -> Option<Event> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}
