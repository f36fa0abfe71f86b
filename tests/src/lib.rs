//! What the end-to-end tests and benchmarks share.

pub mod batch;
pub mod bench;
pub mod check;
pub mod ends;
pub mod kernel;
pub mod load;
pub mod oracle;
pub mod scenarios;
pub mod trace;

use std::path::PathBuf;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The binary under test: the environment variable `IPCTRACE`, which `cargo xtask test` sets.
///
/// # Errors
/// If it is not set.
pub fn binary() -> Result<PathBuf> {
    std::env::var_os("IPCTRACE")
        .map(PathBuf::from)
        .context("IPCTRACE is not set to the path of the binary under test: run `cargo xtask test`")
}

/// For a test that cannot run here: says so. `cargo xtask test` counts these lines.
///
/// # Errors
/// None; the result is what the test returns.
pub fn skip(test: &str, reason: &str) -> Result<()> {
    println!("SKIP {test}: {reason}");
    Ok(())
}

/// Waits until something is so.
///
/// # Errors
/// If it is not so after 20 seconds ([`slowed`]), or cannot be found out.
pub fn pause_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < slowed(Duration::from_secs(20)), "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A time to wait, where waiting longer does no harm: so many times as long as the environment variable `IPCTRACE_SLOW` says,
/// which `cargo xtask test --kernels` sets for emulated machines.
pub fn slowed(time: Duration) -> Duration {
    let factor = std::env::var("IPCTRACE_SLOW").ok().and_then(|factor| factor.parse().ok());
    time * factor.unwrap_or(1)
}
