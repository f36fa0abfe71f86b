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
use tokio::signal::unix::{self, SignalKind};

use super::{View, Wish, begin};
use crate::session::{Ended, Session};
use crate::{args, options};

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
    let mut signals = Signals::new()?;
    let mut session = begin(Wish {
        selection,
        reporting,
        children_only: true,
        keep: false,
        at_objects: None,
        view: View::Events,
    })?;
    let mut child = match start(&arguments.command, aside) {
        Ok(child) => child,
        Err(error) => {
            let status =
                if error.kind() == io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
            log::error!("starting {}: {error}", arguments.command[0].to_string_lossy());
            return Ok(ExitCode::from(status));
        }
    };
    let status = follow(&mut session, &mut child, &mut signals, duration).await?;
    let (totals, _) = session.end(false, true)?;
    log::warn!("{totals}");
    Ok(exit_code(status))
}

/// The signals that would end us.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    /// From here on they do not. To be made before anything is started that one of them is to reach.
    ///
    /// # Errors
    /// If there can be no more handlers.
    pub(super) fn new() -> Result<Signals> {
        Ok(Signals {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }
}

/// Starts the command. The programs are at work already: what it does first is seen.
fn start(command: &[OsString], aside: bool) -> io::Result<Child> {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    if aside {
        process.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    }
    process.spawn()
}

/// Shows events until the command ends; then, or when nobody wants more of them, gives its status.
///
/// Ctrl-C reaches the command from the terminal, as it would without us; what else would end us is passed on to it.
///
/// # Errors
/// If the kernel's counters cannot be read, or the command cannot be waited for.
pub(super) async fn follow(
    session: &mut Session,
    child: &mut Child,
    signals: &mut Signals,
    duration: Option<Duration>,
) -> Result<ExitStatus> {
    let pid = child.id();
    let pass_on = |signal| {
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    };
    let deadline = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let ended = {
        let over = async {
            loop {
                tokio::select! {
                    status = child.wait() => return Some(status),
                    () = &mut deadline => return None,
                    _ = signals.interrupt.recv() => {}
                    _ = signals.terminate.recv() => pass_on(Signal::SIGTERM),
                    _ = signals.hangup.recv() => pass_on(Signal::SIGHUP),
                }
            }
        };
        session.follow(over).await?
    };
    match ended {
        Ended::Done(Some(status)) => status.context("waiting for the command"),
        // It goes on without being traced: its status is still ours.
        Ended::Done(None) | Ended::Limit | Ended::ReaderGone => {
            child.wait().await.context("waiting for the command")
        }
    }
}

/// The command's status as a shell gives it: 128+N for signal N.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
