//! A line in the making: text whose columns are counted, with colours that are not.

/// What a piece of text is, and so how it stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tint {
    /// As the terminal shows text.
    Plain,
    /// What is there to be looked at only when needed.
    Dim,
    /// The name of a process.
    Name,
    /// The name of a mechanism.
    Mechanism,
    /// What is uncertain.
    Doubt,
    /// What is missing.
    Loss,
}

impl Tint {
    /// The SGR sequence that begins it.
    pub(super) fn sequence(self) -> &'static str {
        match self {
            Tint::Plain => "",
            Tint::Dim => "\x1b[2m",
            Tint::Name => "\x1b[1m",
            Tint::Mechanism => "\x1b[36m",
            Tint::Doubt => "\x1b[33m",
            Tint::Loss => "\x1b[1;31m",
        }
    }
}

/// The SGR sequence that ends all tints.
pub(super) const RESET: &str = "\x1b[0m";

/// A piece of text made ready for the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) tint: Tint,
    pub(super) text: String,
    /// Columns it takes.
    pub(super) width: usize,
}

impl Piece {
    /// Escaped text whose columns are known.
    pub(super) fn new(tint: Tint, push: impl FnOnce(&mut String) -> usize) -> Piece {
        let mut text = String::new();
        let width = push(&mut text);
        Piece { tint, text, width }
    }

    /// Text of our own, in which each character takes one column.
    pub(super) fn own(tint: Tint, text: impl Into<String>) -> Piece {
        let text = text.into();
        Piece { tint, width: text.chars().count(), text }
    }
}

/// A line in the making.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    column: usize,
    colour: bool,
}

impl Line {
    pub(super) fn new(colour: bool) -> Line {
        Line { text: String::new(), column: 0, colour }
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.column = 0;
    }

    /// Appends through `push`, which adds that many columns, each of one character.
    pub(super) fn with(&mut self, tint: Tint, width: usize, push: impl FnOnce(&mut String)) {
        let sequence = if self.colour { tint.sequence() } else { "" };
        self.text.push_str(sequence);
        push(&mut self.text);
        if !sequence.is_empty() {
            self.text.push_str(RESET);
        }
        self.column += width;
    }

    pub(super) fn piece(&mut self, piece: &Piece) {
        self.with(piece.tint, piece.width, |text| text.push_str(&piece.text));
    }

    /// Moves to that column, or one space on if that is behind.
    pub(super) fn to(&mut self, column: usize) {
        let spaces = column.saturating_sub(self.column).max(1);
        self.text.extend(std::iter::repeat_n(' ', spaces));
        self.column += spaces;
    }

    /// The line, with its newline and nothing blank before it.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
        self.text.as_bytes()
    }
}
