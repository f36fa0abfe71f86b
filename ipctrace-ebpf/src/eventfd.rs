//! Event counters: `struct eventfd_ctx`, fs/eventfd.c.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use ipctrace_common::syscall::Class;
use ipctrace_common::wire::{Key, channel_flag, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::inflight::{self, InFlight, Side};
use crate::kernel::{Result, read, read_user};
use crate::{channel, object, ring, task};

/// Size of what is read and written.
const VALUE: u64 = 8;
/// Most values that one writev can add and that are looked at.
const SEGMENTS: u64 = 8;
/// `EFD_SEMAPHORE`.
const SEMAPHORE: u32 = 1;

/// Address of the kernel's `eventfd_fops`, by which eventfds are told from all other files at the cost of one load. It is
/// learnt from a file that is one for certain: the result of eventfd2(2). The loader makes one once the programs are in
/// place. Hence no need of /proc/kallsyms, which may be closed even to root.
#[map]
static EVENTFD_OPS: Array<u64> = Array::with_max_entries(1, 0);

/// Whether an open file is an eventfd that is to be traced.
#[inline(always)]
pub(crate) fn is_one(file: u64) -> bool {
    if !object::is_on(Mechanism::Eventfd) {
        return false;
    }
    // SAFETY: a u64 in a map, written in one store.
    let known = EVENTFD_OPS.get_ptr(0).map_or(0, |place| unsafe { core::ptr::read_volatile(place) });
    known != 0 && read(file, offset!(file_op)) == Ok(known)
}

/// Whether [`is_one`] can tell, or need not.
#[inline(always)]
pub(crate) fn is_certain() -> bool {
    // SAFETY: as above.
    let known = EVENTFD_OPS.get_ptr(0).map_or(0, |place| unsafe { core::ptr::read_volatile(place) });
    known != 0 || !object::is_on(Mechanism::Eventfd)
}

/// Fills in the side of a call on a file that is neither pipe nor socket, if it is an eventfd.
#[inline(always)]
pub(crate) fn describe(file: u64, side: &mut Side) -> Result<()> {
    if is_one(file) { describe_counter(file, side) } else { Ok(()) }
}

/// The same of a file that is an eventfd.
#[inline(always)]
pub(crate) fn describe_counter(file: u64, side: &mut Side) -> Result<()> {
    let counter: u64 = read(file, offset!(file_private_data))?;
    let number: u32 = read(counter, offset!(eventfd_id))?;
    side.mechanism = Mechanism::Eventfd as u8;
    side.object = counter;
    side.key = Key { id: counter, space: Key::EVENTFD };
    side.own_inode = u64::from(number) + 1;
    side.peer = 0;
    side.peer_inode = side.own_inode;
    side.pos_enter = 0;
    side.pos_locked = 0;
    Ok(())
}

/// What the counter stands at; `u64::MAX` if that could not be read.
#[inline(always)]
pub(crate) fn queued(counter: u64) -> u64 {
    read(counter, offset!(eventfd_count)).unwrap_or(u64::MAX)
}

/// Whether each read takes 1.
#[inline(always)]
pub(crate) fn is_semaphore(counter: u64) -> bool {
    read::<u32>(counter, offset!(eventfd_flags)).is_ok_and(|flags| flags & SEMAPHORE != 0)
}

/// eventfd2(2) gave `fd`: a new counter, whose number and address may have been another's before. The verifier looks at it
/// by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn eventfd_made(fd: i64) -> i32 {
    if fd >= 0
        && let Err(cause) = try_made(fd as u32)
    {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_made(fd: u32) -> Result<()> {
    let file = object::file(fd)?;
    if file == 0 {
        return Ok(());
    }
    learn(file)?;
    if !task::is_tracer(task::pid_tgid()) {
        let desk = inflight::desk().ok_or(Cause::MapFull)?;
        // SAFETY: this CPU's valid, aligned place; sys_enter, which also uses it, does not interrupt sys_exit.
        let side = unsafe { &mut (*desk).sides[0] };
        side.mechanism = 0;
        side.receive = 0;
        describe(file, side)?;
        if side.mechanism == 0 {
            return Ok(());
        }
        channel::forget(&side.key);
        if queued(side.object) != 0 {
            channel::announce_in_place(side, 0, channel_flag::MADE)?;
        }
    }
    Ok(())
}

/// Learns from a file that is an eventfd what one looks like.
#[inline(always)]
pub(crate) fn learn(file: u64) -> Result<()> {
    let operations: u64 = read(file, offset!(file_op))?;
    if let Some(place) = EVENTFD_OPS.get_ptr_mut(0) {
        // SAFETY: a u64 in a map; every writer writes the same.
        unsafe { core::ptr::write_volatile(place, operations) };
    }
    Ok(())
}

/// Looks for what was added or taken, in the caller's memory; gives it, 0 if it could not be read.
#[inline(always)]
pub(crate) fn value(call: &mut InFlight) -> u64 {
    match try_value(call) {
        Ok((value, messages)) => {
            call.moved.detail = value as i64;
            call.moved.flags |= op_flag::DETAIL;
            call.moved.messages = messages;
            call.moved.user = 0;
            value
        }
        Err(cause) => {
            call.moved.user = 0;
            ring::count(cause);
            0
        }
    }
}

#[inline(always)]
fn try_value(call: &InFlight) -> Result<(u64, u32)> {
    match Class::from_wire(call.class) {
        Some(Class::Read | Class::Write) => Ok((read_user(call.user, 0)?, 1)),
        Some(Class::Readv) => {
            let [base, len]: [u64; 2] = read_user(call.user, 0)?;
            if len < VALUE { Err(Cause::ReadFailed) } else { Ok((read_user(base, 0)?, 1)) }
        }
        // Each buffer is a write of its own.
        Some(Class::Writev) => {
            let (mut sum, mut count) = (0u64, 0u32);
            for index in 0..SEGMENTS {
                if index * VALUE >= call.moved.bytes {
                    break;
                }
                let base: u64 = read_user(call.user, index as usize * 16)?;
                sum = sum.saturating_add(read_user(base, 0)?);
                count += 1;
            }
            // Better none than a part of it.
            if u64::from(count) * VALUE < call.moved.bytes {
                Err(Cause::ReadFailed)
            } else {
                Ok((sum, count))
            }
        }
        Some(
            Class::Sendto
            | Class::Sendmsg
            | Class::Sendmmsg
            | Class::Recvfrom
            | Class::Recvmsg
            | Class::Recvmmsg
            | Class::Splice
            | Class::Tee
            | Class::Vmsplice
            | Class::Sendfile
            | Class::Sigwait,
        )
        | None => Err(Cause::ReadFailed),
    }
}
