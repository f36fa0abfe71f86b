use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Kind, channel_flag, op_flag};

use crate::correlate::testing::{Short, correlate, header, key, op, record, short, task, transfers};
use crate::correlate::{Correlator, Limits};
use crate::decode::Record;
use crate::model::{Event, Transfer, Why};

fn made(queued: u64, flags: u16) -> Record {
    let fixed = wire::Channel {
        header: header(Kind::Channel, Mechanism::Eventfd, flags, 0),
        task: task(9),
        key: key(1),
        queued,
        receiver_inode: 13,
        ..wire::Channel::default()
    };
    Record::Channel(fixed, bytes::Bytes::new())
}

fn access(pid: u32, receive: bool, when: (u64, u64), before: u64, value: u64) -> Record {
    let flags = op_flag::SEQUENCED | op_flag::DETAIL | if receive { op_flag::RECEIVE } else { 0 };
    let fixed = op(Mechanism::Eventfd, 1, pid, flags, when, 8);
    record(wire::Op { before, detail: value.cast_signed(), receiver_inode: 13, ..fixed })
}

fn put(pid: u32, when: (u64, u64), before: u64, value: u64) -> Record {
    access(pid, false, when, before, value)
}

fn take(pid: u32, when: (u64, u64), before: u64, value: u64) -> Record {
    access(pid, true, when, before, value)
}

/// Ends, messages, value, and whether it is certain.
fn told(events: &[Event]) -> Vec<(Short, u64, u64, bool)> {
    let tell = |transfer: &Transfer| {
        let value = transfer.value.unwrap_or(u64::MAX);
        (short(transfer), transfer.messages, value, transfer.exact)
    };
    transfers(events).into_iter().map(tell).collect()
}

#[test]
fn a_read_takes_all_that_was_put_in_of_each_writer() {
    let events = correlate([
        made(0, 0),
        put(10, (1, 2), 0, 5),
        put(11, (3, 4), 1, 7),
        put(10, (5, 6), 2, 1),
        take(20, (8, 9), 0, 13),
    ]);
    let expected = [((Ok(10), Ok(20), 16), 2, 6, true), ((Ok(11), Ok(20), 8), 1, 7, true)];
    assert_eq!(told(&events), expected);
    assert_eq!(transfers(&events)[0].channel.id, "eventfd:12");
}

#[test]
fn a_semaphore_gives_one_at_a_time() {
    let events = correlate([
        made(1, channel_flag::SEMAPHORE),
        put(10, (1, 2), 0, 2),
        take(20, (3, 4), 0, 1),
        take(21, (5, 6), 1, 1),
    ]);
    let expected = [
        ((Err(Why::BeforeStart), Ok(20), 8), 1, 1, true),
        ((Ok(10), Ok(21), 8), 1, 1, true),
        ((Ok(10), Err(Why::Unread), 8), 1, 1, true),
    ];
    assert_eq!(told(&events), expected);
}

#[test]
fn what_it_is_made_with_is_of_its_maker() {
    let events = correlate([made(4, channel_flag::MADE), put(10, (1, 2), 0, 2), take(20, (3, 4), 0, 6)]);
    let expected = [((Ok(9), Ok(20), 8), 1, 4, true), ((Ok(10), Ok(20), 8), 1, 2, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn a_reader_that_is_back_before_its_writer_is_no_reader_of_the_kernel() {
    let events = correlate([made(0, 0), take(20, (1, 12), 0, 3), put(10, (10, 14), 0, 3)]);
    assert_eq!(told(&events), [((Ok(10), Ok(20), 8), 1, 3, true)]);
}

#[test]
fn what_nobody_wrote_is_of_the_kernel_and_later_writes_are_not_taken_for_it() {
    let events = correlate([
        made(0, 0),
        take(20, (1, 5), 0, 3),
        put(10, (300_000_000, 300_000_001), 0, 3),
        take(20, (300_000_002, 300_000_003), 1, 3),
    ]);
    let expected = [((Err(Why::Kernel), Ok(20), 8), 1, 3, true), ((Ok(10), Ok(20), 8), 1, 3, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn where_the_kernel_is_seen_to_add_what_nobody_added_is_lost() {
    let events = correlate([
        made(0, channel_flag::COMPLETE),
        put(10, (1, 2), 0, 2),
        take(20, (3, 5), 0, 3),
        put(10, (300_000_000, 300_000_001), 1, 4),
        take(20, (300_000_002, 300_000_003), 1, 4),
    ]);
    let expected = [
        ((Ok(10), Ok(20), 8), 1, 2, true),
        ((Err(Why::Lost), Ok(20), 8), 1, 1, true),
        ((Ok(10), Ok(20), 8), 1, 4, true),
    ];
    assert_eq!(told(&events), expected);
}

#[test]
fn the_values_tell_which_of_two_rivals_was_first() {
    let events = correlate([
        made(0, 0),
        put(10, (1, 20), 0, 1),
        put(11, (2, 21), 1, 1000),
        take(20, (3, 22), 0, 1000),
        take(20, (30, 31), 1, 1),
    ]);
    let expected = [((Ok(11), Ok(20), 8), 1, 1000, true), ((Ok(10), Ok(20), 8), 1, 1, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn a_write_that_is_over_late_is_waited_for() {
    let events = correlate([
        made(0, 0),
        put(11, (2, 21), 0, 1000),
        take(20, (3, 22), 0, 1),
        put(11, (50_000_000, 50_000_001), 1, 1000),
        put(10, (1, 60_000_000), 2, 1),
        take(20, (60_000_001, 60_000_002), 1, 2000),
    ]);
    let expected = [((Ok(10), Ok(20), 8), 1, 1, true), ((Ok(11), Ok(20), 16), 2, 2000, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn equal_values_of_rivals_are_in_doubt_and_nothing_else_is() {
    let events = correlate([
        made(0, 0),
        put(10, (1, 20), 0, 1),
        put(11, (2, 21), 1, 1),
        take(20, (3, 22), 0, 1),
        take(20, (30, 31), 1, 1),
        put(10, (40, 41), 2, 1),
        take(20, (42, 43), 2, 1),
    ]);
    let exact: Vec<bool> = told(&events).into_iter().map(|told| told.3).collect();
    assert_eq!(exact, [false, false, true]);
    assert_eq!(told(&events).len(), 3);
}

#[test]
fn values_near_the_largest_do_no_harm() {
    let events = correlate([
        made(0, 0),
        put(10, (1, 2), 0, u64::MAX - 1),
        take(20, (3, 4), 0, u64::MAX - 1),
        put(10, (5, 6), 1, u64::MAX - 1),
        put(11, (5, 6), 2, u64::MAX - 1),
    ]);
    assert_eq!(told(&events)[0].2, u64::MAX - 1);
    assert_eq!(told(&events).len(), 3);
}

#[test]
fn another_counter_at_the_same_address_begins_anew() {
    let events = correlate([
        made(0, 0),
        put(10, (1, 2), 0, 5),
        made(0, 0),
        put(11, (3, 4), 0, 7),
        take(20, (5, 6), 0, 7),
    ]);
    let expected = [((Ok(10), Err(Why::Unread), 8), 1, 5, true), ((Ok(11), Ok(20), 8), 1, 7, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn a_read_that_is_lost_takes_what_was_there_with_it() {
    let events =
        correlate([made(0, 0), put(10, (1, 2), 0, 1), put(11, (5, 6), 1, 1), take(20, (7, 8), 1, 1)]);
    let expected = [((Ok(10), Err(Why::Lost), 8), 1, 1, true), ((Ok(11), Ok(20), 8), 1, 1, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn a_counter_that_is_never_read_takes_little_memory() {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    correlator.push(made(0, 0), &mut out);
    for before in 0..100_000 {
        correlator.push(put(10, (before * 2, before * 2 + 1), before, 1), &mut out);
    }
    let held: u64 = correlator.counters.values().map(super::Counter::holds).sum();
    assert!(held <= 2048, "{held}");
    correlator.finish(1 << 40, &mut out);
    assert_eq!(told(&out), [((Ok(10), Err(Why::Unread), 800_000), 100_000, 100_000, true)]);
    assert_eq!(correlator.evicted(), 0);
}

#[test]
fn what_the_kernel_is_seen_to_add_is_of_the_kernel() {
    let Record::Op(mut signal) = put(0, (3, 3), 1, 2) else { panic!("a write") };
    signal.fixed.header.flags |= op_flag::BY_KERNEL;
    let events = correlate([made(0, 0), put(10, (1, 2), 0, 5), Record::Op(signal), take(20, (4, 5), 0, 7)]);
    let expected = [((Ok(10), Ok(20), 8), 1, 5, true), ((Err(Why::Kernel), Ok(20), 8), 1, 2, true)];
    assert_eq!(told(&events), expected);
}

#[test]
fn between_two_processes_nothing_is_waited_for() {
    // The reader was waiting when the write came, as always in a ping-pong.
    let calls = [made(0, 0), take(20, (1, 12), 0, 3), put(10, (10, 11), 0, 3)];
    let mut correlator = Correlator::new(Limits::default());
    let mut events = Vec::new();
    for record in calls {
        correlator.push(record, &mut events);
    }
    assert_eq!(told(&events), [((Ok(10), Ok(20), 8), 1, 3, true)]);
}
