//! Text: one aligned line an event.
//!
//! ```text
//! 12:30:00.123456  pipe         seq[4711]         →  sort[4712]        pipe:[98765]         65536 B   12.3µs
//! ```
//!
//! Names are never cut. A cell that is too long for its column pushes what follows to the right, on its line alone; the
//! column widens for the lines after it, as far as the terminal allows.

mod columns;
mod describe;
pub(in crate::render) mod line;

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::clock::{Clock, TimesOfDay};
use super::{Hello, Renderer, Totals, table};
use crate::model::{Event, Flow};
use crate::terminal::Terminal;
use columns::Columns;
use describe::describe;
use line::Line;

/// Writes text.
pub struct Text {
    times: TimesOfDay,
    terminal: Terminal,
    columns: Columns,
    line: Line,
}

impl Text {
    /// A renderer for that terminal, with times in that zone.
    pub fn new(clock: Clock, zone: TimeZone, terminal: Terminal) -> Text {
        let columns = Columns::new(terminal.width);
        Text {
            times: TimesOfDay::new(clock, zone, columns.decimals()),
            terminal,
            line: Line::new(terminal.colour),
            columns,
        }
    }
}

impl Renderer for Text {
    /// Headings, for people; a program that reads text gets nothing but events.
    fn hello(&mut self, _hello: &Hello, out: &mut dyn Write) -> io::Result<()> {
        if !self.terminal.interactive {
            return Ok(());
        }
        self.line.clear();
        self.columns.headings(&mut self.line, self.times.width());
        out.write_all(self.line.finish())
    }

    fn event(&mut self, event: &Event, out: &mut dyn Write) -> io::Result<()> {
        let row = describe(event, self.terminal.charset);
        self.line.clear();
        self.columns.lay_out(&mut self.line, &row, &mut self.times);
        out.write_all(self.line.finish())
    }

    fn flows(&mut self, _time: u64, flows: &[Flow], out: &mut dyn Write) -> io::Result<()> {
        if flows.is_empty() {
            return Ok(());
        }
        out.write_all(table::flows(flows, &self.terminal).as_bytes())
    }

    /// Nothing: the totals are no data, and go to stderr ([`Totals`] displays as that line).
    fn end(&mut self, _totals: &Totals, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
