use proptest::prelude::*;

use super::*;

fn plain(bytes: &[u8]) -> String {
    let mut out = String::new();
    push_plain(&mut out, bytes, Charset::Utf8);
    out
}

fn name(bytes: &[u8]) -> String {
    let mut out = String::new();
    push_name(&mut out, bytes, Charset::Utf8);
    out
}

/// Turns what [`push_plain`] made back into what it was.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    let mut utf8 = [0; 4];
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
            continue;
        }
        match rest.next().expect("an escape is never cut") {
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'x' => {
                let digits: String = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).expect("two hex digits"));
            }
            'u' => {
                let digits: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                let number = u32::from_str_radix(&digits, 16).expect("hex digits");
                let character = char::from_u32(number).expect("a character");
                bytes.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
            }
            other => bytes.extend_from_slice(other.encode_utf8(&mut utf8).as_bytes()),
        }
    }
    bytes
}

/// Characters that act on a terminal or deceive its reader, drawn far more often than chance would.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..8),
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        proptest::sample::select(vec![
            '\u{1b}',
            '\u{9b}',
            '\u{7f}',
            '\n',
            '\r',
            '\u{202e}',
            '\u{2066}',
            '\u{200b}',
            '\u{feff}',
            '\u{301}',
            '\u{2028}',
            '\u{e0041}',
            '\u{3164}',
            '\\',
            '"',
            '→',
            'é',
            '語',
        ])
        .prop_map(|c| c.to_string().into_bytes()),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn what_acts_on_a_terminal_is_shown_as_an_escape() {
    for (bytes, shown) in [
        (&b"plain name.txt"[..], "plain name.txt"),
        (b"\x1b[2Jgone", r"\x1b[2Jgone"),
        (b"a\nb\rc\td\0e\x7f", r"a\nb\rc\td\x00e\x7f"),
        (b"caf\xc3\xa9 \xff\xfe", r"café \xff\xfe"),
        ("\u{9b}31m".as_bytes(), r"\u{9b}31m"),
        ("abc\u{202e}fdp.exe".as_bytes(), r"abc\u{202e}fdp.exe"),
        ("a\u{2066}b\u{2069}".as_bytes(), r"a\u{2066}b\u{2069}"),
        ("zero\u{200b}width\u{200d}\u{feff}".as_bytes(), r"zero\u{200b}width\u{200d}\u{feff}"),
        ("e\u{301}".as_bytes(), r"e\u{301}"),
        ("\u{2028}\u{a0}\u{3000}".as_bytes(), r"\u{2028}\u{a0}\u{3000}"),
        ("\u{3164}\u{e0041}".as_bytes(), r"\u{3164}\u{e0041}"),
        (br"C:\n", r"C:\\n"),
        ("日本語".as_bytes(), "日本語"),
    ] {
        assert_eq!(plain(bytes), shown);
        assert_eq!(unescape(shown), bytes);
    }
}

#[test]
fn outside_utf8_only_ascii_is_sent() {
    let mut out = String::new();
    let columns = push_plain(&mut out, "é→".as_bytes(), Charset::Ascii);
    assert_eq!(out, r"\u{e9}\u{2192}");
    assert_eq!(columns, out.len());
}

#[test]
fn width_counts_columns() {
    let mut out = String::new();
    assert_eq!(push_plain(&mut out, "日本 é\n".as_bytes(), Charset::Utf8), 4 + 1 + 1 + 2);
    assert_eq!(push_quoted(&mut out, b"a\"\xff", Charset::Utf8), r#""a\"\xff""#.len());
}

#[test]
fn a_name_that_could_pass_for_something_else_is_quoted() {
    assert_eq!(name(b"tmux: server"), "tmux: server");
    assert_eq!(name(b"kworker/0:1"), "kworker/0:1");
    assert_eq!(name(b"x[1] -> init"), r#""x[1] -> init""#);
    assert_eq!(name("x → y".as_bytes()), r#""x → y""#);
    assert_eq!(name(b"(kernel)"), r#""(kernel)""#);
    assert_eq!(name(b"a  b"), r#""a  b""#);
    assert_eq!(name(b" a"), r#"" a""#);
    assert_eq!(name(b""), r#""""#);
    assert_eq!(name(b"say\"hi"), r#""say\"hi""#);
}

proptest! {
    #[test]
    fn only_printable_characters_come_out(bytes in hostile()) {
        for charset in [Charset::Utf8, Charset::Ascii] {
            for push in [push_plain, push_quoted, push_name] {
                let mut out = String::new();
                let columns = push(&mut out, &bytes, charset);
                let widths: Option<Vec<usize>> = out.chars().map(|c| shown_width(c, charset)).collect();
                let widths = widths.expect("all shown");
                prop_assert_eq!(columns, widths.iter().sum::<usize>());
                prop_assert!(!out.chars().any(char::is_control));
                prop_assert!(charset == Charset::Utf8 || out.is_ascii());
            }
        }
    }

    #[test]
    fn nothing_is_lost_by_escaping(bytes in hostile()) {
        prop_assert_eq!(unescape(&plain(&bytes)), bytes);
    }
}
