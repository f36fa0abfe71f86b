//! What can happen while a table is shown.

use std::pin::Pin;

use anyhow::Result;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tokio::time::Interval;

use crate::commands::signals::{Awaited, Ending};
use crate::screen::Input;

/// One thing that happened.
#[derive(Debug)]
pub(super) enum Happening {
    /// An interval has passed.
    Tick,
    /// Something came from the terminal.
    Terminal(Input),
    /// It is time to end, or we were told to.
    Over,
    /// We were told to stop for a while.
    Suspended,
    /// We were told to go on.
    Resumed,
}

/// The signals that would end us or stop us.
pub(super) struct Signals {
    ending: Ending,
    stop: Awaited,
    resume: Awaited,
}

impl Signals {
    /// From here on they do not. Those of job control keep their meaning unless there is a screen to be given back.
    ///
    /// # Errors
    /// If there can be no more handlers.
    pub(super) fn new(on_screen: bool) -> Result<Signals> {
        let job = |kind| if on_screen { Awaited::always(kind) } else { Ok(Awaited::never()) };
        Ok(Signals {
            ending: Ending::new()?,
            stop: job(SignalKind::from_raw(libc::SIGTSTP))?,
            resume: job(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }
}

/// Waits for what happens next. Nothing is lost if the wait is given up.
pub(super) async fn next(
    ticks: &mut Interval,
    keys: &mut Option<mpsc::UnboundedReceiver<Input>>,
    signals: &mut Signals,
    over: Pin<&mut impl Future<Output = ()>>,
) -> Happening {
    let Signals { ending, stop, resume } = signals;
    tokio::select! {
        biased;
        _ = ending.next() => Happening::Over,
        () = stop.come() => Happening::Suspended,
        () = resume.come() => Happening::Resumed,
        input = from(keys) => Happening::Terminal(input),
        _ = ticks.tick() => Happening::Tick,
        () = over => Happening::Over,
    }
}

async fn from(keys: &mut Option<mpsc::UnboundedReceiver<Input>>) -> Input {
    match keys {
        Some(keys) => keys.recv().await.unwrap_or(Input::Gone),
        None => std::future::pending().await,
    }
}
