//! Where the bytes of a read or write are: `struct iov_iter`, include/linux/uio.h, whose kinds have other numbers in other kernels.

use ipctrace_common::Config;
use ipctrace_common::syscall::Class;

use crate::config::{self, offset};
use crate::kernel::{Result, read};

/// `ITER_IOVEC` of the kernels that add to it which way the call goes, in the lowest bit (before Linux 5.14).
const WITH_DIRECTION: u32 = 4;

/// What sort of memory an `iov_iter` leads to.
#[inline(always)]
fn kind(iter: u64) -> u32 {
    let kind = read::<u8>(iter, offset!(iter_kind)).map_or(Config::NO_KIND, u32::from);
    if config::iter_iovec() == WITH_DIRECTION { kind & !1 } else { kind }
}

/// Whether that is memory of a process, as of all calls that are no splice or the like.
#[inline(always)]
pub(crate) fn is_memory_of_process(iter: u64) -> bool {
    let kind = kind(iter);
    kind != Config::NO_KIND && (kind == config::iter_ubuf() || kind == config::iter_iovec())
}

/// Memory of a process.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// That of system calls which are given the same.
    pub(crate) class: Class,
    /// Buffer or vector; 0 if it is of no use.
    pub(crate) user: u64,
    /// Buffers in the vector.
    pub(crate) count: u64,
}

impl Memory {
    /// The same without the vector, if that is of one buffer: kernels before Linux 6.4 make one for a plain read or write.
    ///
    /// # Errors
    /// If it could not be read.
    #[inline(always)]
    pub(crate) fn plain(self) -> Result<Memory> {
        let class = match self.class {
            Class::Readv if self.count == 1 => Class::Read,
            Class::Writev if self.count == 1 => Class::Write,
            _ => return Ok(self),
        };
        Ok(Memory { class, user: read(self.user, 0)?, count: 0 })
    }
}

/// The memory that an `iov_iter` leads to, if it is `wanted` or the payload is.
///
/// # Errors
/// If it could not be read.
#[inline(always)]
pub(crate) fn memory(iter: u64, receive: bool, wanted: bool) -> Result<Memory> {
    let mut memory = Memory { class: if receive { Class::Read } else { Class::Write }, user: 0, count: 0 };
    if config::payload() == 0 && !wanted {
        return Ok(memory);
    }
    let passed: u64 = read(iter, offset!(iter_offset))?;
    let kind = kind(iter);
    if kind == Config::NO_KIND {
        // It is of no use.
    } else if kind == config::iter_ubuf() {
        memory.user = read::<u64>(iter, offset!(iter_ubuf))? + passed;
    } else if kind == config::iter_iovec() && passed == 0 {
        memory.class = if receive { Class::Readv } else { Class::Writev };
        memory.user = read(iter, offset!(iter_iovec))?;
        memory.count = read(iter, offset!(iter_count))?;
    }
    Ok(memory)
}
