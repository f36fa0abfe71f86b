//! The runs of small calls that no call has ended yet: see [`ipctrace_common::run`].

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result};
use aya::maps::MapData;
use ipctrace_common::run::{RUNS, Run};
use ipctrace_common::wire::Op;
use memmap2::{MmapOptions, MmapRaw};

/// How long a run may stand before the collector takes it, ns: far longer than a thread that goes on calling leaves it.
const STALE: u64 = 4_000_000;

/// The memory that the programs keep runs in.
#[derive(Debug)]
pub struct Runs {
    memory: MmapRaw,
    /// Programs that are loaded later find the map by its descriptor.
    _map: MapData,
}

impl Runs {
    /// Maps it.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn map(map: MapData) -> Result<Runs> {
        let length = RUNS as usize * size_of::<Run>();
        let memory = MmapOptions::new()
            .len(length)
            .map_raw(&map.fd().as_fd())
            .context("mapping the runs of small calls into memory")?;
        Ok(Runs { memory, _map: map })
    }

    /// Takes the runs that have stood for a while by `now` (ns since boot), all of them if `force`, and gives `each` the
    /// record of each.
    pub fn take(&self, now: u64, force: bool, mut each: impl FnMut(Op)) {
        for index in 0..RUNS as usize {
            if let Some(op) = self.take_one(index, now, force) {
                each(op);
            }
        }
    }

    fn take_one(&self, index: usize, now: u64, force: bool) -> Option<Op> {
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
            return None;
        }
        let fresh = now.saturating_sub(time.load(Ordering::Relaxed)) < STALE;
        if (fresh && !force) || lock.swap(1, Ordering::AcqRel) != 0 {
            return None;
        }
        // SAFETY: the lock is ours, so no program writes it; every bit pattern is an `Op`.
        let op = unsafe { run.byte_add(offset_of!(Run, op)).cast::<Op>().read() };
        messages.store(0, Ordering::Relaxed);
        lock.store(0, Ordering::Release);
        (op.messages != 0).then_some(op)
    }
}

/// Where the time of a run's last call stands.
const TIME: usize =
    offset_of!(Run, op) + offset_of!(Op, header) + offset_of!(ipctrace_common::wire::Header, time);
