//! A table of what moved, every interval, for who keeps or reads it elsewhere.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};
use jiff::tz::TimeZone;

use super::super::clock::{Clock, TimesOfDay};
use super::super::escape::push_plain;
use super::super::text::line::Piece;
use super::super::{Hello, Renderer, Totals, units};
use super::cells::Cells;
use crate::model::{Event, Flow};
use crate::terminal::Terminal;
use crate::top::Top;

const HEADINGS: [&str; 10] =
    ["MECHANISM", "SENDER", "RECEIVER", "CHANNEL", "RATE/S", "MSG/S", "BYTES", "MSGS", "P50", "P99"];
/// Where numbers begin.
const NUMBERS: usize = 4;

/// Writes blocks: a headline, the flows that moved in the interval, and an empty line. Those that stood still are
/// counted in the headline.
pub struct Blocks {
    times: TimesOfDay,
    terminal: Terminal,
}

impl Blocks {
    /// For that terminal or file, with times in that zone.
    pub fn new(clock: Clock, zone: TimeZone, terminal: Terminal) -> Blocks {
        Blocks { times: TimesOfDay::new(clock, zone, 3), terminal }
    }

    fn headline(&mut self, top: &Top) -> String {
        let mut text = String::new();
        self.times.push(&mut text, top.time());
        text.push_str("  ");
        push_plain(&mut text, &top.host, self.terminal.charset);
        let (flows, active) = top.flows();
        let (events, rate) = top.events();
        text.push_str(&format!(
            "  up {}  {} events/s  {events} events  {flows} flows, {active} active  {}\n",
            super::uptime(top.uptime()),
            units::rate(rate),
            super::lost(top).1
        ));
        text
    }
}

impl Renderer for Blocks {
    fn hello(&mut self, _hello: &Hello, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, _event: &Event, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn flows(&mut self, _time: u64, _flows: &[Flow], _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn interval(&mut self, top: &Top, out: &mut dyn Write) -> io::Result<()> {
        let mut text = self.headline(top);
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).force_no_tty().set_header(HEADINGS);
        for row in top.rows().filter(|row| row.moved) {
            let Cells { mechanism, sender, receiver, channel, numbers } =
                Cells::new(row, self.terminal.charset);
            let joined = |pieces: Vec<Piece>| pieces.iter().map(|piece| &*piece.text).collect::<String>();
            let names = [mechanism.text, joined(sender), joined(receiver), channel.full()];
            let numbers = numbers.into_iter().map(|piece| piece.text);
            table.add_row(names.into_iter().chain(numbers).map(Cell::new));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if index >= NUMBERS {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if table.row_count() > 0 {
            for line in table.lines() {
                text.push_str(line.trim_end_matches(' '));
                text.push('\n');
            }
        }
        text.push('\n');
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn end(&mut self, _totals: &Totals, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
