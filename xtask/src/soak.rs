//! `cargo xtask soak`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{as_root, line, read};
use crate::{build, setup, workspace};

mod watched;

use watched::Watched;

/// What `soak` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Operations of each seed
    #[arg(long, default_value_t = 20_000)]
    operations: u64,
}

/// Plays fresh seeds until the time is over, with and without losses, beside a tracer that is watched, stopped, killed and
/// started again; the first difference ends it.
///
/// # Errors
/// If it cannot be built or started.
pub(crate) fn soak(arguments: &Arguments) -> Result<ExitCode> {
    let ready = setup::ready()?;
    let binary = build::build(&build::Arguments { release: true })?;
    let mut command = Command::new("cargo");
    command
        .args(["test", "--no-run", "--message-format=json-render-diagnostics", "--package", "ipctrace-tests"])
        .current_dir(workspace::root())
        .stderr(Stdio::inherit());
    let messages = read(ready.tools(&mut command))?;
    let test = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|message| message["profile"]["test"] == true && message["target"]["name"] == "oracle")
        .and_then(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    let Some(test) = test else {
        bail!("{} built no test of seeds", line(&command));
    };
    let end = Instant::now() + Duration::from_secs(arguments.minutes * 60);
    let (done, mut watched) = (AtomicBool::new(false), Watched::default());
    let code = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let kept = watched.keep(&binary, &done);
            (kept, watched)
        });
        let mut code = Ok(ExitCode::SUCCESS);
        while Instant::now() < end && !beside.is_finished() && matches!(code, Ok(ExitCode::SUCCESS)) {
            code = play(&test, &binary, arguments.operations);
        }
        done.store(true, Ordering::Relaxed);
        let (kept, watched) = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        println!("{watched}");
        kept.and(code)
    })?;
    crate::test::leftovers()?;
    Ok(code)
}

/// Plays some seeds without and with losses.
fn play(test: &Path, binary: &Path, operations: u64) -> Result<ExitCode> {
    for name in ["fresh_seeds", "after_losses_nothing_is_wrong"] {
        let mut play = as_root(test);
        play.args([name, "--exact", "--nocapture"])
            .env("IPCTRACE", binary)
            .env("IPCTRACE_SEEDS", "4")
            .env("IPCTRACE_OPERATIONS", operations.to_string());
        let status = play.status().with_context(|| format!("starting {}", line(&play)))?;
        if !status.success() {
            println!("the seed above is the one: IPCTRACE_SEED=… {}", line(&play));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
