//! `cargo xtask test --kernels`: the tests in other kernels, each in an emulated machine over this one's file system.

mod archive;
mod guest;
mod image;
mod report;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::command::{read, run};
use crate::workspace;
use archive::Series;
use report::Report;

/// Where the executables are that guests run.
pub(crate) struct Programs<'a> {
    /// `ipctrace`.
    pub(crate) binary: &'a Path,
    /// Test executables by name.
    pub(crate) tests: &'a dyn Fn(&str) -> Option<PathBuf>,
}

/// How much is run in each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    All,
    /// What has room in every run of the tests: a few kernels, `doctor` and the demos; in one of them both sets of hooks.
    Part,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Steps that failed, and guests that died.
    pub(crate) failed: u32,
    /// Kernels in which everything passed.
    pub(crate) passed: u32,
    /// Kernels that could not be run.
    pub(crate) not_run: u32,
}

/// The kernels of [`Extent::Part`]: the oldest, one between, and the newest.
const PART: [&str; 3] = ["5.10", "6.12", "newest"];

/// Time for all that is run in a guest.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// What can be run in a kernel; two are all scenarios, demos and seeds with one of the sets of hooks. After the last nothing can be.
const STEPS: [&str; 7] = ["doctor", "facts", "programs", "demos", "syscall", "object", "lockdown"];

/// Runs the kernels of these names (all of the matrix, or of the part, if none is named) and prints a table. `only`: of what is run in
/// each only these steps, if any is named; `doctor` in any case, for the table.
///
/// # Errors
/// If a name is unknown, or the demos cannot be listed.
pub(crate) fn run_kernels(
    names: &[String],
    extent: Extent,
    only: &[String],
    programs: &Programs<'_>,
) -> Result<Outcome> {
    for step in only {
        anyhow::ensure!(STEPS.contains(&step.as_str()), "no step {step}: there are {}", STEPS.join(", "));
    }
    let chosen: Vec<&Series> = archive::MATRIX
        .iter()
        .filter(|series| match (names.is_empty(), extent) {
            (true, Extent::All) => true,
            (true, Extent::Part) => PART.contains(&series.name),
            (false, _) => names.iter().any(|name| name == series.name),
        })
        .collect();
    for name in names {
        anyhow::ensure!(
            chosen.iter().any(|series| series.name == name),
            "no kernel {name} in the matrix: it has {}",
            archive::MATRIX.iter().map(|series| series.name).collect::<Vec<_>>().join(", ")
        );
    }
    let demos = report::demos(&read(Command::new(programs.binary).args(["demo", "--list"]))?);
    let ready = set_up();
    let places = copies(programs)?;
    let reports = match &ready {
        Ok(()) => side_by_side(&chosen, &|series| steps(series, extent, only), &places, &demos)?,
        Err(reason) => chosen.iter().map(|series| Report::not_run(series.name, reason.clone())).collect(),
    };
    print!("{}", report::table(&reports, &demos));
    let mut outcome = Outcome { failed: 0, passed: 0, not_run: 0 };
    for report in &reports {
        match (&report.version, report.failures(&demos)) {
            (Err(_), _) => outcome.not_run += 1,
            (Ok(_), 0) => outcome.passed += 1,
            (Ok(_), failures) => outcome.failed += failures as u32,
        }
    }
    Ok(outcome)
}

/// Runs the kernels, as many at once as there are processors here, for an emulated machine has use for one of them.
fn side_by_side(
    chosen: &[&Series],
    steps: &(dyn Fn(&Series) -> Vec<&'static str> + Sync),
    places: &Places,
    demos: &[report::Demo],
) -> Result<Vec<Report>> {
    // Fetched one after the other.
    let kernels: Vec<_> = chosen.iter().map(|series| (*series, archive::kernel(series))).collect();
    let left = Mutex::new(kernels.into_iter().enumerate());
    let work = || {
        let mut reports = Vec::new();
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, (series, kernel))) = next else { return Ok(reports) };
            let report = match kernel {
                Ok(kernel) => run_one(series, kernel, &steps(series), places, demos)?,
                Err(error) => Report::not_run(series.name, format!("{error:#}")),
            };
            reports.push((index, report));
        }
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from).min(chosen.len());
    let mut reports = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut reports: Vec<(usize, Report)> = Vec::new();
        for worker in workers {
            reports.extend(worker.join().unwrap_or_else(|_| bail!("a thread that runs a guest panicked"))?);
        }
        anyhow::Ok(reports)
    })?;
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// Installs what is missing, or says what that is.
fn set_up() -> Result<(), String> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(format!(
            "the kernels of the matrix are of x86_64, this machine is {}",
            std::env::consts::ARCH
        ));
    }
    if !geteuid().is_root() {
        return Err("serving the file system to a guest needs root".to_owned());
    }
    let missing = guest::missing();
    if !missing.is_empty() {
        eprintln!("xtask: installing {} with apt, to run other kernels", missing.join(", "));
        let install = |update: bool| {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            if update {
                command.args(["-qq", "update"]);
            } else {
                command.args(["install", "-qq", "-y", "--no-install-recommends"]).args(&missing);
            }
            read(&mut command)
        };
        if install(false).is_err() {
            // The lists of packages may be old, or not there yet.
            let _ = install(true);
            install(false)
                .map_err(|error| format!("{} cannot be installed: {error:#}", missing.join(", ")))?;
        }
    }
    if guest::server().is_none() {
        // Part of qemu up to Debian 12, by itself later.
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["install", "-qq", "-y", "--no-install-recommends", "virtiofsd"]);
        run(&mut command).map_err(|error| format!("virtiofsd cannot be installed: {error:#}"))?;
    }
    Ok(())
}

/// Boots one kernel and runs everything in it.
fn run_one(
    series: &Series,
    kernel: image::Kernel,
    steps: &[&str],
    programs: &Places,
    demos: &[report::Demo],
) -> Result<Report> {
    let start = Instant::now();
    println!("   {}: {}", series.name, kernel.version);
    let script = script(steps, programs, demos);
    let logs = workspace::target().join("kernels");
    fs::create_dir_all(&logs)?;
    let log = logs.join(format!("{}.log", kernel.version));
    let mut file = fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let mut output = String::new();
    let mut written = Ok(());
    // As it comes: whoever waits for it can look, and what was interrupted is not lost.
    let outcome = guest::run(&kernel, series.processors, &script, LIMIT, &mut |said| {
        output.push_str(said);
        output.push('\n');
        if written.is_ok() {
            written = writeln!(file, "{said}");
        }
    });
    written.with_context(|| format!("writing {}", log.display()))?;
    let steps = report::steps(&output);
    // What `ipctrace/src/kernel/recorded` has of it is this.
    if let Some(facts) = steps.iter().find(|step| step.name == "facts") {
        let file = log.with_extension("facts");
        fs::write(&file, &facts.output).with_context(|| format!("writing {}", file.display()))?;
    }
    let report = Report {
        series: series.name,
        version: Ok(kernel.version),
        steps,
        broken: outcome.err().map(|error| format!("{error:#}")),
    };
    println!(
        "   {}: {} failures, {} s, {}",
        series.name,
        report.failures(demos),
        start.elapsed().as_secs(),
        log.display()
    );
    Ok(report)
}

/// Where guests find what they run.
struct Places {
    binary: PathBuf,
    tests: PathBuf,
}

/// Copies of the executables, so that those who build meanwhile do not change what guests run. Tests look for their actor in the
/// folder above their own.
fn copies(programs: &Programs<'_>) -> Result<Places> {
    let folder = workspace::target().join("kernels/run");
    let tests = folder.join("deps");
    fs::create_dir_all(&tests)?;
    let folder = folder.canonicalize()?;
    let copy = |from: &Path, to: PathBuf| -> Result<PathBuf> {
        // A new file: one that a guest has open stays as it is.
        let _ = fs::remove_file(&to);
        fs::copy(from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        Ok(to)
    };
    for name in ["batch", "programs"] {
        let from = (programs.tests)(name).with_context(|| format!("no test executable {name}"))?;
        if name == "batch" {
            let actor = from.ancestors().nth(2).context("tests stand in target/PROFILE/deps")?.join("actor");
            copy(&actor, folder.join("actor"))?;
        }
        copy(&from, tests.join(name))?;
    }
    let binary = copy(programs.binary, folder.join("ipctrace"))?;
    Ok(Places { binary, tests: folder.join("deps") })
}

/// What is run in a kernel.
fn steps(series: &Series, extent: Extent, only: &[String]) -> Vec<&'static str> {
    let wanted = |step: &str| match extent {
        _ if !only.is_empty() => step == "doctor" || only.iter().any(|one| one == step),
        Extent::All => true,
        Extent::Part => match step {
            "syscall" | "object" => series.both_sets,
            _ => true,
        },
    };
    STEPS.into_iter().filter(|step| wanted(step)).collect()
}

/// What the guest runs.
fn script(steps: &[&str], programs: &Places, demos: &[report::Demo]) -> String {
    let names: Vec<&str> = demos.iter().map(|(name, _)| name.as_str()).collect();
    format!(
        "cd '{}'\nIPCTRACE='{}'\nTESTS='{}'\nDEMOS='{}'\nSTEPS='{}'\nSEEDS=3\n{}",
        workspace::root().display(),
        programs.binary.display(),
        programs.tests.display(),
        names.join(" "),
        steps.join(" "),
        include_str!("kernels/run.sh")
    )
}
