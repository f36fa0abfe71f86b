use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Kind, op_flag};

use crate::correlate::testing::{Short, correlate, header, op, record, short, transfers};
use crate::decode::Record;
use crate::model::{Event, Transfer, Why};

const PROGRAM: wire::Key = wire::Key { id: 7, space: wire::Key::TERMINAL };
const SCREEN: wire::Key = wire::Key { id: 7, space: wire::Key::TERMINAL | 1 };

fn met(key: wire::Key, queued: u64) -> Record {
    met_at(0, key, queued)
}

fn met_at(time: u64, key: wire::Key, queued: u64) -> Record {
    let fixed = wire::Channel {
        header: wire::Header { time, ..header(Kind::Channel, Mechanism::Pty, 0, 0) },
        key,
        queued,
        receiver_inode: 4,
        ..wire::Channel::default()
    };
    Record::Channel(fixed, bytes::Bytes::new())
}

fn access(key: wire::Key, pid: u32, flags: u16, when: (u64, u64), before: u64, bytes: u64) -> wire::Op {
    let fixed = op(Mechanism::Pty, 1, pid, flags | op_flag::SEQUENCED | op_flag::DETAIL, when, bytes);
    wire::Op { key, before, receiver_inode: 4, detail: bytes.cast_signed(), ..fixed }
}

fn write(key: wire::Key, pid: u32, when: (u64, u64), before: u64, bytes: u64, expected: i64) -> Record {
    record(wire::Op { detail: expected, ..access(key, pid, 0, when, before, bytes) })
}

/// A read that leaves `left`.
fn read(key: wire::Key, pid: u32, when: (u64, u64), before: u64, bytes: u64, left: i64) -> Record {
    record(wire::Op { detail: left, ..access(key, pid, op_flag::RECEIVE, when, before, bytes) })
}

fn told(events: &[Event]) -> Vec<(Short, bool)> {
    let tell = |transfer: &Transfer| (short(transfer), transfer.exact);
    transfers(events).into_iter().map(tell).collect()
}

#[test]
fn newlines_that_grow_are_still_of_who_wrote_them() {
    let events = correlate([
        met(SCREEN, 0),
        write(SCREEN, 10, (1, 2), 0, 10, 11),
        write(SCREEN, 11, (3, 4), 1, 4, 6),
        read(SCREEN, 20, (5, 6), 0, 12, 5),
        read(SCREEN, 20, (7, 8), 1, 5, 0),
    ]);
    let expected = [((Ok(10), Ok(20), 11), true), ((Ok(11), Ok(20), 1), true), ((Ok(11), Ok(20), 5), true)];
    assert_eq!(told(&events), expected);
    let channel = &transfers(&events)[0].channel;
    assert_eq!((channel.id.as_str(), channel.name.as_deref()), ("pty:/dev/pts/3", Some(&b"/dev/pts/3"[..])));
}

#[test]
fn what_is_typed_is_echoed_by_the_kernel() {
    let typed = wire::Op { digest: 6, ..access(PROGRAM, 20, 0, (1, 2), 0, 5) };
    let events = correlate([
        met(PROGRAM, 0),
        met(SCREEN, 0),
        record(typed),
        read(SCREEN, 20, (3, 4), 0, 6, 0),
        read(PROGRAM, 10, (3, 5), 0, 5, 0),
        write(SCREEN, 10, (6, 7), 0, 3, 3),
        read(SCREEN, 20, (8, 9), 1, 3, 0),
    ]);
    let expected =
        [((Err(Why::Kernel), Ok(20), 6), true), ((Ok(20), Ok(10), 5), true), ((Ok(10), Ok(20), 3), true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn what_a_lone_writer_wrote_is_its_own_whatever_became_of_the_length() {
    let events = correlate([
        met(PROGRAM, 0),
        write(PROGRAM, 20, (1, 2), 0, 9, 9),
        // Two characters were erased.
        read(PROGRAM, 10, (3, 4), 0, 5, 0),
        write(PROGRAM, 20, (5, 6), 1, 4, 4),
        read(PROGRAM, 10, (7, 8), 1, 6, 0),
    ]);
    assert_eq!(told(&events), [((Ok(20), Ok(10), 5), true), ((Ok(20), Ok(10), 6), true)]);
}

#[test]
fn where_lengths_do_not_agree_two_writers_are_in_doubt() {
    let events = correlate([
        met(SCREEN, 0),
        write(SCREEN, 10, (1, 2), 0, 10, 10),
        write(SCREEN, 11, (3, 4), 1, 10, 10),
        read(SCREEN, 20, (5, 6), 0, 25, 0),
        write(SCREEN, 10, (7, 8), 2, 1, 1),
        read(SCREEN, 20, (9, 10), 1, 1, 0),
    ]);
    assert_eq!(told(&events)[..2], [((Ok(10), Ok(20), 10), false), ((Ok(11), Ok(20), 15), false)]);
    assert_eq!(told(&events).len(), 3);
}

#[test]
fn a_new_pair_at_the_same_place_begins_anew() {
    let events = correlate([
        met(SCREEN, 0),
        write(SCREEN, 10, (1, 2), 0, 10, 10),
        met(SCREEN, 0),
        write(SCREEN, 11, (3, 4), 0, 5, 5),
        read(SCREEN, 20, (5, 6), 0, 5, 0),
    ]);
    assert_eq!(told(&events), [((Ok(10), Err(Why::Unread), 10), true), ((Ok(11), Ok(20), 5), true)]);
}

#[test]
fn what_is_typed_first_in_a_new_pair_at_the_same_place_is_echoed_there() {
    let typed = |when| record(wire::Op { digest: 6, ..access(PROGRAM, 20, 0, when, 0, 5) });
    let events = correlate([
        met_at(1, SCREEN, 0),
        met_at(2, PROGRAM, 0),
        // Nobody reads the echo of this.
        typed((3, 4)),
        met_at(5, PROGRAM, 0),
        typed((6, 7)),
        met_at(8, SCREEN, 6),
        read(SCREEN, 20, (8, 9), 0, 6, 0),
        // And once more, but the program is the first.
        met_at(10, SCREEN, 0),
        write(SCREEN, 10, (11, 12), 0, 6, 6),
        read(SCREEN, 20, (13, 14), 0, 6, 0),
    ]);
    let screen: Vec<_> = told(&events).into_iter().filter(|((_, to, _), _)| *to == Ok(20)).collect();
    assert_eq!(screen, [((Err(Why::Kernel), Ok(20), 6), true), ((Ok(10), Ok(20), 6), true)]);
}

#[test]
fn what_was_there_before_is_of_nobody_known() {
    let events = correlate([met(SCREEN, 8), read(SCREEN, 20, (5, 6), 0, 8, 0)]);
    assert_eq!(told(&events), [((Err(Why::BeforeStart), Ok(20), 8), true)]);
}
