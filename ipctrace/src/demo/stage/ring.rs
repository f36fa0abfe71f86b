//! What the processes of workloads do through io_uring.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, Probe, cqueue, opcode};

/// A ring of this process, with one request under way at a time unless said otherwise.
pub struct Ring {
    ring: IoUring,
    /// Flags of every request.
    flags: Flags,
}

impl Ring {
    /// A ring that works within the calls that submit to it.
    ///
    /// # Errors
    /// If the kernel has none, or allows none.
    pub fn new() -> Result<Ring> {
        let ring = IoUring::new(128).context("io_uring_setup(2)")?;
        Ok(Ring { ring, flags: Flags::empty() })
    }

    /// A ring that a thread of the kernel's looks after (SQPOLL): submitting takes no call while that is awake.
    ///
    /// # Errors
    /// As for [`Ring::new`].
    pub fn polled() -> Result<Ring> {
        let ring = IoUring::builder().setup_sqpoll(50).build(128).context("io_uring_setup(2), SQPOLL")?;
        Ok(Ring { ring, flags: Flags::empty() })
    }

    /// From now on worker threads carry out the requests (`IOSQE_ASYNC`).
    #[must_use]
    pub fn by_workers(mut self) -> Ring {
        self.flags = Flags::ASYNC;
        self
    }

    /// Whether the kernel knows requests with this code.
    ///
    /// # Errors
    /// Those of io_uring_register(2).
    pub fn knows(&self, code: u8) -> Result<bool> {
        let mut probe = Probe::new();
        self.ring.submitter().register_probe(&mut probe).context("io_uring_register(2), probe")?;
        Ok(probe.is_supported(code))
    }

    /// Files that requests name by their place here.
    ///
    /// # Errors
    /// Those of io_uring_register(2).
    pub fn register(&self, files: &[&OwnedFd]) -> Result<()> {
        let files: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
        self.ring.submitter().register_files(&files).context("io_uring_register(2), files")
    }

    /// Submits requests, all at once, and waits for so many completions: what each returned, in the order of the
    /// completions, with its `user_data`.
    ///
    /// # Errors
    /// Those of io_uring_enter(2). What requests returned is no error of this.
    ///
    /// # Safety
    /// What the requests point to must stay as it is until they are complete.
    pub unsafe fn submit(&mut self, entries: &[Entry], completions: usize) -> Result<Vec<cqueue::Entry>> {
        let entries: Vec<Entry> = entries.iter().map(|entry| entry.clone().flags(self.flags)).collect();
        // SAFETY: as the caller argues.
        unsafe { self.submit_as_they_are(&entries, completions) }
    }

    /// The same with the flags that the requests have.
    ///
    /// # Errors
    /// As for [`Ring::submit`].
    ///
    /// # Safety
    /// As for [`Ring::submit`].
    pub unsafe fn submit_as_they_are(
        &mut self,
        entries: &[Entry],
        completions: usize,
    ) -> Result<Vec<cqueue::Entry>> {
        // SAFETY: as the caller argues.
        unsafe { self.ring.submission().push_multiple(entries) }.context("the ring is full")?;
        self.ring.submit_and_wait(completions).context("io_uring_enter(2)")?;
        let mut all = Vec::new();
        while all.len() < completions {
            all.extend(self.ring.completion());
            if all.len() < completions {
                self.ring.submit_and_wait(completions - all.len()).context("io_uring_enter(2)")?;
            }
        }
        Ok(all)
    }

    /// Submits one request and gives what it returned.
    ///
    /// # Errors
    /// If it failed.
    ///
    /// # Safety
    /// As for [`Ring::submit`].
    pub unsafe fn one(&mut self, entry: Entry) -> Result<usize> {
        // SAFETY: as the caller argues.
        let done = unsafe { self.submit(&[entry], 1) }?;
        let result = done.first().context("a completion")?.result();
        ensure!(result >= 0, "a request: {}", std::io::Error::from_raw_os_error(-result));
        Ok(usize::try_from(result)?)
    }

    /// Writes everything.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn write_all(&mut self, descriptor: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let entry =
                opcode::Write::new(Fd(descriptor.as_raw_fd()), bytes.as_ptr(), u32::try_from(bytes.len())?);
            // SAFETY: the bytes outlive the request, which is waited for.
            let count = unsafe { self.one(entry.build()) }?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Writes everything to the registered file at that place.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn write_all_fixed(&mut self, place: u32, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let entry = opcode::Write::new(Fixed(place), bytes.as_ptr(), u32::try_from(bytes.len())?);
            // SAFETY: as in `write_all`.
            let count = unsafe { self.one(entry.build()) }?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Reads in portions of `size` bytes until the end.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read_to_end(&mut self, descriptor: &OwnedFd, size: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut portion = vec![0; size];
        loop {
            let entry =
                opcode::Read::new(Fd(descriptor.as_raw_fd()), portion.as_mut_ptr(), u32::try_from(size)?);
            // SAFETY: the buffer outlives the request, which is waited for.
            match unsafe { self.one(entry.build()) }? {
                0 => return Ok(all),
                count => all.extend_from_slice(&portion[..count]),
            }
        }
    }

    /// Reads `count` bytes from the registered file at that place.
    ///
    /// # Errors
    /// Those of read(2), or if the end comes before.
    pub fn read_exactly_fixed(&mut self, place: u32, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut done = 0;
        while done < count {
            let rest = &mut bytes[done..];
            let entry = opcode::Read::new(Fixed(place), rest.as_mut_ptr(), u32::try_from(rest.len())?);
            // SAFETY: as in `read_to_end`.
            match unsafe { self.one(entry.build()) }? {
                0 => bail!("the end came after {done} of {count} bytes"),
                more => done += more,
            }
        }
        Ok(bytes)
    }

    /// send(2).
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&mut self, socket: &OwnedFd, bytes: &[u8]) -> Result<usize> {
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), u32::try_from(bytes.len())?);
        // SAFETY: the bytes outlive the request, which is waited for.
        unsafe { self.one(entry.build()) }
    }

    /// recv(2) with flags.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn receive(&mut self, socket: &OwnedFd, buffer: &mut [u8], flags: i32) -> Result<usize> {
        let length = u32::try_from(buffer.len())?;
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), buffer.as_mut_ptr(), length).flags(flags);
        // SAFETY: the buffer outlives the request, which is waited for.
        unsafe { self.one(entry.build()) }
    }
}
