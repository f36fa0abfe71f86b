//! Where cells stand.

use super::super::clock::TimesOfDay;
use super::describe::Row;
use super::line::{Line, Piece, Tint};

/// Columns that widen: how wide to begin with, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column {
    width: usize,
    limit: usize,
}

impl Column {
    fn new(width: usize, limit: usize) -> Column {
        Column { width: width.min(limit), limit }
    }

    /// Takes note of a cell of that width. One that is beyond the limit does not count: it stands out anyhow.
    fn admit(&mut self, width: usize) {
        if width <= self.limit {
            self.width = self.width.max(width);
        }
    }
}

/// Widths of the right-aligned columns: `1048576 B` and `12.3µs`.
const AMOUNT: usize = 9;
const LATENCY: usize = 7;
const ARROW: usize = 2;
/// Width of the channel to begin with: that of `SIGCHLD CLD_EXITED`, the commonest of all lines, so that the numbers behind it
/// do not move when the first comes.
const CHANNEL: usize = 18;

/// Terminals narrower than this get shorter times and less space between columns.
const ROOMY: usize = 110;

/// The columns of a trace, which widen as it goes on.
#[derive(Debug)]
pub(super) struct Columns {
    roomy: bool,
    mechanism: Column,
    sender: Column,
    receiver: Column,
    channel: Column,
}

impl Columns {
    /// Columns for a terminal of that width; as wide as they like where it is unknown.
    pub(super) fn new(terminal: Option<usize>) -> Columns {
        let roomy = terminal.is_none_or(|width| width >= ROOMY);
        let mut columns = Columns {
            roomy,
            mechanism: if roomy { Column::new(11, 14) } else { Column::new(6, 11) },
            sender: Column::new(16, 26),
            receiver: Column::new(16, 26),
            channel: Column::new(CHANNEL, 40),
        };
        if let Some(terminal) = terminal {
            let gaps = columns.gap() * 5 + 2;
            let time = "00:00:00.".len() + columns.decimals();
            let fixed = time + columns.mechanism.limit + ARROW + AMOUNT + LATENCY + gaps;
            let room = terminal.saturating_sub(fixed);
            let process = (room * 3 / 10).clamp(12, 26);
            let channel = room.saturating_sub(2 * process).clamp(13, 40);
            columns.sender = Column::new(16, process);
            columns.receiver = Column::new(16, process);
            columns.channel = Column::new(CHANNEL, channel);
        }
        columns
    }

    /// Digits of a second that times have.
    pub(super) fn decimals(&self) -> usize {
        if self.roomy { 6 } else { 3 }
    }

    fn gap(&self) -> usize {
        if self.roomy { 2 } else { 1 }
    }

    /// Where each column begins, and, for those aligned to the right, ends.
    fn stops(&self, time: usize) -> Stops {
        let gap = self.gap();
        let mechanism = time + gap;
        let sender = mechanism + self.mechanism.width + gap;
        let arrow = sender + self.sender.width + 1;
        let receiver = arrow + ARROW + 1;
        let channel = receiver + self.receiver.width + gap;
        let amount = channel + self.channel.width + gap + AMOUNT;
        let latency = amount + 1 + LATENCY;
        Stops { mechanism, sender, arrow, receiver, channel, amount, latency, rest: latency + gap }
    }

    /// The line above all others.
    pub(super) fn headings(&self, line: &mut Line, time: usize) {
        let stops = self.stops(time);
        let heading = |text: &str| Piece::own(Tint::Dim, text);
        line.piece(&heading("TIME"));
        for (stop, text) in [
            (stops.mechanism, "MECH"),
            (stops.sender, "SENDER"),
            (stops.receiver, "RECEIVER"),
            (stops.channel, "CHANNEL"),
            (stops.amount - "BYTES".len(), "BYTES"),
            (stops.latency - "LATENCY".len(), "LATENCY"),
        ] {
            line.to(stop);
            line.piece(&heading(text));
        }
    }

    /// Puts the cells of an event on a line.
    pub(super) fn lay_out(&mut self, line: &mut Line, row: &Row, times: &mut TimesOfDay) {
        let width = |pieces: &[Piece]| pieces.iter().map(|piece| piece.width).sum::<usize>();
        self.mechanism.admit(row.mechanism.width);
        // What has no receiver is not a process, and needs no column.
        if !row.receiver.is_empty() {
            self.sender.admit(width(&row.sender));
        }
        self.receiver.admit(width(&row.receiver));
        self.channel.admit(width(&row.channel));

        let stops = self.stops(times.width());
        line.with(Tint::Dim, times.width(), |text| times.push(text, row.time));
        line.to(stops.mechanism);
        line.piece(&row.mechanism);
        line.to(stops.sender);
        row.sender.iter().for_each(|piece| line.piece(piece));
        line.to(stops.arrow);
        line.piece(&row.arrow);
        line.to(stops.receiver);
        row.receiver.iter().for_each(|piece| line.piece(piece));
        line.to(stops.channel);
        row.channel.iter().for_each(|piece| line.piece(piece));
        line.to(stops.amount.saturating_sub(row.amount.width));
        line.piece(&row.amount);
        line.to(stops.latency.saturating_sub(row.latency.width));
        line.piece(&row.latency);
        line.to(stops.rest);
        for (index, piece) in row.rest.iter().enumerate() {
            if index > 0 {
                line.with(Tint::Plain, 2, |text| text.push_str("  "));
            }
            line.piece(piece);
        }
    }
}

/// Columns of the screen, from 0.
struct Stops {
    mechanism: usize,
    sender: usize,
    arrow: usize,
    receiver: usize,
    channel: usize,
    /// End of the column.
    amount: usize,
    /// End of the column.
    latency: usize,
    rest: usize,
}
