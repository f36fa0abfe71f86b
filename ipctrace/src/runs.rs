//! The runs of small calls that no call has ended yet: see [`ipctrace_common::run`].

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::maps::MapData;
use ipctrace_common::run::{RUNS, Run, Standing};
use ipctrace_common::wire::Op;
use memmap2::{MmapOptions, MmapRaw};

/// How long a run may stand before the collector takes it, ns: far longer than a thread that goes on calling leaves it.
const STALE: u64 = 4_000_000;

/// The memory that the programs keep runs in.
#[derive(Debug)]
pub struct Runs {
    memory: MmapRaw,
    /// See [`Standing`].
    standing: MmapRaw,
    /// Programs that are loaded later find the maps by their descriptors.
    _maps: [MapData; 2],
}

impl Runs {
    /// Maps it, and what tells which of them may stand.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn map(runs: MapData, standing: MapData) -> Result<Runs> {
        let map = |map: &MapData, length| {
            let mapped = MmapOptions::new().len(length).map_raw(&map.fd().as_fd());
            mapped.context("mapping the runs of small calls into memory")
        };
        let memory = map(&runs, RUNS as usize * size_of::<Run>())?;
        let flags = map(&standing, size_of::<Standing>())?;
        Ok(Runs { memory, standing: flags, _maps: [runs, standing] })
    }

    /// Whether any may stand.
    pub fn any(&self) -> bool {
        (0..RUNS as usize / WORD).any(|index| self.word(index).load(Ordering::Relaxed) != 0)
    }

    /// The flags of so many runs.
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: within the mapping, which begins at a page; programs write single bytes of it meanwhile, hence the atomics.
        unsafe { AtomicU64::from_ptr(self.standing.as_mut_ptr().cast::<u64>().add(index)) }
    }

    /// The flag of one.
    fn flag(&self, index: usize) -> &AtomicU8 {
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(self.standing.as_mut_ptr().add(index)) }
    }

    /// Takes the runs that have stood for a while by `now` (ns since boot), all of them if `force`, and gives `each` the
    /// record of each.
    pub fn take(&self, now: u64, force: bool, mut each: impl FnMut(Op)) {
        for first in (0..RUNS as usize).step_by(WORD) {
            if !force && self.word(first / WORD).load(Ordering::Relaxed) == 0 {
                continue;
            }
            for index in first..first + WORD {
                // Before it is looked at: if another begins meanwhile, that is seen next time.
                if self.flag(index).swap(0, Ordering::AcqRel) == 0 && !force {
                    continue;
                }
                match self.take_one(index, now, force) {
                    State::Taken(op) => each(op),
                    State::Stands => self.flag(index).store(1, Ordering::Relaxed),
                    State::Nothing => {}
                }
            }
        }
    }

    fn take_one(&self, index: usize, now: u64, force: bool) -> State {
        // SAFETY: within the mapping, which has RUNS of them; page-aligned, so each is aligned.
        let run = unsafe { self.memory.as_mut_ptr().cast::<Run>().add(index) };
        // SAFETY: aligned fields of a live mapping. Programs change them meanwhile, hence the atomics; what is read without
        // the lock only says whether it is worth taking.
        let (lock, messages, time) = unsafe {
            (
                AtomicU64::from_ptr(run.byte_add(offset_of!(Run, lock)).cast()),
                AtomicU32::from_ptr(run.byte_add(offset_of!(Run, op) + offset_of!(Op, messages)).cast()),
                AtomicU64::from_ptr(run.byte_add(TIME).cast()),
            )
        };
        if messages.load(Ordering::Relaxed) == 0 {
            return State::Nothing;
        }
        let fresh = now.saturating_sub(time.load(Ordering::Relaxed)) < STALE;
        if (fresh && !force) || lock.swap(1, Ordering::AcqRel) != 0 {
            return State::Stands;
        }
        // SAFETY: the lock is ours, so no program writes it; every bit pattern is an `Op`.
        let op = unsafe { run.byte_add(offset_of!(Run, op)).cast::<Op>().read() };
        messages.store(0, Ordering::Relaxed);
        lock.store(0, Ordering::Release);
        if op.messages == 0 { State::Nothing } else { State::Taken(op) }
    }
}

/// Flags that are looked at in one go.
const WORD: usize = size_of::<u64>();

/// What has become of a run.
enum State {
    Taken(Op),
    /// It goes on, or somebody works on it.
    Stands,
    Nothing,
}

/// Where the time of a run's last call stands.
const TIME: usize =
    offset_of!(Run, op) + offset_of!(Op, header) + offset_of!(ipctrace_common::wire::Header, time);
