//! Many workloads under one trace of the whole host, one after the other: for machines on which a tracer takes long to start.
//!
//! Each is held to what it says of itself, as it would be under a trace of its own: to the whole trace but for what others did.
//! Another's is a line all of whose processes were started by others. A line with a process of this workload is its own, whoever
//! is at its other end, and one without any of theirs is everybody's.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::{self, Truth};
use ipctrace_common::Mechanism;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::oracle::Cast;
use crate::scenarios::{BESIDES, InTheMiddle, impossible, playing};
use crate::trace::{Scratch, Trace, said};
use crate::{binary, check, kernel, oracle, skip};

/// Names a file that is to get the trace.
const KEEP: &str = "IPCTRACE_KEEP";

/// Why it says nothing that a workload's trace differs.
const PREEMPTED: &str =
    "calls were lost, as the trace says: tasks are preempted in programs on functions here";

/// Something to play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A scenario.
    Scenario(&'static str),
    /// A scenario that begins before tracing does.
    InTheMiddle(&'static str),
    /// A bundled demo, of these mechanisms.
    Demo(&'static str, &'static [Mechanism]),
    /// A workload that is made from a seed, with so many operations.
    Seed(Cast, u64, u64),
}

impl Workload {
    /// What it is called.
    pub fn name(&self) -> String {
        match self {
            Workload::Scenario(name) | Workload::InTheMiddle(name) => (*name).to_owned(),
            Workload::Demo(name, _) => format!("demo {name}"),
            Workload::Seed(Cast::Members, seed, _) => format!("seed {seed}"),
            Workload::Seed(Cast::Couples, seed, _) => format!("couples, seed {seed}"),
        }
    }

    /// Why it cannot be played here, if it cannot.
    fn impossible(&self) -> Option<&'static str> {
        match self {
            Workload::Scenario(name) | Workload::InTheMiddle(name) => impossible(name),
            Workload::Demo(name, mechanisms) => {
                let rings = || kernel::rings_off().filter(|_| *name == ipctrace::demo::THROUGH_RINGS);
                mechanisms.iter().find_map(|mechanism| kernel::off(*mechanism)).or_else(rings)
            }
            Workload::Seed(..) => None,
        }
    }

    /// Plays it to its end.
    fn play(&self, mechanisms: &[String], report: &Path) -> Result<()> {
        let ended = match self {
            Workload::Scenario(name) | Workload::InTheMiddle(name) => playing(name, report)?.output()?,
            Workload::Demo(name, _) => Command::new(binary()?)
                .args(["__demo-workload", name])
                .arg(report)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .output()?,
            Workload::Seed(cast, seed, operations) => {
                return oracle::play_apart(*cast, *seed, *operations, mechanisms, report);
            }
        };
        well(&ended)
    }

    /// Holds the lines to what it says of itself; gives the mechanisms that were used, of a failure of a seed those concerned.
    fn compare(&self, report: &Path, lines: &[Value]) -> (BTreeSet<String>, Outcome) {
        if let Workload::Seed(..) = self {
            return match oracle::compare_one(report, lines) {
                Ok((used, outcome)) => (used, outcome.map(drop).into()),
                Err(error) => (BTreeSet::new(), Err(error).into()),
            };
        }
        let truth = match truth::read(report) {
            Ok(truth) => truth,
            Err(error) => return (BTreeSet::new(), Err(error).into()),
        };
        let used = truth.iter().filter_map(mechanism).collect();
        let outcome = match kernel::possible(truth) {
            Ok(truth) => check::compare(&truth, lines).into(),
            Err(reason) => Outcome::Skipped(reason),
        };
        (used, outcome)
    }
}

fn well(ended: &Output) -> Result<()> {
    ensure!(ended.status.success(), "the workload ended with {}: {}", ended.status, said(ended));
    Ok(())
}

/// The mechanism of which a process tells.
fn mechanism(truth: &Truth) -> Option<String> {
    let named = |name: &str| Mechanism::ALL.iter().any(|mechanism| mechanism.name() == name);
    match truth {
        Truth::Sent { mechanism, .. } | Truth::Transfer { mechanism, .. } | Truth::Wake { mechanism, .. } => {
            Some(mechanism.clone())
        }
        Truth::Units { .. } => Some(Mechanism::Eventfd.name().to_owned()),
        // That the kernel tells a parent of its child's end is what all have.
        Truth::Signal { signal, .. } => (signal != "SIGCHLD").then(|| Mechanism::Signal.name().to_owned()),
        Truth::Share { channel, .. } | Truth::Evidence { channel, .. } => {
            channel.split(':').next().filter(|name| named(name)).map(str::to_owned)
        }
        Truth::Member { .. } | Truth::Named { .. } | Truth::Handoff { .. } => None,
    }
}

/// What came of a workload.
#[derive(Debug)]
pub enum Outcome {
    /// The trace says what it did.
    Passed,
    /// Why it could not be played.
    Skipped(&'static str),
    /// How the trace differs, or why there is nothing to compare.
    Failed(String),
}

impl From<Result<()>> for Outcome {
    fn from(result: Result<()>) -> Outcome {
        result.map_or_else(|error| Outcome::Failed(format!("{error:#}")), |()| Outcome::Passed)
    }
}

/// The same, with whose it is.
#[derive(Debug)]
pub struct Verdict {
    /// The workload's name, or what else was looked at.
    pub name: String,
    /// The mechanisms that it used; of a seed at which trace and truth differ those at which they do.
    pub mechanisms: BTreeSet<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Workloads that were played, and what was traced of them.
#[derive(Debug)]
pub struct Recorded {
    played: Vec<Played>,
    times: Times,
    /// The trace, line by line.
    pub lines: Vec<Value>,
    /// How long the tracer took to start, and all workloads to be played.
    took: [Duration; 2],
}

/// A workload that was played, or not.
#[derive(Debug)]
struct Played {
    workload: Workload,
    report: Scratch,
    ended: Result<()>,
    skipped: Option<&'static str>,
}

/// When processes of workloads were started, ns since boot, in that order: from, to, and which workload's they are.
#[derive(Debug, Default)]
struct Times(Vec<(u64, u64, usize)>);

impl Times {
    /// Does something in which processes of this workload are started.
    fn of<T>(&mut self, workload: usize, play: impl FnOnce() -> T) -> Result<T> {
        let from = now()?;
        let done = play();
        self.0.push((from, now()?, workload));
        Ok(done)
    }

    /// Whose process this is, if it is a workload's.
    fn owner(&self, process: &Value) -> Option<usize> {
        let start = process["start"].as_u64()?;
        let (_, to, workload) =
            self.0.get(self.0.partition_point(|(from, ..)| *from <= start).checked_sub(1)?)?;
        (start <= *to).then_some(*workload)
    }

    /// The workloads that have a process in this line.
    fn owners(&self, line: &Value) -> Vec<usize> {
        ["sender", "receiver", "process"].iter().filter_map(|end| self.owner(&line[end])).collect()
    }
}

fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The trace but for what others did.
fn own(workload: usize, lines: &[Value], owners: &[Vec<usize>]) -> Vec<Value> {
    let is_own = |owners: &[usize]| owners.is_empty() || owners.contains(&workload);
    lines.iter().zip(owners).filter(|(_, owners)| is_own(owners)).map(|(line, _)| line.clone()).collect()
}

/// Plays all of them under one trace.
///
/// # Errors
/// If the trace cannot be started, or fails.
pub fn record(workloads: &[Workload], options: &[&str]) -> Result<Recorded> {
    let mut times = Times::default();
    let mut played: Vec<Played> = workloads
        .iter()
        .map(|workload| {
            let skipped = workload.impossible();
            Played { workload: workload.clone(), report: Scratch::new(".report"), ended: Ok(()), skipped }
        })
        .collect();
    let mut waiting = Vec::new();
    for (index, one) in played.iter_mut().enumerate().filter(|(_, one)| one.skipped.is_none()) {
        if let Workload::InTheMiddle(name) = one.workload {
            match times.of(index, || InTheMiddle::start(name, one.report.path()))? {
                Ok(scenario) => waiting.push((index, scenario)),
                Err(error) => one.ended = Err(error),
            }
        }
    }
    let start = Instant::now();
    let trace = Trace::start(options)?;
    let started = Instant::now();
    let mechanisms = trace.mechanisms()?;
    for (index, scenario) in waiting {
        played[index].ended = times.of(index, || well(&scenario.go_on()?))?;
    }
    for (index, one) in played.iter_mut().enumerate().filter(|(_, one)| one.skipped.is_none()) {
        if !matches!(one.workload, Workload::InTheMiddle(_)) {
            one.ended = times.of(index, || one.workload.play(&mechanisms, one.report.path()))?;
        }
    }
    let lines = trace.stop()?;
    Ok(Recorded { played, times, lines, took: [started - start, started.elapsed()] })
}

impl Recorded {
    /// One for each workload, and for what else is looked at in it; and one for the trace as a whole, which may not lose anything.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let owners: Vec<Vec<usize>> = self.lines.iter().map(|line| self.times.owners(line)).collect();
        let mut verdicts = vec![Verdict {
            name: "losses".to_owned(),
            mechanisms: BTreeSet::new(),
            outcome: check::nothing_lost(&self.lines).into(),
        }];
        for (index, one) in self.played.iter().enumerate() {
            let name = one.workload.name();
            if let Some(reason) = one.skipped {
                let outcome = Outcome::Skipped(reason);
                verdicts.push(Verdict { name, mechanisms: BTreeSet::new(), outcome });
                continue;
            }
            let lines = own(index, &self.lines, &owners);
            let (mechanisms, outcome) = one.workload.compare(one.report.path(), &lines);
            let outcome = match &one.ended {
                Ok(()) => outcome,
                Err(error) => Outcome::Failed(format!("{error:#}")),
            };
            for (test, _, look) in BESIDES.iter().filter(|(_, scenario, _)| *scenario == name) {
                let outcome = match outcome {
                    Outcome::Skipped(reason) => Outcome::Skipped(reason),
                    Outcome::Passed | Outcome::Failed(_) => look(&lines).into(),
                };
                verdicts.push(Verdict { name: (*test).to_owned(), mechanisms: mechanisms.clone(), outcome });
            }
            verdicts.push(Verdict { name, mechanisms, outcome });
        }
        verdicts
    }

    /// Where the lines stand that a workload has a process in.
    pub fn lines_of(&self, workload: &Workload) -> Vec<usize> {
        let is_its = |line: &&usize| {
            let owners = self.times.owners(&self.lines[**line]);
            owners.iter().any(|owner| self.played[*owner].workload == *workload)
        };
        (0..self.lines.len()).filter(|line| is_its(&line)).collect()
    }

    /// The workloads that took longest, s.
    fn slowest(&self) -> Vec<(String, f64)> {
        let mut took: Vec<_> = (0..self.played.len())
            .map(|index| {
                let its = self.times.0.iter().filter(|(.., workload)| *workload == index);
                let took: u64 = its.map(|(from, to, _)| to - from).sum();
                (self.played[index].workload.name(), took as f64 / 1e9)
            })
            .collect();
        took.sort_by(|one, other| other.1.total_cmp(&one.1));
        took.truncate(10);
        took
    }

    /// Prints how each mechanism is traced, and a line for each verdict, as `cargo xtask test --kernels` reads them.
    ///
    /// # Errors
    /// With the names of those that failed, and if nothing was compared, unless for losses that the trace tells of.
    pub fn tell(&self) -> Result<()> {
        // Behind the name of the test nothing is looked for.
        println!();
        let hello = self.lines.first().context("no first line")?;
        for (name, state) in hello["mechanisms"].as_object().context("hello without mechanisms")? {
            let hooks = hello["hooks"][name].as_str().unwrap_or("-");
            println!("traced {name} {hooks} {}", state.as_str().unwrap_or_default());
        }
        let start = Instant::now();
        let verdicts = self.verdicts();
        let (mut failed, mut passed) = (Vec::new(), 0);
        // What is said to be lost can be any workload's: what agrees all the same passed, what does not says nothing.
        let is_told = |line: &Value| line["type"] == "end" && line["lost"]["recursion"].as_u64() > Some(0);
        let lossy = kernel::programs_are_preempted() && self.lines.iter().any(is_told);
        for verdict in &verdicts {
            let mechanisms: Vec<&str> = verdict.mechanisms.iter().map(String::as_str).collect();
            let of = format!("{}: [{}]", verdict.name, mechanisms.join(" "));
            match &verdict.outcome {
                Outcome::Passed => {
                    passed += 1;
                    println!("played {of} passed");
                }
                Outcome::Skipped(reason) => println!("played {of} skipped: {reason}"),
                Outcome::Failed(reason) if lossy => {
                    println!("{}: {reason}", verdict.name);
                    println!("played {of} skipped: {PREEMPTED}");
                }
                Outcome::Failed(reason) => {
                    failed.push(verdict.name.as_str());
                    println!("played {of} FAILED: {reason}");
                }
            }
        }
        if let Some(file) = std::env::var_os(KEEP) {
            let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(file, text)?;
        }
        for (name, seconds) in self.slowest() {
            println!("{name} took {seconds:.1} s");
        }
        println!(
            "{} lines; the tracer's start took {:.1?}, playing {:.1?}, comparing {:.1?}",
            self.lines.len(),
            self.took[0],
            self.took[1],
            start.elapsed()
        );
        ensure!(failed.is_empty(), "the trace differs from what was done: {}", failed.join(", "));
        if passed <= 1 && lossy {
            return skip("batch", PREEMPTED);
        }
        ensure!(passed > 1, "nothing was compared");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines() -> Vec<Value> {
        let end = |pid: u32, start: u64| json!({ "pid": pid, "start": start });
        vec![
            json!({ "type": "hello" }),
            json!({ "sender": end(5, 110), "receiver": end(6, 120) }),
            // The number was used again.
            json!({ "sender": end(5, 210), "receiver": end(7, 220) }),
            json!({ "sender": end(5, 110), "receiver": end(7, 220) }),
            json!({ "sender": end(5, 110), "receiver": null }),
            json!({ "sender": end(8, 150), "receiver": end(9, 205) }),
            json!({ "process": end(7, 220) }),
            json!({ "sender": end(1, 3), "receiver": end(5, 0) }),
        ]
    }

    #[test]
    fn what_others_did_is_left_out_and_nothing_else_is() {
        let times = Times(vec![(100, 130, 0), (200, 230, 1), (240, 250, 0)]);
        let lines = lines();
        let owners: Vec<_> = lines.iter().map(|line| times.owners(line)).collect();
        let of = |workload| -> Vec<usize> {
            let own = own(workload, &lines, &owners);
            (0..lines.len()).filter(|index| own.contains(&lines[*index])).collect()
        };
        // What crosses from one to the other is held against both.
        assert_eq!(of(0), [0, 1, 3, 4, 7]);
        assert_eq!(of(1), [0, 2, 3, 5, 6, 7]);
        assert_eq!(times.owner(&json!({ "start": 245 })), Some(0));
        assert_eq!([99, 131, 231, 251].map(|start| times.owner(&json!({ "start": start }))), [None; 4]);
    }
}
