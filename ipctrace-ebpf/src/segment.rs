//! System V segments by their id: `struct shmid_kernel`, ipc/shm.c.

use crate::config::offset;
use crate::kernel::{Result, read};
use crate::task;

/// Where shared memory stands among the kinds of System V objects, `IPC_SHM_IDS`, ipc/util.h.
const SHM_IDS: usize = 2;
/// The bits of an id that are its index, ipc/util.h, unless the kernel was started with `ipcmni_extend`.
const INDEX: u32 = 0x7fff;
/// Levels of a tree of that many entries, 64 a node.
const LEVELS: usize = 3;

/// What the kernel knows of a segment.
pub(crate) struct Segment {
    /// Number of its IPC namespace.
    pub(crate) space: u64,
    /// Its key; 0 for IPC_PRIVATE.
    pub(crate) key: u32,
    /// Its size, bytes.
    pub(crate) size: u64,
    /// The `task_struct` that made it, as long as that lives.
    pub(crate) creator: u64,
}

/// The IPC namespace of the current task.
#[inline(always)]
fn namespace() -> Result<u64> {
    let spaces: u64 = read(task::current() as u64, offset!(task_nsproxy))?;
    read(spaces, offset!(nsproxy_ipc))
}

/// Its number.
///
/// # Errors
/// If it cannot be read.
#[inline(always)]
pub(crate) fn space() -> Result<u64> {
    Ok(u64::from(read::<u32>(namespace()?, offset!(ipc_inum))?))
}

/// The segment of that id in the namespace of the current task.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn find(id: u32) -> Result<Option<Segment>> {
    let namespace = namespace()?;
    let ids = offset!(ipc_ids) + SHM_IDS * offset!(ipc_ids_size);
    let mut entry: u64 = read(namespace, ids + offset!(ipc_ids_root))?;
    for _ in 0..LEVELS {
        // An inner node: `xa_is_node`, include/linux/xarray.h.
        if entry & 3 != 2 {
            break;
        }
        let node = entry - 2;
        let shift: u8 = read(node, offset!(xa_node_shift))?;
        let slot = (id & INDEX) >> (shift & 31) & 63;
        entry = read(node, offset!(xa_node_slots) + slot as usize * 8)?;
    }
    if entry == 0 || entry & 3 != 0 || read::<u32>(entry, offset!(ipc_perm_id))? != id {
        return Ok(None);
    }
    Ok(Some(Segment {
        space: u64::from(read::<u32>(namespace, offset!(ipc_inum))?),
        key: read(entry, offset!(ipc_perm_key))?,
        size: read(entry, offset!(shm_size))?,
        creator: read(entry, offset!(shm_creator))?,
    }))
}
