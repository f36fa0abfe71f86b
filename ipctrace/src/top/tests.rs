use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ipctrace_common::Mechanism;

use super::*;
use crate::model::End;
use crate::model::{Latency, Why};
use crate::render::fixture::{channel, flow, known};

const SECOND: u64 = 1_000_000_000;

/// A flow of that sender to `cat`, with what is new of it.
fn recent(sender: &str, total: u64, new: u64, p99: Option<u64>) -> Recent {
    let latency = p99.map(|p99| Latency { count: 1, p50: 1, p90: p99, p99, max: p99 });
    let flow = Flow {
        sender: known(100, sender),
        receiver: known(200, "cat"),
        channel: channel(&format!("pipe:[{sender}]"), None),
        bytes: total,
        messages: total / 10,
        latency,
        ..flow()
    };
    Recent { flow, bytes: new, messages: new / 10, moved: new > 0 }
}

fn top() -> Top {
    let mut top = Top::new(b"here".to_vec(), 5 * SECOND, Duration::from_secs(1));
    top.resize(10);
    let counted = Counted { time: 7 * SECOND, events: 30, lost: BTreeMap::from([(Cause::RingFull, 3)]) };
    let flows = vec![
        recent("slow", 1000, 10, Some(900)),
        recent("fast", 500, 400, Some(5)),
        recent("idle", 9000, 0, None),
    ];
    top.refresh(counted, flows);
    top
}

fn senders(top: &Top) -> Vec<String> {
    let name = |row: &Row| String::from_utf8(row.flow.sender.process().unwrap().comm.clone()).unwrap();
    top.page().map(name).collect()
}

fn press(top: &mut Top, keys: &str) -> Then {
    let mut then = Then::Draw;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            other => KeyCode::Char(other),
        };
        then = top.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
    then
}

#[test]
fn rates_are_those_of_the_time_that_passed() {
    let mut top = top();
    assert_eq!(top.uptime(), Duration::from_secs(2));
    assert_eq!(top.events(), (30, 15.0));
    assert_eq!(top.flows(), (3, 2));
    assert_eq!(top.lost().collect::<Vec<_>>(), [(Cause::RingFull, 3)]);
    let first = top.page().next().unwrap();
    assert_eq!((first.rate_bytes, first.rate_messages), (200.0, 20.0));
    top.refresh(Counted { time: 7 * SECOND, ..Counted::default() }, vec![recent("fast", 500, 400, None)]);
    assert_eq!(top.page().next().unwrap().rate_bytes, 0.0, "no time passed");
}

#[test]
fn the_busiest_come_first_whatever_that_means() {
    let mut top = top();
    assert_eq!(senders(&top), ["fast", "slow", "idle"]);
    press(&mut top, "b");
    assert_eq!(senders(&top), ["idle", "slow", "fast"]);
    press(&mut top, "b");
    assert_eq!(senders(&top), ["fast", "slow", "idle"], "the other way round");
    press(&mut top, "l");
    assert_eq!(senders(&top), ["slow", "fast", "idle"], "what has no latency comes last");
    press(&mut top, "m");
    assert_eq!((senders(&top)[0].as_str(), top.order()), ("idle", (Order::Messages, false)));
}

#[test]
fn the_filter_finds_parts_of_names_pids_channels_and_mechanisms() {
    for (text, found) in [("FAS", 1), ("pipe:[sl", 1), ("ipe", 3), ("t[200]", 3), ("unix", 0), ("", 3)] {
        let mut top = top();
        press(&mut top, &format!("/{text}\n"));
        assert_eq!((top.rows().count(), top.filter()), (found, text), "{text}");
    }
    let mut top = top();
    let unknown = Recent {
        flow: Flow { mechanism: Mechanism::Fifo, sender: End::Unknown(Why::BeforeStart), ..flow() },
        ..recent("x", 1, 1, None)
    };
    top.refresh(Counted::default(), vec![unknown]);
    press(&mut top, "/(before\n");
    assert_eq!(top.rows().count(), 1);
}

#[test]
fn escape_leaves_typing_then_the_filter_then_the_table() {
    let mut top = top();
    press(&mut top, "/idx\x08l");
    assert!(top.is_typing());
    assert_eq!(senders(&top), ["idle"], "it is filtered while one types");
    assert_eq!(press(&mut top, "q"), Then::Draw, "a letter like others");
    press(&mut top, "\x08\n/zzz\x1b");
    assert_eq!((top.is_typing(), top.filter()), (false, "idl"), "the one before is back");
    assert_eq!(press(&mut top, "\x1b"), Then::Draw);
    assert_eq!(top.filter(), "");
    assert_eq!(press(&mut top, "\x1b"), Then::Quit);
}

#[test]
fn control_keys_work_while_typing_too() {
    let mut top = top();
    press(&mut top, "/ab");
    let mut control = |key| top.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL));
    assert_eq!([control('u'), control('z'), control('c')], [Then::Draw, Then::Suspend, Then::Quit]);
    assert_eq!(top.filter(), "");
}

#[test]
fn scrolling_stays_within_the_table() {
    let mut top = top();
    top.resize(2);
    let mut go = |code| {
        top.press(KeyEvent::new(code, KeyModifiers::NONE));
        top.position()
    };
    assert_eq!(go(KeyCode::Up), (0, 3));
    assert_eq!(go(KeyCode::PageDown), (1, 3));
    assert_eq!(go(KeyCode::Down), (1, 3));
    assert_eq!(go(KeyCode::Home), (0, 3));
    assert_eq!(go(KeyCode::End), (1, 3));
    assert_eq!(senders(&top), ["slow", "idle"]);
    top.refresh(Counted::default(), Vec::new());
    assert_eq!(top.position(), (0, 0));
    top.resize(0);
    assert_eq!(senders(&top), [""; 0]);
}

#[test]
fn space_pauses_and_goes_on() {
    let mut top = top();
    press(&mut top, " ");
    assert!(top.is_paused());
    press(&mut top, "p");
    assert!(!top.is_paused());
}
