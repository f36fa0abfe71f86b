//! Other programs: what was run is shown when it fails.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::geteuid;

/// Runs a command to its end.
///
/// # Errors
/// With the command line, if it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command and gives what it printed on standard output.
///
/// # Errors
/// With the command line and what it said, if it cannot be started or fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("starting {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}:\n{}", line(command), String::from_utf8_lossy(&stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs a command and passes on its exit code.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("starting {}", line(command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A command that runs as root: through sudo, with the environment kept, where we are not.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg(program);
    command
}

/// Has a command begin with the signals that are sent to it doing what they usually do: what runs in the background of a shell, or under
/// nohup(1), begins with some of them ignored, and passes that on to all that it starts.
pub(crate) fn with_usual_signals(command: &mut Command) -> &mut Command {
    let usual = || -> std::io::Result<()> {
        for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: no handler is put in place.
            unsafe { signal(number, SigHandler::SigDfl)? };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(usual) }
}

/// A command line that can be pasted into a shell.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte));
            if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
