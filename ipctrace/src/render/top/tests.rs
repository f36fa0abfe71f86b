use std::collections::BTreeMap;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ipctrace_common::{Cause, Mechanism};
use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthStr;

use super::screen::frame;
use super::*;
use crate::flows::Recent;
use crate::model::{End, Flow, Why};
use crate::render::fixture::{channel, clock, flow, known};
use crate::render::{Charset, Renderer};
use crate::terminal::Terminal;
use crate::top::Counted;

const PLAIN: Terminal = Terminal { interactive: true, colour: false, width: None, charset: Charset::Utf8 };
const SECOND: u64 = 1_000_000_000;

fn top() -> Top {
    let mut top = Top::new(b"ho\x1bst".to_vec(), 0, Duration::from_secs(1));
    let recent = |flow, bytes| Recent { flow, bytes, messages: bytes / 100, moved: bytes > 0 };
    let socket = Flow {
        mechanism: Mechanism::UnixSeqpacket,
        channel: channel("socket:[52]->socket:[53]", Some("/run/user/1000/a-long-name/front.sock")),
        sender: known(4_000_000, "\x1b[2Jverylong"),
        receiver: End::Unknown(Why::Unread),
        latency: None,
        ..flow()
    };
    let counted = Counted {
        time: 75 * SECOND,
        events: 75_000,
        lost: BTreeMap::from([(Cause::RingFull, 12), (Cause::MapFull, 0)]),
    };
    top.refresh(counted, vec![recent(flow(), 0), recent(socket, 123_456_700)]);
    top.resize(20);
    top
}

fn text(top: &Top, terminal: &Terminal, width: usize) -> Vec<String> {
    frame(top, terminal, 10, width).iter().map(|line| line.as_str().to_owned()).collect()
}

#[test]
fn a_screen_has_all_that_was_asked_for() {
    let lines = text(&top(), &PLAIN, 130);
    assert_eq!(lines.len(), 10);
    assert!(lines[0].starts_with("ipctrace top  ho\\x1bst  up 1:15  every 1 s"), "{lines:#?}");
    assert_eq!(lines[1], "1.00k events/s  12 lost (ring-full: 12)  2 flows, 1 active  75.0k events");
    for heading in
        ["MECHANISM", "SENDER", "RECEIVER", "CHANNEL", "RATE/S▼", "MSG/S", "BYTES", "MSGS", "P50", "P99"]
    {
        assert!(lines[2].contains(heading), "{heading} in {}", lines[2]);
    }
    for part in
        ["unix_seqpacket", "\\x1b[2J", "[4000000]", "(unread)", "…", "front.sock", "1.57 MiB", "16.5k"]
    {
        assert!(lines[3].contains(part), "{part} in {}", lines[3]);
    }
    assert!(lines[4].contains("seq[4711]") && lines[4].contains("sort[4712]"), "{}", lines[4]);
    assert!(lines[9].contains("q quit"), "{}", lines[9]);
}

#[test]
fn no_line_is_wider_than_the_screen_and_none_can_act_on_it() {
    for charset in [Charset::Utf8, Charset::Ascii] {
        for width in (1..=130).chain([200, 400]) {
            let lines = frame(&top(), &Terminal { charset, ..PLAIN }, 10, width);
            for line in &lines {
                assert!(
                    line.column() <= width && line.as_str().width() == line.column(),
                    "{width}: {line:?}"
                );
            }
            let text: String = lines.iter().map(|line| line.as_str()).collect();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(charset == Charset::Utf8 || text.is_ascii(), "{text}");
        }
    }
    // What is too small to be of use must not be the end.
    for (height, width) in [(0, 0), (1, 1), (2, 10), (5, 40)] {
        frame(&top(), &PLAIN, height, width);
    }
}

#[test]
fn on_a_narrow_screen_the_column_that_is_sorted_by_stays() {
    let mut top = top();
    let heading = |top: &Top| text(top, &PLAIN, 80).swap_remove(2);
    assert!(heading(&top).contains("RATE/S▼") && !heading(&top).contains("MSGS"), "{}", heading(&top));
    top.press(KeyEvent::new(KeyCode::Char('m'), KeyModifiers::NONE));
    assert!(heading(&top).contains("RATE/S") && heading(&top).contains("MSGS▼"), "{}", heading(&top));
}

#[test]
fn the_filter_is_seen_while_it_is_typed_and_after() {
    let mut top = top();
    for key in "/nobody".chars() {
        top.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
    let lines = text(&top, &PLAIN, 80);
    assert_eq!((&*lines[9], &*lines[3]), ("/nobody", "no flow passes the filter"));
    top.press(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
    assert!(text(&top, &PLAIN, 80)[9].starts_with("/nobody  "));
}

#[test]
fn a_block_tells_what_moved_and_counts_the_rest() {
    let mut out = Vec::new();
    let mut blocks = Blocks::new(clock(), TimeZone::UTC, Terminal { interactive: false, ..PLAIN });
    blocks.interval(&top(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "12:31:15.000  ho\\x1bst  up 1:15  1.00k events/s  75000 events  2 flows, 1 active  12 lost (ring-full: 12)"
    );
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[1].starts_with("MECHANISM") && lines[2].starts_with("unix_seqpacket"), "{text}");
    assert!(lines[2].contains("socket:[52]->socket:[53] /run/user/1000/a-long-name/front.sock"), "{text}");
    assert!(text.ends_with("\n\n") && !text.contains('\x1b'), "{text}");
}

#[test]
fn time_is_told_as_people_do() {
    for (seconds, shown) in [(7, "0:07"), (75, "1:15"), (3661, "1:01:01"), (273_907, "3 d 04:05:07")] {
        assert_eq!(uptime(Duration::from_secs(seconds)), shown);
    }
}
