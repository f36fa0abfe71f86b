//! A line in the making: text whose columns are counted, with colours that are not.

/// What a piece of text is, and so how it stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::render) enum Tint {
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
    /// Headings of a table that fills the screen.
    Heading,
}

impl Tint {
    /// The SGR sequence that begins it.
    pub(in crate::render) fn sequence(self) -> &'static str {
        match self {
            Tint::Plain => "",
            Tint::Dim => "\x1b[2m",
            Tint::Name => "\x1b[1m",
            Tint::Mechanism => "\x1b[36m",
            Tint::Doubt => "\x1b[33m",
            Tint::Loss => "\x1b[1;31m",
            Tint::Heading => "\x1b[7m",
        }
    }
}

/// The SGR sequence that ends all tints.
pub(in crate::render) const RESET: &str = "\x1b[0m";

/// A piece of text made ready for the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::render) struct Piece {
    pub(in crate::render) tint: Tint,
    pub(in crate::render) text: String,
    /// Columns it takes.
    pub(in crate::render) width: usize,
}

impl Piece {
    /// Escaped text whose columns are known.
    pub(in crate::render) fn new(tint: Tint, push: impl FnOnce(&mut String) -> usize) -> Piece {
        let mut text = String::new();
        let width = push(&mut text);
        Piece { tint, text, width }
    }

    /// Text of our own, in which each character takes one column.
    pub(in crate::render) fn own(tint: Tint, text: impl Into<String>) -> Piece {
        let text = text.into();
        Piece { tint, width: text.chars().count(), text }
    }
}

/// A line in the making.
#[derive(Debug)]
pub(in crate::render) struct Line {
    text: String,
    column: usize,
    colour: bool,
}

impl Line {
    pub(in crate::render) fn new(colour: bool) -> Line {
        Line { text: String::new(), column: 0, colour }
    }

    pub(in crate::render) fn clear(&mut self) {
        self.text.clear();
        self.column = 0;
    }

    /// Appends through `push`, which adds that many columns, each of one character.
    pub(in crate::render) fn with(&mut self, tint: Tint, width: usize, push: impl FnOnce(&mut String)) {
        let sequence = if self.colour { tint.sequence() } else { "" };
        self.text.push_str(sequence);
        push(&mut self.text);
        if !sequence.is_empty() {
            self.text.push_str(RESET);
        }
        self.column += width;
    }

    pub(in crate::render) fn piece(&mut self, piece: &Piece) {
        self.with(piece.tint, piece.width, |text| text.push_str(&piece.text));
    }

    /// Moves to that column, or one space on if that is behind.
    pub(in crate::render) fn to(&mut self, column: usize) {
        let spaces = column.saturating_sub(self.column).max(1);
        self.text.extend(std::iter::repeat_n(' ', spaces));
        self.column += spaces;
    }

    /// Columns taken so far.
    pub(in crate::render) fn column(&self) -> usize {
        self.column
    }

    /// The line as it is.
    pub(in crate::render) fn as_str(&self) -> &str {
        &self.text
    }

    /// The line, with its newline and nothing blank before it.
    pub(in crate::render) fn finish(&mut self) -> &[u8] {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
        self.text.as_bytes()
    }
}
