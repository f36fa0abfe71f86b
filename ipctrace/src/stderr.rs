//! Messages to the user go through the `log` crate, so that libraries can speak too, and end up on stderr.

use std::io;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::message::Messages;
use crate::patience::Patient;
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
            let text = record.args().to_string();
            match &mut *held() {
                Some(waiting) if waiting.len() < HELD_MAX => waiting.push(text),
                Some(_) => {}
                None => say(&text),
            }
        }
    }

    fn flush(&self) {}
}

fn say(text: &str) {
    let charset = Terminal::of(&io::stderr()).charset;
    Messages::new(Patient(io::stderr()), charset).note(text);
}

/// Messages that wait, at most: those that come first tell most.
const HELD_MAX: usize = 1000;

/// Messages that wait, while they do.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// What waits, even if another thread panicked with it in its hands: it is only text.
fn held() -> std::sync::MutexGuard<'static, Option<Vec<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on messages wait, for they would get into what is on the screen.
pub fn hold() {
    held().get_or_insert_default();
}

/// The last message of those that wait.
pub fn last_held() -> Option<String> {
    held().as_ref().and_then(|waiting| waiting.last().cloned())
}

/// Writes the messages that waited; those to come are written at once.
pub fn release() {
    let waiting = held().take();
    waiting.into_iter().flatten().for_each(|text| say(&text));
}

/// From here on messages are written: errors, warnings and results; with `verbose` also what is done.
pub fn init(verbose: bool) {
    static STDERR: Stderr = Stderr;
    // Fails only if there is a logger already, which then is as good.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Warn });
}
