//! POSIX message queues: `struct mqueue_inode_info`, ipc/mqueue.c.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::Key;

use crate::config::offset;
use crate::inflight::Side;
use crate::kernel::{Result, read};
use crate::object::{self, is_on};

/// File system of the queues, include/uapi/linux/magic.h.
const MQUEUE_MAGIC: u64 = 0x1980_0202;
/// Longest name of a file, and its NUL.
const NAME: u32 = 256;
/// The number of a namespace and a name.
pub(crate) const NAMED: usize = 4 + NAME as usize;

/// Fills in a queue's side of a call; `mechanism` stays 0 if the descriptor is no queue.
///
/// # Errors
/// If a structure of the kernel could not be read.
#[inline(always)]
pub(crate) fn describe(descriptor: u32, side: &mut Side) -> Result<()> {
    let file = object::file(descriptor)?;
    if file == 0 || !is_on(Mechanism::PosixMq) {
        return Ok(());
    }
    let inode: u64 = read(file, offset!(file_inode))?;
    let super_block: u64 = read(inode, offset!(inode_sb))?;
    if read::<u64>(super_block, offset!(sb_magic))? != MQUEUE_MAGIC {
        return Ok(());
    }
    let device: u32 = read(super_block, offset!(sb_dev))?;
    side.mechanism = Mechanism::PosixMq as u8;
    side.fd = descriptor as i32;
    side.key = Key { id: read(inode, offset!(inode_ino))?, space: u64::from(device) };
    side.object = inode - offset!(mqueue_inode) as u64;
    Ok(())
}

/// How many messages are in a queue; `u64::MAX` if that could not be read.
#[inline(always)]
pub(crate) fn queued(queue: u64) -> u64 {
    read(queue, offset!(mqueue_count)).unwrap_or(u64::MAX)
}

/// Number of the IPC namespace that a queue is in, whoever has it open. `mqueue_fill_super`, ipc/mqueue.c.
#[inline(always)]
fn namespace(file: u64) -> Result<u32> {
    let inode: u64 = read(file, offset!(file_inode))?;
    let super_block: u64 = read(inode, offset!(inode_sb))?;
    let space: u64 = read(super_block, offset!(sb_fs_info))?;
    read(space, offset!(ipc_inum))
}

/// Writes the number of the IPC namespace, in the byte order of the machine, and the name of the file, which is the queue's
/// without its slash; gives the length of both.
///
/// # Safety
/// The place must be valid for writes of [`NAMED`] bytes.
#[inline(always)]
pub(crate) unsafe fn name(descriptor: u32, place: *mut u8) -> usize {
    let Ok(file) = object::file(descriptor) else {
        return 0;
    };
    let name =
        read::<u64>(file, offset!(file_dentry)).and_then(|dentry| read::<u64>(dentry, offset!(dentry_name)));
    let Ok(name) = name else {
        return 0;
    };
    let space = namespace(file).unwrap_or(0).to_ne_bytes();
    // SAFETY: the place is long enough by contract; the helper checks the source.
    let copied = unsafe {
        place.cast::<[u8; 4]>().write_unaligned(space);
        bpf_probe_read_kernel_str(place.add(space.len()).cast(), NAME, name as *const _)
    };
    // Without its NUL.
    if copied <= 0 { 0 } else { space.len() + ((copied as usize - 1) & 0xff) }
}
