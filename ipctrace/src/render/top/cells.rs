//! What a line of the live table says, escaped, and cut to the room there is.

use unicode_width::UnicodeWidthChar;

use super::super::escape::{Charset, push_name, push_plain};
use super::super::text::line::{Piece, Tint};
use super::super::units;
use crate::model::{End, Latency, Why};
use crate::top::Row;

/// The cells of a line.
pub(super) struct Cells {
    pub(super) mechanism: Piece,
    /// A name that may be cut, and the pid, which may not.
    pub(super) sender: Vec<Piece>,
    pub(super) receiver: Vec<Piece>,
    pub(super) channel: Channel,
    /// Bytes and messages a second, bytes and messages in all, and two latencies.
    pub(super) numbers: [Piece; 6],
}

/// A channel: what it is called by the kernel, and by people.
pub(super) struct Channel {
    id: Piece,
    name: Option<Piece>,
}

impl Cells {
    pub(super) fn new(row: &Row, charset: Charset) -> Cells {
        let flow = &row.flow;
        let plain = |bytes: &[u8]| Piece::new(Tint::Plain, |out| push_plain(out, bytes, charset));
        let name = flow.channel.own_name();
        let latency = |pick: fn(&Latency) -> u64| {
            let text = flow.latency.as_ref().map(|latency| units::duration(pick(latency), charset));
            Piece::own(Tint::Plain, text.unwrap_or_else(|| "-".to_owned()))
        };
        let number = |text: String| Piece::own(Tint::Plain, text);
        Cells {
            mechanism: Piece::own(Tint::Mechanism, flow.mechanism.name()),
            sender: end(&flow.sender, charset),
            receiver: end(&flow.receiver, charset),
            channel: Channel { id: plain(flow.channel.id.as_bytes()), name: name.map(plain) },
            numbers: [
                number(units::size(row.rate_bytes.round() as u64)),
                number(units::rate(row.rate_messages)),
                number(units::size(flow.bytes)),
                number(units::count(flow.messages)),
                latency(|latency| latency.p50),
                latency(|latency| latency.p99),
            ],
        }
    }
}

impl Channel {
    /// All of it.
    pub(super) fn full(&self) -> String {
        match &self.name {
            Some(name) => format!("{} {}", self.id.text, name.text),
            None => self.id.text.clone(),
        }
    }

    /// What there is room for: both, or the name, of a path the end.
    pub(super) fn fit(&self, width: usize, charset: Charset) -> Piece {
        match &self.name {
            Some(name) if self.id.width + 1 + name.width <= width => {
                Piece { tint: Tint::Plain, text: self.full(), width: self.id.width + 1 + name.width }
            }
            Some(name) if name.text.contains('/') => cut_start(name, width, charset),
            Some(name) => cut(name, width, charset),
            None => cut(&self.id, width, charset),
        }
    }
}

/// `name[pid]`, or in parentheses why there is none.
fn end(end: &End, charset: Charset) -> Vec<Piece> {
    match end {
        End::Known(process) => vec![
            Piece::new(Tint::Name, |out| push_name(out, &process.comm, charset)),
            Piece::own(Tint::Plain, format!("[{}]", process.pid)),
        ],
        End::Unknown(why) => {
            let tint = match why {
                Why::BeforeStart | Why::Kernel | Why::Remote(_) => Tint::Dim,
                Why::Unread => Tint::Doubt,
                Why::Lost => Tint::Loss,
            };
            vec![Piece::new(tint, |out| {
                out.push('(');
                let width = push_plain(out, why.to_string().as_bytes(), charset);
                out.push(')');
                width + 2
            })]
        }
    }
}

/// Cuts the first piece, so that all fit.
pub(super) fn fit(mut pieces: Vec<Piece>, width: usize, charset: Charset) -> Vec<Piece> {
    let rest: usize = pieces.iter().skip(1).map(|piece| piece.width).sum();
    if let Some(first) = pieces.first_mut() {
        *first = cut(first, width.saturating_sub(rest).max(1), charset);
    }
    pieces
}

/// Stands for what was cut away. One column.
fn mark(charset: Charset) -> char {
    match charset {
        Charset::Utf8 => '…',
        Charset::Ascii => '+',
    }
}

/// Cuts what is beyond `width` columns; escaped text holds nothing that has no width.
pub(super) fn cut(piece: &Piece, width: usize, charset: Charset) -> Piece {
    if piece.width <= width {
        return piece.clone();
    }
    Piece::new(piece.tint, |out| {
        let columns = take(piece.text.chars(), width.saturating_sub(1), |character| out.push(character));
        out.push(mark(charset));
        columns + 1
    })
}

/// As [`cut`], but what is cut is the beginning.
fn cut_start(piece: &Piece, width: usize, charset: Charset) -> Piece {
    if piece.width <= width {
        return piece.clone();
    }
    let mut end = Vec::new();
    let columns = take(piece.text.chars().rev(), width.saturating_sub(1), |character| end.push(character));
    Piece::new(piece.tint, |out| {
        out.push(mark(charset));
        out.extend(end.iter().rev());
        columns + 1
    })
}

/// Hands on characters as long as there is room for them; says how much they take.
fn take(characters: impl Iterator<Item = char>, room: usize, mut hand_on: impl FnMut(char)) -> usize {
    let mut columns = 0;
    for character in characters {
        let width = character.width().unwrap_or(0);
        if columns + width > room {
            break;
        }
        hand_on(character);
        columns += width;
    }
    columns
}
