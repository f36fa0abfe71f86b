//! Descriptors passed over unix sockets: SCM_RIGHTS, unix(7), net/core/scm.c; or taken: pidfd_getfd(2).

use ipctrace_common::wire::{self, Key, Kind, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::offset;
use crate::inflight::{self, Side};
use crate::kernel::{Result, read, read_either, read_user};
use crate::object::{self, Direction};
use crate::repeat::{Repeat, opaque, repeat};
use crate::{message, own, pid, pipe, ring, special, task};

const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
/// Size of `struct cmsghdr`.
const HEADER: u64 = 16;

/// Tells of the descriptors in a message that was sent or received, from the caller's control buffer or the kernel's copy of it. The
/// verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn passed(tid: u32, control: u64, control_len: u64) -> i32 {
    if control == 0 || control_len < HEADER {
        return 0;
    }
    let mut walk =
        Walk { tid, control, control_len, at: opaque(0), array: 0, left: opaque(0), failed: false };
    repeat(&mut walk);
    if walk.failed {
        ring::count(Cause::ReadFailed);
    }
    0
}

/// Tells of the descriptors that go along with a message, whose header is `header` in the caller's memory. The verifier looks
/// at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn passed_along(tid: u32, header: u64) -> i32 {
    match read_user::<[u64; 2]>(header, message::CONTROL) {
        Ok([control, control_len]) => passed(tid, control, control_len),
        Err(cause) => {
            ring::count(cause);
            0
        }
    }
}

/// Goes through the control messages and the descriptors in them, one each turn.
struct Walk {
    tid: u32,
    control: u64,
    control_len: u64,
    /// Where the next control message is.
    at: u64,
    /// Where the next descriptor is.
    array: u64,
    /// How many there are before the next control message.
    left: u64,
    failed: bool,
}

impl Repeat for Walk {
    /// SCM_MAX_FD, and as many control messages again.
    const LIMIT: u32 = 512;
    const PLAIN_LIMIT: u32 = 6;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.left > 0 {
            let Ok(fd) = read_either::<i32>(self.array, 0) else {
                self.failed = true;
                return true;
            };
            handed_over(self.tid, fd as u32);
            self.array += 4;
            self.left -= 1;
            return false;
        }
        if self.at + HEADER > self.control_len {
            return true;
        }
        let place = self.control + self.at;
        let (Ok(len), Ok([level, kind])) = (read_either::<u64>(place, 0), read_either::<[u32; 2]>(place, 8))
        else {
            self.failed = true;
            return true;
        };
        if len < HEADER || len > self.control_len - self.at {
            return true;
        }
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            self.array = place + HEADER;
            self.left = (len - HEADER) / 4;
        }
        self.at += (len + 7) & !7;
        false
    }
}

/// Tells of one descriptor that the call in flight passes. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn handed_over(tid: u32, fd: u32) -> i32 {
    let file = object::file(fd).unwrap_or(0);
    let Some(call) = inflight::get(tid) else {
        return 0;
    };
    if file == 0 {
        return 0;
    }
    // SAFETY: a valid pointer into the map; the entry is the current thread's.
    let (side, taken) = unsafe { (&(*call).sides[0], &(*call).taken) };
    // Where messages are kept apart, each says whose it is.
    let (sock, inode) =
        if taken.sock != 0 { (taken.sock, taken.inode) } else { (side.peer, side.peer_inode) };
    let Some(mut entry) = ring::reserve::<wire::Handoff>() else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    let receive = side.receive != 0;
    // SAFETY: room for a record; every field is written, those of the object by `fill`.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Handoff, side.mechanism, side.flags, ring::now());
        (*record).owner = task::NOBODY;
        (*record).key = side.key;
        (*record).sender_sock = if receive { sock } else { side.object };
        (*record).sender_inode = if receive { inode } else { side.own_inode };
        (*record).receiver_inode = if receive { side.own_inode } else { side.peer_inode };
        fill(record, file, fd);
    }
    ring::submit(entry);
    0
}

/// pidfd_getfd(2) gave `fd`. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn taken_over(fd: i64) -> i32 {
    if fd >= 0
        && let Err(cause) = try_taken_over(fd as u32)
    {
        ring::count(cause);
    }
    0
}

#[inline(always)]
fn try_taken_over(fd: u32) -> Result<()> {
    let [pidfd, ..] = special::arguments()?;
    let (of, file) = (object::file(pidfd as u32)?, object::file(fd)?);
    if of == 0 || file == 0 {
        return Ok(());
    }
    let owner = pid::behind(of)?;
    let Some(mut entry) = ring::reserve::<wire::Handoff>() else {
        return Ok(());
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record; every field is written, those of the object by `fill`.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Handoff, 0, op_flag::GETFD, ring::now());
        if owner == 0 {
            (*record).owner = task::NOBODY;
        } else {
            task::describe(owner, &raw mut (*record).owner);
        }
        (*record).key = Key { id: 0, space: 0 };
        (*record).sender_sock = 0;
        (*record).sender_inode = 0;
        (*record).receiver_inode = 0;
        fill(record, file, fd);
    }
    ring::submit(entry);
    Ok(())
}

/// A mechanism that names what is not traced as users know it: sockets of any family, and pipes; 0 if there is none.
#[inline(always)]
fn alike(inode: u64, super_block: u64) -> u8 {
    match read::<u16>(inode, offset!(inode_mode)).unwrap_or(0) & object::S_IFMT {
        object::S_IFSOCK => Mechanism::UnixStream as u8,
        object::S_IFIFO if read::<u64>(super_block, offset!(sb_magic)).unwrap_or(0) == pipe::PIPEFS_MAGIC => {
            Mechanism::Pipe as u8
        }
        object::S_IFIFO => Mechanism::Fifo as u8,
        _ => 0,
    }
}

/// Writes who has it now, and what it is.
///
/// # Safety
/// `record` must be valid for a write.
#[inline(always)]
unsafe fn fill(record: *mut wire::Handoff, file: u64, fd: u32) {
    // First: the verifier would go through it once for each kind of object.
    // SAFETY: valid by contract.
    unsafe { task::describe_current(&raw mut (*record).task) };
    let mut object = Side::NONE;
    if let Err(cause) = object::describe(file, Direction::Send, &mut object) {
        ring::count(cause);
    }
    let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
    let super_block: u64 = read(inode, offset!(inode_sb)).unwrap_or(0);
    if object.mechanism == 0 {
        object.mechanism = alike(inode, super_block);
    }
    // SAFETY: valid by contract.
    unsafe {
        (*record).file = file;
        (*record).object_inode = if own::is_numbered(object.mechanism) {
            object.own_inode - 1
        } else {
            read(inode, offset!(inode_ino)).unwrap_or(0)
        };
        (*record).object_device = u64::from(read::<u32>(super_block, offset!(sb_dev)).unwrap_or(0));
        (*record).object_peer_inode = object.peer_inode;
        (*record).fd = fd as i32;
        (*record).object_mechanism = u32::from(object.mechanism);
    }
}
