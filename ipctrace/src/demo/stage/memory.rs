//! What the processes of workloads do with shared memory, and say of it.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::stat::{fstat, major, minor};

use super::Stage;
use crate::demo::truth::{Party, Truth};

/// Size of the pieces of memory that workloads share: one page, so that a fault tells of all of it.
pub const PAGE: usize = 4096;

/// Memory that stays mapped until it is given back, or the process ends.
#[derive(Debug)]
pub struct Memory {
    place: NonNull<nix::libc::c_void>,
    len: usize,
}

impl Memory {
    /// Maps the begin of an open file, shared.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn of(file: impl AsFd, len: usize, access: ProtFlags) -> Result<Memory> {
        let size = NonZeroUsize::new(len).context("no length")?;
        // SAFETY: a new mapping, of which nobody else knows.
        let place = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Memory { place, len })
    }

    /// Maps memory that is shared with children to come.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn anonymous(len: usize) -> Result<Memory> {
        let size = NonZeroUsize::new(len).context("no length")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of which nobody else knows.
        let place = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED) }?;
        Ok(Memory { place, len })
    }

    /// Where it is.
    pub fn address(&self) -> *mut u8 {
        self.place.as_ptr().cast()
    }

    /// Writes one byte at its begin.
    pub fn write(&self, byte: u8) {
        // SAFETY: mapped for writing, by the workload's design; other processes may write the same byte.
        unsafe { self.address().write_volatile(byte) };
    }

    /// Reads that byte.
    pub fn read(&self) -> u8 {
        // SAFETY: mapped; other processes may write the byte at the same time.
        unsafe { self.address().read_volatile() }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// Those of munmap(2).
    pub fn unmap(self) -> Result<()> {
        // SAFETY: nobody uses it any more: it is consumed.
        unsafe { munmap(self.place, self.len) }?;
        Ok(())
    }

    /// `KIND:[MAJOR:MINOR:INODE]`, as /proc/self/maps has it.
    ///
    /// # Errors
    /// If it is not there.
    pub fn id(&self, kind: &str) -> Result<String> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let begin = format!("{:x}-", self.address() as usize);
        let line = maps.lines().find(|line| line.starts_with(&begin)).context("it is not mapped")?;
        let mut fields = line.split_whitespace().skip(3);
        let (device, inode) = (fields.next().context("a device")?, fields.next().context("an inode")?);
        let (major, minor) = device.split_once(':').context("a device")?;
        let number = |text| u32::from_str_radix(text, 16);
        Ok(format!("{kind}:[{}:{}:{inode}]", number(major)?, number(minor)?))
    }
}

/// `KIND:[MAJOR:MINOR:INODE]`, as the trace names the file behind a descriptor.
///
/// # Errors
/// If it is not open.
pub fn file_id(kind: &str, descriptor: impl AsFd) -> Result<String> {
    let status = fstat(descriptor)?;
    Ok(format!("{kind}:[{}:{}:{}]", major(status.st_dev), minor(status.st_dev), status.st_ino))
}

/// A System V segment that this process has attached.
#[derive(Debug)]
pub struct Segment {
    address: *mut u8,
}

impl Segment {
    /// Makes a segment of one page, or finds it.
    ///
    /// # Errors
    /// Those of shmget(2).
    pub fn get(key: i32, flags: i32) -> Result<i32> {
        // SAFETY: takes numbers.
        let id = unsafe { nix::libc::shmget(key, PAGE, flags) };
        ensure!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
        Ok(id)
    }

    /// Attaches one.
    ///
    /// # Errors
    /// Those of shmat(2).
    pub fn attach(id: i32, flags: i32) -> Result<Segment> {
        // SAFETY: at an address that the kernel chooses.
        let address = unsafe { nix::libc::shmat(id, std::ptr::null(), flags) };
        ensure!(address as isize != -1, "shmat: {}", std::io::Error::last_os_error());
        Ok(Segment { address: address.cast() })
    }

    /// Writes one byte at its begin.
    pub fn write(&self, byte: u8) {
        // SAFETY: as for `Memory::write`.
        unsafe { self.address.write_volatile(byte) };
    }

    /// Reads that byte.
    pub fn read(&self) -> u8 {
        // SAFETY: as for `Memory::read`.
        unsafe { self.address.read_volatile() }
    }

    /// Detaches it.
    ///
    /// # Errors
    /// Those of shmdt(2).
    pub fn detach(self) -> Result<()> {
        // SAFETY: nobody uses it any more: it is consumed.
        let status = unsafe { nix::libc::shmdt(self.address.cast()) };
        ensure!(status == 0, "shmdt: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Removes a segment.
    ///
    /// # Errors
    /// Those of shmctl(2).
    pub fn remove(id: i32) -> Result<()> {
        // SAFETY: takes numbers; no buffer for this command.
        let status = unsafe { nix::libc::shmctl(id, nix::libc::IPC_RMID, std::ptr::null_mut()) };
        ensure!(status == 0, "shmctl: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

impl Stage {
    /// Reports what this process did to shared memory of [`PAGE`] bytes: `attach rw`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn shared(&self, channel: &str, what: &str) -> Result<()> {
        self.shared_sized(channel, what, PAGE)
    }

    /// The same where it has another size at that moment.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn shared_sized(&self, channel: &str, what: &str, bytes: usize) -> Result<()> {
        self.shared_by(self.me(), channel, what, bytes)
    }

    /// Reports what a process did that does not say so itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn shared_by(&self, by: Party, channel: &str, what: &str, bytes: usize) -> Result<()> {
        let (action, access) = what.split_once(' ').context("an action and an access")?;
        self.tell(&Truth::Share {
            channel: channel.to_owned(),
            by,
            action: action.to_owned(),
            access: access.to_owned(),
            bytes: bytes as u64,
        })
    }

    /// Reports that this process read a page for the first time, and whose mark it found there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn saw(&self, channel: &str, mark: u8) -> Result<()> {
        self.tell(&Truth::Evidence {
            channel: channel.to_owned(),
            from: Party::Mark(mark),
            to: self.me(),
            pages: 1,
        })
    }
}
