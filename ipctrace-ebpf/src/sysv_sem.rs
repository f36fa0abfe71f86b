//! System V semaphores: ipc/sem.c.

use ipctrace_common::syscall::Special;
use ipctrace_common::wire::{Key, wake_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::kernel::{Result, load, read};
use crate::wake::{self, Ended, Place, role};
use crate::{ring, special, task};

/// Bits of an id that are the index in its namespace: those of `ipcmni_extend`, include/linux/ipc_namespace.h. Without
/// that option the index has 15 bits, and the bits above belong to the sequence number.
const INDEX_BITS: [u32; 2] = [15, 24];
/// Levels of an index of at most 24 bits, six bits each.
const LEVELS: usize = 4;

/// The IPC namespace of the current task.
#[inline(always)]
fn namespace() -> Result<u64> {
    // SAFETY: typed pointers from the current task on, offsets of this kernel.
    let namespace = unsafe {
        let proxy: *const u8 = load(task::current(), offset!(task_nsproxy));
        load::<u64>(proxy, offset!(nsproxy_ipc))
    };
    if namespace == 0 { Err(Cause::ReadFailed) } else { Ok(namespace) }
}

/// The set that the call names.
#[inline(always)]
fn named() -> Result<Place> {
    let id = special::arguments()?[0];
    let space: u32 = read(namespace()?, offset!(ipc_inum))?;
    Ok(Place { object: u64::from(space), detail: u64::from(id as u32) })
}

/// semop(2), semtimedop(2) and semctl(2) begin. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn semaphore_entered(tid: u32, special: u32) -> i32 {
    // semctl never waits.
    let roles = if special == Special::Semop as u32 { role::WAITS | role::WAKES } else { role::WAKES };
    let begun = named().and_then(|place| wake::begin(tid, Mechanism::SysvSem, roles, [place, Place::NONE]));
    if let Err(cause) = begun {
        ring::count(cause);
    }
    0
}

/// They end. The verifier looks at it by itself.
///
/// A call that did not have to wait was woken by nobody.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn semaphore_exited(tid: u32, returned: i64) -> i32 {
    let Some(call) = wake::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &*call };
    if call.roles & role::WAITS != 0
        && returned == 0
        && wake::has_waker(call)
        && let Err(cause) = woken(call)
    {
        ring::count(cause);
    }
    wake::end(tid);
    0
}

#[inline(always)]
fn woken(call: &wake::Call) -> Result<()> {
    let place = if call.roles & role::OPEN == 0 { call.places[0] } else { named()? };
    if !wake::proven(call, &place) {
        return Ok(());
    }
    let key = key(namespace()?, place.detail as u32);
    let ended = Ended {
        key: Key { id: place.detail, space: place.object },
        inode: 0,
        detail: u64::from(key.unwrap_or(0)),
        flags: if key.is_ok() { wake_flag::KEY } else { 0 },
    };
    wake::tell(call, &ended, true);
    Ok(())
}

/// The key of a set of semaphores.
///
/// The first kind of `ipc_namespace.ids` is that of semaphores (`IPC_SEM_IDS`, ipc/util.h).
#[inline(always)]
fn key(namespace: u64, id: u32) -> Result<u32> {
    for bits in INDEX_BITS {
        if let Ok(object) = find(namespace + offset!(ipc_ids) as u64, id & ((1 << bits) - 1))
            && read::<u32>(object, offset!(ipc_id)) == Ok(id)
        {
            return read(object, offset!(ipc_key));
        }
    }
    Err(Cause::ReadFailed)
}

/// What stands at `index` of an xarray: lib/xarray.c. Nodes are marked by the lower bits of the pointers to them.
#[inline(always)]
fn find(ids: u64, index: u32) -> Result<u64> {
    let mut entry: u64 = read(ids, offset!(ipc_ids_root))?;
    for _ in 0..LEVELS + 1 {
        if entry == 0 {
            break;
        }
        if entry & 3 != 2 {
            return Ok(entry);
        }
        let node = entry - 2;
        let shift: u8 = read(node, offset!(xa_node_shift))?;
        let slot = (index >> (shift & 31)) & 63;
        entry = read(node, offset!(xa_node_slots) + slot as usize * 8)?;
    }
    Err(Cause::ReadFailed)
}
