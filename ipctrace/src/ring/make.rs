//! How the rings are made: memory that the programs share with us, where they read the kernel's by loads, else ring buffers of the
//! kernel's. The eBPF object says which it wants.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{ArrayOfMaps, Map, MapData};
use aya::util::{nr_cpus, online_cpus};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use ipctrace_common::ring::{LARGEST, Shape, size};

use super::{Rings, page_size};
use crate::flag::Flag;
use crate::kernel::syscalls;

/// Room for records between kernel and collector, of all processors, in bytes. It counts as our memory, in full.
const ROOM: u32 = 16 << 20;

/// Of which each processor has this at the least.
const LEAST_ROOM: u32 = 1 << 20;

/// Most threads that wait for the kernel at the same time.
const WAITERS: usize = 32;

/// How many rings there are to be, and how large.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The processors that have one.
    cpus: Vec<u32>,
    /// How many processors there could be.
    possible: u32,
    /// Bytes of data of each, a power of two.
    data: u32,
    secret: u64,
}

impl Layout {
    /// One for each processor, with so much room together if somebody has said so.
    ///
    /// # Errors
    /// If the kernel does not tell which processors there are.
    pub(crate) fn of_this_host(room: Option<u32>) -> Result<Layout> {
        let cpus = online_cpus().map_err(unreadable)?;
        let possible = u32::try_from(nr_cpus().map_err(unreadable)?)?;
        let data = share(room, u32::try_from(cpus.len())?);
        Ok(Layout { cpus, possible, data, secret: RandomState::new().hash_one(0) })
    }

    /// What programs that share them are told.
    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.count(), self.data, self.secret, syscalls::STORES_IN_ORDER)
    }

    /// Bytes of a ring that is shared.
    pub(crate) fn size(&self) -> u64 {
        size(self.data)
    }

    /// How many rings there are.
    pub(crate) fn count(&self) -> u32 {
        // As many as there are processors, whose numbers are of that type.
        self.cpus.len() as u32
    }

    /// How many places there are for ring buffers: one for each processor that there could be.
    pub(crate) fn places(&self) -> u32 {
        self.possible
    }
}

fn unreadable((path, error): (&str, io::Error)) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("reading {path}"))
}

/// The least that each has, whatever is asked for, bytes: programs that have seen that there is room may fill a quarter of it together before
/// they know of each other, and a record with payload has more than 4 KiB.
const SMALLEST: u32 = 64 << 10;

/// How large each of `count` rings is, a power of two.
fn share(room: Option<u32>, count: u32) -> u32 {
    let room = room.unwrap_or_else(|| ROOM.max(LEAST_ROOM.saturating_mul(count)));
    (room / count.max(1)).clamp(SMALLEST.max(page_size() as u32), LARGEST).next_power_of_two()
}

/// The maps in which records come.
pub(crate) enum Made {
    /// All rings in one, and what wakes us.
    Shared { events: MapData, bell: MapData },
    /// The places of the ring buffers, these, and what says that we wait for the next record.
    Buffers { places: MapData, buffers: Vec<MapData>, resting: Flag },
}

impl Made {
    /// Takes them from the object, whose programs that are loaded find them by their descriptors.
    ///
    /// # Errors
    /// If it has none, or the kernel makes none.
    pub(crate) fn of(ebpf: &mut Ebpf, layout: &Layout) -> Result<Made> {
        match ebpf.take_map("EVENTS") {
            Some(Map::Array(events)) => match ebpf.take_map("BELL") {
                Some(Map::RingBuf(bell)) => Ok(Made::Shared { events, bell }),
                _ => bail!("the eBPF object has no ring buffer BELL"),
            },
            Some(Map::ArrayOfMaps(places)) => {
                let buffers =
                    layout.cpus.iter().map(|cpu| buffer(*cpu, layout.data)).collect::<Result<_>>()?;
                Ok(Made::Buffers { places, buffers, resting: Flag::map(ebpf, "RESTING")? })
            }
            _ => bail!("the eBPF object has no map EVENTS of a kind that is known"),
        }
    }

    /// Makes them ready for programs to write to.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn place(&self, layout: &Layout) -> Result<()> {
        match self {
            Made::Shared { .. } => Ok(()),
            Made::Buffers { places, buffers, .. } => place(places, buffers, layout),
        }
    }

    /// Maps them into memory.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn map(self, layout: &Layout) -> Result<Rings> {
        match self {
            Made::Shared { events, bell } => Rings::shared(events, bell, layout.shape()),
            Made::Buffers { places, buffers, resting } => {
                Rings::buffers(buffers, layout.data, resting, places)
            }
        }
    }
}

/// Makes the ring buffer of a processor.
fn buffer(cpu: u32, size: u32) -> Result<MapData> {
    let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, size, 0);
    MapData::create(map, &format!("EVENTS_{cpu}"), None)
        .with_context(|| format!("making a ring buffer of {size} bytes"))
}

/// Puts the ring buffers where programs find them. A processor that comes later shares that of another.
///
/// After each the kernel waits until no program can be looking at what was there before (`maybe_wait_bpf_programs`,
/// kernel/bpf/syscall.c), some 10 ms; those who wait at the same time wait together.
fn place(places: &MapData, buffers: &[MapData], layout: &Layout) -> Result<()> {
    let all: Vec<u32> = (0..layout.possible).collect();
    let some = |some: &[u32]| -> Result<()> {
        let handle = MapData::from_fd(places.fd().as_fd().try_clone_to_owned()?)?;
        let mut array: ArrayOfMaps<_, MapData> = ArrayOfMaps::try_from(Map::ArrayOfMaps(handle))?;
        for place in some {
            let of_it = layout.cpus.iter().position(|cpu| cpu == place);
            array.set(*place, &buffers[of_it.unwrap_or(*place as usize % buffers.len())], 0)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let parts = all.chunks(all.len().div_ceil(WAITERS));
        let waiters: Vec<_> = parts.map(|part| scope.spawn(move || some(part))).collect();
        waiters.into_iter().try_for_each(|waiter| {
            waiter.join().map_err(|_| anyhow::anyhow!("handing a ring buffer over failed"))?
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_has_its_share_of_the_room() {
        assert_eq!(share(None, 1), 16 << 20);
        assert_eq!(share(None, 2), 8 << 20);
        assert_eq!(share(None, 3), 8 << 20);
        assert_eq!(share(None, 128), 1 << 20);
        assert_eq!(share(Some(256 << 10), 2), 128 << 10);
        assert_eq!(share(Some(64 << 10), 1000), SMALLEST.max(page_size() as u32));
        assert_eq!(share(Some(u32::MAX), 1), LARGEST);
    }
}
