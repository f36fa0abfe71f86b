//! process_vm_readv(2) and process_vm_writev(2): mm/process_vm_access.c.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use ipctrace_common::wire::{self, Kind, Task, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::kernel::Result;
use crate::{pid, ring, special, task};

/// Whose memory each thread that is in such a call is at: found at its begin, for the process may be gone at its end.
#[map]
static TARGETS: HashMap<u32, Task> = HashMap::with_max_entries(4096, 0);

/// The begin of such a call. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn process_vm_entered(tid: u32) -> i32 {
    // Of a thread that was killed in such a call, whose id is another's now.
    let _ = TARGETS.remove(tid);
    if let Err(cause) = try_entered(tid) {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_entered(tid: u32) -> Result<()> {
    let [number, ..] = special::arguments()?;
    let found = pid::find(number as u32)?;
    if found == 0 {
        // The call will fail.
        return Ok(());
    }
    let mut target = task::NOBODY;
    // SAFETY: a place on the stack.
    unsafe { task::describe(found, &raw mut target) };
    // A process that copies its own memory tells nobody anything.
    if target.tgid == (task::pid_tgid() >> 32) as u32 {
        return Ok(());
    }
    TARGETS.insert(tid, target, 0).map_err(|_| Cause::MapFull)
}

/// The end of such a call. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn process_vm_exited(tid: u32, flags: u32, returned: i64) -> i32 {
    let Some(target) = TARGETS.get_ptr(tid) else {
        return 0;
    };
    if returned > 0
        && let Some(mut entry) = ring::reserve::<wire::Direct>()
    {
        let record = entry.as_mut_ptr();
        // SAFETY: room for a record, of which every field is written; the target is in the map, of this thread alone.
        unsafe {
            let header = &raw mut (*record).header;
            ring::begin(header, Kind::Direct, Mechanism::ProcessVm as u8, flags as u16, ring::now());
            task::describe_current(&raw mut (*record).task);
            (*record).target = *target;
            (*record).bytes = returned as u64;
        }
        ring::submit(entry);
    }
    let _ = TARGETS.remove(tid);
    0
}

/// What the caller did, as the record says it.
pub(crate) const READ: u32 = op_flag::RECEIVE as u32;
/// See [`READ`].
pub(crate) const WRITE: u32 = 0;
