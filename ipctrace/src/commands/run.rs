//! `ipctrace run`.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::signals::{self, Ending};
use super::trace::elapsed;
use super::{View, Wish, begin};
use crate::session::{Ended, Session};
use crate::{args, options, patience};

/// The status of a shell for a command that does not exist, and for one that is no program.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_NOT_EXECUTABLE: u8 = 126;

/// Starts a command and traces it and its descendants until it ends.
///
/// # Errors
/// Wrong usage, what makes tracing impossible, or if the command cannot be started.
pub async fn run(arguments: args::Run) -> Result<ExitCode> {
    let selection = options::selection(arguments.show)?;
    let reporting = options::reporting(arguments.report)?;
    let duration = reporting.duration;
    // With the trace on standard output, that of the command would get in between its lines.
    let aside = reporting.output.is_none();
    let wish =
        Wish { selection, reporting, children_only: true, keep: false, at_objects: None, view: View::Events };
    let (mut session, mut signals) = begin(wish, Ending::beside_a_command)?;
    if let Some(signal) = signals::came() {
        session.end(false, false)?;
        return Ok(by_signal(signal));
    }
    let mut child = match start(&arguments.command, aside) {
        Ok(child) => child,
        Err(error) => {
            let status =
                if error.kind() == io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
            // What was traced meanwhile is how we got to know that.
            session.end(true, false)?;
            log::error!("starting {}: {error}", arguments.command[0].to_string_lossy());
            return Ok(ExitCode::from(status));
        }
    };
    let ended = follow(&mut session, &mut child, &mut signals, duration).await?;
    // The command may go on: it is not traced any more.
    let (totals, _) = session.end(ended == Ended::Limit, ended != Ended::ReaderGone)?;
    if ended != Ended::ReaderGone {
        log::warn!("{totals}");
    }
    Ok(exit_code(status(ended, &mut child, &mut signals).await?))
}

/// Starts the command. The programs are at work already: what it does first is seen.
fn start(command: &[OsString], aside: bool) -> io::Result<Child> {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    if aside {
        process.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    }
    signals::hand_on(&mut process);
    process.spawn()
}

/// Shows events until the command ends, and gives its status; or, without one, until nobody wants more of them.
///
/// # Errors
/// If the kernel's counters cannot be read, or the command cannot be waited for.
pub(super) async fn follow(
    session: &mut Session,
    child: &mut Child,
    signals: &mut Ending,
    duration: Option<Duration>,
) -> Result<Ended<Option<ExitStatus>>> {
    let over = async {
        tokio::select! {
            status = wait(child, signals) => status.map(Some),
            () = elapsed(duration) => Ok(None),
        }
    };
    Ok(match session.follow(over).await? {
        Ended::Done(status) => Ended::Done(status?),
        Ended::Limit => Ended::Limit,
        Ended::ReaderGone => Ended::ReaderGone,
    })
}

/// The status of a command that has been followed, once it has ended.
///
/// # Errors
/// If it cannot be waited for.
pub(super) async fn status(
    ended: Ended<Option<ExitStatus>>,
    child: &mut Child,
    signals: &mut Ending,
) -> Result<ExitStatus> {
    match ended {
        Ended::Done(Some(status)) => Ok(status),
        Ended::Done(None) | Ended::Limit | Ended::ReaderGone => wait(child, signals).await,
    }
}

/// Waits for the end of the command.
///
/// What Ctrl-C and Ctrl-\ send reaches it from the terminal, as it would without us; what else would end us is passed on to it.
///
/// # Errors
/// If it cannot be waited for.
async fn wait(child: &mut Child, signals: &mut Ending) -> Result<ExitStatus> {
    let pid = child.id();
    loop {
        tokio::select! {
            // What came as it ended is for us.
            biased;
            status = child.wait() => return status.context("waiting for the command"),
            signal = signals.next() => {
                if let Some(pid) = pid.filter(|_| !matches!(signal, Signal::SIGINT | Signal::SIGQUIT)) {
                    // It may have ended just now.
                    let _ = kill(Pid::from_raw(pid as i32), signal);
                }
                // It is for the command to end, if it does.
                patience::told_in_vain();
            }
        }
    }
}

/// The command's status as a shell gives it: 128+N for signal N.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// The status of what a signal ended.
pub(super) fn by_signal(signal: Signal) -> ExitCode {
    exit_code(ExitStatus::from_raw(signal as i32))
}
