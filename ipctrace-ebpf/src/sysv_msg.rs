//! System V message queues: `struct msg_queue`, ipc/msg.c, and where they are found, ipc/util.c.

use ipctrace_common::Mechanism;
use ipctrace_common::wire::{Key, NAME_MAX};

use crate::config::offset;
use crate::inflight::Side;
use crate::kernel::{Result, load, read};
use crate::object::is_on;
use crate::task;

/// `IPC_MSG_IDS`, ipc/util.h.
const IPC_MSG_IDS: usize = 1;
/// Bits of an identifier that are the place in the table: `IPCMNI_SHIFT`, and `IPCMNI_EXTEND_SHIFT` on kernels that were
/// started with `ipcmni_extend`.
const INDEX_BITS: [u32; 2] = [15, 24];
/// `XA_CHUNK_MASK`, include/linux/xarray.h.
const SLOT: u64 = 63;
/// Levels of a table of 24 bits.
const LEVELS: u32 = 4;

/// Fills in a queue's side of a call, but for the object.
#[inline(always)]
pub(crate) fn describe(id: u32, side: &mut Side) {
    if is_on(Mechanism::SysvMsg) {
        side.mechanism = Mechanism::SysvMsg as u8;
        side.key = key(id);
    }
}

/// Names a queue of the current task's IPC namespace.
#[inline(always)]
pub(crate) fn key(id: u32) -> Key {
    // SAFETY: the namespace has BTF type ipc_namespace, see `namespace`.
    let number: u32 = unsafe { load(namespace(), offset!(ipc_inum)) };
    // The first queue has the identifier 0, which is no key.
    Key { id: u64::from(id) | 1 << 32, space: Key::SYSV_MSG | u64::from(number) }
}

/// The `struct ipc_namespace` of the current task.
#[inline(always)]
fn namespace() -> *const u8 {
    // SAFETY: typed pointers from the current task on, offsets of the running kernel: task_struct.nsproxy is a pointer to
    // nsproxy, its ipc_ns one to ipc_namespace. A task that is ending has none: the kernel reads zero then.
    unsafe {
        let proxy: *const u8 = load(task::current(), offset!(task_nsproxy));
        load(proxy, offset!(nsproxy_ipc))
    }
}

/// The `struct msg_queue` with that identifier in the current task's namespace; 0 if it is not found. The verifier looks
/// at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sysv_msg_object(id: u32) -> u64 {
    for bits in INDEX_BITS {
        let index = u64::from(id & ((1 << bits) - 1));
        let object = sysv_msg_slot(index);
        if object != 0 && read::<u32>(object, offset!(ipc_perm_id)) == Ok(id) {
            return object;
        }
    }
    0
}

/// What stands at a place of the table; 0 if nothing does. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sysv_msg_slot(index: u64) -> u64 {
    look_up(index).unwrap_or(0)
}

/// The same: `idr_find`, lib/idr.c, lib/radix-tree.c.
#[inline(always)]
fn look_up(index: u64) -> Result<u64> {
    let ids = namespace() as u64 + (offset!(ipc_ids) + IPC_MSG_IDS * offset!(ipc_ids_size)) as u64;
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

/// How many messages are in a queue; `u64::MAX` if that could not be read.
#[inline(always)]
pub(crate) fn queued(queue: u64) -> u64 {
    if queue == 0 {
        return u64::MAX;
    }
    read(queue, offset!(msg_queue_count)).unwrap_or(u64::MAX)
}

/// Writes the queue's key as its name, in the byte order of the machine, and gives its length.
#[inline(always)]
pub(crate) fn name(queue: u64, place: &mut [u8; NAME_MAX + 256]) -> usize {
    if queue == 0 {
        return 0;
    }
    let Ok(key) = read::<[u8; 4]>(queue, offset!(ipc_perm_key)) else {
        return 0;
    };
    place[..key.len()].copy_from_slice(&key);
    key.len()
}
