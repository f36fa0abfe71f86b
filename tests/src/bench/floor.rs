//! Empty programs on the hooks: the least that any tracer on them can cost.

use anyhow::{Context, Result};
use aya::programs::{BtfTracePoint, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use ipctrace::object::OBJECT;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// System calls that carry data, as the per-call tracepoints name them.
const CALLS: &[&str] = &[
    "read",
    "write",
    "readv",
    "writev",
    "preadv2",
    "pwritev2",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "splice",
    "tee",
    "vmsplice",
    "sendfile64",
];

/// Attaches an empty program to `sys_enter` and `sys_exit`. It is there until the result is dropped.
///
/// # Errors
/// If the kernel refuses.
pub fn on_all_calls() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(OBJECT)?;
    let btf = Btf::from_sys_fs()?;
    for (program, tracepoint) in [("floor_enter", "sys_enter"), ("floor_exit", "sys_exit")] {
        let program: &mut BtfTracePoint = ebpf.program_mut(program).context("no such program")?.try_into()?;
        program.load(tracepoint, &btf)?;
        program.attach()?;
    }
    Ok(ebpf)
}

/// Makes tracefs, which per-call tracepoints need, visible to this process and its children alone.
///
/// # Errors
/// If the kernel refuses.
pub fn see_tracefs() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of our own")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tracefs"), "/sys/kernel/tracing", Some("tracefs"), MsFlags::empty(), None::<&str>)
        .context("mounting tracefs")
}

/// Attaches an empty program to the begin and end of each call that carries data, and of no other.
///
/// # Errors
/// If the kernel refuses, or tracefs is not mounted.
pub fn on_each_call() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(OBJECT)?;
    let program: &mut TracePoint = ebpf.program_mut("floor_call").context("no such program")?.try_into()?;
    program.load()?;
    for call in CALLS {
        for phase in ["enter", "exit"] {
            program.attach("syscalls", &format!("sys_{phase}_{call}"))?;
        }
    }
    Ok(ebpf)
}
