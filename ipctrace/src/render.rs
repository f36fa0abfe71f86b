//! Renderers: one model, shown as text for people ([`Text`]) or as NDJSON for programs ([`Json`]).
//!
//! Each `write_all` of a renderer holds one record, in whole lines, so that whoever writes them out ([`crate::output`])
//! knows where a record ends. What a traced process chose (names, paths, payload) passes
//! [`escape`] first: no byte of it can act on a terminal or break a line.

mod clock;
pub mod escape;
mod json;
mod signals;
mod table;
mod text;
mod top;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use comfy_table::presets;
use ipctrace_common::{Cause, Mechanism};

use crate::flows::MOST as MOST_FLOWS;
use crate::model::{Event, Flow};
use crate::top::Top;

pub use clock::Clock;
pub use escape::Charset;
pub use json::Json;
pub use signals::{code_name, signal_name};
pub use text::Text;
pub use top::{Blocks, Screen};

/// Shows a trace. The calls come in this order: `hello` once, `event` and `interval` any number of times, `flows` at most
/// once, `end` once.
pub trait Renderer {
    /// What is traced, where.
    ///
    /// # Errors
    /// Those of `out`.
    fn hello(&mut self, hello: &Hello, out: &mut dyn Write) -> io::Result<()>;

    /// One thing that happened.
    ///
    /// # Errors
    /// Those of `out`.
    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<()>;

    /// The summary, in the order given. `time` is now, ns since boot.
    ///
    /// # Errors
    /// Those of `out`.
    fn flows(&mut self, time: u64, flows: &[Flow], out: &mut dyn Write) -> io::Result<()>;

    /// The live table has changed. Those that show events do without it.
    ///
    /// # Errors
    /// Those of `out`.
    fn interval(&mut self, _top: &Top, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    /// That is all.
    ///
    /// # Errors
    /// Those of `out`.
    fn end(&mut self, totals: &Totals, out: &mut dyn Write) -> io::Result<()>;
}

/// What can be said before the first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// When tracing began, ns since boot.
    pub time: u64,
    /// The kernel's release, as `uname -r` says it.
    pub kernel: OsString,
    /// The host's name.
    pub host: OsString,
    /// Each mechanism, and whether it is traced.
    pub mechanisms: Vec<(Mechanism, Coverage)>,
    /// By which hooks each that is traced is: `object` or `syscall`.
    pub hooks: Vec<(Mechanism, &'static str)>,
}

/// The style of a table of a report (of comfy-table): ruled, in what can be shown.
pub fn ruled(charset: Charset) -> &'static str {
    match charset {
        Charset::Utf8 => presets::UTF8_HORIZONTAL_ONLY,
        Charset::Ascii => presets::ASCII_HORIZONTAL_ONLY,
    }
}

/// Whether a mechanism is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// It is.
    On,
    /// It is not, for that reason.
    Off(String),
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Coverage::On => f.write_str("on"),
            Coverage::Off(why) => write!(f, "off: {why}"),
        }
    }
}

/// What can be said after the last event. As text, the line that ends a trace on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// When tracing ended, ns since boot.
    pub time: u64,
    /// Events rendered.
    pub events: u64,
    /// What was not seen, by cause; causes that did not occur may be absent or 0.
    pub lost: Vec<(Cause, u64)>,
    /// Events that are in none of the flows that the summary shows, because there were too many; 0 without a summary.
    pub left_out: u64,
    /// How long tracing lasted.
    pub duration: Duration,
    /// Mechanisms that were traced by hooks on objects; the others by those on system calls.
    pub at_objects: Vec<Mechanism>,
    /// Something of what was to be shown, be it an event or not, could not be written. Not rendered.
    pub incomplete: bool,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.events == 1 { "" } else { "s" };
        let seconds = self.duration.as_secs_f64();
        if seconds < 1.0 {
            write!(f, "{} event{plural} in {:.0} ms, ", self.events, seconds * 1e3)?;
        } else {
            write!(f, "{} event{plural} in {seconds:.1} s, ", self.events)?;
        }
        self.losses(f)?;
        for (index, mechanism) in self.at_objects.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "; by hooks on objects: " } else { ", " }, mechanism.name())?;
        }
        match self.left_out {
            0 => Ok(()),
            count => write!(f, "; the summary leaves out {count}, of flows beyond the first {MOST_FLOWS}"),
        }
    }
}

impl Totals {
    /// What was lost, by cause.
    fn losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.lost.iter().filter(|(_, count)| *count > 0);
        let total = lost.clone().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        if total == 0 {
            return f.write_str("nothing lost");
        }
        write!(f, "{total} lost (")?;
        for (index, (cause, count)) in lost.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {count}", cause.name())?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_say_what_was_lost_by_cause() {
        let mut totals = Totals {
            time: 0,
            events: 1,
            lost: vec![],
            left_out: 0,
            duration: Duration::from_millis(5_040),
            at_objects: vec![],
            incomplete: false,
        };
        assert_eq!(totals.to_string(), "1 event in 5.0 s, nothing lost");
        totals.events = 12;
        totals.lost = vec![(Cause::RingFull, 10), (Cause::Recursion, 0), (Cause::MapFull, 2)];
        assert_eq!(totals.to_string(), "12 events in 5.0 s, 12 lost (ring-full: 10, map-full: 2)");
        totals.at_objects = vec![Mechanism::PosixMq, Mechanism::Eventfd];
        assert!(totals.to_string().ends_with("map-full: 2); by hooks on objects: posix_mq, eventfd"));
        totals.at_objects.clear();
        totals.duration = Duration::from_millis(40);
        totals.left_out = 3;
        assert_eq!(
            totals.to_string(),
            "12 events in 40 ms, 12 lost (ring-full: 10, map-full: 2); the summary leaves out 3, of flows beyond the first 100000"
        );
    }
}
