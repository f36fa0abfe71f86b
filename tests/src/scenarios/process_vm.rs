//! Memory copied from one process to another.

use std::io::{IoSlice, IoSliceMut};

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "memory_of_a_child", play: of_a_child },
    Scenario { name: "memory_of_a_process_in_another_pid_namespace", play: in_another_namespace },
];

/// What is copied: at the same address in every child.
fn memory() -> Vec<u8> {
    vec![7; 9000]
}

fn copied(stage: &Stage, target: u32, from: Party, to: Party, bytes: usize) -> Result<()> {
    stage.tell(&Truth::Transfer {
        mechanism: "process_vm".to_owned(),
        channel: Some(format!("process_vm:{target}")),
        from,
        to,
        bytes: bytes as u64,
        messages: None,
    })
}

fn read(target: Pid, base: usize, len: usize) -> nix::Result<usize> {
    let mut own = vec![0; len];
    process_vm_readv(target, &mut [IoSliceMut::new(&mut own)], &[RemoteIoVec { base, len }])
}

fn write(target: Pid, base: usize, len: usize) -> nix::Result<usize> {
    process_vm_writev(target, &[IoSlice::new(&vec![9; len])], &[RemoteIoVec { base, len }])
}

/// Both ways; a read that fails, a copy that ends where the memory does, and one of the caller itself.
fn of_a_child(stage: &Stage) -> Result<()> {
    let memory = memory();
    let base = memory.as_ptr() as usize;
    let target = stage.child("target", |stage| {
        stage.raise(0);
        stage.wait_for(1, 1)
    })?;
    let caller = stage.child("caller", |stage| {
        stage.wait_for(0, 1)?;
        let of = || stage::party(target);
        ensure!(read(target, base, 8000)? == 8000);
        copied(stage, target.as_raw() as u32, of(), stage.me(), 8000)?;
        ensure!(write(target, base, 123)? == 123);
        copied(stage, target.as_raw() as u32, stage.me(), of(), 123)?;
        ensure!(read(target, 4096, 10) == Err(Errno::EFAULT), "nothing is there");
        ensure!(read(nix::unistd::getpid(), base, 10)? == 10, "its own");
        ensure!(read(Pid::from_raw(0x3f_fff0), base, 10) == Err(Errno::ESRCH), "nobody");
        stage.raise(1);
        Ok(())
    })?;
    stage.reap(&[target, caller])
}

/// The caller and its target are numbers 1 and 2 of a namespace of their own; the trace has the host's.
fn in_another_namespace(stage: &Stage) -> Result<()> {
    let memory = memory();
    let base = memory.as_ptr() as usize;
    let maker = stage.child("maker", |stage| {
        unshare(CloneFlags::CLONE_NEWPID)?;
        let first = stage.child("caller", |stage| {
            let target = stage.child("target", |stage| {
                stage.put(1, u64::from(stage::pid()));
                stage.raise(0);
                stage.wait_for(1, 1)
            })?;
            stage.wait_for(0, 1)?;
            ensure!(target.as_raw() == 2, "the second of the namespace, not {target}");
            let (own, other) = (stage::pid(), stage.get(1) as u32);
            ensure!(read(target, base, 4000)? == 4000);
            copied(stage, other, Party::Pid(other), Party::Pid(own), 4000)?;
            ensure!(write(target, base, 50)? == 50);
            copied(stage, other, Party::Pid(own), Party::Pid(other), 50)?;
            stage.raise(1);
            stage.wait_for_end(target)?;
            Ok(())
        })?;
        stage.wait_for_end(first)?;
        Ok(())
    })?;
    stage.reap(&[maker])
}
