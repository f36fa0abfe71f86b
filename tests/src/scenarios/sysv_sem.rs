//! System V semaphores: who really let whom go on.

use std::time::Duration;

use anyhow::{Result, ensure};
use ipctrace::demo::stage::{AT_SEMAPHORES, Semaphores, sits_in};
use ipctrace::demo::truth::Truth;
use ipctrace::demo::{Stage, stage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "semaphores_between_three", play: between_three },
    Scenario { name: "semaphore_waits_that_fail", play: that_fail },
    Scenario { name: "semaphore_set_by_semctl", play: by_semctl },
    Scenario { name: "semaphore_undone_by_the_dead", play: undone },
    Scenario { name: "semaphores_of_two_namespaces", play: two_namespaces },
];

fn errno(outcome: std::io::Result<()>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

/// Two wait for three: whoever adds the last one wakes, not whoever added before.
fn between_three(stage: &Stage) -> Result<()> {
    let key = 0x5100_0000 | std::process::id() as i32;
    let set = Semaphores::new(key, 1)?;
    stage.tell(&Truth::Named { channel: set.channel(), name: format!("{key:#x}") })?;
    let waiter = stage.child("waiter", |stage| {
        for _ in 0..3 {
            stage.woken("sysv_sem", Some(set.channel()), 0, || Ok(set.change(0, -2, 0)?))?;
        }
        // What is there already is not waited for.
        set.change(0, 1, 0)?;
        set.change(0, -1, 0)?;
        Ok(())
    })?;
    let first = stage.child("first", |stage| {
        for round in 1..=3 {
            stage.wait_for(1, round)?;
            stage.wait_until(|| sits_in(waiter, AT_SEMAPHORES))?;
            set.change(0, 1, 0)?;
            stage.raise(2);
        }
        Ok(())
    })?;
    let last = stage.child("last", |stage| {
        for round in 1..=3 {
            stage.wait_for(32, round)?;
            stage.raise(1);
            stage.wait_for(2, round)?;
            stage.wake(0, &[waiter], AT_SEMAPHORES, || Ok(set.change(0, 1, 0)?))?;
        }
        Ok(())
    })?;
    stage.reap(&[waiter, first, last])
}

/// A wait that ran out of time, would not wait, or whose set was removed was ended by nobody.
fn that_fail(stage: &Stage) -> Result<()> {
    let set = Semaphores::new(libc::IPC_PRIVATE, 1)?;
    let waiter = stage.child("waiter", |stage| {
        let limit = Duration::from_millis(20);
        ensure!(errno(set.change_within(0, -1, limit)) == Some(libc::EAGAIN), "it was to time out");
        ensure!(errno(set.change(0, -1, libc::IPC_NOWAIT)) == Some(libc::EAGAIN), "it was not to wait");
        stage.woken("sysv_sem", Some(set.channel()), 0, || {
            Ok(set.change_within(0, -1, Duration::from_secs(20))?)
        })?;
        stage.raise(1);
        ensure!(errno(set.change(0, -1, 0)) == Some(libc::EIDRM), "it was to be removed");
        Ok(())
    })?;
    let waker = stage.child("waker", |stage| {
        stage.wake(0, &[waiter], AT_SEMAPHORES, || Ok(set.change(0, 1, 0)?))?;
        stage.wait_for(1, 1)?;
        stage.wait_until(|| sits_in(waiter, AT_SEMAPHORES))?;
        Ok(set.remove()?)
    })?;
    stage.reap(&[waiter, waker])
}

/// semctl(2) can let a process go on too.
fn by_semctl(stage: &Stage) -> Result<()> {
    let set = Semaphores::new(libc::IPC_PRIVATE, 2)?;
    let waiter = stage.child("waiter", |stage| {
        stage.woken("sysv_sem", Some(set.channel()), 0, || Ok(set.change(1, -4, 0)?))
    })?;
    let setter = stage.child("setter", |stage| {
        stage.wake(0, &[waiter], AT_SEMAPHORES, || {
            // SAFETY: SETVAL takes a number.
            ensure!(unsafe { libc::semctl(set.id(), 1, libc::SETVAL, 4) } == 0, "{}", Errno::last());
            Ok(())
        })
    })?;
    stage.reap(&[waiter, setter])
}

/// A process that dies with SEM_UNDO gives back what it took, and so wakes who waits for it.
fn undone(stage: &Stage) -> Result<()> {
    let set = Semaphores::new(libc::IPC_PRIVATE, 1)?;
    set.change(0, 1, 0)?;
    let holder = stage.child("holder", |stage| {
        set.change(0, -1, libc::SEM_UNDO)?;
        stage.put(5, u64::from(std::process::id()));
        loop {
            nix::unistd::pause();
        }
    })?;
    stage.wait_until(|| stage.get(5) != 0)?;
    let waiter = stage.child("waiter", |stage| {
        set.change(0, -1, 0)?;
        stage.tell(&Truth::Wake {
            mechanism: "sysv_sem".to_owned(),
            channel: Some(set.channel()),
            from: stage::party(holder),
            to: stage.me(),
            waited: None,
        })
    })?;
    stage.wait_until(|| sits_in(waiter, AT_SEMAPHORES))?;
    kill_and_tell(stage, holder)?;
    stage.reap(&[waiter])
}

/// Ends a child and reports that.
pub(super) fn kill_and_tell(stage: &Stage, child: nix::unistd::Pid) -> Result<()> {
    nix::sys::signal::kill(child, Signal::SIGKILL)?;
    stage.tell(&Truth::Signal {
        signal: "SIGKILL".to_owned(),
        from: stage.me(),
        to: stage::party(child),
        outcome: "delivered".to_owned(),
        value: None,
    })?;
    let end = stage.wait_for_end(child)?;
    ensure!(matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{end:?}");
    Ok(())
}

/// Sets of the same id and key in two IPC namespaces are two.
fn two_namespaces(stage: &Stage) -> Result<()> {
    let mut houses = Vec::new();
    for (index, name) in ["house-a", "house-b"].into_iter().enumerate() {
        houses.push(stage.child(name, |stage| {
            unshare(CloneFlags::CLONE_NEWIPC)?;
            let set = Semaphores::new(0x7777, 1)?;
            let channel = format!("sysv_sem:{}{}", set.id(), stage::space("ipc")?);
            stage.tell(&Truth::Named { channel: channel.clone(), name: "0x7777".to_owned() })?;
            stage.put(10 + index, set.id() as u64 + 1);
            let waiter = stage.child("waiter", |stage| {
                stage.woken("sysv_sem", Some(channel.clone()), index, || Ok(set.change(0, -1, 0)?))
            })?;
            stage.wake(index, &[waiter], AT_SEMAPHORES, || Ok(set.change(0, 1, 0)?))?;
            stage.reap(&[waiter])
        })?);
    }
    stage.reap(&houses)?;
    ensure!(stage.get(10) == stage.get(11), "the first set of each namespace has the same id");
    ensure!(stage.get(10) != 0);
    Ok(())
}
