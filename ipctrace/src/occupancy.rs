//! How full the programs' maps are.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use aya::maps::{MapInfo, MapType};

use crate::attach;

/// A map that can fill up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Its name in the kernel, 15 bytes at most.
    pub name: String,
    /// Keys in it.
    pub entries: u64,
    /// Keys that have room in it.
    pub room: u32,
}

/// The hash maps of our programs that are loaded in the kernel now, whoever loaded them.
///
/// # Errors
/// If the kernel does not let us look.
pub fn occupancy() -> Result<Vec<Occupancy>> {
    let mut ids = Vec::new();
    for program in attach::loaded_programs()? {
        ids.extend(program.map_ids().context("asking for the maps of a program")?.unwrap_or_default());
    }
    ids.sort_unstable();
    ids.dedup();
    // One that goes away while we look holds nothing any more.
    let maps = ids.into_iter().filter_map(|id| MapInfo::from_id(id).ok());
    maps.filter(|map| matches!(map.map_type(), Ok(MapType::Hash | MapType::LruHash)))
        .map(|map| {
            let name = map.name_as_str().unwrap_or_default().to_owned();
            let room = map.max_entries();
            Ok(Occupancy { entries: entries(&map)?, name, room })
        })
        .collect()
}

/// `union bpf_attr` of BPF_MAP_GET_NEXT_KEY, include/uapi/linux/bpf.h.
#[repr(C)]
struct Next {
    map: u32,
    reserved: u32,
    key: u64,
    next: u64,
}

const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;

/// Counts a map's keys. While it is changed some may be counted twice or not at all.
fn entries(map: &MapInfo) -> Result<u64> {
    let fd = map.fd().context("opening a map")?;
    let mut key = vec![0u8; map.key_size() as usize];
    let mut next = key.clone();
    let mut count = 0;
    let mut first = true;
    while count < 2 * u64::from(map.max_entries()) {
        let mut attributes = Next {
            map: fd.as_fd().as_raw_fd() as u32,
            reserved: 0,
            key: if first { 0 } else { key.as_ptr() as u64 },
            next: next.as_mut_ptr() as u64,
        };
        // SAFETY: the attributes are those of this command; both keys are buffers of the map's key size.
        let status = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_GET_NEXT_KEY,
                &raw mut attributes,
                size_of::<Next>() as libc::c_uint,
            )
        };
        if status != 0 {
            break;
        }
        count += 1;
        first = false;
        std::mem::swap(&mut key, &mut next);
    }
    Ok(count)
}
