//! `ipctrace trace`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::signals::{self, Ending};
use super::{View, Wish, begin, status};
use crate::args;
use crate::options;
use crate::session::Ended;

/// Traces the whole host until it is told to stop.
///
/// # Errors
/// Wrong usage, or what makes tracing impossible.
pub async fn trace(arguments: args::Trace) -> Result<ExitCode> {
    signals::heed_interrupts();
    let selection = options::selection(arguments.show)?;
    let reporting = options::reporting(arguments.report)?;
    let (duration, asked) = (reporting.duration, reporting.summary);
    let wish = Wish {
        selection,
        reporting,
        children_only: false,
        keep: false,
        at_objects: None,
        view: View::Events,
    };
    let (mut session, mut signals) = begin(wish, Ending::new)?;
    let ended = session
        .follow(async {
            tokio::select! {
                signal = signals.next() => signal != Signal::SIGHUP,
                () = elapsed(duration) => false,
            }
        })
        .await?;
    let summary = asked || (ended == Ended::Done(true) && std::io::stdout().is_terminal());
    let gone = ended == Ended::ReaderGone;
    let (totals, _) = session.end(ended == Ended::Limit, summary && !gone)?;
    if !gone {
        log::warn!("{totals}");
    }
    Ok(status(&totals))
}

/// Sleeps so long, or for ever.
pub(super) async fn elapsed(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
