//! `sysv_sem`: a baton that goes round.

use anyhow::Result;
use ipctrace_common::Mechanism;
use nix::unistd::Pid;

use super::Demo;
use super::stage::{AT_SEMAPHORES, Semaphores, Stage};
use super::truth::Truth;

pub(super) const DEMO: Demo = Demo {
    name: "sysv_sem",
    summary: "three runners pass a baton by System V semaphores",
    story: "Each waits (semop -1) until the one before it is there (semop +1). Look for who wakes whom, and for how long\n\
            the woken had waited.",
    mechanisms: &[Mechanism::SysvSem],
    play,
};

const RUNNERS: [&str; 3] = ["runner-a", "runner-b", "runner-c"];
const ROUNDS: usize = 4;

fn play(stage: &Stage) -> Result<()> {
    // A key of our own, by which the set is named.
    let key = 0x4000_0000 | std::process::id() as i32;
    let set = Semaphores::new(key, RUNNERS.len() as i32)?;
    stage.tell(&Truth::Named { channel: set.channel(), name: format!("{key:#x}") })?;
    let mut runners = Vec::new();
    for (index, name) in RUNNERS.iter().enumerate() {
        runners.push(stage.child(name, |stage| {
            stage.wait_for(0, 1)?;
            run(stage, &set, index)
        })?);
    }
    for (index, runner) in runners.iter().enumerate() {
        stage.put(10 + index, runner.as_raw() as u64);
    }
    stage.raise(0);
    pass(stage, &set, 0)?;
    stage.reap(&runners)
}

fn run(stage: &Stage, set: &Semaphores, index: usize) -> Result<()> {
    for round in 1..=ROUNDS {
        stage.woken("sysv_sem", Some(set.channel()), index, || Ok(set.change(index as u16, -1, 0)?))?;
        if (index, round) != (RUNNERS.len() - 1, ROUNDS) {
            pass(stage, set, (index + 1) % RUNNERS.len())?;
        }
    }
    Ok(())
}

/// Hands the baton to a runner that waits for it.
fn pass(stage: &Stage, set: &Semaphores, to: usize) -> Result<()> {
    let runner = Pid::from_raw(stage.get(10 + to) as i32);
    stage.wake(to, &[runner], AT_SEMAPHORES, || Ok(set.change(to as u16, 1, 0)?))
}
