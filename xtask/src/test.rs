//! `cargo xtask test`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{as_root, line, read, run, with_usual_signals};
use crate::kernels::{Extent, Programs, run_kernels};
use crate::setup::Ready;
use crate::{build, setup, workspace};

/// What `test` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only the tests in other kernels, in emulated machines: those of these series, all of the matrix without any; `part`:
    /// what is run of them with all other tests
    #[arg(long, value_name = "VERSION", num_args = 0.., conflicts_with = "filter")]
    kernels: Option<Vec<String>>,
    /// In these kernels only that: doctor, facts, programs, demos, syscall, object (all scenarios, demos and seeds with hooks of
    /// that kind), lockdown
    #[arg(long, value_name = "STEP", num_args = 1.., requires = "kernels")]
    steps: Vec<String>,
}

/// Totals over all suites.
#[derive(Default)]
struct Totals {
    passed: u32,
    failed: u32,
    skipped: u32,
    /// Kernels that could not be had or run.
    not_run: u32,
}

/// Runs everything.
///
/// # Errors
/// If a step other than a test fails.
pub(crate) fn test(arguments: &Arguments) -> Result<ExitCode> {
    let ready = setup::ready()?;
    let mut totals = Totals::default();
    let only = &arguments.steps;
    let outcome = match &arguments.kernels {
        Some(names) if *names == ["part"] => other_kernels(&ready, &[], Extent::Part, only, &mut totals),
        Some(names) => other_kernels(&ready, names, Extent::All, only, &mut totals),
        None => steps(&ready, arguments, &mut totals),
    };
    println!(
        "{} passed, {} failed, {} skipped, {} kernels not run",
        totals.passed, totals.failed, totals.skipped, totals.not_run
    );
    outcome?;
    Ok(if totals.failed == 0 && totals.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn steps(ready: &Ready, arguments: &Arguments, totals: &mut Totals) -> Result<()> {
    step("formatting");
    run(cargo().args(["fmt", "--all", "--check"])).context("repeat with `cargo fmt --all`")?;
    step("lints");
    run(ready.tools(cargo().args(["clippy", "--all-targets", "--", "--deny", "warnings"])))?;
    step("lints of the eBPF programs");
    for features in ["", "plain", "loads"] {
        run(ready.tools(ebpf_lints().args(["--features", features])))?;
    }
    step("both halves compile for aarch64");
    run(ready.tools(&mut aarch64()))?;
    step("unit and end-to-end tests");
    let binary = build::build(&build::Arguments { release: true })?;
    for suite in suites(ready)? {
        run_suite(&suite, &binary, arguments, totals)?;
    }
    step("nothing of ours is left in the kernel");
    leftovers()?;
    if arguments.filter.is_none() {
        other_kernels(ready, &[], Extent::Part, &[], totals)?;
    }
    Ok(())
}

/// The tests in emulated machines.
fn other_kernels(
    ready: &Ready,
    names: &[String],
    extent: Extent,
    only: &[String],
    totals: &mut Totals,
) -> Result<()> {
    step("other kernels");
    let binary = build::build(&build::Arguments { release: true })?;
    let suites = suites(ready)?;
    let tests =
        |name: &str| suites.iter().find(|suite| suite.name == name).map(|suite| suite.executable.clone());
    let outcome = run_kernels(names, extent, only, &Programs { binary: &binary, tests: &tests })?;
    totals.passed += outcome.passed;
    totals.failed += outcome.failed;
    totals.not_run += outcome.not_run;
    Ok(())
}

fn step(name: &str) {
    println!("== {name}");
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root());
    command
}

/// A check of one package for another target by nightly, which alone builds what there is no installed library for; what it makes
/// goes to that directory below `target`.
fn check(package: &str, target: &str, libraries: &str, directory: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo", "check", "--quiet", "--package", package, "--target", target])
        .args(["-Z", libraries, "--target-dir"])
        .arg(workspace::target().join(directory))
        .current_dir(workspace::root())
        .env_remove("RUSTC")
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// A check of the eBPF crate, without warnings.
fn ebpf_lints() -> Command {
    let mut command = check("ipctrace-ebpf", "bpfel-unknown-none", "build-std=core", "ebpf-check");
    command.arg("--release").env("CARGO_ENCODED_RUSTFLAGS", "-Dwarnings\x1f--cfg=bpf_target_arch=\"x86_64\"");
    command
}

/// A check of the collector for aarch64, which builds the eBPF programs for it on the way.
fn aarch64() -> Command {
    check("ipctrace", "aarch64-unknown-linux-gnu", "build-std", "aarch64")
}

/// A test executable.
struct Suite {
    name: String,
    executable: PathBuf,
}

/// Builds all tests and says where they are. Only they run as root, cargo does not.
fn suites(ready: &Ready) -> Result<Vec<Suite>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let messages = read(ready.tools(&mut command))?;
    let mut found = Vec::new();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        if message["profile"]["test"] == true
            && let (Some(name), Some(executable)) =
                (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.push(Suite { name: name.to_owned(), executable: executable.into() });
        }
    }
    if found.is_empty() {
        bail!("{} built no tests", line(&command));
    }
    Ok(found)
}

/// Runs one test executable and adds up what it says. A test that cannot run prints a line `SKIP name: reason`.
fn run_suite(suite: &Suite, binary: &Path, arguments: &Arguments, totals: &mut Totals) -> Result<()> {
    let mut command = as_root(&suite.executable);
    command
        .args(arguments.filter.as_deref())
        .args(["--test-threads=1", "--nocapture"])
        .env("IPCTRACE", binary)
        .current_dir(workspace::root())
        .stdout(Stdio::piped());
    // Tests send signals to what they start.
    let output = with_usual_signals(&mut command)
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("starting {}", line(&command)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let skipped = text.lines().filter(|line| line.contains("SKIP ")).count() as u32;
    let count = |what: &str| {
        text.lines()
            .rev()
            .find_map(|line| line.strip_prefix("test result:"))
            .and_then(|result| result.split([';', '.']).find(|part| part.trim_end().ends_with(what)))
            .and_then(|part| part.trim().split(' ').next()?.parse::<u32>().ok())
    };
    let (passed, failed) = (count(" passed").unwrap_or(0), count(" failed").unwrap_or(0));
    totals.passed += passed.saturating_sub(skipped);
    totals.skipped += skipped;
    totals.failed += failed;
    for line in text.lines().filter(|line| line.contains("SKIP ")) {
        println!("{line}");
    }
    println!("   {}: {passed} passed, {failed} failed", suite.name);
    if !output.status.success() {
        totals.failed = totals.failed.max(1);
        print!("{text}");
        println!("repeat with: IPCTRACE={} {}", binary.display(), line(&command));
    }
    Ok(())
}

/// Fails if a program of ours is still loaded. The kernel takes a while to unload those of a tracer that was killed.
pub(crate) fn leftovers() -> Result<()> {
    let start = Instant::now();
    loop {
        let listing =
            read(as_root(workspace::target().join("release/ipctrace")).args(["doctor", "--leftovers"]))?;
        let listing = listing.trim();
        if listing.is_empty() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(20) {
            bail!("programs are still loaded:\n{listing}");
        }
        sleep(Duration::from_millis(200));
    }
}
