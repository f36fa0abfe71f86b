//! `cargo xtask bench`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::command::{as_root, exit_code, run};
use crate::{build, setup, workspace};

/// What `bench` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the benchmark: --rounds N, --scale X, --only NAME, --ours, --short, --format text|markdown|json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds everything with optimisations and runs the benchmark.
///
/// # Errors
/// If it cannot be built or started.
pub(crate) fn bench(arguments: &Arguments) -> Result<ExitCode> {
    let ready = setup::ready()?;
    let binary = build::build(&build::Arguments { release: true })?;
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--package", "ipctrace-tests", "--bin", "bench"])
        .current_dir(workspace::root());
    run(ready.tools(&mut command))?;
    let mut bench = as_root(workspace::target().join("release/bench"));
    exit_code(bench.args(&arguments.arguments).env("IPCTRACE", binary))
}
