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
    let table = flows(&sample(), &Terminal { width: Some(120), ..PIPE });
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    for whole in ["seq[4711]", "dbus-daemon[812]", "(before-start)", "1288895", "1.23 MiB", "8.19µs"] {
        assert!(table.contains(whole), "{whole} in {table}");
    }
}

#[test]
fn where_there_is_no_room_columns_go_before_a_channel_is_broken_to_pieces() {
    let on = |width| flows(&[fixture::flow()], &Terminal { width: Some(width), ..PIPE });
    let id = &fixture::flow().channel.id;
    assert!(on(120).contains("SIZE") && on(120).contains("P99"), "{}", on(120));
    let table = on(80);
    assert!(table.contains(id.as_str()) && !table.contains("SIZE"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    // Narrower than what must be there: the terminal may break the lines, words stay whole.
    assert!(on(20).contains(id.as_str()) && !on(20).contains("P99"), "{}", on(20));
    assert_eq!(on(20).lines().count(), 4, "{}", on(20));
}

#[test]
fn headings_are_bold_where_there_is_colour() {
    assert!(flows(&sample(), &Terminal { colour: true, ..PIPE }).contains("\x1b[1m"));
    assert!(!flows(&sample(), &PIPE).contains('\x1b'));
}
