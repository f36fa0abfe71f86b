//! Where events go: standard output or a file, in whole records.
//!
//! A reader that has gone (`| head`, a terminal that was closed) is told from a place that takes no more (a full disk). The first ends
//! the trace; the second loses records, of which those that are events are counted, and is tried again with each record to come. A record
//! stands in the output in whole or not at all: what was half written is taken back, or completed first.

mod sink;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::patience;
use sink::{Failure, Sink};

/// Bytes gathered before a block is written.
const BLOCK: usize = 64 * 1024;

/// Whoever read the output has gone: there is nobody to trace for, and nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the output is gone")]
pub struct ReaderGone;

impl From<ReaderGone> for io::Error {
    fn from(gone: ReaderGone) -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, gone)
    }
}

/// Whether an error that came through [`Write`] is [`ReaderGone`].
pub fn is_reader_gone(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<ReaderGone>())
}

/// Records could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("writing to {target}: {}; events are being lost, counted as write-failed", self.reason())]
pub struct WriteFailed {
    /// Where to: a path, or `standard output`.
    pub target: String,
    /// What the kernel said.
    pub errno: Errno,
}

impl WriteFailed {
    /// What happened, and what to do about it where the kernel's words do not tell.
    fn reason(&self) -> String {
        let desc = self.errno.desc();
        if self.errno == patience::GIVEN_UP {
            return patience::WHY.to_owned();
        }
        if self.errno == Errno::EFBIG {
            return format!("{desc} (larger ones can be allowed with `ulimit -f`)");
        }
        desc.to_owned()
    }
}

/// What was lost since it was last asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Losses {
    /// How many events. Other records are not counted: what they say of all events is said on stderr as well.
    pub count: u64,
    /// What to tell the user, if it has not been told yet.
    pub report: Option<WriteFailed>,
}

/// The output. Each `write` through [`Write`] is one record, taken in whole; the only error that comes back is
/// [`ReaderGone`]. They are none of events; for these there is [`Output::of_events`].
#[derive(Debug)]
pub struct Output {
    sink: Sink,
    target: String,
    /// On a terminal each record is written at once.
    interactive: bool,
    /// Whole records that wait.
    buffer: Vec<u8>,
    /// Where in it each record ends.
    ends: Vec<usize>,
    /// Whether each is an event.
    events: Vec<bool>,
    /// Whether the record that stands there in part is one.
    owes_event: bool,
    lost: u64,
    report: Option<WriteFailed>,
    /// Something was lost.
    failed: bool,
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    /// If its descriptor cannot be duplicated, as when it is closed.
    pub fn stdout() -> io::Result<Output> {
        use std::os::fd::AsFd;
        Ok(Output::new(io::stdout().as_fd().try_clone_to_owned()?, "standard output".to_owned()))
    }

    /// A file, made anew.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path) -> io::Result<Output> {
        Ok(Output::new(File::create(path)?.into(), path.display().to_string()))
    }

    /// Standard output, or the file the user named.
    ///
    /// # Errors
    /// See [`Output::stdout`] and [`Output::create`].
    pub fn open(path: Option<&PathBuf>) -> io::Result<Output> {
        path.map_or_else(Output::stdout, |path| Output::create(path))
    }

    fn new(fd: OwnedFd, target: String) -> Output {
        let sink = Sink::new(fd);
        Output {
            interactive: sink.is_terminal(),
            sink,
            target,
            buffer: Vec::new(),
            ends: Vec::new(),
            events: Vec::new(),
            owes_event: false,
            lost: 0,
            report: None,
            failed: false,
        }
    }

    /// The descriptor that is written to, to ask what it is.
    pub fn descriptor(&self) -> &impl std::os::fd::AsFd {
        self.sink.descriptor()
    }

    /// Adds a record: whole lines. `event`: it tells of one, and is counted if it is lost.
    ///
    /// # Errors
    /// [`ReaderGone`].
    pub fn record(&mut self, record: &[u8], event: bool) -> Result<(), ReaderGone> {
        self.buffer.extend_from_slice(record);
        self.ends.push(self.buffer.len());
        self.events.push(event);
        if self.interactive || self.buffer.len() >= BLOCK { self.send() } else { Ok(()) }
    }

    /// The same output for records that tell of an event.
    pub fn of_events(&mut self) -> Events<'_> {
        Events(self)
    }

    /// Writes what waits. To be called when no event has come for a moment, and at the end.
    ///
    /// # Errors
    /// [`ReaderGone`].
    pub fn send(&mut self) -> Result<(), ReaderGone> {
        let result = self.sink.write(&self.buffer, &self.ends);
        let result = match result {
            Ok(()) => Ok(()),
            Err(Failure { errno: Errno::EPIPE, .. }) => Err(ReaderGone),
            Err(Failure { errno, lost, owed }) => {
                if owed {
                    self.owes_event = self.events[lost.start - 1];
                }
                self.lost += self.events[lost].iter().filter(|event| **event).count() as u64;
                if !self.failed {
                    self.failed = true;
                    self.report = Some(WriteFailed { target: self.target.clone(), errno });
                }
                Ok(())
            }
        };
        self.buffer.clear();
        self.ends.clear();
        self.events.clear();
        result
    }

    /// The same, if nothing comes after it: a record that could not be completed is lost.
    ///
    /// # Errors
    /// [`ReaderGone`].
    pub fn finish(&mut self) -> Result<(), ReaderGone> {
        self.send()?;
        self.lost += u64::from(self.sink.owes() && std::mem::take(&mut self.owes_event));
        Ok(())
    }

    /// Whether anything was lost, of whatever kind.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// What was lost since the last call; `None` if nothing was.
    pub fn take_losses(&mut self) -> Option<Losses> {
        let losses = Losses { count: std::mem::take(&mut self.lost), report: self.report.take() };
        (losses.count > 0 || losses.report.is_some()).then_some(losses)
    }
}

impl Write for Output {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.record(record, false)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.send()?)
    }
}

/// An [`Output`] whose records tell of events.
#[derive(Debug)]
pub struct Events<'a>(&'a mut Output);

impl Write for Events<'_> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.record(record, true)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.0.send()?)
    }
}

#[cfg(test)]
mod tests;
