//! The live table, filling the terminal.

use std::io::{self, Write};

use super::super::escape::{Charset, push_plain};
use super::super::text::line::{Line, Piece, Tint};
use super::super::{Hello, Renderer, Totals, units};
use super::cells::{self, Cells};
use crate::model::{Event, Flow};
use crate::terminal::Terminal;
use crate::top::{Order, Top};

/// Lines above the table (two of the trace, one of headings), and below it.
const ABOVE: usize = 3;
const BELOW: usize = 1;

/// A column of numbers.
struct Number {
    heading: &'static str,
    width: usize,
    order: Option<Order>,
    /// Columns of a higher rank go first when there is little room; those of rank 0 stay.
    rank: usize,
}

const NUMBERS: [Number; 6] = [
    Number { heading: "RATE/S", width: 8, order: Some(Order::Rate), rank: 0 },
    Number { heading: "MSG/S", width: 6, order: None, rank: 1 },
    Number { heading: "BYTES", width: 8, order: Some(Order::Bytes), rank: 3 },
    Number { heading: "MSGS", width: 5, order: Some(Order::Messages), rank: 4 },
    Number { heading: "P50", width: 6, order: None, rank: 2 },
    Number { heading: "P99", width: 6, order: Some(Order::Latency), rank: 1 },
];

/// Columns that names should have at least before numbers give way: both ends and the channel.
const NAMES: usize = 40;

/// Draws the table. Each frame is one record, and begins at the upper left corner of the screen.
pub struct Screen {
    terminal: Terminal,
    /// Lines and columns of the terminal.
    size: Box<dyn Fn() -> (usize, usize) + Send>,
}

impl Screen {
    /// For that terminal; `size` says how many lines and columns it has now.
    pub fn new(terminal: Terminal, size: impl Fn() -> (usize, usize) + Send + 'static) -> Screen {
        Screen { terminal, size: Box::new(size) }
    }

    /// Lines of a table on a screen of so many lines.
    pub fn page(lines: usize) -> usize {
        lines.saturating_sub(ABOVE + BELOW)
    }
}

impl Renderer for Screen {
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
        let (height, width) = (self.size)();
        let lines = frame(top, &self.terminal, height, width);
        // The whole frame is shown at once where the terminal knows how (the mode is ignored where not), and the cursor
        // is out of the way while it is drawn.
        let mut text = String::from("\x1b[?2026h\x1b[?25l\x1b[H");
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line.as_str());
            // At the right border the cursor stands on the last column, which would be erased.
            if line.column() < width {
                text.push_str("\x1b[K");
            }
        }
        text.push_str("\x1b[J");
        if top.is_typing() {
            text.push_str("\x1b[?25h");
        }
        text.push_str("\x1b[?2026l");
        out.write_all(text.as_bytes())
    }

    fn end(&mut self, _totals: &Totals, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// The lines of a screen.
pub(super) fn frame(top: &Top, terminal: &Terminal, height: usize, width: usize) -> Vec<Line> {
    let brush = Brush { terminal, width };
    let mut lines = vec![brush.host(top), brush.counts(top)];
    let columns = Columns::new(width, top.order().0);
    lines.push(brush.headings(&columns, top));
    lines.extend(top.page().map(|row| {
        let cells = Cells::new(row, terminal.charset);
        brush.row(&columns, cells, row.moved)
    }));
    if top.rows().next().is_none() {
        let text = if top.filter().is_empty() { "no flows yet" } else { "no flow passes the filter" };
        lines.push(brush.line([Piece::own(Tint::Dim, text)]));
    }
    let body = height.saturating_sub(BELOW);
    lines.truncate(body);
    while lines.len() < body {
        lines.push(Line::new(false));
    }
    lines.push(brush.bottom(top));
    lines
}

/// Where columns stand, for a width of the screen.
struct Columns {
    mechanism: usize,
    end: usize,
    channel: usize,
    shown: [bool; NUMBERS.len()],
}

impl Columns {
    fn new(width: usize, order: Order) -> Columns {
        let mechanism = if width >= 120 { 14 } else { 11 };
        let mut shown = [true; NUMBERS.len()];
        let room = |shown: &[bool]| {
            let numbers: usize = NUMBERS
                .iter()
                .zip(shown)
                .filter(|(_, shown)| **shown)
                .map(|(number, _)| number.width + 1)
                .sum();
            // The gaps after the mechanism and between the names, and the arrow.
            width.saturating_sub(mechanism + 1 + numbers + 4 + 1)
        };
        let mut order_of_going: Vec<usize> =
            (0..NUMBERS.len()).filter(|index| NUMBERS[*index].rank > 0).collect();
        order_of_going.retain(|index| NUMBERS[*index].order != Some(order));
        order_of_going.sort_by_key(|index| std::cmp::Reverse(NUMBERS[*index].rank));
        for index in order_of_going {
            if room(&shown) >= NAMES {
                break;
            }
            shown[index] = false;
        }
        let room = room(&shown);
        let end = (room / 3).clamp(8, 26);
        Columns { mechanism, end, channel: room.saturating_sub(2 * end).max(4), shown }
    }

    fn numbers(&self) -> impl Iterator<Item = (usize, &'static Number)> {
        NUMBERS.iter().enumerate().filter(|(index, _)| self.shown[*index])
    }
}

/// Pieces of a line, some at a column of their own.
#[derive(Default)]
struct Fields {
    pieces: Vec<Piece>,
    column: usize,
}

impl Fields {
    fn extend(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        for piece in pieces {
            self.column += piece.width;
            self.pieces.push(piece);
        }
    }

    /// Moves to that column, or one space on if that is behind.
    fn to(&mut self, column: usize) {
        let spaces = column.saturating_sub(self.column).max(1);
        self.extend([Piece::own(Tint::Plain, " ".repeat(spaces))]);
    }
}

/// Makes lines of a width.
struct Brush<'a> {
    terminal: &'a Terminal,
    width: usize,
}

impl Brush<'_> {
    /// Pieces one after the other, as far as there is room.
    fn line(&self, pieces: impl IntoIterator<Item = Piece>) -> Line {
        let mut line = Line::new(self.terminal.colour);
        for piece in pieces {
            let room = self.width.saturating_sub(line.column());
            if room == 0 {
                break;
            }
            line.piece(&cells::cut(&piece, room, self.terminal.charset));
        }
        line
    }

    fn host(&self, top: &Top) -> Line {
        let plain = |text: String| Piece::own(Tint::Plain, text);
        let mut pieces = vec![
            Piece::own(Tint::Name, "ipctrace top"),
            plain("  ".to_owned()),
            Piece::new(Tint::Name, |out| push_plain(out, &top.host, self.terminal.charset)),
            plain(format!("  up {}  every {} s", super::uptime(top.uptime()), top.interval.as_secs_f64())),
        ];
        if top.is_paused() {
            pieces.push(plain("  ".to_owned()));
            pieces.push(Piece::own(Tint::Doubt, "PAUSED"));
        }
        if let Some(message) = &top.message {
            pieces.push(plain("  ".to_owned()));
            pieces.push(Piece::new(Tint::Loss, |out| {
                push_plain(out, message.as_bytes(), self.terminal.charset)
            }));
        }
        self.line(pieces)
    }

    /// What was lost comes first: it is the last that may be cut.
    fn counts(&self, top: &Top) -> Line {
        let (events, rate) = top.events();
        let (flows, active) = top.flows();
        let (any, lost) = super::lost(top);
        let plain = |text: String| Piece::own(Tint::Plain, text);
        self.line([
            plain(format!("{} events/s  ", units::rate(rate))),
            Piece::own(if any { Tint::Loss } else { Tint::Plain }, lost),
            plain(format!("  {flows} flows, {active} active  {} events", units::count(events))),
        ])
    }

    fn headings(&self, columns: &Columns, top: &Top) -> Line {
        let mut text = format!(
            "{:mechanism$} {:end$}   {:end$} {:channel$}",
            "MECHANISM",
            "SENDER",
            "RECEIVER",
            "CHANNEL",
            mechanism = columns.mechanism,
            end = columns.end,
            channel = columns.channel,
        );
        let (order, reversed) = top.order();
        for (_, number) in columns.numbers() {
            let sorted = number.order == Some(order);
            let heading = match (sorted, reversed, self.terminal.charset) {
                (false, _, _) => number.heading.to_owned(),
                (true, false, Charset::Utf8) => format!("{}▼", number.heading),
                (true, true, Charset::Utf8) => format!("{}▲", number.heading),
                (true, false, Charset::Ascii) => format!("{}v", number.heading),
                (true, true, Charset::Ascii) => format!("{}^", number.heading),
            };
            text.push_str(&format!(" {heading:>width$}", width = number.width));
        }
        let filled = format!("{text:width$}", width = self.width);
        self.line([Piece::own(Tint::Heading, filled)])
    }

    fn row(&self, columns: &Columns, cells: Cells, moved: bool) -> Line {
        let charset = self.terminal.charset;
        let arrow = match charset {
            Charset::Utf8 => "→",
            Charset::Ascii => ">",
        };
        // What stands still stands back.
        let shown = |piece: Piece| Piece { tint: if moved { piece.tint } else { Tint::Dim }, ..piece };
        let mut fields = Fields::default();
        let mut stop = columns.mechanism + 1;
        fields.extend([shown(cells::cut(&cells.mechanism, columns.mechanism, charset))]);
        fields.to(stop);
        fields.extend(cells::fit(cells.sender, columns.end, charset).into_iter().map(shown));
        stop += columns.end + 1;
        fields.to(stop);
        fields.extend([shown(Piece::own(Tint::Dim, arrow))]);
        stop += 2;
        fields.to(stop);
        fields.extend(cells::fit(cells.receiver, columns.end, charset).into_iter().map(shown));
        stop += columns.end + 1;
        fields.to(stop);
        fields.extend([shown(cells.channel.fit(columns.channel, charset))]);
        stop += columns.channel;
        for (index, number) in columns.numbers() {
            let cell = cells.numbers[index].clone();
            stop += 1 + number.width;
            fields.to(stop.saturating_sub(cell.width));
            fields.extend([shown(cell)]);
        }
        self.line(fields.pieces)
    }

    fn bottom(&self, top: &Top) -> Line {
        let charset = self.terminal.charset;
        let filter = || Piece::new(Tint::Plain, |out| push_plain(out, top.filter().as_bytes(), charset));
        if top.is_typing() {
            return self.line([Piece::own(Tint::Name, "/"), filter()]);
        }
        let (above, all) = top.position();
        let mut pieces = Vec::new();
        if !top.filter().is_empty() {
            pieces.extend([Piece::own(Tint::Doubt, "/"), filter(), Piece::own(Tint::Plain, "  ")]);
            pieces.push(Piece::own(Tint::Plain, format!("{all} of {}  ", top.flows().0)));
        }
        let seen = top.page().count();
        if seen < all {
            pieces.push(Piece::own(Tint::Plain, format!("{}-{}/{all}  ", above + 1, above + seen)));
        }
        let pause = if top.is_paused() { " go on  " } else { " pause  " };
        let keys = [
            ("q", " quit  "),
            ("r b m l", " sort by rate, bytes, msgs, p99  "),
            ("/", " filter  "),
            ("p", pause),
            ("PgUp PgDn", " scroll"),
        ];
        for (key, what) in keys {
            pieces.push(Piece::own(Tint::Name, key));
            pieces.push(Piece::own(Tint::Dim, what));
        }
        self.line(pieces)
    }
}
