//! `ipctrace run`.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::{Wish, begin};
use crate::session::{Ended, Session};
use crate::{args, options};

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
    let mut session = begin(Wish { selection, reporting, children_only: true, keep: false })?;
    let mut child = start(&arguments.command, aside)?;
    let status = follow(&mut session, &mut child, duration).await?;
    let (totals, _) = session.end(false, true)?;
    log::warn!("{totals}");
    Ok(exit_code(status))
}

/// Starts the command. The programs are at work already: what it does first is seen.
fn start(command: &[OsString], aside: bool) -> Result<Child> {
    let (program, arguments) = command.split_first().context("no command to run")?;
    let mut process = Command::new(program);
    process.args(arguments);
    if aside {
        process.stdout(Stdio::from(std::io::stderr().as_fd().try_clone_to_owned()?));
    }
    process.spawn().with_context(|| format!("starting {}", program.to_string_lossy()))
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
    duration: Option<Duration>,
) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
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
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => pass_on(Signal::SIGTERM),
                    _ = hangup.recv() => pass_on(Signal::SIGHUP),
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
