//! Standard output of the commands that print a report: what is written there line by line and once.

use std::fmt::Display;
use std::io::{self, Write};

use crate::patience::Patient;
use crate::terminal;

/// Why a report could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Whoever read it has left. That is no failure of ours: `ipctrace doctor | head -1` ends quietly.
    #[error("nobody reads standard output any more")]
    ReaderGone,
    /// It could not be written.
    #[error("writing to standard output: {0}")]
    Write(io::Error),
}

/// Prints a line, or several, and a newline.
///
/// # Errors
/// If standard output takes no more.
pub fn line(text: impl Display) -> Result<(), Failed> {
    let text = format!("{text}\n");
    Patient(io::stdout()).write_all(text.as_bytes()).map_err(|error| {
        let gone = error.kind() == io::ErrorKind::BrokenPipe || terminal::has_hung_up(io::stdout());
        if gone { Failed::ReaderGone } else { Failed::Write(error) }
    })
}
