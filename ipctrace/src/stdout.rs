//! Standard output of the commands that print a report: what is written there line by line and once.

use std::fmt::Display;
use std::io::{self, Write};

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
    let mut output = io::stdout().lock();
    writeln!(output, "{text}").and_then(|()| output.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe { Failed::ReaderGone } else { Failed::Write(error) }
    })
}
