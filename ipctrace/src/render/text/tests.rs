use std::rc::Rc;

use jiff::tz;
use proptest::prelude::*;

use super::line::{RESET, Tint};
use super::*;
use crate::model::{Channel, End, Proc, Signal, Transfer, Why};
use crate::render::Charset;
use crate::render::escape::shown_width;
use crate::render::fixture::{self, process};

const PIPE: Terminal = Terminal { interactive: false, colour: false, width: None, charset: Charset::Utf8 };

fn text(terminal: Terminal) -> Text {
    Text::new(fixture::clock(), TimeZone::fixed(tz::offset(1)), terminal)
}

fn shown(events: &[Event], terminal: Terminal) -> String {
    let mut out = Vec::new();
    let mut text = text(terminal);
    for event in events {
        text.event(event, &mut out).expect("a Vec takes everything");
    }
    String::from_utf8(out).expect("text is UTF-8")
}

fn from_to(sender: &str, receiver: &str) -> Event {
    Event::Transfer(Transfer {
        sender: fixture::known(1, sender),
        receiver: fixture::known(2, receiver),
        ..fixture::transfer()
    })
}

#[test]
fn every_kind_of_event_has_its_line() {
    assert_eq!(shown(&fixture::events(), PIPE), include_str!("expected.txt"));
}

#[test]
fn without_utf8_every_line_is_ascii() {
    let lines = shown(&fixture::events(), Terminal { charset: Charset::Ascii, ..PIPE });
    assert!(lines.is_ascii());
    assert!(lines.contains("seq[4711]        -> sort[4712]"), "{lines}");
    assert!(lines.contains("tmux: server[4710] ~> sort[4712]"), "{lines}");
    assert!(lines.contains("12.3us"), "{lines}");
}

#[test]
fn headings_are_for_people() {
    let hello = Hello { time: 0, kernel: "6".into(), host: "h".into(), mechanisms: vec![], hooks: vec![] };
    let mut out = Vec::new();
    text(PIPE).hello(&hello, &mut out).unwrap();
    assert!(out.is_empty());
    text(Terminal { interactive: true, ..PIPE }).hello(&hello, &mut out).unwrap();
    let headings = String::from_utf8(out).unwrap();
    let line = shown(&fixture::events()[..1], PIPE);
    for (heading, cell) in [("SENDER", "seq"), ("RECEIVER", "sort"), ("CHANNEL", "pipe:")] {
        let column = |text: &str, part: &str| text[..text.find(part).unwrap()].chars().count();
        assert_eq!(column(&headings, heading), column(&line, cell), "{headings}{line}");
    }
}

#[test]
fn colours_are_all_that_colour_adds() {
    let coloured = shown(&fixture::events(), Terminal { colour: true, ..PIPE });
    let mut plain = coloured.clone();
    for tint in [Tint::Dim, Tint::Name, Tint::Mechanism, Tint::Doubt, Tint::Loss] {
        assert!(coloured.contains(tint.sequence()), "{tint:?}");
        plain = plain.replace(tint.sequence(), "");
    }
    // Blanks at the end of a line are cut only where no colour follows them.
    let plain: Vec<String> =
        plain.replace(RESET, "").lines().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(plain, shown(&fixture::events(), PIPE).lines().collect::<Vec<_>>());
}

#[test]
fn names_are_never_cut_and_do_not_shift_other_lines() {
    let long = "x".repeat(60);
    let events = [from_to("a", "b"), from_to(&long, "b"), from_to("a", &long), from_to("a", "b")];
    let lines = shown(&events, PIPE);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(lines[1].contains(&format!("{long}[1]  → b[2]")), "{}", lines[1]);
    assert_eq!(lines[0], lines[3]);
}

#[test]
fn columns_widen_for_what_fits_and_stay_so() {
    let events = [from_to("fifteen_letters", "b"), from_to("a", "b")];
    let lines = shown(&events, PIPE);
    let arrows: Vec<usize> = lines.lines().map(|line| line.find('→').unwrap()).collect();
    assert_eq!(arrows[0], arrows[1]);
}

#[test]
fn common_lines_fit_a_terminal_of_80_columns() {
    let lines = shown(&fixture::events()[..1], Terminal { width: Some(80), ..PIPE });
    assert!(lines.trim_end().chars().count() <= 80, "{lines}");
    assert!(lines.starts_with("13:30:00.123 pipe "), "{lines}");
}

#[test]
fn any_width_will_do() {
    for width in [0, 1, 40, 79, 109, 110, 1000] {
        let lines = shown(&fixture::events(), Terminal { width: Some(width), ..PIPE });
        assert_eq!(lines.lines().count(), fixture::events().len());
        assert!(lines.contains("seq[4711]"));
    }
}

#[test]
fn a_process_cannot_pose_as_a_line_of_another() {
    let line = shown(&[from_to("a[9] → root\n", "(kernel)")], PIPE);
    assert!(line.contains(r#""a[9] → root\n"[1]  → "(kernel)"[2]"#), "{line}");
}

#[test]
fn a_thread_is_named_beside_its_process() {
    let line = shown(&[Event::Signal(fixture::signal())], PIPE);
    assert!(line.contains("server[200/203]"), "{line}");
}

proptest! {
    #[test]
    fn nothing_a_process_chose_acts_on_the_terminal(
        name in proptest::collection::vec(any::<u8>(), 0..64),
        hostile in "[\\x00-\\x1f\\x7f-\\u{9f}\\u{200b}-\\u{200f}\\u{2028}-\\u{202e}\\u{2060}-\\u{206f}\\u{feff}\\\\\"]{0,15}",
        payload in proptest::collection::vec(any::<u8>(), 0..256),
        width in proptest::option::of(0_usize..300),
        utf8 in any::<bool>(),
    ) {
        let charset = if utf8 { Charset::Utf8 } else { Charset::Ascii };
        let named = |id: &str| Rc::new(Channel { id: id.to_owned(), name: Some(name.clone()) });
        let sender = End::Known(Rc::new(process(1, hostile.as_bytes())));
        let mut events = vec![
            Event::Transfer(Transfer {
                sender: sender.clone(),
                receiver: End::Known(Rc::new(process(2, &name))),
                channel: named(&hostile),
                payload: Some(payload.into()),
                ..fixture::transfer()
            }),
            Event::Transfer(Transfer { receiver: End::Unknown(Why::Remote(hostile.clone())), ..fixture::transfer() }),
            Event::Signal(Signal { tty: Some(name.clone()), ..fixture::signal() }),
            Event::Handoff(crate::model::Handoff { object: named(&hostile), ..fixture::handoff() }),
        ];
        for event in fixture::events() {
            if let Event::Wake(mut wake) = event {
                wake.channel = named(&hostile);
                events.push(Event::Wake(wake));
            } else if let Event::Share(mut share) = event {
                share.process = Rc::new(Proc { comm: name.clone(), ..process(3, b"") });
                events.push(Event::Share(share));
            }
        }
        let lines = shown(&events, Terminal { charset, width, ..PIPE });
        prop_assert_eq!(lines.matches('\n').count(), events.len());
        let printable = |c: char| c == '\n' || shown_width(c, charset).is_some();
        prop_assert!(lines.chars().all(printable), "{lines:?}");

        let flow = Flow { sender, channel: named(&hostile), ..fixture::flow() };
        let mut out = Vec::new();
        text(Terminal { charset, width, ..PIPE }).flows(0, &[flow], &mut out).unwrap();
        let table = String::from_utf8(out).unwrap();
        prop_assert!(table.chars().all(printable), "{table:?}");
    }
}
