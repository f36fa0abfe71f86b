//! The scenarios of `attribution`, the demos' workloads and seeds of `oracle`, many under one trace of the whole host:
//! see `ipctrace_tests::batch`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::DEMOS;
use ipctrace_tests::batch::{Outcome, Recorded, Workload, record};
use ipctrace_tests::oracle::Cast;
use ipctrace_tests::scenarios::{IN_THE_MIDDLE, SCENARIOS};
use ipctrace_tests::skip;
use ipctrace_tests::trace::Impossible;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// So many seeds that nobody has tried, or the one that `IPCTRACE_SEED` names.
fn seeds(cast: Cast, count: u64) -> Result<Vec<Workload>> {
    let operations = number("IPCTRACE_OPERATIONS").unwrap_or(4000);
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 % 1_000_000_000;
    let seeds = match number("IPCTRACE_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + count,
    };
    Ok(seeds.map(|seed| Workload::Seed(cast, seed, operations)).collect())
}

/// Everything. `IPCTRACE_WORKLOADS` names fewer, `IPCTRACE_TIMES` says how often each is played.
fn everything() -> Result<Vec<Workload>> {
    let wanted = std::env::var("IPCTRACE_WORKLOADS").ok();
    let wanted = |name: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
    let all = |scenarios: &'static [&'static [ipctrace_tests::scenarios::Scenario]]| {
        scenarios.iter().flat_map(|scenarios| scenarios.iter())
    };
    let in_the_middle = all(IN_THE_MIDDLE).map(|scenario| Workload::InTheMiddle(scenario.name));
    let scenarios = all(SCENARIOS).map(|scenario| Workload::Scenario(scenario.name));
    let demos = DEMOS.iter().map(|demo| Workload::Demo(demo.name, demo.mechanisms));
    let mut everything: Vec<Workload> = in_the_middle.chain(scenarios).chain(demos).collect();
    everything.retain(|workload| wanted(&workload.name()));
    let times = number("IPCTRACE_TIMES").unwrap_or(1) as usize;
    everything = everything.iter().flat_map(|workload| vec![workload.clone(); times]).collect();
    if wanted("seeds") {
        everything.extend(seeds(Cast::Members, number("IPCTRACE_SEEDS").unwrap_or(2))?);
    }
    // By name only: where processors stop at any instruction, as emulated ones do, one in ten still finds something
    // (docs/limitations.md).
    if std::env::var("IPCTRACE_WORKLOADS").is_ok() && wanted("couples") {
        everything.extend(seeds(Cast::Couples, number("IPCTRACE_SEEDS").unwrap_or(2))?);
    }
    Ok(everything)
}

/// All scenarios, all demos, and seeds: what `cargo xtask test --kernels` runs where each start of a tracer takes a minute.
#[test]
#[ignore = "each scenario is a test of its own in `attribution`, each seed in `oracle`"]
fn all_under_one_trace() -> Result<()> {
    told(record(&everything()?, &[]))
}

/// Seeds with every call told of by itself.
#[test]
#[ignore = "as the other"]
fn seeds_call_by_call() -> Result<()> {
    told(record(&seeds(Cast::Members, number("IPCTRACE_SEEDS").unwrap_or(2))?, &["--every"]))
}

/// Tells what came of it.
fn told(recorded: Result<Recorded>) -> Result<()> {
    match recorded {
        // A kernel that does not have the hooks that are to be used is no failure.
        Err(error) if hooks_are_chosen() && error.is::<Impossible>() => {
            println!("\nrefused {}", format!("{error:#}").replace('\n', " "));
            skip("batch", "the kernel does not have these hooks")
        }
        recorded => recorded?.tell(),
    }
}

fn hooks_are_chosen() -> bool {
    std::env::var_os("IPCTRACE_HOOKS").is_some()
}

/// The names of those that failed.
fn failed(recorded: &Recorded) -> Vec<String> {
    let verdicts = recorded.verdicts().into_iter();
    verdicts.filter(|one| matches!(one.outcome, Outcome::Failed(_))).map(|one| one.name).collect()
}

/// Some of each kind pass, and each has a verdict of its own: one that fails leaves the others alone, and what is amiss in the trace
/// of one is found there.
#[test]
fn each_has_its_own_verdict() -> Result<()> {
    // Each has a channel with one writer and one reader, of which nothing is in doubt that would hide a fault.
    let connected = Workload::Scenario("connected_by_the_parent");
    let children = Workload::Scenario("socketpair_of_the_parent");
    let fails = Workload::Scenario("no such scenario");
    let some = [
        Workload::InTheMiddle(IN_THE_MIDDLE[0][0].name),
        connected.clone(),
        fails.clone(),
        Workload::Scenario("ctrl_c_at_a_terminal"),
        children.clone(),
        Workload::Demo(DEMOS[0].name, DEMOS[0].mechanisms),
        Workload::Seed(Cast::Members, 1, 200),
    ];
    let mut recorded = record(&some, &[])?;
    // With the trace as a whole, and what else is looked at in one of them.
    ensure!(recorded.verdicts().len() == some.len() + 2);
    ensure!(failed(&recorded) == [fails.name()], "{:?}", recorded.verdicts());
    ensure!(recorded.tell().is_err(), "one failed");
    let a_transfer = |recorded: &Recorded, workload: &Workload| {
        let is_its_own = |line: &usize| {
            let line = &recorded.lines[*line];
            line["mechanism"] == "unix_stream" && line["sender"].is_object() && line["receiver"].is_object()
        };
        recorded.lines_of(workload).into_iter().find(is_its_own)
    };
    let (one, other) = a_transfer(&recorded, &connected)
        .zip(a_transfer(&recorded, &children))
        .context("nothing was traced of them")?;
    // One is credited to the process of another.
    let sender = recorded.lines[other]["sender"].clone();
    let right = std::mem::replace(&mut recorded.lines[one]["sender"], sender);
    ensure!(failed(&recorded) == [connected.name(), fails.name()], "{:?}", recorded.verdicts());
    recorded.lines[one]["sender"] = right;
    // One is missing.
    recorded.lines.remove(other);
    ensure!(failed(&recorded) == [fails.name(), children.name()], "{:?}", recorded.verdicts());
    Ok(())
}
