//! Writing records to a descriptor so that none stands there in part.

use std::fs::File;
use std::io::{IsTerminal, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor, and what is owed to it.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    regular: bool,
    /// The rest of a record whose beginning has been written and could not be taken back.
    owed: Vec<u8>,
}

/// Not everything was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) errno: Errno,
    /// How many records stand nowhere, and never will.
    pub(super) lost: usize,
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> Sink {
        let file = File::from(fd);
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Sink { file, regular, owed: Vec::new() }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    pub(super) fn descriptor(&self) -> &File {
        &self.file
    }

    /// Writes records; `ends` says where in `bytes` each ends. After a failure nothing of what is in `bytes` is to be
    /// given again.
    pub(super) fn write(&mut self, bytes: &[u8], ends: &[usize]) -> Result<(), Failure> {
        let owed = std::mem::take(&mut self.owed);
        if let Err((written, errno)) = self.write_all(&owed) {
            self.owed = owed[written..].to_vec();
            return Err(Failure { errno, lost: ends.len() });
        }
        let Err((written, errno)) = self.write_all(bytes) else { return Ok(()) };
        let whole = ends.partition_point(|end| *end <= written);
        let start = if whole == 0 { 0 } else { ends[whole - 1] };
        let mut lost = ends.len() - whole;
        if written > start && !self.take_back((written - start) as u64) {
            // It will be completed before anything else is written, and so is not lost.
            self.owed = bytes[written..ends[whole]].to_vec();
            lost -= 1;
        }
        Err(Failure { errno, lost })
    }

    /// Cuts the last `count` bytes off a regular file, if they are its end: others may have written to it as well.
    fn take_back(&mut self, count: u64) -> bool {
        let cut = || {
            let mut file = &self.file;
            let position = file.stream_position()?;
            let Some(end) = position.checked_sub(count).filter(|_| self.regular) else { return Ok(false) };
            if file.metadata()?.len() != position {
                return Ok(false);
            }
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            Ok::<_, std::io::Error>(true)
        };
        cut().unwrap_or(false)
    }

    /// Writes all of it, or says how much was written and why no more.
    fn write_all(&self, bytes: &[u8]) -> Result<(), (usize, Errno)> {
        let mut written = 0;
        while written < bytes.len() {
            match nix::unistd::write(&self.file, &bytes[written..]) {
                // No error, and no progress: what regular files do when they cannot grow.
                Ok(0) => return Err((written, Errno::ENOSPC)),
                Ok(count) => written += count,
                Err(Errno::EINTR) => {}
                // Someone who shares the descriptor made it non-blocking.
                Err(Errno::EAGAIN) => self.wait().map_err(|errno| (written, errno))?,
                Err(errno) => return Err((written, errno)),
            }
        }
        Ok(())
    }

    /// Waits until there is room, or an error to be had.
    fn wait(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
