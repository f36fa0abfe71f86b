//! System V semaphores: ipc/sem.c.

use ipctrace_common::Mechanism;
use ipctrace_common::syscall::Special;
use ipctrace_common::wire::{Key, wake_flag};

use crate::config::offset;
use crate::kernel::{Result, read};
use crate::wake::{self, Ended, Place, role};
use crate::{ring, special, sysv};

/// The set that the call names.
#[inline(always)]
fn named() -> Result<Place> {
    let id = special::arguments()?[0];
    let space: u32 = read(sysv::namespace(), offset!(ipc_inum))?;
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
    let Some(place) = wake::get(tid) else {
        return 0;
    };
    // SAFETY: a valid pointer into the map; the entry is this thread's, which is here.
    let call = unsafe { &*place };
    if call.roles & role::WAITS != 0
        && returned == 0
        && wake::has_waker(call)
        && let Err(cause) = woken(call)
    {
        ring::count(cause);
    }
    // SAFETY: as above.
    unsafe { wake::end(place) };
    0
}

#[inline(always)]
fn woken(call: &wake::Call) -> Result<()> {
    let place = if call.roles & role::OPEN == 0 { call.places[0] } else { named()? };
    if !wake::proven(call, &place) {
        return Ok(());
    }
    let key = read::<u32>(sysv::find(sysv::SEM, place.detail as u32), offset!(ipc_perm_key));
    let ended = Ended {
        key: Key { id: place.detail, space: place.object },
        inode: 0,
        detail: u64::from(key.unwrap_or(0)),
        flags: if key.is_ok() { wake_flag::KEY } else { 0 },
    };
    wake::tell(call, &ended, true);
    Ok(())
}
