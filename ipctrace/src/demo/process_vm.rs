//! `process_vm`: one process looks into the memory of another, and changes it.

use std::io::{IoSlice, IoSliceMut};

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};

use super::Demo;
use super::stage::{self, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "process_vm",
    summary: "a process copies memory out of another and into it",
    story: "The other one takes no part in it: it sleeps, and finds its memory changed. As debuggers and MPI libraries do.",
    mechanisms: &[Mechanism::ProcessVm],
    play,
};

const READ: usize = 70_000;
const WRITTEN: usize = 321;

fn play(stage: &Stage) -> Result<()> {
    // At the same address in every process of the workload.
    let memory = vec![1u8; READ];
    let base = memory.as_ptr() as usize;
    let target = stage.child("target", |stage| {
        stage.raise(0);
        stage.wait_for(1, 1)?;
        // SAFETY: reads memory of its own, which another process may have changed: hence volatile.
        let first = unsafe { std::ptr::read_volatile(base as *const u8) };
        ensure!(first != 1, "nobody changed the memory");
        Ok(())
    })?;
    let caller = stage.child("caller", |stage| {
        stage.wait_for(0, 1)?;
        let target_id = target.as_raw() as u32;
        let mut copy = vec![0; READ];
        let remote = [RemoteIoVec { base, len: READ }];
        ensure!(process_vm_readv(target, &mut [IoSliceMut::new(&mut copy)], &remote)? == READ);
        copied(stage, target_id, stage::party(target), stage.me(), READ)?;
        let news = vec![2; WRITTEN];
        let remote = [RemoteIoVec { base, len: WRITTEN }];
        ensure!(process_vm_writev(target, &[IoSlice::new(&news)], &remote)? == WRITTEN);
        copied(stage, target_id, stage.me(), stage::party(target), WRITTEN)?;
        stage.raise(1);
        Ok(())
    })?;
    stage.reap(&[target, caller])
}

fn copied(stage: &Stage, target: u32, from: Party, to: Party, bytes: usize) -> Result<()> {
    let mechanism = || "process_vm".to_owned();
    let bytes = bytes as u64;
    stage.tell(&Truth::Sent { mechanism: mechanism(), by: from.clone(), bytes, messages: None })?;
    let channel = Some(format!("process_vm:{target}"));
    stage.tell(&Truth::Transfer { mechanism: mechanism(), channel, from, to, bytes, messages: None })
}
