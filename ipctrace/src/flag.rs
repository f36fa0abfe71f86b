//! A word that programs and collector share, in memory: neither needs a system call for it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use memmap2::{MmapOptions, MmapRaw};

/// One that is raised by one side and taken by the other.
#[derive(Debug)]
pub(crate) struct Flag {
    memory: MmapRaw,
    /// Programs that are loaded later find the map by its descriptor.
    _map: MapData,
}

impl Flag {
    /// The first word of a map of that name.
    pub(crate) fn map(ebpf: &mut Ebpf, name: &str) -> Result<Flag> {
        let Some(Map::Array(map)) = ebpf.take_map(name) else {
            bail!("the eBPF object has no array {name}");
        };
        let memory = MmapOptions::new()
            .len(size_of::<u64>())
            .map_raw(&map.fd().as_fd())
            .with_context(|| format!("mapping {name} into memory"))?;
        Ok(Flag { memory, _map: map })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the first word of a live mapping, aligned; programs write it meanwhile, hence the atomic.
        unsafe { AtomicU64::from_ptr(self.memory.as_mut_ptr().cast()) }
    }

    pub(crate) fn raise(&self) {
        self.word().store(1, Ordering::SeqCst);
    }

    pub(crate) fn lower(&self) {
        self.word().store(0, Ordering::Relaxed);
    }

    /// Whether it was up; it is not any more.
    pub(crate) fn take(&self) -> bool {
        // Most often it is not, and then the programs' copy of it is left alone.
        self.word().load(Ordering::Relaxed) != 0 && self.word().swap(0, Ordering::AcqRel) != 0
    }
}
