//! `cargo xtask demo`.

use std::process::ExitCode;

use anyhow::Result;

use crate::build;
use crate::command::{as_root, exit_code};

/// What `demo` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Demos to run; `ipctrace demo --list` names them
    #[arg(default_value = "all")]
    names: Vec<String>,
}

/// Builds, and runs the demos.
///
/// # Errors
/// If the binary cannot be built or started.
pub(crate) fn demo(arguments: &Arguments) -> Result<ExitCode> {
    let binary = build::build(&build::Arguments { release: true })?;
    exit_code(as_root(binary).arg("demo").args(&arguments.names))
}
