//! A JSON formatter whose lines do no harm on a terminal.

use std::io::{self, Write};

use serde_json::ser::Formatter;

use crate::render::escape::{Charset, shown_width};

/// Compact JSON in which every character that [`shown_width`] does not let through is a `\u` escape.
///
/// JSON itself asks that of C0 alone, and a terminal obeys DEL, C1 and bidirectional overrides as well.
pub(super) struct Tame(pub(super) Charset);

impl Formatter for Tame {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Nearly all fragments are plain ASCII; C0 does not get here.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut shown = 0;
        for (at, character) in fragment.char_indices() {
            if shown_width(character, self.0).is_some() {
                continue;
            }
            writer.write_all(&fragment.as_bytes()[shown..at])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            shown = at + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[shown..])
    }
}
