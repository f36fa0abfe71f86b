//! What all processes of a workload see: memory behind a descriptor that survives execve(2).

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// Members there can be.
pub(super) const MARKS: usize = 250;

/// The memory.
#[repr(C)]
pub(super) struct Shared {
    next: AtomicU32,
    /// Process id of each member that takes signals now; 0 otherwise.
    pids: [AtomicU32; MARKS + 1],
}

impl Shared {
    /// New memory, behind a descriptor that stays open.
    pub(super) fn create() -> Result<RawFd> {
        let memory = memfd_create(c"oracle", MFdFlags::empty())?;
        nix::unistd::ftruncate(&memory, size_of::<Shared>() as i64)?;
        Ok(memory.into_raw_fd())
    }

    /// The memory behind that descriptor.
    pub(super) fn open(descriptor: RawFd) -> Result<&'static Shared> {
        let size = size_of::<Shared>().try_into()?;
        // SAFETY: the descriptor was kept open for this.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor.as_raw_fd()) };
        // SAFETY: a new mapping.
        let memory = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                descriptor,
                0,
            )
        }?;
        // SAFETY: zeroed at first, page-aligned, as large, never unmapped; atomics may be shared.
        Ok(unsafe { memory.cast::<Shared>().as_ref() })
    }

    /// A mark that nobody else has.
    pub(super) fn mark(&self) -> Result<u8> {
        let mark = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        u8::try_from(mark).ok().filter(|mark| usize::from(*mark) <= MARKS).context("too many members")
    }

    /// Whether that many more members fit well.
    pub(super) fn room(&self) -> bool {
        self.next.load(Ordering::SeqCst) < 60
    }

    /// From now on, or no longer, the member takes signals.
    pub(super) fn takes_signals(&self, mark: u8, pid: u32) {
        self.pids[usize::from(mark)].store(pid, Ordering::SeqCst);
    }

    /// Process id of a member that takes signals.
    pub(super) fn pid(&self, mark: u8) -> Option<u32> {
        let pid = self.pids.get(usize::from(mark))?.load(Ordering::SeqCst);
        (pid != 0).then_some(pid)
    }

    /// The latest mark.
    pub(super) fn latest(&self) -> u8 {
        self.next.load(Ordering::SeqCst).min(MARKS as u32) as u8
    }
}
