//! Loads the programs into the kernel and attaches them, as a [`Plan`] says.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap as KernelMap, MapData, PerCpuArray};
use aya::programs::{BtfTracePoint, FEntry, FExit, Iter, Program, ProgramError, ProgramFd, ProgramInfo};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ipctrace_common::config::CHANNEL_DESKS;
use ipctrace_common::hook::Point;
use ipctrace_common::wire::Key;
use ipctrace_common::{Cause, Hook, Mechanism, Shape, straddling, waiting};
use zerocopy::IntoBytes;

use crate::books::Books;
use crate::flag::Flag;
use crate::kernel::{Plan, syscalls};
use crate::object::{self, LOADS, OBJECT, PLAIN};
use crate::ring::make::{Layout, Made};
use crate::ring::{Rings, page_size};
use crate::runs::Runs;
use crate::straddlers::Straddlers;

/// The program that tells of memory that is shared already.
const SEEN: &str = "memory_seen";

/// Most programs that are loaded at the same time.
const LOADERS: usize = 4;

/// Room for messages that are in queues or on their way.
const MESSAGES: u32 = 65_536;

/// A hook on a function did not take its program, although the kernel seemed to let it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ObjectHookFailed {
    /// Which.
    pub hook: Hook,
    /// What the kernel said.
    pub reason: String,
}

/// The programs at work. They detach when this is dropped, or when the process ends in whatever way.
pub struct Attached {
    ebpf: Ebpf,
    /// Records come here.
    pub rings: Rings,
    losses: PerCpuArray<MapData, u64>,
    /// Raised by the programs when they have lost something.
    lost: Flag,
    /// Runs of small calls that are not on the ring yet.
    pub runs: Runs,
    books: Books,
    /// Mechanisms that are on.
    mechanisms: u32,
    reported: HashMap<Cause, u64>,
    /// Runs that the kernel skipped, by program.
    skipped: HashMap<String, u64>,
    /// The programs with whose runs something is lost.
    needed: Vec<&'static str>,
    /// What the programs log, if they were told to.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Hooks that could not be attached, and why.
    pub failed: Vec<(Hook, String)>,
}

/// How many runs of a program were skipped, as its /proc/PID/fdinfo tells (bpf_prog_show_fdinfo, kernel/bpf/syscall.c).
fn skipped(fdinfo: &str) -> u64 {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Loads the programs and attaches what the plan names. Records come from then on: `room` is how many bytes there are for those that
/// have not been taken yet, if somebody has said so.
///
/// # Errors
/// If the object cannot be loaded, or a hook that a mechanism cannot do without cannot be attached; [`ObjectHookFailed`] if that
/// is one on an object, in whose place others could do.
pub fn attach(plan: &Plan, room: Option<u32>) -> Result<Attached> {
    let layout = Layout::of_this_host(room)?;
    let (ebpf, btf) = std::thread::scope(|scope| {
        let btf = scope.spawn(types);
        (load(plan, &layout), btf.join())
    });
    let (mut ebpf, btf) = (ebpf?, btf.map_err(|_| anyhow::anyhow!("reading the kernel's BTF failed"))??);
    let made = Made::of(&mut ebpf, &layout)?;
    let losses = PerCpuArray::try_from(take(&mut ebpf, "LOSSES")?)?;
    let lost = Flag::map(&mut ebpf, "LOST")?;
    let books = Books::of(&mut ebpf)?;
    let (aya::maps::Map::Array(runs), aya::maps::Map::Array(standing)) =
        (take(&mut ebpf, "RUNS")?, take(&mut ebpf, "STANDING")?)
    else {
        anyhow::bail!("the map RUNS or STANDING is no array");
    };
    let runs = Runs::map(runs, standing)?;
    let log = if plan.config.verbose == 0 {
        None
    } else {
        Some(EbpfLogger::init(&mut ebpf).context("reading the programs' log")?)
    };
    let (mut loaded, placed) = std::thread::scope(|scope| {
        let placed = scope.spawn(|| made.place(&layout));
        (verify(&mut ebpf, plan, &btf), placed.join())
    });
    placed.map_err(|_| anyhow::anyhow!("handing the rings over failed"))??;
    let rings = made.map(&layout)?;
    let (mut failed, mut begins) = (Vec::new(), false);
    for hook in &plan.hooks {
        let loaded = loaded.remove(hook).unwrap_or_else(|| Err(missing(plan.program(*hook))));
        if !begins && (*hook == Hook::SysEnter || matches!(hook.point(), Point::Entry(_))) {
            // What begins from here on is seen; what ends, and was not seen to begin, began before.
            straddling(&mut ebpf, straddling::ALL)?;
            begins = true;
        }
        if let Err(error) = loaded.and_then(|()| start(&mut ebpf, plan, *hook)) {
            if hook.is_on_object() {
                return Err(ObjectHookFailed { hook: *hook, reason: one_line(&error) }.into());
            }
            if hook.needed_by() != 0 {
                return Err(error);
            }
            failed.push((*hook, format!("{error:#}")));
        }
    }
    if plan.config.mechanisms & Mechanism::of_shape(Shape::Shared) != 0
        && let Err(error) =
            seen(&mut ebpf).and_then(|program| Ok(patiently(|| program.load("task_vma", &btf))?))
    {
        log::debug!("loading the program {SEEN}: {error:#}");
    }
    if plan.config.mechanisms & Mechanism::Eventfd.bit() != 0 {
        show_an_eventfd(&ebpf)?;
    }
    Ok(Attached {
        ebpf,
        rings,
        losses,
        lost,
        runs,
        books,
        mechanisms: plan.config.mechanisms,
        reported: HashMap::new(),
        skipped: HashMap::new(),
        needed: plan
            .hooks
            .iter()
            .filter(|hook| plan.is_lost_with(**hook))
            .map(|hook| plan.program(*hook))
            .collect(),
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
fn load(plan: &Plan, layout: &Layout) -> Result<Ebpf> {
    let calls = syscalls::tables(plan.config.mechanisms, plan.config.objects);
    let shape = layout.shape();
    let mut loader = EbpfLoader::new();
    // No place is looked up by the loader: our own table does that.
    loader.btf(None);
    loader
        .override_global("CONFIG", plan.config.as_bytes(), true)
        .override_global("RINGS", shape.as_bytes(), true)
        .override_global("BEGINS", calls.begins.as_slice(), true)
        .override_global("ENDS", calls.ends.as_slice(), true);
    if plan.config.objects & Mechanism::of_shape(Shape::Queue) != 0 {
        loader.map_max_entries("MESSAGES", MESSAGES);
    }
    if plan.config.objects != 0 {
        loader.map_max_entries("OP_DESK", 2);
    }
    if plan.config.objects & (Mechanism::Fifo.bit() | Mechanism::SOCKETS | Mechanism::Futex.bit()) != 0 {
        loader.map_max_entries("CHANNEL_DESK", 1 + CHANNEL_DESKS);
    }
    let object = if let Some(function) = plan.cast {
        loader.map_max_entries("EVENTS", layout.count()).map_max_entries("BELL", page_size() as u32);
        object::adapted(LOADS, function, layout.size())?.into()
    } else {
        loader.map_max_entries("EVENTS", layout.places());
        Cow::Borrowed(if plan.plain { PLAIN } else { OBJECT })
    };
    loader.load(&object).context("loading the eBPF maps")
}

pub(crate) fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
}

/// The kernel's types.
fn types() -> Result<Btf> {
    Btf::from_sys_fs().context("reading the kernel's BTF")
}

fn missing(program: &str) -> anyhow::Error {
    anyhow::anyhow!("the eBPF object has no program {program}")
}

/// Loads the hooks' programs, several at a time: most of the start-up is the verifier's, which has a thread of its own for
/// each program.
fn verify(ebpf: &mut Ebpf, plan: &Plan, btf: &Btf) -> HashMap<Hook, Result<()>> {
    let mut programs: Vec<(Hook, &mut Program)> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| {
            Some((*plan.hooks.iter().find(|hook| plan.program(**hook) == name)?, program))
        })
        .collect();
    // The last are taken first: those on system calls take longest.
    programs.sort_by_key(|(hook, _)| (matches!(hook, Hook::SysEnter | Hook::SysExit), *hook));
    let (waiting, done) = (Mutex::new(programs), Mutex::new(HashMap::new()));
    let work = || {
        // Nobody panics while a lock is held.
        while let Some((hook, program)) = waiting.lock().ok().and_then(|mut waiting| waiting.pop()) {
            let loaded = load_program(program, hook, btf)
                .map_err(without_needless_log)
                .with_context(|| format!("loading the program {}", plan.program(hook)));
            if let Ok(mut done) = done.lock() {
                done.insert(hook, loaded);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..available_parallelism().map_or(1, usize::from).min(LOADERS) {
            scope.spawn(work);
        }
        work();
    });
    done.into_inner().unwrap_or_default()
}

/// The program that tells of memory that is shared already.
fn seen(ebpf: &mut Ebpf) -> Result<&mut Iter> {
    Ok(ebpf.program_mut(SEEN).ok_or_else(|| missing(SEEN))?.try_into()?)
}

/// Loads a program, again if a signal came (a terminal that is resized, Ctrl-Z and on again), at which the verifier stops: EAGAIN.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    /// As often as libbpf tries.
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock => {}
            loaded => return loaded,
        }
    }
    load()
}

/// Hands a program to the verifier.
fn load_program(program: &mut Program, hook: Hook, btf: &Btf) -> Result<(), ProgramError> {
    patiently(|| {
        if let Program::TracePoint(program) = program {
            return program.load();
        }
        match hook.point() {
            Point::Tracepoint => <&mut BtfTracePoint>::try_from(&mut *program)?.load(hook.target(), btf),
            Point::Entry(_) => <&mut FEntry>::try_from(&mut *program)?.load(hook.target(), btf),
            Point::Exit(_) => <&mut FExit>::try_from(&mut *program)?.load(hook.target(), btf),
        }
    })
}

/// What the verifier says of a program that it has nothing against is long, and of no use.
fn without_needless_log(error: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, .. } = &error
        && let Some(number @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) = io_error.raw_os_error()
    {
        return std::io::Error::from_raw_os_error(number).into();
    }
    error.into()
}

fn start(ebpf: &mut Ebpf, plan: &Plan, hook: Hook) -> Result<()> {
    let name = plan.program(hook);
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    if let (Program::TracePoint(program), Some(event)) = (&mut *program, plan.event(hook)) {
        return program
            .attach(event.category, hook.target())
            .map(drop)
            .with_context(|| format!("attaching to the event {}:{}", event.category, hook.target()));
    }
    match hook.point() {
        Point::Tracepoint => <&mut BtfTracePoint>::try_from(program)?
            .attach()
            .map(drop)
            .with_context(|| format!("attaching to the tracepoint {}", hook.target())),
        Point::Entry(_) => <&mut FEntry>::try_from(program)?
            .attach()
            .map(drop)
            .with_context(|| format!("attaching to the begin of {}", hook.target())),
        Point::Exit(_) => <&mut FExit>::try_from(program)?
            .attach()
            .map(drop)
            .with_context(|| format!("attaching to the end of {}", hook.target())),
    }
}

/// The descriptor of a program that a hook is for, if it is loaded; others run when they are asked to.
#[expect(clippy::wildcard_enum_match_arm, reason = "of the many kinds of program we have these")]
fn descriptor(program: &Program) -> Option<&ProgramFd> {
    match program {
        Program::BtfTracePoint(program) => program.fd().ok(),
        Program::TracePoint(program) => program.fd().ok(),
        Program::FEntry(program) => program.fd().ok(),
        Program::FExit(program) => program.fd().ok(),
        _ => None,
    }
}

/// Takes a program that a hook is for out of the kernel.
#[expect(clippy::wildcard_enum_match_arm, reason = "as above")]
fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.unload(),
        Program::TracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        _ => Ok(()),
    }
}

impl Attached {
    /// Takes the programs out of the kernel. What they have told until then stays to be taken.
    pub fn detach(&mut self) {
        self.count_misses();
        for (name, program) in self.ebpf.programs_mut() {
            match unload(program) {
                // Nor was it loaded, for a hook that this kernel does not have or nobody needs.
                Ok(()) | Err(ProgramError::NotLoaded) => {}
                Err(error) => log::debug!("{name}: {error}"),
            }
        }
    }

    /// How often the kernel skipped a program, because it was in the middle of it on that CPU, since the last call. A kernel
    /// that can be preempted there does so on busy hosts; on others an interrupt may come in between. Without those with which
    /// nothing is lost ([`Plan::is_lost_with`]).
    pub fn misses(&mut self) -> u64 {
        self.count_misses();
        let lost = self.skipped.iter().filter(|(name, _)| self.needed.contains(&name.as_str()));
        let total = lost.map(|(_, count)| count).sum();
        let known = self.reported.entry(Cause::Recursion).or_default();
        let news = u64::saturating_sub(total, *known);
        *known = total;
        news
    }

    /// Programs that are unloaded tell no more: what they told stays.
    fn count_misses(&mut self) {
        for (name, program) in self.ebpf.programs() {
            let Some(fd) = descriptor(program) else { continue };
            let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
            // Before 5.12 the kernel does not tell, and skips nothing.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let count = skipped(&text);
            let known = self.skipped.get(name).copied().unwrap_or(0);
            if count > known {
                log::debug!("{name}: the kernel skipped it {} times", count - known);
                self.skipped.insert(name.to_owned(), count);
            }
        }
    }

    /// Asks to be woken by the very next record. False if there is something to see to already.
    pub fn rest(&self) -> bool {
        self.rings.rest();
        // One that came before the programs could see the flag is here by now.
        let rests = self.rings.is_empty() && !self.runs.any();
        if !rests {
            self.rings.wake();
        }
        rests
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
        if !self.lost.take() {
            return Ok(news);
        }
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
            self.books.close(*key);
        }
    }

    /// Has the programs tell of all memory that is shared already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn shared_memory(&mut self) -> Result<()> {
        let program = seen(&mut self.ebpf)?;
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
        let mut map: KernelMap<_, u32, u32> = KernelMap::try_from(
            self.ebpf.map_mut("STRADDLERS").context("the eBPF object has no map STRADDLERS")?,
        )?;
        for thread in threads {
            map.insert(thread, 1, 0)?;
        }
        let mut words: HashMap<u32, u64> = HashMap::new();
        for (word, bit) in threads.iter().map(|thread| straddling::bit(*thread)) {
            *words.entry(word).or_default() |= bit;
        }
        let mut bits: Array<_, u64> = Array::try_from(
            self.ebpf.map_mut("STRADDLER_BITS").context("the eBPF object has no map STRADDLER_BITS")?,
        )?;
        for (word, bits_of) in words {
            bits.set(word, bits_of, 0)?;
        }
        let any = if threads.is_empty() { straddling::NONE } else { straddling::LISTED };
        straddling(&mut self.ebpf, any)
    }
}

/// Tells the programs which threads may be in a call that began before tracing.
fn straddling(ebpf: &mut Ebpf, which: u32) -> Result<()> {
    let map = ebpf.map_mut("STRADDLING").context("the eBPF object has no map STRADDLING")?;
    Ok(Array::<_, u32>::try_from(map)?.set(0, which, 0)?)
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
        let mut ebpf = load(plan, &Layout::of_this_host(Some(0))?)?;
        let mut loaded = verify(&mut ebpf, plan, &types()?);
        let tried = plan.hooks.iter().map(|hook| {
            let loaded = loaded.remove(hook).unwrap_or_else(|| Err(missing(plan.program(*hook))));
            (*hook, loaded.and_then(|()| start(&mut ebpf, plan, *hook)).map_err(|error| one_line(&error)))
        });
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
    let mut ebpf = load(plan, &Layout::of_this_host(Some(0))?)?;
    let mut loaded = verify(&mut ebpf, plan, &types()?);
    let mut counts = Vec::new();
    for hook in &plan.hooks {
        loaded.remove(hook).unwrap_or_else(|| Err(missing(plan.program(*hook))))?;
        start(&mut ebpf, plan, *hook)?;
        let program = ebpf.program(plan.program(*hook)).context("a program that was loaded")?;
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
///
/// # Errors
/// If the kernel does not let us look.
pub fn loaded_programs() -> Result<Vec<ProgramInfo>> {
    let mut programs = Vec::new();
    for program in aya::programs::loaded_programs() {
        match program {
            Ok(program) => programs.push(program),
            // One that goes away while we look is none that stays.
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).context("listing the programs in the kernel, which needs CAP_SYS_ADMIN");
            }
        }
    }
    programs.retain(|program| {
        let name = program.name_as_str().unwrap_or_default();
        let is_ours = |hook: &Hook| {
            hook.program().starts_with(name)
                || hook.event().is_some_and(|event| event.program.starts_with(name))
        };
        !name.is_empty() && Hook::ALL.iter().any(is_ours)
    });
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_runs_stand_in_a_line_of_their_own() {
        assert_eq!(skipped("prog_id:\t5\nrecursion_misses:\t57\nverified_insns:\t9\n"), 57);
        assert_eq!(skipped("prog_id:\t5\n"), 0);
    }
}
