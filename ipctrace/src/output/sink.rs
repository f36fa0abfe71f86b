//! Writing records to a descriptor so that none stands there in part.

use std::fs::File;
use std::io::{IsTerminal, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::{patience, terminal};

/// A descriptor, and what is owed to it.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    regular: bool,
    /// The rest of a record whose beginning has been written and could not be taken back.
    owed: Vec<u8>,
}

/// Not everything was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) errno: Errno,
    /// Which of the records stand nowhere, and never will.
    pub(super) lost: Range<usize>,
    /// One more is owed: the last of those before.
    pub(super) owed: bool,
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
            return Err(Failure { errno, lost: 0..ends.len(), owed: false });
        }
        let Err((written, errno)) = self.write_all(bytes) else { return Ok(()) };
        let whole = ends.partition_point(|end| *end <= written);
        let start = if whole == 0 { 0 } else { ends[whole - 1] };
        if written > start && !self.take_back((written - start) as u64) {
            // It will be completed before anything else is written, and so is not lost.
            self.owed = bytes[written..ends[whole]].to_vec();
            return Err(Failure { errno, lost: whole + 1..ends.len(), owed: true });
        }
        Err(Failure { errno, lost: whole..ends.len(), owed: false })
    }

    /// Whether a record stands there in part.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
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
            match patience::write(&self.file, &bytes[written..]) {
                // No error, and no progress: what regular files do when they cannot grow.
                Ok(0) => return Err((written, Errno::ENOSPC)),
                Ok(count) => written += count,
                // As with a pipe that nobody reads from any more.
                Err(Errno::EIO) if terminal::has_hung_up(&self.file) => return Err((written, Errno::EPIPE)),
                Err(errno) => return Err((written, errno)),
            }
        }
        Ok(())
    }
}
