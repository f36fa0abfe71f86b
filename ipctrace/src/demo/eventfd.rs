//! `eventfd`: counters that processes add to and take from.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use ipctrace_common::Mechanism;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Demo;
use super::stage::{self, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "eventfd",
    summary: "two writers add to a counter, a reader takes what has come together; a semaphore serves two",
    story: "A read takes all that was added since the last one, of whomever: one writer adds ones, the other thousands, so\n\
            that the reader knows. Each read of the semaphore takes 1. Look for the value behind each transfer.",
    mechanisms: &[Mechanism::Eventfd],
    play,
};

/// Writes of each writer, and what each adds.
const WRITERS: [(&str, u64, u64); 2] = [("ones", 300, 1), ("thousands", 200, 1000)];
/// What each taker takes of the semaphore.
const TAKERS: [(&str, u64); 2] = [("taker-a", 4), ("taker-b", 6)];

fn play(stage: &Stage) -> Result<()> {
    let counter = EventFd::new()?;
    let semaphore = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE)?;
    let mut children = Vec::new();
    for (index, (name, count, value)) in WRITERS.into_iter().enumerate() {
        children.push(stage.child(name, |stage| {
            stage.put(index, u64::from(stage.mark()));
            stage.wait_for(0, 1)?;
            for _ in 0..count {
                counter.write(value)?;
            }
            stage.sent("eventfd", usize::try_from(count * value)?, None)
        })?);
    }
    children.push(stage.child("reader", |stage| read_all(stage, &counter))?);
    let poster = stage.child("poster", |stage| {
        let all = TAKERS.iter().map(|(_, count)| count).sum();
        stage.put(WRITERS.len(), u64::from(stage.mark()));
        semaphore.write(all)?;
        stage.sent("eventfd", usize::try_from(all)?, None)
    })?;
    stage.reap(&[poster])?;
    for (name, count) in TAKERS {
        children.push(stage.child(name, |stage| {
            for _ in 0..count {
                ensure!(semaphore.read()? == 1, "a semaphore gives one at a time");
            }
            let from = Party::Mark(u8::try_from(stage.get(WRITERS.len()))?);
            took(stage, &semaphore, from, count, count)
        })?);
    }
    stage.reap(&children)
}

/// Reads until all has come. The sum says how much is of whom.
fn read_all(stage: &Stage, counter: &EventFd) -> Result<()> {
    let all: u64 = WRITERS.iter().map(|(_, count, value)| count * value).sum();
    // Both are to be at work at the same time.
    stage.wait_until(|| (0..WRITERS.len()).all(|index| stage.get(index) != 0))?;
    stage.raise(0);
    let mut sum = 0;
    while sum < all {
        sum += counter.read().context("reading the counter")?;
    }
    ensure!(sum == all, "{sum} of {all} came");
    for (index, (_, count, value)) in WRITERS.into_iter().enumerate() {
        took(stage, counter, Party::Mark(u8::try_from(stage.get(index))?), count * value, count)?;
    }
    Ok(())
}

fn took(stage: &Stage, counter: impl AsFd, from: Party, value: u64, messages: u64) -> Result<()> {
    let channel = stage::eventfd_id(counter)?;
    stage.tell(&Truth::Units { channel, from, to: stage.me(), value, messages })
}
