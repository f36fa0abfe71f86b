use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipctrace_common::{Cause, Mechanism};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::{End, Lost, Proc, Transfer, Why};
use crate::render::Coverage;
use crate::render::fixture::{self, Groups, channel, process};

fn renderer() -> Json {
    Json::new(fixture::clock(), Rc::new(Groups), Charset::Utf8)
}

fn shown(event: &Event) -> String {
    let mut out = Vec::new();
    renderer().event(event, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// The bytes behind lossless text.
fn bytes(value: &Value) -> Vec<u8> {
    match value.as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => STANDARD.decode(value["base64"].as_str().expect("base64 text")).expect("valid base64"),
    }
}

#[test]
fn every_kind_of_event_has_its_fields_in_order() {
    let lines: String = fixture::events().iter().map(shown).collect();
    assert_eq!(lines, include_str!("expected.ndjson"));
}

#[test]
fn hello_comes_first_and_says_what_is_traced() {
    let hello = Hello {
        time: 0,
        kernel: "6.18.0".into(),
        host: "box".into(),
        mechanisms: vec![
            (Mechanism::Pipe, Coverage::On),
            (Mechanism::Tcp, Coverage::Off("not built yet".to_owned())),
        ],
        hooks: vec![(Mechanism::Pipe, "syscall")],
    };
    let mut out = Vec::new();
    renderer().hello(&hello, &mut out).unwrap();
    let expected = format!(
        concat!(
            r#"{{"type":"hello","time":"2026-01-01T12:30:00.000000000Z","schema":1,"version":"{}","#,
            r#""kernel":"6.18.0","host":"box","mechanisms":{{"pipe":"on","tcp":"off: not built yet"}},"#,
            r#""hooks":{{"pipe":"syscall"}}}}"#,
            "\n"
        ),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn flows_and_end_close_it() {
    let mut out = Vec::new();
    let mut json = renderer();
    let silent = Flow { sender: End::Unknown(Why::Kernel), latency: None, ..fixture::flow() };
    json.flows(300_000_000, &[fixture::flow(), silent], &mut out).unwrap();
    let totals = Totals {
        left_out: 12,
        time: 300_000_000,
        events: 644,
        lost: vec![(Cause::RingFull, 3), (Cause::MapFull, 0)],
        duration: std::time::Duration::from_millis(1500),
        at_objects: vec![],
        incomplete: false,
    };
    json.end(&totals, &mut out).unwrap();
    let process = |pid: u32, comm: &str| {
        format!(
            r#"{{"pid":{pid},"tid":{pid},"comm":"{comm}","start":{pid}000,"uid":1000,"cgroup":"/system.slice/a.service"}}"#
        )
    };
    let head = r#"{"type":"flow","time":"2026-01-01T12:30:00.300000000Z","mechanism":"pipe","channel":{"id":"pipe:[98765]","name":null},"#;
    let tail = r#""messages":322,"bytes":1288895,"first":"2026-01-01T12:30:00.123456789Z","last":"2026-01-01T12:30:00.200000000Z","#;
    let (seq, sort) = (process(4711, "seq"), process(4712, "sort"));
    let expected = [
        format!(
            r#"{head}"sender":{seq},"receiver":{sort},{tail}"latency":{{"count":322,"p50_ns":8190,"p90_ns":20000,"p99_ns":1234567,"max_ns":2000000}}}}"#
        ),
        format!(
            r#"{head}"sender":null,"sender_why":"kernel","receiver":{sort},{tail}"latency":null,"latency_why":"kernel"}}"#
        ),
        r#"{"type":"end","time":"2026-01-01T12:30:00.300000000Z","events":644,"lost":{"ring-full":3},"left_out":12,"duration_s":1.5}"#
            .to_owned(),
    ];
    assert_eq!(String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_unknown_is_null_and_says_why() {
    let unreadable = Proc { start: 0, uid: None, cgroup: 0, ..process(5, b"x") };
    let gone = Proc { cgroup: 99, ..process(6, b"y") };
    let event = Event::Transfer(Transfer {
        sender: End::Known(Rc::new(unreadable)),
        receiver: End::Known(Rc::new(gone)),
        latency: None,
        ..fixture::transfer()
    });
    let value: Value = serde_json::from_str(&shown(&event)).unwrap();
    for field in ["start", "uid", "cgroup"] {
        assert!(value["sender"][field].is_null());
        assert_eq!(value["sender"][format!("{field}_why")], "read-failed");
    }
    assert_eq!(value["receiver"]["cgroup_why"], "not-found");
    assert_eq!(value["latency_why"], "unmeasured");
    let remote = Event::Transfer(Transfer {
        sender: End::Unknown(Why::Remote("10.0.0.7:443".to_owned())),
        ..fixture::transfer()
    });
    let value: Value = serde_json::from_str(&shown(&remote)).unwrap();
    assert_eq!(value["sender_why"], "remote 10.0.0.7:443");
}

#[test]
fn a_line_does_no_harm_on_a_terminal() {
    let mut transfer = fixture::transfer();
    transfer.sender = End::Known(Rc::new(process(1, "\u{7f}\u{9b}31m\u{202e}é\u{e0041}\x1b".as_bytes())));
    let line = shown(&Event::Transfer(transfer.clone()));
    assert!(line.contains(r#""comm":"\u007f\u009b31m\u202eé\udb40\udc41\u001b""#), "{line}");
    let mut out = Vec::new();
    let mut json = Json::new(fixture::clock(), Rc::new(Groups), Charset::Ascii);
    json.event(&Event::Transfer(transfer), &mut out).unwrap();
    assert!(out.is_ascii());
}

proptest! {
    #[test]
    fn any_bytes_come_back_as_they_were(
        comm in proptest::collection::vec(any::<u8>(), 0..16),
        name in proptest::collection::vec(any::<u8>(), 0..64),
        text in any::<String>(),
        payload in proptest::collection::vec(any::<u8>(), 0..256),
        time in any::<u64>(),
        count in any::<u64>(),
    ) {
        let mut transfer = Transfer { time, bytes: count, ..fixture::transfer() };
        transfer.sender = End::Known(Rc::new(process(1, &comm)));
        transfer.receiver = End::Known(Rc::new(process(2, text.as_bytes())));
        let mut named = (*channel("pipe:[1]", None)).clone();
        named.name = Some(name.clone());
        transfer.channel = Rc::new(named);
        transfer.payload = Some(payload.clone().into());
        let line = shown(&Event::Transfer(transfer));
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(!line.trim_end_matches('\n').chars().any(char::is_control));
        let value: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(bytes(&value["sender"]["comm"]), comm);
        prop_assert_eq!(bytes(&value["receiver"]["comm"]), text.into_bytes());
        prop_assert_eq!(bytes(&value["channel"]["name"]), name);
        prop_assert_eq!(bytes(&value["payload"]), payload);
        prop_assert_eq!(value["bytes"].as_u64(), Some(count));
    }

    #[test]
    fn any_loss_parses(time in any::<u64>(), count in any::<u64>()) {
        let line = shown(&Event::Lost(Lost { time, cause: Cause::Evicted, count }));
        let value: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(value["count"].as_u64(), Some(count));
    }
}
