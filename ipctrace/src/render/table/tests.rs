use super::*;
use crate::model::Why;
use crate::render::fixture::{self, channel, known};

const PIPE: Terminal = Terminal { interactive: false, colour: false, width: None, charset: Charset::Utf8 };

fn sample() -> Vec<Flow> {
    vec![
        fixture::flow(),
        Flow {
            mechanism: ipctrace_common::Mechanism::UnixStream,
            channel: channel("socket:[52]->socket:[53]", Some("/run/dbus/system_bus_socket")),
            sender: End::Unknown(Why::BeforeStart),
            receiver: known(812, "dbus-daemon"),
            messages: 1,
            bytes: 512,
            latency: None,
            ..fixture::flow()
        },
    ]
}

#[test]
fn a_flow_has_a_line_with_exact_and_readable_bytes() {
    assert_eq!(flows(&sample(), &PIPE), include_str!("expected.txt"));
}

#[test]
fn ascii_is_all_that_an_ascii_terminal_gets() {
    assert!(flows(&sample(), &Terminal { charset: Charset::Ascii, ..PIPE }).is_ascii());
}

#[test]
fn on_a_narrow_terminal_only_channels_are_broken_over_lines() {
    let table = flows(&sample(), &Terminal { width: Some(110), ..PIPE });
    assert!(table.lines().all(|line| line.chars().count() <= 110), "{table}");
    for whole in ["seq[4711]", "dbus-daemon[812]", "(before-start)", "1288895", "1.23 MiB", "8.19µs"] {
        assert!(table.contains(whole), "{whole} in {table}");
    }
}

#[test]
fn headings_are_bold_where_there_is_colour() {
    assert!(flows(&sample(), &Terminal { colour: true, ..PIPE }).contains("\x1b[1m"));
    assert!(!flows(&sample(), &PIPE).contains('\x1b'));
}
