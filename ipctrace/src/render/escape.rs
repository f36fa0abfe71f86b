//! What a traced process chose, made harmless: names, paths and payload may hold anything, and a terminal obeys what it
//! is sent.
//!
//! What cannot be shown as it is becomes a visible escape: `\n`, `\x1b` for a byte, `\u{202e}` for a character. A
//! backslash becomes `\\`, so what is shown can be turned back into what it was.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

/// What the reader of the text can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8.
    Utf8,
    /// Anything else: only ASCII is sent, since the bytes of other characters may be control characters there.
    Ascii,
}

/// How many columns a character takes if it may be shown as it is; `None` if it has to be escaped.
///
/// Escaped are control characters (C0, DEL, C1), format characters (bidirectional overrides and isolates, zero-width
/// joiners, tags), separators other than the space, unassigned and private characters, and all that has no width of
/// its own (combining marks, fillers), with which one name could be made to look like another.
pub fn shown_width(character: char, charset: Charset) -> Option<usize> {
    if character.is_ascii() {
        return (character == ' ' || character.is_ascii_graphic()).then_some(1);
    }
    match charset {
        Charset::Ascii => None,
        // `escape_debug` knows the categories: what it would show as itself is one character long.
        Charset::Utf8 if character.escape_debug().len() == 1 => character.width().filter(|width| *width > 0),
        Charset::Utf8 => None,
    }
}

/// Appends `bytes` to `out`, escaped, with a backslash before each character of `special`. Returns the columns added.
fn push_escaped(out: &mut String, bytes: &[u8], charset: Charset, special: &[char]) -> usize {
    let mut columns = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let start = out.len();
            match shown_width(character, charset) {
                Some(_) if special.contains(&character) => {
                    out.push('\\');
                    out.push(character);
                    columns += 2;
                }
                Some(width) => {
                    out.push(character);
                    columns += width;
                }
                None => {
                    push_escape(out, character);
                    columns += out.len() - start;
                }
            }
        }
        for byte in chunk.invalid() {
            push_formatted(out, format_args!("\\x{byte:02x}"));
            columns += "\\x00".len();
        }
    }
    columns
}

/// Appends the escape of a character.
fn push_escape(out: &mut String, character: char) {
    match character {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        _ if character.is_ascii() => push_formatted(out, format_args!("\\x{:02x}", u32::from(character))),
        _ => push_formatted(out, format_args!("\\u{{{:x}}}", u32::from(character))),
    }
}

/// Appends formatted text.
fn push_formatted(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes all that is written to it");
}

/// Appends a path, name or message, escaped. Returns the columns added.
pub fn push_plain(out: &mut String, bytes: &[u8], charset: Charset) -> usize {
    push_escaped(out, bytes, charset, &['\\'])
}

/// Appends a string in double quotes, escaped as strace does it. Returns the columns added.
pub fn push_quoted(out: &mut String, bytes: &[u8], charset: Charset) -> usize {
    out.push('"');
    let columns = push_escaped(out, bytes, charset, &['\\', '"']);
    out.push('"');
    columns + 2
}

/// Appends the name of a process, escaped; in quotes where it could be taken for something else on the line, such as
/// the end of this process and the beginning of another. Returns the columns added.
pub fn push_name(out: &mut String, bytes: &[u8], charset: Charset) -> usize {
    let brackets = |byte: &u8| b"\"[]<>~".contains(byte);
    let arrow = "→".as_bytes();
    let misleading = bytes.is_empty()
        || bytes.starts_with(b"(")
        || bytes.starts_with(b" ")
        || bytes.ends_with(b" ")
        || bytes.iter().any(brackets)
        || bytes.windows(2).any(|pair| pair == b"  ")
        || bytes.windows(arrow.len()).any(|part| part == arrow);
    if misleading { push_quoted(out, bytes, charset) } else { push_plain(out, bytes, charset) }
}

#[cfg(test)]
mod tests;
