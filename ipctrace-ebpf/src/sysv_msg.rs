//! System V message queues: `struct msg_queue`, ipc/msg.c.

use ipctrace_common::Mechanism;
use ipctrace_common::wire::Key;

use crate::config::offset;
use crate::inflight::Side;
use crate::kernel::read;
use crate::object::is_on;
use crate::sysv;

/// Fills in a queue's side of a call, but for the object. `task` is the current one, or 0.
#[inline(always)]
pub(crate) fn describe(task: u64, id: u32, side: &mut Side) {
    if is_on(Mechanism::SysvMsg) {
        side.mechanism = Mechanism::SysvMsg as u8;
        side.key = key_in(sysv::namespace_of(task), id);
    }
}

/// Names a queue of the current task's IPC namespace.
#[inline(always)]
pub(crate) fn key(id: u32) -> Key {
    key_in(sysv::namespace(), id)
}

/// Names a queue of that IPC namespace.
#[inline(always)]
pub(crate) fn key_in(namespace: u64, id: u32) -> Key {
    let number: u32 = read(namespace, offset!(ipc_inum)).unwrap_or(0);
    // The first queue has the identifier 0, which is no key.
    Key { id: u64::from(id) | 1 << 32, space: Key::SYSV_MSG | u64::from(number) }
}

/// The `struct msg_queue` with that identifier in the current task's namespace; 0 if it is not found. The verifier looks
/// at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sysv_msg_object(id: u32) -> u64 {
    sysv::find(sysv::MSG, id)
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
///
/// # Safety
/// The place must be valid for a write of 4 bytes.
#[inline(always)]
pub(crate) unsafe fn name(queue: u64, place: *mut u8) -> usize {
    if queue == 0 {
        return 0;
    }
    let Ok(key) = read::<[u8; 4]>(queue, offset!(ipc_perm_key)) else {
        return 0;
    };
    // SAFETY: valid by contract.
    unsafe { place.cast::<[u8; 4]>().write_unaligned(key) };
    key.len()
}
