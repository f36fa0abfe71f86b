//! Processes by their ids: `struct pid`, include/linux/pid.h, kernel/pid.c.

use ipctrace_common::Cause;

use crate::config::offset;
use crate::kernel::{Result, read};
use crate::repeat::{Repeat, opaque, repeat};
use crate::task;

/// PIDTYPE_PID and PIDTYPE_TGID, include/linux/pid_types.h.
const THREAD: usize = 0;
const PROCESS: usize = 1;
/// Size of `struct hlist_head`.
const HEAD: usize = 8;
/// Size of `struct hlist_node`.
const LINK: usize = 16;
/// Size of `struct upid`.
const UPID: u64 = 16;
/// Bits of the index that each node of a tree looks at: XA_CHUNK_SHIFT, include/linux/xarray.h.
const CHUNK: u32 = 6;

/// The way down the tree of ids of one namespace: include/linux/xarray.h.
struct Descent {
    number: u64,
    entry: u64,
    done: bool,
}

/// `xa_is_node`; the node is the entry without its mark.
const NODE_MARK: u64 = 2;
const MARKS: u64 = 3;

impl Repeat for Descent {
    /// Levels of a tree of 32-bit numbers.
    const LIMIT: u32 = 6;
    const PLAIN_LIMIT: u32 = 6;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        let node = self.entry - NODE_MARK;
        let Ok(shift) = read::<u8>(node, offset!(xa_node_shift)) else {
            return true;
        };
        let slot = (self.number >> (shift & 31)) & ((1 << CHUNK) - 1);
        let Ok(entry) = read::<u64>(node + slot * 8, offset!(xa_node_slots)) else {
            return true;
        };
        self.entry = entry;
        self.done = entry & MARKS == 0;
        self.done || entry & MARKS != NODE_MARK
    }
}

/// The thread that the current task calls `number`, in its own PID namespace; 0 if there is none (any more).
///
/// `find_task_by_vpid`.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn find(number: u32) -> Result<u64> {
    let own: u64 = read(task::untyped(), offset!(task_thread_pid))?;
    let level: u32 = read(own, offset!(pid_level))?;
    let place = u64::from(level) * UPID;
    let namespace: u64 = read(own + place + offset!(pid_numbers) as u64, offset!(upid_ns))?;
    let root: u64 = read(namespace, offset!(pid_namespace_idr))?;
    if root & MARKS != NODE_MARK {
        // None but perhaps number 0, which is nobody's.
        return Ok(0);
    }
    let shift: u8 = read(root - NODE_MARK, offset!(xa_node_shift))?;
    if u64::from(number) >> (u32::from(shift & 31) + CHUNK) != 0 {
        return Ok(0);
    }
    let mut descent = Descent { number: u64::from(number), entry: opaque(root), done: false };
    repeat(&mut descent);
    let found = if descent.done { descent.entry } else { 0 };
    // What was found is to have the number that was looked for: then it is the one, however it was found.
    let numbers = found + place + offset!(pid_numbers) as u64;
    if found == 0 || read::<u32>(numbers, offset!(upid_nr))? != number {
        return Ok(0);
    }
    first(found, THREAD)
}

/// The process behind the file of a pidfd; 0 if it is gone.
///
/// `pidfd_pid`: since pidfds have a file system of their own (Linux 6.9) the inode knows, before that the file.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn behind(file: u64) -> Result<u64> {
    let pid: u64 = if offset!(pid_stashed) != 0 {
        read(read(file, offset!(file_inode))?, offset!(inode_private))?
    } else {
        read(file, offset!(file_private_data))?
    };
    match first(pid, PROCESS)? {
        // A pidfd of a thread.
        0 => first(pid, THREAD),
        task => Ok(task),
    }
}

/// `pid_task`.
#[inline(always)]
fn first(pid: u64, kind: usize) -> Result<u64> {
    if offset!(pid_tasks) == 0 || offset!(task_pid_links) == 0 {
        return Err(Cause::ReadFailed);
    }
    let link: u64 = read(pid, offset!(pid_tasks) + kind * HEAD)?;
    Ok(if link == 0 { 0 } else { link - (offset!(task_pid_links) + kind * LINK) as u64 })
}
