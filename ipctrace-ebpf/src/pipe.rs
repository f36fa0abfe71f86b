//! Pipes and FIFOs: `struct pipe_inode_info`, include/linux/pipe_fs_i.h, fs/pipe.c.

use ipctrace_common::wire::{self, Key, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::config::{offset, pipe_buffer_size};
use crate::inflight::{self, Last, Side};
use crate::kernel::{Result, read};
use crate::object::is_on;
use crate::repeat::{Repeat, opaque, repeat};
use crate::ring;

/// File system of anonymous pipes, include/uapi/linux/magic.h.
pub(crate) const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// Fills in a pipe's or FIFO's side of a call.
#[inline(always)]
pub(crate) fn describe(file: u64, inode: u64, object: u64, side: &mut Side) -> Result<()> {
    let number: u64 = read(inode, offset!(inode_ino))?;
    let another = side.last.file != file || side.last.inode != inode || side.key.id != number;
    // Even where file and inode stand is given to others, and the number of a FIFO, too.
    if another
        || (side.last.mechanism == Mechanism::Fifo as u8
            && generation(inode).is_ok_and(|generation| generation != side.key.space >> 32))
    {
        side.last.file = 0;
        let super_block: u64 = read(inode, offset!(inode_sb))?;
        let magic: u64 = read(super_block, offset!(sb_magic))?;
        let mechanism = if magic == PIPEFS_MAGIC { Mechanism::Pipe } else { Mechanism::Fifo };
        if !is_on(mechanism) {
            return Ok(());
        }
        let device: u32 = read(super_block, offset!(sb_dev))?;
        let generation = if mechanism == Mechanism::Fifo { generation(inode)? } else { 0 };
        side.key = Key { id: number, space: u64::from(device) | generation << 32 };
        side.own_inode = number;
        side.peer = 0;
        // Both ends are one object.
        side.peer_inode = number;
        side.last = Last { file, inode, mechanism: mechanism as u8, announced: 0, reserved: [0; 6] };
    }
    side.mechanism = side.last.mechanism;
    // A FIFO that nobody has open loses it, and gets another.
    side.object = object;
    side.pos_locked = 0;
    look(side, if another { NOWHERE } else { (side.left, 0) })?;
    side.flags |= op_flag::POSITIONS;
    Ok(())
}

/// Looks where a call begins: mostly where the thread's call before it left the pipe, `since`.
#[inline(always)]
fn look(side: &mut Side, since: (u64, u64)) -> Result<()> {
    side.pos_enter = position(side.object, side.receive != 0, Bound::Lower, since)?;
    Ok(())
}

/// Looks again where the call in flight of thread `tid` begins, which is after the clock was looked at: what others have done by then
/// is there to be seen. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pipe_looked(tid: u32) -> i32 {
    if let Some(call) = inflight::get(tid) {
        // SAFETY: a valid pointer into the map; the entry is the current thread's.
        if look(unsafe { &mut (*call).sides[0] }, NOWHERE).is_err() {
            ring::count(Cause::ReadFailed);
        }
    }
    0
}

/// Which of the files that had a FIFO's inode number it is: file systems give the number of one that was removed to the next. As much of
/// it as there is room for beside what other keys have in the upper half of `space`.
#[inline(always)]
fn generation(inode: u64) -> Result<u64> {
    Ok(u64::from(read::<u32>(inode, offset!(inode_generation))? & 0xfff_ffff))
}

/// Whether the object of a side of that mechanism is a `struct pipe_inode_info`.
#[inline(always)]
pub(crate) fn is_pipe(mechanism: u8) -> bool {
    mechanism == Mechanism::Pipe as u8 || mechanism == Mechanism::Fifo as u8
}

/// `head`, `tail` and `ring_size`. The first two as they were at one moment, where they stand together.
#[inline(always)]
fn counters(pipe: u64) -> Result<(u32, u32, u32)> {
    let (head, tail) = pair(pipe, offset!(pipe_head), offset!(pipe_tail))?;
    Ok((head, tail, read(pipe, offset!(pipe_ring_size))?))
}

/// Two numbers of 32 bits, read in one go where the second stands behind the first, as on all kernels that exist. Known to
/// the verifier.
#[inline(always)]
fn pair(base: u64, first: usize, second: usize) -> Result<(u32, u32)> {
    if second == first + 4 && first.is_multiple_of(8) {
        let both: u64 = read(base, first)?;
        return Ok((both as u32, (both >> 32) as u32));
    }
    Ok((read(base, first)?, read(base, second)?))
}

/// No position, and nothing put in since.
pub(crate) const NOWHERE: (u64, u64) = (0, 0);

/// Which way a position may be wrong where that cannot be helped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It may be too low.
    Lower,
    /// It may be too high.
    Upper,
}

/// Where the next byte goes (`head`, end of the last buffer) or comes from (`tail`, start of the first).
///
/// Nothing is locked: at enter and exit it is a bound, under the pipe's lock it is exact.
///
/// There are moments at which a buffer is not what it says (fs/pipe.c). A writer counts a new one before it fills it in: until
/// then it is what it was a turn of the ring ago, read to its end. A reader moves the start of one before it takes as much
/// off its length, and when it is empty, counts it as read a moment later. So what may be such a moment is looked at again,
/// unless it is where the thread itself left the pipe: at a position that it saw, and the bytes that it has put in `since`. Both
/// hold the pipe's lock meanwhile: what stays the same while nobody does is certain. Who holds it may be interrupted there for longer
/// than others can wait, so that doubt may remain: of a position that must not be too high only the page is told then (its offset is 0), of
/// a sender's that must not be too low it is marked ([`wire::ROUGH`]).
#[inline(always)]
pub(crate) fn position(pipe: u64, receive: bool, bound: Bound, since: (u64, u64)) -> Result<u64> {
    let (position, doubt) = glance(pipe, receive)?;
    if doubt == Doubt::None {
        return Ok(position);
    }
    // A position in which only the length is in doubt is not 0.
    let seen = if doubt == Doubt::Length { position } else { 0 };
    let ways = u32::from(receive) | u32::from(bound == Bound::Lower) << 1;
    match stared(pipe, ways, seen, since.0, since.1) {
        u64::MAX => Err(Cause::ReadFailed),
        position => Ok(position),
    }
}

/// Where a pipe stands whose lock the caller holds: nobody is at work there.
#[inline(always)]
pub(crate) fn locked_position(pipe: u64, receive: bool) -> Result<u64> {
    Ok(glance(pipe, receive)?.0)
}

/// The position once there is no doubt, or what a few looks say of it; `u64::MAX`: could not be read. `ways`: 1 for receivers, 2 if it may
/// be too low. `seen`: what it was, 0 if that says nothing. The verifier looks at it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stared(pipe: u64, ways: u32, seen: u64, from: u64, bytes: u64) -> u64 {
    /// Added to a position after which nobody had the lock: the bit is free in one.
    const FREE: u64 = wire::ROUGH;
    if seen != 0 && leaves(from, bytes, seen) {
        return seen;
    }
    let mut last = seen;
    for _ in 0..LOOKS {
        let Ok((position, doubt)) = glance(pipe, ways & 1 != 0) else {
            return u64::MAX;
        };
        if doubt == Doubt::None || last == position | FREE {
            return position;
        }
        last &= !FREE;
        if doubt == Doubt::Length && position != last && position >> 32 == last >> 32 {
            // The higher one is the one that a reader was just at.
            return if position < last { position } else { last };
        }
        last = if is_locked(pipe) { position } else { position | FREE };
    }
    last &= !FREE;
    match ways {
        0 => last | wire::ROUGH,
        1 => last,
        _ => last >> 32 << 32,
    }
}

/// Whether somebody has the pipe's lock: `owner` of a mutex is the thread that has it, and three bits.
#[inline(always)]
fn is_locked(pipe: u64) -> bool {
    const FLAGS: u64 = 7;
    match read::<u64>(pipe + offset!(pipe_mutex) as u64, offset!(mutex_owner)) {
        Ok(owner) => owner & !FLAGS != 0,
        Err(_) => true,
    }
}

/// How often a position in doubt is looked at: half a microsecond, more than a processor takes to see what another writes.
const LOOKS: u32 = 5;

/// What a position may be wrong about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Nothing.
    None,
    /// The buffer there is empty though the pipe is not.
    Empty,
    /// A reader may be at work in the last buffer.
    Length,
}

/// The same as it is seen at this moment, and what is in doubt.
#[inline(always)]
fn glance(pipe: u64, receive: bool) -> Result<(u64, Doubt)> {
    let (head, tail, size) = counters(pipe)?;
    let queued = head.wrapping_sub(tail);
    if receive && queued == 0 {
        return Ok((u64::from(tail) << 32, Doubt::None));
    }
    if !receive && head == 0 {
        return Ok((0, Doubt::None));
    }
    let slot = if receive { tail } else { head.wrapping_sub(1) };
    let buffers: u64 = read(pipe, offset!(pipe_bufs))?;
    let buffer = buffers + u64::from(slot & size.wrapping_sub(1)) * u64::from(pipe_buffer_size());
    let (start, len) = pair(buffer, offset!(pipe_buffer_offset), offset!(pipe_buffer_len))?;
    let doubt = if queued == 0 {
        Doubt::None
    } else if len == 0 {
        Doubt::Empty
    } else if !receive && start != 0 && queued == 1 {
        Doubt::Length
    } else {
        Doubt::None
    };
    let (index, end) = if receive { (slot, start) } else { (slot.wrapping_add(1), start.wrapping_add(len)) };
    Ok((u64::from(index) << 32 | u64::from(end), doubt))
}

/// Whether a write of so many bytes from one position leaves a pipe, in which nobody else is at work, at the other: behind what
/// the last page held, or in pages of its own.
#[inline(always)]
fn leaves(from: u64, bytes: u64, to: u64) -> bool {
    /// Bytes of a page, and its bits.
    const PAGE: (u64, u32) = (4096, 12);
    let last = bytes.wrapping_sub(1) & (PAGE.0 - 1);
    let pages = bytes.wrapping_add(PAGE.0 - 1) >> PAGE.1;
    to == from.wrapping_add(bytes)
        || (bytes != 0 && to == ((from >> 32).wrapping_add(pages) << 32 | (last + 1)))
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
