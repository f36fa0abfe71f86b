//! Loads the programs into the kernel and attaches them, as a [`Plan`] says.

use std::collections::HashMap;
use std::io::{self, Read};

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap as KernelMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Iter, Program, ProgramInfo};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ipctrace_common::wire::Key;
use ipctrace_common::{Cause, Hook, Mechanism, waiting};
use zerocopy::IntoBytes;

use crate::kernel::{Plan, syscalls};
use crate::object::{OBJECT, PLAIN};
use crate::runs::Runs;
use crate::straddlers::Straddlers;

/// The programs at work. They detach when this is dropped, or when the process ends in whatever way.
pub struct Attached {
    ebpf: Ebpf,
    /// Records come here.
    pub ring: RingBuf<MapData>,
    losses: PerCpuArray<MapData, u64>,
    /// Runs of small calls that are not on the ring yet.
    pub runs: Runs,
    channels: KernelMap<MapData, KernelKey, [u64; 9]>,
    /// Mechanisms that are on.
    mechanisms: u32,
    reported: HashMap<Cause, u64>,
    /// What the programs log, if they were told to.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Hooks that could not be attached, and why.
    pub failed: Vec<(Hook, String)>,
}

/// [`Key`] as a kernel map's key.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct KernelKey([u64; 2]);

// SAFETY: two integers without padding, for which every bit pattern is valid.
unsafe impl aya::Pod for KernelKey {}

/// Loads the programs and attaches what the plan names.
///
/// # Errors
/// If the object cannot be loaded, or a hook that a mechanism cannot do without cannot be attached.
pub fn attach(plan: &Plan, ring_bytes: u32) -> Result<Attached> {
    let mut ebpf = load(plan, Some(ring_bytes))?;
    let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
    let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?)?;
    let losses = PerCpuArray::try_from(take(&mut ebpf, "LOSSES")?)?;
    let channels = KernelMap::try_from(take(&mut ebpf, "CHANNELS")?)?;
    let aya::maps::Map::Array(runs) = take(&mut ebpf, "RUNS")? else {
        anyhow::bail!("the map RUNS is no array");
    };
    let runs = Runs::map(runs)?;
    let log = if plan.config.verbose == 0 {
        None
    } else {
        Some(EbpfLogger::init(&mut ebpf).context("reading the programs' log")?)
    };
    let mut failed = Vec::new();
    for hook in &plan.hooks {
        if let Err(error) = start(&mut ebpf, *hook, &btf) {
            if hook.needed_by() != 0 {
                return Err(error);
            }
            failed.push((*hook, format!("{error:#}")));
        }
    }
    if plan.config.mechanisms & Mechanism::Eventfd.bit() != 0 {
        show_an_eventfd(&ebpf)?;
    }
    Ok(Attached {
        ebpf,
        ring,
        losses,
        runs,
        channels,
        mechanisms: plan.config.mechanisms,
        reported: HashMap::new(),
        log,
        failed,
    })
}

/// Makes an eventfd before the eyes of the programs, which learn from it how eventfds differ from other files.
fn show_an_eventfd(ebpf: &Ebpf) -> Result<()> {
    nix::sys::eventfd::EventFd::new().context("making an eventfd")?;
    let learnt: Array<_, u64> =
        Array::try_from(ebpf.map("EVENTFD_OPS").context("the eBPF object has no map EVENTFD_OPS")?)?;
    if learnt.get(&0, 0)? == 0 {
        log::warn!("eventfds are not traced: the programs did not see that one was made");
    }
    Ok(())
}

/// The object with the plan's globals written into it. Nothing is attached yet.
fn load(plan: &Plan, ring_bytes: Option<u32>) -> Result<Ebpf> {
    let classes = syscalls::table(plan.config.mechanisms);
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", plan.config.as_bytes(), true).override_global(
        "CLASSES",
        classes.as_slice(),
        true,
    );
    if let Some(bytes) = ring_bytes {
        loader.map_max_entries("EVENTS", bytes);
    }
    loader.load(if plan.plain { PLAIN } else { OBJECT }).context("loading the eBPF maps")
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
}

fn start(ebpf: &mut Ebpf, hook: Hook, btf: &Btf) -> Result<()> {
    let program: &mut BtfTracePoint = ebpf
        .program_mut(hook.program())
        .with_context(|| format!("the eBPF object has no program {}", hook.program()))?
        .try_into()?;
    program
        .load(hook.tracepoint(), btf)
        .with_context(|| format!("loading the program {}", hook.program()))?;
    program.attach().with_context(|| format!("attaching to the tracepoint {}", hook.tracepoint()))?;
    Ok(())
}

impl Attached {
    /// Takes the programs out of the kernel. What they have told until then stays to be taken.
    pub fn detach(&mut self) {
        for (name, program) in self.ebpf.programs_mut() {
            if let Program::BtfTracePoint(program) = program
                && let Err(error) = program.unload()
            {
                // One that was never loaded, for a hook that this kernel does not have or nobody needs.
                log::debug!("{name}: {error}");
            }
        }
    }

    /// What the kernel lost since the last call, by cause.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn losses(&mut self) -> Result<Vec<(Cause, u64)>> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut news = Vec::new();
        for cause in Cause::ALL {
            let total: u64 = self.losses.get(&(*cause as u32), 0)?.iter().sum();
            let known = self.reported.entry(*cause).or_default();
            if total > *known {
                news.push((*cause, total - *known));
                *known = total;
            }
        }
        Ok(news)
    }

    /// Lets the kernel forget channels that the collector has forgotten.
    pub fn forget(&mut self, keys: &[Key]) {
        for key in keys {
            // One that is gone already is as good.
            let _ = self.channels.remove(&KernelKey([key.id, key.space]));
        }
    }

    /// Has the programs tell of all memory that is shared already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn shared_memory(&mut self) -> Result<()> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let program: &mut Iter = self
            .ebpf
            .program_mut("memory_seen")
            .context("the eBPF object has no program memory_seen")?
            .try_into()?;
        program.load("task_vma", &btf).context("loading the program memory_seen")?;
        let link = program.attach().context("attaching the program memory_seen")?;
        let mut file = program.take_link(link)?.into_file()?;
        // It runs while it is read, and writes nothing; after a million mappings it wants to be asked again.
        loop {
            match file.read(&mut [0; 16]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("running the program memory_seen"),
            }
        }
        program.unload()?;
        Ok(())
    }

    /// Tells the programs of threads that sit in calls that began before the hooks were there.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn straddlers(&mut self, found: &Straddlers) -> Result<()> {
        self.waiting(&found.waiting)?;
        let threads = &found.moving;
        if threads.is_empty() {
            return Ok(());
        }
        let mut map: KernelMap<_, u32, u32> = KernelMap::try_from(
            self.ebpf.map_mut("STRADDLERS").context("the eBPF object has no map STRADDLERS")?,
        )?;
        for thread in threads {
            map.insert(thread, 1, 0)?;
        }
        let mut flag: Array<_, u32> = Array::try_from(
            self.ebpf.map_mut("STRADDLING").context("the eBPF object has no map STRADDLING")?,
        )?;
        flag.set(0, 1, 0)?;
        Ok(())
    }
}

impl Attached {
    /// Enters waits among those that the programs have seen begin.
    fn waiting(&mut self, threads: &[(u32, Mechanism)]) -> Result<()> {
        /// Flag of bpf_map_update_elem: fail if the key is there.
        const BPF_NOEXIST: u64 = 1;
        let mut map: KernelMap<_, u32, [u8; waiting::SIZE]> = KernelMap::try_from(
            self.ebpf.map_mut("WAKE_CALLS").context("the eBPF object has no map WAKE_CALLS")?,
        )?;
        let mut count = 0;
        for (thread, mechanism) in
            threads.iter().filter(|(_, mechanism)| self.mechanisms & mechanism.bit() != 0)
        {
            // One that is there has begun another wait meanwhile.
            count += u64::from(map.insert(thread, waiting::begun_before(*mechanism), BPF_NOEXIST).is_ok());
        }
        let mut counter: Array<_, u64> = Array::try_from(
            self.ebpf.map_mut("WAKE_COUNT").context("the eBPF object has no map WAKE_COUNT")?,
        )?;
        Ok(counter.set(1, count, 0)?)
    }
}

/// Loads and attaches every hook of the plan, detaches it at once, and tells how it went.
pub fn try_hooks(plan: &Plan) -> Vec<(Hook, Result<(), String>)> {
    let attempt = || -> Result<Vec<(Hook, Result<(), String>)>> {
        let mut ebpf = load(plan, None)?;
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let tried = plan
            .hooks
            .iter()
            .map(|hook| (*hook, start(&mut ebpf, *hook, &btf).map_err(|error| one_line(&error))));
        Ok(tried.collect())
    };
    attempt().unwrap_or_else(|error| plan.hooks.iter().map(|hook| (*hook, Err(one_line(&error)))).collect())
}

/// How many instructions the verifier looked at for each program of the plan; `None` where the kernel (before 5.16) does
/// not tell.
///
/// # Errors
/// If a program cannot be loaded and attached.
pub fn verified(plan: &Plan) -> Result<Vec<(Hook, Option<u32>)>> {
    let mut ebpf = load(plan, None)?;
    let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
    let mut counts = Vec::new();
    for hook in &plan.hooks {
        start(&mut ebpf, *hook, &btf)?;
        let program = ebpf.program(hook.program()).context("a program that was loaded")?;
        counts.push((*hook, program.info()?.verified_instruction_count()));
    }
    Ok(counts)
}

/// An error and its causes in one line: of the verifier's log, which can have thousands of lines, its last word.
fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    log::debug!("{text}");
    let (error, verifier) = text.split_once("Verifier output:").unwrap_or((&text, ""));
    let error = error.lines().next().unwrap_or_default().trim_end_matches(['.', ' ']);
    /// How lines begin that follow the last word.
    const STATISTICS: [&str; 4] = ["processed ", "verification time", "stack depth", ": "];
    let said = |line: &&str| {
        !line.is_empty() && *line != ":" && !STATISTICS.iter().any(|begin| line.starts_with(begin))
    };
    match verifier.lines().map(str::trim_end).rev().find(said) {
        Some(last) => format!("{error}: {last}"),
        None => error.to_owned(),
    }
}

/// Our programs that are loaded in the kernel now, whoever loaded them.
pub fn loaded_programs() -> impl Iterator<Item = ProgramInfo> {
    // One that goes away while we look is none that stays.
    aya::programs::loaded_programs().flatten().filter(|program| {
        let name = program.name_as_str().unwrap_or_default();
        !name.is_empty() && Hook::ALL.iter().any(|hook| hook.program().starts_with(name))
    })
}
