//! Pipes and FIFOs: `struct pipe_inode_info`, include/linux/pipe_fs_i.h, fs/pipe.c.

use ipctrace_common::Mechanism;
use ipctrace_common::wire::{Key, op_flag};

use crate::config::{offset, pipe_buffer_size};
use crate::inflight::Side;
use crate::kernel::{Result, read};
use crate::object::is_on;
use crate::repeat::{Repeat, opaque, repeat};

/// File system of anonymous pipes, include/uapi/linux/magic.h.
const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// Fills in a pipe's or FIFO's side of a call.
#[inline(always)]
pub(crate) fn describe(file: u64, inode: u64, side: &mut Side) -> Result<()> {
    let super_block: u64 = read(inode, offset!(inode_sb))?;
    let magic: u64 = read(super_block, offset!(sb_magic))?;
    let mechanism = if magic == PIPEFS_MAGIC { Mechanism::Pipe } else { Mechanism::Fifo };
    if !is_on(mechanism) {
        return Ok(());
    }
    let number: u64 = read(inode, offset!(inode_ino))?;
    let device: u32 = read(super_block, offset!(sb_dev))?;
    side.mechanism = mechanism as u8;
    side.key = Key { id: number, space: u64::from(device) };
    side.own_inode = number;
    side.peer = 0;
    // Both ends are one object.
    side.peer_inode = number;
    side.object = read(file, offset!(file_private_data))?;
    side.pos_locked = 0;
    side.pos_enter = position(side.object, side.receive != 0)?;
    side.flags |= op_flag::POSITIONS;
    Ok(())
}

/// Whether the object of a side of that mechanism is a `struct pipe_inode_info`.
#[inline(always)]
pub(crate) fn is_pipe(mechanism: u8) -> bool {
    mechanism == Mechanism::Pipe as u8 || mechanism == Mechanism::Fifo as u8
}

/// Where the next byte goes (`head`, end of the last buffer) or comes from (`tail`, start of the first).
///
/// Nothing is locked: at enter and exit it is a bound, under the pipe's lock it is exact.
#[inline(always)]
pub(crate) fn position(pipe: u64, receive: bool) -> Result<u64> {
    let head: u32 = read(pipe, offset!(pipe_head))?;
    let tail: u32 = read(pipe, offset!(pipe_tail))?;
    let (slot, index) = if receive { (tail, tail) } else { (head.wrapping_sub(1), head) };
    if receive && head == tail {
        return Ok(u64::from(index) << 32);
    }
    if !receive && head == 0 {
        return Ok(0);
    }
    let buffer = buffer(pipe, slot)?;
    let start: u32 = read(buffer, offset!(pipe_buffer_offset))?;
    let len: u32 = if receive { 0 } else { read(buffer, offset!(pipe_buffer_len))? };
    Ok(u64::from(index) << 32 | u64::from(start.wrapping_add(len)))
}

/// Adds up the buffers of a pipe.
struct Count {
    pipe: u64,
    slot: u32,
    head: u32,
    sum: u64,
}

impl Repeat for Count {
    /// The largest pipe that an unprivileged process can make (`/proc/sys/fs/pipe-max-size`, 1 MiB) four times over.
    const LIMIT: u32 = 1024;
    const PLAIN_LIMIT: u32 = 64;

    #[inline(always)]
    fn turn(&mut self, _index: u32) -> bool {
        if self.slot == self.head {
            return true;
        }
        match buffer(self.pipe, self.slot).and_then(|buffer| read::<u32>(buffer, offset!(pipe_buffer_len))) {
            Ok(len) => {
                self.sum += u64::from(len);
                self.slot = self.slot.wrapping_add(1);
                false
            }
            Err(_) => true,
        }
    }
}

/// How many bytes are in a pipe; `u64::MAX` if that could not be read.
#[inline(never)]
pub(crate) fn queued(pipe: u64) -> u64 {
    let (Ok(head), Ok(slot)) = (read::<u32>(pipe, offset!(pipe_head)), read::<u32>(pipe, offset!(pipe_tail)))
    else {
        return u64::MAX;
    };
    let mut count = Count { pipe, slot, head, sum: opaque(0) };
    repeat(&mut count);
    if count.slot == count.head { count.sum } else { u64::MAX }
}

/// The `struct pipe_buffer` in a slot of the ring.
#[inline(always)]
fn buffer(pipe: u64, slot: u32) -> Result<u64> {
    let buffers: u64 = read(pipe, offset!(pipe_bufs))?;
    let size: u32 = read(pipe, offset!(pipe_ring_size))?;
    Ok(buffers + u64::from(slot & size.wrapping_sub(1)) * u64::from(pipe_buffer_size()))
}
