//! `cargo xtask build`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::run;
use crate::{setup, workspace};

/// What `build` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build with optimisations, as for installing
    #[arg(long)]
    pub(crate) release: bool,
}

/// Builds the binary and gives its path.
///
/// # Errors
/// If the set-up or the compiler fails.
pub(crate) fn build(arguments: &Arguments) -> Result<PathBuf> {
    let ready = setup::ready()?;
    let mut command = Command::new("cargo");
    command.args(["build", "--package", "ipctrace"]).current_dir(workspace::root());
    if arguments.release {
        command.arg("--release");
    }
    run(ready.tools(&mut command))?;
    Ok(workspace::target().join(if arguments.release { "release" } else { "debug" }).join("ipctrace"))
}
