//! Where System V objects are found: ipc/util.c.

use crate::config::offset;
use crate::kernel::{Result, read};
use crate::task;

/// `IPC_SEM_IDS`, ipc/util.h.
pub(crate) const SEM: u64 = 0;
/// `IPC_MSG_IDS`, ipc/util.h.
pub(crate) const MSG: u64 = 1;
/// Whether a command of msgctl(2) or shmctl(2) removes the object: `IPC_RMID`, to which `IPC_64` may be added,
/// include/uapi/linux/ipc.h and ipc/util.h.
#[inline(always)]
pub(crate) fn removes(command: u32) -> bool {
    command & !0x100 == 0
}

/// Bits of an identifier that are the place in the table: `IPCMNI_SHIFT`, and `IPCMNI_EXTEND_SHIFT` on kernels that were
/// started with `ipcmni_extend`.
const INDEX_BITS: [u32; 2] = [15, 24];
/// `XA_CHUNK_MASK`, include/linux/xarray.h.
const SLOT: u64 = 63;
/// Levels of a table of 24 bits.
const LEVELS: u32 = 4;

/// The `struct ipc_namespace` of the current task; 0 if it has none any more, because it is ending.
#[inline(always)]
pub(crate) fn namespace() -> u64 {
    namespace_of(0)
}

/// The same where the task is at hand, by address, or 0.
#[inline(always)]
pub(crate) fn namespace_of(task: u64) -> u64 {
    read::<u64>(task::or_current(task), offset!(task_nsproxy))
        .and_then(|proxy| read(proxy, offset!(nsproxy_ipc)))
        .unwrap_or(0)
}

/// The object of that kind and identifier in the current task's namespace; 0 if it is not found.
#[inline(always)]
pub(crate) fn find(kind: u64, id: u32) -> u64 {
    for bits in INDEX_BITS {
        let object = sysv_slot(kind, u64::from(id & ((1 << bits) - 1)));
        if object != 0 && read::<u32>(object, offset!(ipc_perm_id)) == Ok(id) {
            return object;
        }
    }
    0
}

/// What stands at a place of a table; 0 if nothing does. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sysv_slot(kind: u64, index: u64) -> u64 {
    look_up(kind & 3, index).unwrap_or(0)
}

/// The same: `idr_find`, lib/idr.c, lib/radix-tree.c.
#[inline(always)]
fn look_up(kind: u64, index: u64) -> Result<u64> {
    let ids = namespace() + offset!(ipc_ids) as u64 + kind * offset!(ipc_ids_size) as u64;
    let mut entry: u64 = read(ids, offset!(ipc_ids_root))?;
    for _ in 0..LEVELS {
        // xa_is_node()
        if entry & 3 != 2 || entry <= 4096 {
            break;
        }
        let node = entry - 2;
        let shift: u8 = read(node, offset!(xa_node_shift))?;
        let slot = index >> (shift & 63) & SLOT;
        entry = read(node + slot * 8, offset!(xa_node_slots))?;
    }
    Ok(if entry & 3 == 0 { entry } else { 0 })
}
