//! The command line of ipctrace.

use std::process::ExitCode;

use clap::Parser;
use ipctrace::args::{Cli, Command};
use ipctrace::commands::{self, EXIT_IMPOSSIBLE};
use ipctrace::demo;
use ipctrace::options::{EXIT_USAGE, Usage};
use ipctrace::{dispositions, message, stderr, stdout};

fn main() -> ExitCode {
    let command = Cli::parse().into_command();
    stderr::init(command.verbose());
    dispositions::survive_limits();
    // What we start is waited for, which is in vain where it is ignored (wait(2)).
    dispositions::heed(libc::SIGCHLD);
    if let Command::Workload { name, report } = &command {
        // Its processes are forked, for which there must be one thread only: before there is a runtime.
        return match demo::workload(name, report) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(command)));
    outcome.unwrap_or_else(|error| {
        if matches!(error.downcast_ref(), Some(stdout::Failed::ReaderGone)) {
            return ExitCode::SUCCESS;
        }
        log::error!("{}", message::failure(error.as_ref()));
        ExitCode::from(if error.is::<Usage>() { EXIT_USAGE } else { EXIT_IMPOSSIBLE })
    })
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Trace(arguments) => commands::trace::trace(arguments).await,
        Command::Run(arguments) => commands::run::run(arguments).await,
        Command::Top(arguments) => commands::top::top(arguments).await,
        Command::Demo(arguments) => commands::demo::demo(arguments).await,
        Command::Workload { .. } => anyhow::bail!("a workload is played before there is a runtime"),
        Command::Doctor(arguments) => commands::doctor::doctor(&arguments),
    }
}
