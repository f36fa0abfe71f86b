//! Descriptors passed over unix sockets: SCM_RIGHTS, unix(7), net/core/scm.c.

use ipctrace_common::Cause;
use ipctrace_common::wire::{self, Kind};

use crate::config::offset;
use crate::inflight::{self, Side};
use crate::kernel::{Result, read, read_user};
use crate::object::{self, Direction};
use crate::repeat::{Repeat, opaque, repeat};
use crate::{ring, task};

const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
/// Size of `struct cmsghdr`.
const HEADER: u64 = 16;
/// Tells of the descriptors in a message that was sent or received, from the caller's control buffer.
///
/// # Errors
/// If the buffer could not be read.
#[inline(always)]
pub(crate) fn passed(tid: u32, control: u64, control_len: u64) -> Result<()> {
    if control == 0 || control_len < HEADER {
        return Ok(());
    }
    let mut find = Find { control, control_len, at: opaque(0), array: 0, count: 0, failed: false };
    repeat(&mut find);
    if find.failed {
        return Err(Cause::ReadFailed);
    }
    let mut tell = Tell { tid, array: find.array, count: find.count };
    repeat(&mut tell);
    Ok(())
}

/// Looks for descriptors among the control messages.
struct Find {
    control: u64,
    control_len: u64,
    at: u64,
    array: u64,
    count: u64,
    failed: bool,
}

impl Repeat for Find {
    const LIMIT: u32 = 16;
    const PLAIN_LIMIT: u32 = 2;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.at + HEADER > self.control_len {
            return true;
        }
        let place = self.control + self.at;
        let (Ok(len), Ok([level, kind])) = (read_user::<u64>(place, 0), read_user::<[u32; 2]>(place, 8))
        else {
            self.failed = true;
            return true;
        };
        if len < HEADER || len > self.control_len - self.at {
            return true;
        }
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            self.array = place + HEADER;
            self.count = (len - HEADER) / 4;
            return true;
        }
        self.at += (len + 7) & !7;
        false
    }
}

/// Tells of each descriptor.
struct Tell {
    tid: u32,
    array: u64,
    count: u64,
}

impl Repeat for Tell {
    /// SCM_MAX_FD.
    const LIMIT: u32 = 253;
    const PLAIN_LIMIT: u32 = 4;

    #[inline(always)]
    fn turn(&mut self, index: u32) -> bool {
        if u64::from(index) >= self.count {
            return true;
        }
        match read_user::<i32>(self.array, index as usize * 4) {
            Ok(fd) => {
                handed_over(self.tid, fd as u32);
                false
            }
            Err(cause) => {
                ring::count(cause);
                true
            }
        }
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
    let side = unsafe { &(*call).sides[0] };
    let mut object = Side::NONE;
    if let Err(cause) = object::describe(file, Direction::Send, &mut object) {
        ring::count(cause);
    }
    let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
    let super_block: u64 = read(inode, offset!(inode_sb)).unwrap_or(0);
    let Some(mut entry) = ring::reserve::<wire::Handoff>() else {
        return 0;
    };
    let record = entry.as_mut_ptr();
    let receive = side.receive != 0;
    // SAFETY: room for a record; every field is written.
    unsafe {
        ring::begin(&raw mut (*record).header, Kind::Handoff, side.mechanism, side.flags, ring::now());
        task::describe_current(&raw mut (*record).task);
        (*record).key = side.key;
        (*record).sender_sock = if receive { side.peer } else { side.object };
        (*record).sender_inode = if receive { side.peer_inode } else { side.own_inode };
        (*record).receiver_inode = if receive { side.own_inode } else { side.peer_inode };
        (*record).file = file;
        (*record).object_inode = read(inode, offset!(inode_ino)).unwrap_or(0);
        (*record).object_device = u64::from(read::<u32>(super_block, offset!(sb_dev)).unwrap_or(0));
        (*record).object_peer_inode = object.peer_inode;
        (*record).fd = fd as i32;
        (*record).object_mechanism = u32::from(object.mechanism);
    }
    ring::submit(entry);
    0
}
