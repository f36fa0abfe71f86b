//! Counters: whose units a read took.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "eventfd_of_two_writers", play: two_writers },
    Scenario { name: "eventfd_as_semaphore", play: semaphore },
    Scenario { name: "eventfd_ping_pong", play: ping_pong },
    Scenario { name: "eventfd_that_refuses", play: refuses },
    Scenario { name: "eventfd_numbers_are_used_again", play: used_again },
];

fn took(stage: &Stage, counter: impl AsFd, from: Party, value: u64, messages: u64) -> Result<()> {
    let channel = stage::eventfd_id(counter)?;
    stage.tell(&Truth::Units { channel, from, to: stage.me(), value, messages })
}

/// Ones of one, thousands of the other: the reader knows how much is of whom.
fn two_writers(stage: &Stage) -> Result<()> {
    let counter = EventFd::new()?;
    let mut children = Vec::new();
    for (index, (name, value)) in [("ones", 1u64), ("thousands", 1000)].into_iter().enumerate() {
        children.push(stage.child(name, |stage| {
            stage.put(index, u64::from(stage.mark()));
            stage.wait_for(0, 1)?;
            for _ in 0..400 {
                write(&counter, &value.to_ne_bytes())?;
            }
            Ok(())
        })?);
    }
    children.push(stage.child("reader", |stage| {
        stage.wait_until(|| (0..2).all(|index| stage.get(index) != 0))?;
        stage.raise(0);
        let mut sum = 0;
        while sum < 400 * 1001 {
            sum += counter.read()?;
        }
        for (index, value) in [1, 1000].into_iter().enumerate() {
            let from = Party::Mark(u8::try_from(stage.get(index))?);
            took(stage, &counter, from, 400 * value, 400)?;
        }
        Ok(())
    })?);
    stage.reap(&children)
}

/// What it is made with is its maker's; two others take one at a time, of two writers one after the other.
fn semaphore(stage: &Stage) -> Result<()> {
    let counter = EventFd::from_value_and_flags(2, EfdFlags::EFD_SEMAPHORE)?;
    for index in 0..2 {
        let writer = stage.child(&format!("writer-{index}"), |stage| {
            stage.put(index, u64::from(stage.mark()));
            write(&counter, &3u64.to_ne_bytes())?;
            Ok(())
        })?;
        stage.reap(&[writer])?;
    }
    let maker = std::process::id();
    let from = |stage: &Stage, index| -> Result<Party> { Ok(Party::Mark(u8::try_from(stage.get(index))?)) };
    let take = |count| -> Result<()> {
        for _ in 0..count {
            ensure!(counter.read()? == 1, "one at a time");
        }
        Ok(())
    };
    let first = stage.child("taker-a", |stage| {
        take(4)?;
        took(stage, &counter, Party::Pid(maker), 2, 2)?;
        took(stage, &counter, from(stage, 0)?, 2, 2)
    })?;
    stage.reap(&[first])?;
    let second = stage.child("taker-b", |stage| {
        take(3)?;
        took(stage, &counter, from(stage, 0)?, 1, 1)?;
        took(stage, &counter, from(stage, 1)?, 2, 2)?;
        stage.tell(&Truth::Units {
            channel: stage::eventfd_id(&counter)?,
            from: from(stage, 1)?,
            to: Party::None("unread".to_owned()),
            value: 1,
            messages: 1,
        })
    })?;
    stage.reap(&[second])
}

/// Each waits in read for the other, so that reads are over before the writes that end them.
fn ping_pong(stage: &Stage) -> Result<()> {
    const ROUNDS: u64 = 300;
    let counters = [EventFd::new()?, EventFd::new()?];
    let mut children = Vec::new();
    for index in 0..2 {
        let counters = &counters;
        children.push(stage.child(&format!("player-{index}"), |stage| {
            let (own, other) = (&counters[index], &counters[1 - index]);
            stage.put(index, u64::from(stage.mark()));
            stage.wait_until(|| (0..2).all(|index| stage.get(index) != 0))?;
            let mut sum = 0;
            for round in 1..=ROUNDS {
                if index == 0 {
                    write(other, &round.to_ne_bytes())?;
                }
                let value = own.read()?;
                ensure!(value == round, "{value} came in round {round}");
                sum += value;
                if index == 1 {
                    write(other, &round.to_ne_bytes())?;
                }
            }
            let from = Party::Mark(u8::try_from(stage.get(1 - index))?);
            took(stage, own, from, sum, ROUNDS)
        })?);
    }
    stage.reap(&children)
}

/// A read of nothing, a write too many and a buffer too short move nothing; the largest value and several in one call do.
fn refuses(stage: &Stage) -> Result<()> {
    let counter = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    let several = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    ensure!(counter.read() == Err(Errno::EAGAIN), "nothing is in it");
    let writer = stage.child("writer", |stage| {
        stage.put(0, u64::from(stage.mark()));
        write(&counter, &(u64::MAX - 1).to_ne_bytes())?;
        ensure!(write(&counter, &1u64.to_ne_bytes()) == Err(Errno::EAGAIN), "it is full");
        ensure!(write(&counter, &[1, 2, 3]) == Err(Errno::EINVAL), "too short");
        let (one, two) = (5u64.to_ne_bytes(), 6u64.to_ne_bytes());
        let buffers = [std::io::IoSlice::new(&one), std::io::IoSlice::new(&two)];
        ensure!(nix::sys::uio::writev(&several, &buffers)? == 16, "both are written");
        Ok(())
    })?;
    stage.reap(&[writer])?;
    let from = || -> Result<Party> { Ok(Party::Mark(u8::try_from(stage.get(0))?)) };
    ensure!(read(&counter, &mut [0; 4]) == Err(Errno::EINVAL), "too short");
    ensure!(counter.read()? == u64::MAX - 1);
    took(stage, &counter, from()?, u64::MAX - 1, 1)?;
    ensure!(several.read()? == 11);
    took(stage, &several, from()?, 11, 2)
}

/// A new counter often has the number, and the place in memory, of one that is gone.
fn used_again(stage: &Stage) -> Result<()> {
    for round in 0..20u64 {
        let counter = EventFd::new()?;
        let writer = stage.child(&format!("writer-{round}"), |stage| {
            write(&counter, &(round + 1).to_ne_bytes())?;
            let channel = stage::eventfd_id(&counter)?;
            let from = stage.me();
            if round % 2 == 1 {
                stage.put(0, u64::from(stage.mark()));
                return Ok(());
            }
            let to = Party::None("unread".to_owned());
            stage.tell(&Truth::Units { channel, from, to, value: round + 1, messages: 1 })
        })?;
        stage.reap(&[writer])?;
        if round % 2 == 1 {
            ensure!(counter.read()? == round + 1);
            took(stage, &counter, Party::Mark(u8::try_from(stage.get(0))?), round + 1, 1)?;
        }
    }
    Ok(())
}
