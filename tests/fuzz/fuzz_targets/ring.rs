//! Arbitrary bytes from the ring, all the way to lines of text and JSON: each record is preceded by its length.

#![no_main]

use std::rc::Rc;

use ipctrace::cgroup::NoHierarchy;
use ipctrace::correlate::{Correlator, Limits};
use ipctrace::decode::decode;
use ipctrace::render::escape::Charset;
use ipctrace::render::{Clock, Json, Renderer, Text};
use ipctrace::terminal::Terminal;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { streams: 8, ranges: 16, messages: 16, signals: 16, processes: 8 };

fuzz_target!(|bytes: &[u8]| {
    let (mut correlator, mut events) = (Correlator::new(LIMITS), Vec::new());
    let mut left = bytes;
    while let Some((length, rest)) = left.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length) % 600).min(rest.len());
        let (record, rest) = rest.split_at(length);
        left = rest;
        match decode(record) {
            Ok(record) => correlator.push(record, &mut events),
            Err(_) => {
                let now = correlator.now().saturating_add(100_000_000);
                correlator.tick(now, &mut events);
            }
        }
    }
    correlator.finish(u64::MAX, &mut events);
    let terminal = Terminal { interactive: true, colour: false, width: Some(120), charset: Charset::Utf8 };
    let mut json = Json::new(Clock::new(0), Rc::new(NoHierarchy), Charset::Ascii);
    let mut text = Text::new(Clock::new(0), jiff::tz::TimeZone::UTC, terminal);
    for event in &events {
        let mut line = Vec::new();
        json.event(event, &mut line).expect("memory takes everything");
        let parsed: serde_json::Value = serde_json::from_slice(&line).expect("a line of JSON");
        assert!(parsed["type"].is_string());
        let mut line = Vec::new();
        text.event(event, &mut line).expect("memory takes everything");
        let line = String::from_utf8(line).expect("text");
        assert!(!line.trim_end_matches('\n').chars().any(char::is_control), "{line:?}");
    }
});
