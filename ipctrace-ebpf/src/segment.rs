//! System V segments by their id: `struct shmid_kernel`, ipc/shm.c. They are made, attached, detached and removed.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use ipctrace_common::wire::{self, Key, Kind, share_event};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::kernel::{Result, load, read};
use crate::memory::{self, NOTHING, VM_WRITE};
use crate::{ring, task};

/// Where shared memory stands among the kinds of System V objects, `IPC_SHM_IDS`, ipc/util.h.
const SHM_IDS: usize = 2;
/// The bits of an id that are its index, ipc/util.h, unless the kernel was started with `ipcmni_extend`.
const INDEX: u32 = 0x7fff;
/// Levels of a tree of that many entries, 64 a node.
const LEVELS: usize = 3;

/// What the kernel knows of a segment.
struct Segment {
    /// Number of its IPC namespace.
    space: u64,
    /// Its key; 0 for IPC_PRIVATE.
    key: u32,
    /// Its size, bytes.
    size: u64,
    /// The `task_struct` that made it, as long as that lives.
    creator: u64,
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
fn space() -> Result<u64> {
    Ok(u64::from(read::<u32>(namespace()?, offset!(ipc_inum))?))
}

/// The segment of that id in the namespace of the current task.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
fn find(id: u32) -> Result<Option<Segment>> {
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

/// The mapping of a segment.
#[repr(C)]
struct Mapping {
    end: u64,
    flags: u64,
    file: u64,
}

/// What bpf_find_vma calls, with the mapping's lock held.
extern "C" fn mapping(_task: *mut c_void, vma: *const u8, found: *mut Mapping) -> i64 {
    // SAFETY: the helper passes a mapping, whose type the verifier knows, and the caller's state; the offsets are those of
    // this kernel.
    unsafe {
        (*found).end = load(vma, offset!(vma_end));
        (*found).flags = load(vma, offset!(vma_flags));
        // A number, as in `futex`.
        (*found).file = read(vma as u64, offset!(vma_file)).unwrap_or(0);
    }
    0
}

/// The mapping at an address of the current process.
#[inline(always)]
fn at(address: u64) -> Result<Mapping> {
    let mut found = Mapping { end: 0, flags: 0, file: 0 };
    #[cfg(feature = "plain")]
    let status = {
        // Not called: what needs it is off.
        let _: extern "C" fn(*mut c_void, *const u8, *mut Mapping) -> i64 = mapping;
        found.file = 0;
        -i64::from(address != 0)
    };
    #[cfg(not(feature = "plain"))]
    // SAFETY: `mapping` has the signature that the helper calls, and the state outlives the call.
    let status = unsafe {
        let visit: extern "C" fn(*mut c_void, *const u8, *mut Mapping) -> i64 = mapping;
        memory::visit_mapping(address, visit as *mut c_void, (&raw mut found).cast())
    };
    match status {
        0 if found.file != 0 => Ok(found),
        0 | NOTHING => Err(Cause::ReadFailed),
        _ => Err(Cause::MappingsBusy),
    }
}

/// Room for the name of a segment's file, which is `SYSV` and eight digits, and its NUL.
const NAME: usize = 16;

/// A record of a segment that is attached.
#[repr(C)]
struct Attached {
    fixed: wire::Share,
    name: [u8; NAME],
}

/// Begins a record, made in the ring itself, of what the current task has done: at the functions of segments another task's
/// programs may come in between. All else is 0.
///
/// # Safety
/// `record` must be valid for a write of a `T`, which begins with a [`wire::Share`].
#[inline(always)]
unsafe fn begin<T>(record: *mut T, mechanism: u8, event: u16) {
    // SAFETY: valid by contract.
    unsafe {
        ring::clear(record);
        let share = record.cast::<wire::Share>();
        ring::begin(&raw mut (*share).header, Kind::Share, mechanism, event, ring::now());
        memory::done_by(share, task::current() as u64);
    }
}

/// shmat(2) gave this address. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_attached(start: u64) -> i32 {
    if let Err(cause) = try_attached(start) {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_attached(start: u64) -> Result<()> {
    let Mapping { end, flags, file } = at(start)?;
    let key = key_of(file)?;
    let size: u64 = read(read(file, offset!(file_inode))?, offset!(inode_size))?;
    let name: u64 = read(read(file, offset!(file_dentry))?, offset!(dentry_name))?;
    memory::share_claim((task::pid_tgid() >> 32) as u32, start, end);
    let Some(mut entry) = ring::reserve::<Attached>() else {
        return Ok(());
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every byte of it is written. The place is as long as is said; the helper checks the source.
    unsafe {
        begin(record, Mechanism::SysvShm as u8, share_event::MAP);
        let fixed = &raw mut (*record).fixed;
        (*fixed).key = key;
        (*fixed).start = start;
        (*fixed).len = end.wrapping_sub(start);
        (*fixed).size = size;
        (*fixed).writable = u32::from(flags & VM_WRITE != 0);
        let place = (&raw mut (*record).name).cast();
        if bpf_probe_read_kernel_str(place, NAME as u32, name as *const _) > 0 {
            (*fixed).name_len = NAME as u32;
        }
    }
    ring::submit(entry);
    Ok(())
}

/// The segment that a file is, which is private to one of its mappings: `struct shm_file_data`, ipc/shm.c.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn key_of(file: u64) -> Result<Key> {
    let data: u64 = read(file, offset!(file_private_data))?;
    let space: u64 = read(data, offset!(shm_file_ns))?;
    Ok(Key {
        id: u64::from(read::<u32>(data, offset!(shm_file_id))?),
        space: u64::from(read::<u32>(space, offset!(ipc_inum))?),
    })
}

/// shmdt(2) begins. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_detached(start: u64) -> i32 {
    if memory::shares(start, start.wrapping_add(1))
        && let Some(mut entry) = ring::reserve::<wire::Share>()
    {
        let record = entry.as_mut_ptr();
        // SAFETY: as above. The range stays: how long it is, and whether a segment begins here, user space knows.
        unsafe {
            begin(record, 0, share_event::UNMAP);
            (*record).start = start;
        }
        ring::submit(entry);
    }
    0
}

/// Tells of a segment that is known by its id: its key goes where the offset would be.
#[inline(always)]
fn tell(event: u16, id: u32, segment: &Segment, certain: bool) {
    let Some(mut entry) = ring::reserve::<wire::Share>() else {
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: as above.
    unsafe {
        begin(record, Mechanism::SysvShm as u8, event);
        (*record).key = Key { id: u64::from(id), space: segment.space };
        (*record).offset = u64::from(segment.key);
        (*record).size = segment.size;
        (*record).writable = 1;
        (*record).flag = u32::from(certain);
    }
    ring::submit(entry);
}

/// A segment was made, or, if that is not `certain`, found. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_made(id: u32, certain: u32) -> i32 {
    match find(id) {
        Ok(Some(found)) if certain != 0 || found.creator == task::current() as u64 => {
            tell(share_event::CREATE, id, &found, certain != 0);
        }
        Ok(_) => {}
        Err(cause) => ring::count(cause),
    }
    0
}

/// Segments that shmctl is about to remove, by thread: key and size.
#[map]
static REMOVING: HashMap<u32, [u64; 2]> = HashMap::with_max_entries(1024, 0);

/// A segment is about to be removed by thread `tid`. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_removing(tid: u32, id: u32) -> i32 {
    let kept = find(id).and_then(|found| match found {
        Some(found) => {
            REMOVING.insert(tid, [u64::from(found.key), found.size], 0).map_err(|_| Cause::MapFull)
        }
        None => Ok(()),
    });
    if let Err(cause) = kept {
        ring::count(cause);
    }
    0
}

/// It was, unless that has `failed`. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segment_removed(tid: u32, id: u32, failed: u32) -> i32 {
    let Some(kept) = REMOVING.get_ptr(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's.
    let [key, size] = unsafe { *kept };
    let _ = REMOVING.remove(tid);
    if failed == 0 {
        match space() {
            Ok(space) => {
                let segment = Segment { space, key: key as u32, size, creator: 0 };
                tell(share_event::REMOVE, id, &segment, false);
            }
            Err(cause) => ring::count(cause),
        }
    }
    0
}
