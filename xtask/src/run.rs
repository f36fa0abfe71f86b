//! `cargo xtask run`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::build;
use crate::command::{as_root, exit_code};

/// What `run` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of ipctrace
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds, and runs the binary.
///
/// # Errors
/// If it cannot be built or started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let binary = build::build(&build::Arguments { release: true })?;
    exit_code(as_root(binary).args(&arguments.arguments))
}
