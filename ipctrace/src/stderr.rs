//! Messages to the user go through the `log` crate, so that libraries can speak too, and end up on stderr.

use std::io;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::message::Messages;
use crate::terminal::Terminal;

/// Writes what is logged to stderr, one line each.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries are heard when something went wrong.
        metadata.target().starts_with("ipctrace") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let charset = Terminal::of(&io::stderr()).charset;
            Messages::new(io::stderr(), charset).note(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// From here on messages are written: errors, warnings and results; with `verbose` also what is done.
pub fn init(verbose: bool) {
    static STDERR: Stderr = Stderr;
    // Fails only if there is a logger already, which then is as good.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Warn });
}
