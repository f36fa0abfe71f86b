//! What the end-to-end tests and benchmarks share.

pub mod bench;
pub mod check;
pub mod scenarios;
pub mod trace;

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The binary under test: the environment variable `IPCTRACE`, which `cargo xtask test` sets.
///
/// # Errors
/// If it is not set.
pub fn binary() -> Result<PathBuf> {
    std::env::var_os("IPCTRACE")
        .map(PathBuf::from)
        .context("IPCTRACE is not set to the path of the binary under test: run `cargo xtask test`")
}
