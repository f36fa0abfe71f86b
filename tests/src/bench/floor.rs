//! Empty programs on the hooks: the least that any tracer on them can cost.

use anyhow::{Context, Result};
use aya::programs::{BtfTracePoint, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use ipctrace::kernel::objects::Choice;
use ipctrace::kernel::{Facts, Plan};
use ipctrace::object::OBJECT;
use ipctrace_common::Mechanism;
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

/// Attaches an empty program to every hook that the tracer would use here. They are there until the result is dropped.
///
/// # Errors
/// If the kernel refuses.
pub fn on_all_hooks() -> Result<Vec<Ebpf>> {
    let plan = Plan::chosen(&Facts::gather(), Mechanism::ALL, std::process::id(), 0, Choice::Syscall)?;
    let mut ebpf = load()?;
    let btf = Btf::from_sys_fs()?;
    for hook in &plan.hooks {
        if let Some(event) = plan.event(*hook) {
            let program = each_call(&mut ebpf)?;
            program.attach(event.category, hook.target())?;
            continue;
        }
        let name = format!("floor_{}", hook.program());
        let program: &mut BtfTracePoint =
            ebpf.program_mut(&name).with_context(|| format!("no program {name}"))?.try_into()?;
        program.load(hook.target(), &btf)?;
        // One that the tracer does without, too.
        match program.attach() {
            Err(error) if hook.needed_by() != 0 => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(vec![ebpf])
}

/// The empty program for perf events, loaded.
fn each_call(ebpf: &mut Ebpf) -> Result<&mut TracePoint> {
    let program: &mut TracePoint = ebpf.program_mut("floor_call").context("no such program")?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

/// The object, with maps that are as small as can be: nobody uses them.
fn load() -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for map in ["IN_FLIGHT", "BOOKS", "CHANNELS", "CROWDED", "WAKE_CALLS"] {
        loader.map_max_entries(map, 1);
    }
    Ok(loader.load(OBJECT)?)
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
    let mut ebpf = load()?;
    let program = each_call(&mut ebpf)?;
    for call in CALLS {
        for phase in ["enter", "exit"] {
            program.attach("syscalls", &format!("sys_{phase}_{call}"))?;
        }
    }
    Ok(ebpf)
}
