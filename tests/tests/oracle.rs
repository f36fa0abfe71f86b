//! Workloads made from seeds, which know their own truth: see `ipctrace_tests::oracle`.
//!
//! `IPCTRACE_SEED` plays one seed, `IPCTRACE_SEEDS` so many fresh ones, `IPCTRACE_OPERATIONS` sets their length,
//! `IPCTRACE_MECHANISMS` which mechanisms they use.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use ipctrace_tests::oracle::{
    Cast, MECHANISMS, Recorded, Rivalry, Score, record, story, verify, verify_rivals, verify_with_losses,
};
use serde_json::Value;

/// Seeds that found something once.
const FOUND: &[u64] = &[861_292_622, 162_106_136, 319_854_984, 132_932_229, 852_273_430];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds to play: the one that was asked for, or fresh ones.
fn seeds(count: u64) -> Result<Vec<u64>> {
    if let Some(seed) = number("IPCTRACE_SEED") {
        return Ok(vec![seed]);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let count = number("IPCTRACE_SEEDS").unwrap_or(count);
    Ok((0..count).map(|index| now % 1_000_000_000 + index).collect())
}

fn tell(seed: u64, score: &Score) {
    println!(
        "seed {seed}: {} operations of {} members, {} signals, inexact {:?} of {:?} bytes",
        score.operations, score.members, score.signals, score.inexact, score.bytes
    );
}

/// Fresh seeds, half of them with every call told of by itself.
fn fresh(cast: Cast, count: u64) -> Result<()> {
    for seed in seeds(count)? {
        let operations = number("IPCTRACE_OPERATIONS").unwrap_or(4000);
        let options: &[&str] = if seed % 2 == 0 { &[] } else { &["--every"] };
        tell(seed, &verify(cast, MECHANISMS, seed, operations, options)?);
    }
    Ok(())
}

/// A fresh seed of each mechanism by itself.
fn alone(cast: Cast, operations: u64) -> Result<()> {
    let wanted = std::env::var("IPCTRACE_MECHANISMS").ok();
    let wanted = |name: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
    let mechanisms = MECHANISMS.iter().copied().filter(|name| wanted(name));
    for (mechanism, seed) in mechanisms.zip(seeds(MECHANISMS.len() as u64)?.into_iter().cycle()) {
        let operations = number("IPCTRACE_OPERATIONS").unwrap_or(operations);
        tell(seed, &verify(cast, &[mechanism], seed, operations, &[])?);
    }
    Ok(())
}

/// Seeds that nobody has tried: every byte, every message, every signal.
#[test]
fn fresh_seeds() -> Result<()> {
    fresh(Cast::Members, 6)
}

/// Seeds that found something once.
#[test]
fn seeds_that_found_something() -> Result<()> {
    for seed in FOUND {
        tell(*seed, &verify(Cast::Members, MECHANISMS, *seed, 6000, &[])?);
    }
    Ok(())
}

/// Each mechanism by itself, where its channels are busiest: that found what the mixture seldom does.
#[test]
fn each_mechanism_alone() -> Result<()> {
    alone(Cast::Members, 4000)
}

/// Channels that are made, used for a moment and closed: nothing that the kernel makes is taken for what stood there before.
#[test]
fn channels_made_anew() -> Result<()> {
    fresh(Cast::Couples, 4)
}

/// The same with one mechanism at a time, of which each object is at an address where another was.
#[test]
fn channels_of_each_mechanism_made_anew() -> Result<()> {
    alone(Cast::Couples, 2000)
}

/// The collector does not keep up: what is lost is said, and no byte is credited to the wrong process.
#[test]
fn after_losses_nothing_is_wrong() -> Result<()> {
    for seed in seeds(2)? {
        tell(seed, &verify_with_losses(seed, number("IPCTRACE_OPERATIONS").unwrap_or(4000))?);
    }
    Ok(())
}

/// Several send messages to a queue that nothing tells from each other, and several receive: who sent what is right, or in doubt.
#[test]
fn equal_messages_of_rivals_are_right_or_in_doubt() -> Result<()> {
    for (rivalry, senders, receivers, messages) in [
        (Rivalry::SysV, 2, 2, 10_000),
        (Rivalry::SysV, 3, 3, 5_000),
        (Rivalry::Posix, 2, 2, 10_000),
        (Rivalry::Unasked, 2, 2, 10_000),
        (Rivalry::Unasked, 3, 3, 5_000),
    ] {
        let (certain, all) = verify_rivals(rivalry, senders, receivers, messages)?;
        println!(
            "{rivalry:?}, {senders} senders, {receivers} receivers: {certain} of {all} messages certain"
        );
        ensure!(all == (senders * messages) as usize, "{all} messages");
    }
    Ok(())
}

/// The comparison can fail: each fault that a tracer could have is planted in a true trace, and found.
#[test]
fn planted_faults_are_found() -> Result<()> {
    let mut left: Vec<(&str, Plant)> = FAULTS.to_vec();
    // What is in doubt on a channel differs from run to run, and hides faults: not each run has a place for each of them.
    for _ in 0..8 {
        // Pipes, FIFOs and sockets with several writers.
        let recorded = record(FOUND[0], 4000, &["--every"])?;
        recorded.compare().context("as it was traced")?;
        let mut without = Vec::new();
        for (fault, plant) in left {
            let mut planted = recorded.clone();
            if plant(&mut planted).is_none() {
                without.push((fault, plant));
            } else if planted.compare().is_ok() {
                bail!("nothing was found amiss though {fault}");
            }
        }
        left = without;
        if left.is_empty() {
            return Ok(());
        }
    }
    let left: Vec<_> = left.iter().map(|(fault, _)| fault).collect();
    bail!("no trace has a place for the faults: {left:?}");
}

/// Of a difference the shortest story is told: here one that shows from 250 operations on.
#[test]
fn the_shortest_story_is_told() -> Result<()> {
    const SHOWS: u64 = 250;
    let mut channels = HashSet::new();
    let told = story::compare(1000, |operations| {
        let mut recorded = record(FOUND[0], operations, &["--every"])?;
        let is_one = |line: &Value| line["type"] == "transfer" && recorded.has(&channel(line));
        let first = recorded.lines.iter().position(is_one);
        if let Some(index) = first.filter(|_| operations >= SHOWS) {
            channels.insert(channel(&recorded.lines.remove(index)));
        }
        Ok(recorded)
    });
    let Err(told) = told else { bail!("nothing was found amiss though an event was dropped") };
    let told = format!("{told:#}");
    ensure!(told.contains("had 250 operations"), "{told}");
    ensure!(channels.iter().any(|channel| told.contains(channel.as_str())), "{told}");
    Ok(())
}

type Plant = fn(&mut Recorded) -> Option<()>;

/// Faults, and how to plant them.
const FAULTS: &[(&str, Plant)] = &[
    ("two writers were swapped", |recorded| {
        let (one, other) = pair(recorded, |one, other| name(&one["sender"]) != name(&other["sender"]))?;
        let sender = recorded.lines[one]["sender"].clone();
        recorded.lines[one]["sender"] = std::mem::replace(&mut recorded.lines[other]["sender"], sender);
        Some(())
    }),
    ("two readers were swapped", |recorded| {
        let (one, other) = pair(recorded, |one, other| name(&one["receiver"]) != name(&other["receiver"]))?;
        let receiver = recorded.lines[one]["receiver"].clone();
        recorded.lines[one]["receiver"] = std::mem::replace(&mut recorded.lines[other]["receiver"], receiver);
        Some(())
    }),
    ("an event was dropped", |recorded| {
        let index = transfers(recorded).next()?;
        recorded.lines.remove(index);
        Some(())
    }),
    ("an event was told twice", |recorded| {
        let index = transfers(recorded).next()?;
        recorded.lines.insert(index, recorded.lines[index].clone());
        Some(())
    }),
    ("the parent was credited", |recorded| {
        let (pid, name) = recorded.parent().map(|(pid, name)| (pid, name.to_owned()))?;
        let index = transfers(recorded).find(|index| recorded.lines[*index]["sender"]["pid"] != pid)?;
        recorded.lines[index]["sender"]["pid"] = pid.into();
        recorded.lines[index]["sender"]["comm"] = name.into();
        Some(())
    }),
    ("one byte was missing", |recorded| {
        let index = transfers(recorded).find(|index| recorded.lines[*index]["bytes"].as_u64() > Some(1))?;
        recorded.lines[index]["bytes"] =
            recorded.lines[index]["bytes"].as_u64().map(|bytes| bytes - 1).into();
        Some(())
    }),
    ("a signal was dropped", |recorded| {
        let sent = recorded.lines.iter().position(|line| {
            line["type"] == "signal"
                && line["sender"]["comm"].as_str().is_some_and(|comm| comm.starts_with("oracle"))
        })?;
        recorded.lines.remove(sent);
        Some(())
    }),
];

/// Where the workload's transfers of which both ends are known stand among the lines, on channels of which all is certain.
fn transfers(recorded: &Recorded) -> impl Iterator<Item = usize> {
    let doubtful: HashSet<String> =
        recorded.lines.iter().filter(|line| line["exact"] == false).map(channel).collect();
    (0..recorded.lines.len()).filter(move |index| {
        let line: &Value = &recorded.lines[*index];
        line["type"] == "transfer"
            && !doubtful.contains(&channel(line))
            && line["sender"].is_object()
            && line["receiver"].is_object()
            && recorded.has(&channel(line))
    })
}

/// What tells members from each other; threads of one are the same.
fn name(process: &Value) -> &Value {
    &process["comm"]
}

fn channel(line: &Value) -> String {
    line["channel"]["id"].as_str().unwrap_or_default().to_owned()
}

/// Two such transfers through one channel, of different length, that differ in some other way too.
fn pair(recorded: &Recorded, differ: impl Fn(&Value, &Value) -> bool) -> Option<(usize, usize)> {
    let lines = &recorded.lines;
    let all: Vec<usize> = transfers(recorded).collect();
    all.iter().find_map(|&one| {
        let fits = |other: &&usize| {
            let (one, other) = (&lines[one], &lines[**other]);
            one["channel"]["id"] == other["channel"]["id"]
                && one["bytes"] != other["bytes"]
                && differ(one, other)
        };
        Some((one, *all.iter().find(fits)?))
    })
}
