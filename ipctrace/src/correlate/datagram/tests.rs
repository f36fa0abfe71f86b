use std::collections::HashSet;
use std::net::Ipv6Addr;

use bytes::Bytes;
use ipctrace_common::wire::Kind;
use ipctrace_common::{Mechanism, digest};
use zerocopy::IntoBytes;

use super::socket::Passed;
use super::*;
use crate::correlate::testing::{Short, header, op, record, short, shorts, task, transfers};
use crate::correlate::{Correlator, Limits};
use crate::decode::Record;

const ONE: u64 = 100;
const TWO: u64 = 200;
const RECEIVER: u64 = 300;
const ELSEWHERE: [u16; 8] = [0, 0, 0, 0, 0, 0xffff, 0x0a00, 9];

/// A datagram of `len` bytes from port 1, seen at `sock` in the buffer `data`; `sender` is its pid and the begin of its
/// call.
fn seen(what: u16, sock: u64, data: u64, len: u32, sender: Option<(u32, u64)>, time: u64) -> Record {
    let (pid, enter) = sender.unwrap_or((999, 0));
    Record::Datagram(Box::new(wire::Datagram {
        header: header(Kind::Datagram, Mechanism::Udp, what, time),
        task: task(pid),
        sock,
        inode: sock + 1,
        enter,
        data,
        from: Ipv6Addr::LOCALHOST.octets(),
        to: Ipv6Addr::LOCALHOST.octets(),
        from_port: 1,
        to_port: 2,
        len,
        ..wire::Datagram::default()
    }))
}

fn sent(sock: u64, pid: u32, data: u64, len: u32, time: u64) -> [Record; 2] {
    [
        seen(datagram::SENT, sock, data, len, Some((pid, time)), time + 1),
        send(sock, pid, u64::from(len), time),
    ]
}

fn arrived(data: u64, len: u32, time: u64) -> Record {
    seen(datagram::ARRIVED, RECEIVER, data, len, None, time)
}

fn taken(data: u64, len: u32, time: u64) -> Record {
    seen(datagram::TAKEN, RECEIVER, data, len, None, time)
}

/// The call that sends, from `time` to `time + 5`.
fn send(sock: u64, pid: u32, bytes: u64, time: u64) -> Record {
    let fixed = op(Mechanism::Udp, 0, pid, 0, (time, time + 5), bytes);
    record(wire::Op { key: Key::default(), sender_sock: sock, sender_inode: sock + 1, ..fixed })
}

/// A receive that found nothing in the queue when it began.
fn receive(pid: u32, bytes: u64, when: (u64, u64)) -> Record {
    receive_first(pid, bytes, when, 0)
}

/// A receive that found the buffer `front` first in the queue when it began.
fn receive_first(pid: u32, bytes: u64, when: (u64, u64), front: u64) -> Record {
    let fixed = op(Mechanism::Udp, 0, pid, op_flag::RECEIVE, when, bytes);
    record(wire::Op { key: key(RECEIVER), receiver_inode: RECEIVER + 1, pos_enter: front, ..fixed })
}

/// With these flags besides.
fn flagged(record: Record, flags: u16) -> Record {
    let Record::Op(mut record) = record else { return record };
    record.fixed.header.flags |= flags;
    Record::Op(record)
}

/// A datagram or a receive whose content begins with `word`.
fn content(record: Record, word: u64) -> Record {
    let digest = digest::of(&[word, 0, 0, 0, 0, 0, 0, 0]);
    if let Record::Op(mut record) = record {
        record.fixed.digest = digest;
        return Record::Op(record);
    }
    let Record::Datagram(mut record) = record else { return record };
    record.digest = digest;
    Record::Datagram(record)
}

/// The receiver is seen for the first time.
fn opened(time: u64) -> Record {
    let ends = wire::Ends { local_port: 2, ..wire::Ends::default() };
    let fixed = wire::Channel {
        header: header(Kind::Channel, Mechanism::Udp, 0, time),
        key: key(RECEIVER),
        receiver_inode: RECEIVER + 1,
        ..wire::Channel::default()
    };
    Record::Channel(fixed, Bytes::copy_from_slice(ends.as_bytes()))
}

fn correlate(records: impl IntoIterator<Item = Record>) -> Vec<Short> {
    shorts(&events(records))
}

/// With whether each is exact.
fn certain(records: impl IntoIterator<Item = Record>) -> Vec<(Short, bool)> {
    transfers(&events(records)).into_iter().map(|transfer| (short(transfer), transfer.exact)).collect()
}

fn events(records: impl IntoIterator<Item = Record>) -> Vec<Event> {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    records.into_iter().for_each(|record| correlator.push(record, &mut out));
    correlator.finish(1 << 40, &mut out);
    out
}

#[test]
fn the_buffer_tells_whose_it_is_whatever_the_order_of_the_calls() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let [two, call_two] = sent(TWO, 11, 8, 64, 2);
    // The second to leave arrived first.
    let records = [
        one,
        two,
        arrived(8, 64, 5),
        arrived(7, 64, 6),
        receive(20, 64, (4, 7)),
        call_one,
        call_two,
        receive_first(20, 64, (8, 9), 7),
    ];
    assert_eq!(correlate(records), [(Ok(11), Ok(20), 64), (Ok(10), Ok(20), 64)]);
}

#[test]
fn a_buffer_is_used_again() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let [two, call_two] = sent(TWO, 11, 7, 64, 10);
    // The second arrives before the call that received the first is told.
    let records = [
        one,
        call_one,
        arrived(7, 64, 5),
        two,
        arrived(7, 64, 12),
        receive(20, 64, (4, 13)),
        call_two,
        receive_first(20, 64, (14, 15), 7),
    ];
    assert_eq!(correlate(records), [(Ok(10), Ok(20), 64), (Ok(11), Ok(20), 64)]);
}

#[test]
fn what_does_not_fit_is_gone_and_what_is_dropped_is_unread() {
    let [one, call_one] = sent(ONE, 10, 7, 900, 1);
    let [two, call_two] = sent(ONE, 10, 8, 50, 10);
    let cut = flagged(receive_first(20, 100, (20, 21), 7), op_flag::CUT);
    let records = [one, arrived(7, 900, 3), call_one, two, call_two, cut];
    let expected = [(Ok(10), Ok(20), 100), (Ok(10), Err(Why::Unread), 800), (Ok(10), Err(Why::Unread), 50)];
    assert_eq!(correlate(records), expected);
}

#[test]
fn what_waited_at_the_start_comes_first() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let records = [
        one,
        arrived(7, 64, 3),
        call_one,
        opened(6),
        seen(datagram::QUEUED, RECEIVER, 5, 64, None, 6),
        seen(datagram::QUEUED, RECEIVER, 7, 64, None, 6),
        receive_first(20, 64, (6, 8), 5),
        receive_first(20, 64, (9, 10), 7),
    ];
    assert_eq!(correlate(records), [(Err(Why::BeforeStart), Ok(20), 64), (Ok(10), Ok(20), 64)]);
}

#[test]
fn what_a_walk_tells_twice_is_there_once() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let [two, call_two] = sent(ONE, 10, 8, 64, 2);
    let [three, call_three] = sent(TWO, 11, 9, 64, 20);
    let queued = |data, time| seen(datagram::QUEUED, RECEIVER, data, 64, None, time);
    let records = [
        one,
        call_one,
        two,
        call_two,
        opened(6),
        queued(4, 7),
        queued(5, 7),
        queued(7, 7),
        // The first was taken by another thread: the walk begins again.
        queued(5, 9),
        queued(7, 9),
        queued(8, 9),
        taken(4, 64, 8),
        receive_first(21, 64, (6, 10), 4),
        taken(5, 64, 11),
        receive_first(20, 64, (6, 12), 5),
        taken(7, 64, 14),
        receive_first(20, 64, (13, 15), 7),
        taken(8, 64, 17),
        receive_first(20, 64, (16, 18), 8),
        three,
        call_three,
        taken(9, 64, 31),
        receive_first(20, 64, (30, 32), wire::Op::UNKNOWN),
    ];
    let expected = [
        (Err(Why::BeforeStart), Ok(21), 64),
        (Err(Why::BeforeStart), Ok(20), 64),
        (Ok(10), Ok(20), 64),
        (Ok(10), Ok(20), 64),
        (Ok(11), Ok(20), 64),
    ];
    assert_eq!(correlate(records), expected);
}

#[test]
fn two_that_came_at_once_are_two() {
    let [one, call_one] = sent(ONE, 10, 7, 60, 1);
    let [two, call_two] = sent(TWO, 11, 8, 64, 2);
    let records = [
        opened(0),
        one,
        two,
        call_one,
        call_two,
        // Each time only the last of the queue was looked at.
        arrived(8, 64, 5),
        arrived(8, 64, 5),
        receive(20, 60, (4, 7)),
        receive_first(20, 64, (8, 9), 8),
    ];
    assert_eq!(correlate(records), [(Ok(10), Ok(20), 60), (Ok(11), Ok(20), 64)]);
}

#[test]
fn an_end_on_another_host_has_its_address() {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    let far = |record: Record, from: bool| {
        let Record::Datagram(mut record) = record else { return record };
        let place = if from { &mut record.from } else { &mut record.to };
        *place = Ipv6Addr::from(ELSEWHERE).octets();
        Record::Datagram(record)
    };
    let [one, call] = sent(ONE, 10, 7, 64, 1);
    correlator.push(far(one, false), &mut out);
    correlator.push(call, &mut out);
    correlator.push(far(arrived(9, 30, 8), true), &mut out);
    correlator.push(receive(20, 30, (7, 9)), &mut out);
    assert!(out.is_empty() && correlator.wants_addresses());
    correlator.tick((1 << 30) - 1, &mut out);
    assert!(out.is_empty(), "the answer is waited for, however long that takes");
    correlator.learn(HashSet::new(), (1 << 30, 1 << 30));
    correlator.tick(1 << 30, &mut out);
    let why = |port: u16| Err(Why::Remote(format!("10.0.0.9:{port}")));
    assert_eq!(shorts(&out), [(why(1), Ok(20), 30), (Ok(10), why(2), 64)]);
    assert_eq!(transfers(&out)[1].channel.id, "udp:[::1]:1->10.0.0.9:2");
    correlator.push(far(arrived(9, 30, (1 << 30) + 1), true), &mut out);
    correlator.push(receive(20, 30, ((1 << 30) + 1, (1 << 30) + 2)), &mut out);
    assert_eq!(shorts(&out)[2..], [(why(1), Ok(20), 30)], "the same address a moment later");
}

#[test]
fn a_call_that_failed_has_sent_nothing() {
    let failed = seen(datagram::SENT, ONE, 7, 64, Some((10, 1)), 2);
    let [two, call] = sent(ONE, 10, 8, 64, 10);
    assert_eq!(
        correlate([failed, two, arrived(8, 64, 12), call, receive(20, 64, (11, 13))]),
        [(Ok(10), Ok(20), 64)]
    );
}

#[test]
fn a_datagram_that_left_after_its_call_is_the_calls() {
    let late = seen(datagram::SENT, ONE, 7, 64, None, 30);
    assert_eq!(
        correlate([send(ONE, 10, 64, 1), late, arrived(7, 64, 31), receive(20, 64, (11, 33))]),
        [(Ok(10), Ok(20), 64)]
    );
}

#[test]
fn what_was_not_seen_to_arrive_is_found_in_the_queue() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let [two, call_two] = sent(TWO, 11, 8, 64, 2);
    // Nobody saw the first arrive: the second is not taken for it.
    let records = [
        opened(0),
        one,
        two,
        call_one,
        call_two,
        arrived(8, 64, 5),
        receive_first(20, 64, (10, 11), 7),
        receive_first(20, 64, (12, 13), 8),
    ];
    assert_eq!(correlate(records), [(Ok(10), Ok(20), 64), (Ok(11), Ok(20), 64)]);
}

#[test]
fn an_arrival_that_somebody_took_unseen_is_taken_by_nobody_else() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let [two, call_two] = sent(TWO, 11, 8, 64, 20);
    // The queue was empty when the call began: what had arrived before was gone.
    let records = [
        opened(0),
        one,
        call_one,
        arrived(7, 64, 5),
        two,
        arrived(8, 64, 22),
        call_two,
        receive(20, 64, (15, 30)),
    ];
    assert_eq!(correlate(records), [(Ok(11), Ok(20), 64), (Ok(10), Err(Why::Unread), 64)]);
}

/// Sent, called and arrived: of `pid`, with that content.
fn arrives(sock: u64, pid: u32, data: u64, word: u64, time: u64) -> [Record; 3] {
    let [left, call] = sent(sock, pid, data, 64, time);
    [content(left, word), call, content(arrived(data, 64, time + 3), word)]
}

#[test]
fn a_receive_told_before_the_arrival_leaves_nothing_behind() {
    let [one, call_one, arrived_one] = arrives(ONE, 10, 7, 0, 1);
    let [two, call_two, arrived_two] = arrives(ONE, 11, 8, 0, 20);
    // The receiver was done before the first was seen in the queue.
    let records = [
        opened(0),
        one,
        call_one,
        content(receive(20, 64, (0, 6)), 0),
        arrived_one,
        two,
        call_two,
        arrived_two,
        content(receive(20, 64, (12, 30)), 0),
    ];
    assert_eq!(certain(records), [((Ok(10), Ok(20), 64), true), ((Ok(11), Ok(20), 64), true)]);
}

#[test]
fn receivers_at_once_get_what_their_memory_says() {
    let one = arrives(ONE, 10, 7, 1, 1);
    let two = arrives(ONE, 11, 8, 2, 2);
    // The one whose call ended first took the second.
    let receives = [
        flagged(content(receive(20, 64, (0, 10)), 2), op_flag::OVERLAPS),
        flagged(content(receive(21, 64, (0, 11)), 1), op_flag::OVERLAPS),
    ];
    assert_eq!(
        certain([opened(0)].into_iter().chain(one).chain(two).chain(receives)),
        [((Ok(11), Ok(20), 64), true), ((Ok(10), Ok(21), 64), true)]
    );
}

#[test]
fn what_is_alike_and_received_at_once_is_in_doubt() {
    let play = |enter: u64, flags: u16| {
        let one = arrives(ONE, 10, 7, 1, 1);
        let two = arrives(ONE, 11, 8, 1, 5);
        let receives = [
            flagged(content(receive_first(20, 64, (10, 12), wire::Op::UNKNOWN), 1), flags),
            flagged(content(receive_first(21, 64, (enter, 15), wire::Op::UNKNOWN), 1), flags),
        ];
        certain([opened(0)].into_iter().chain(one).chain(two).chain(receives))
    };
    let expected = |exact| [((Ok(10), Ok(20), 64), exact), ((Ok(11), Ok(21), 64), exact)];
    assert_eq!(play(11, op_flag::OVERLAPS), expected(false));
    // One after the other they took one after the other, for the second was sent when the first was in the queue.
    assert_eq!(play(13, 0), expected(true));
}

#[test]
fn alike_ones_that_were_sent_at_once_are_in_doubt() {
    let one = arrives(ONE, 10, 7, 1, 1);
    let two = arrives(ONE, 11, 8, 1, 2);
    let unknown = |pid, when| content(receive_first(pid, 64, when, wire::Op::UNKNOWN), 1);
    let receives = [unknown(20, (10, 12)), unknown(21, (13, 15))];
    let expected = [((Ok(10), Ok(20), 64), false), ((Ok(11), Ok(21), 64), false)];
    assert_eq!(certain([opened(0)].into_iter().chain(one).chain(two).chain(receives)), expected);
}

#[test]
fn where_it_came_from_tells_too() {
    let other = |record: Record| {
        let Record::Datagram(mut record) = record else { return record };
        record.from_port = 9;
        Record::Datagram(record)
    };
    let one = arrives(ONE, 10, 7, 1, 1);
    let two = arrives(TWO, 11, 8, 1, 2).map(other);
    let asked = |pid, when, port: i64| {
        let record = flagged(content(receive(pid, 64, when), 1), op_flag::OVERLAPS | op_flag::DETAIL);
        let Record::Op(mut record) = record else { return record };
        record.fixed.detail = port << 32 | 1;
        Record::Op(record)
    };
    let receives = [asked(20, (0, 10), 9), asked(21, (0, 11), 1)];
    assert_eq!(
        certain([opened(0)].into_iter().chain(one).chain(two).chain(receives)),
        [((Ok(11), Ok(20), 64), true), ((Ok(10), Ok(21), 64), true)]
    );
}

/// A receive of 64 bytes that was seen to take that buffer.
fn took(pid: u32, when: (u64, u64), data: u64) -> Record {
    let record = flagged(receive(pid, 64, when), op_flag::OVERLAPS | op_flag::FROM);
    let Record::Op(mut record) = record else { return record };
    record.fixed.sender_sock = data;
    Record::Op(record)
}

#[test]
fn what_was_sent_later_in_the_same_buffer_was_not_taken() {
    let later = arrives(ONE, 11, 7, 1, 8);
    let records = [opened(0)].into_iter().chain(later).chain([took(20, (4, 6), 7)]);
    assert_eq!(
        correlate(records),
        [(Err(Why::Lost), Ok(20), 64), (Ok(11), Err(Why::Unread), 64)],
        "what was sent before was not seen"
    );
}

#[test]
fn a_buffer_that_was_seen_to_be_taken_is_certain() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 1);
    let [two, call_two] = sent(ONE, 11, 8, 64, 2);
    // Of one the arrival is not known.
    let records = [
        opened(0),
        one,
        two,
        call_one,
        call_two,
        arrived(8, 64, 5),
        took(20, (4, 7), 8),
        took(21, (4, 8), 7),
    ];
    assert_eq!(certain(records), [((Ok(11), Ok(20), 64), true), ((Ok(10), Ok(21), 64), true)]);
}

#[test]
fn what_is_not_in_the_buffer_is_not_taken_unseen() {
    let [one, call_one] = sent(ONE, 10, 7, 9000, 1);
    let [two, call_two, arrived_two] = arrives(ONE, 11, 8, 5, 2);
    // The first 8 bytes of one of them; the first of the two is in pages, and those would have been seen.
    let cut = flagged(content(receive_first(20, 8, (10, 12), wire::Op::UNKNOWN), 5), op_flag::CUT);
    let records = [opened(0), one, call_one, arrived(7, 9000, 4), two, call_two, arrived_two, cut];
    let expected = [((Ok(11), Ok(20), 8), true), ((Ok(11), Err(Why::Unread), 56), true)];
    assert_eq!(certain(records)[..2], expected);
}

#[test]
fn what_was_cut_has_what_is_left_of_those_alike() {
    let datagram = |data: u64, len: u32, time: u64| {
        let [left, call] = sent(ONE, 10, data, len, time);
        [content(left, 5), call, content(arrived(data, len, time + 2), 5)]
    };
    let receive = |pid, bytes, when, flags| {
        flagged(content(receive_first(pid, bytes, when, wire::Op::UNKNOWN), 5), flags)
    };
    let ms = 1_000_000;
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    let records = [opened(0)].into_iter().chain(datagram(7, 64, 1)).chain(datagram(8, 100, 2));
    // It took the first, but another call, which ends later and took one that was sent meanwhile, is given that.
    let receives =
        [receive(20, 64, (7, 12), op_flag::CUT), receive(21, 100, (7, 13), 0), receive(22, 64, (11, 20), 0)];
    for record in records.chain(datagram(9, 64, 14)).chain(receives) {
        correlator.push(record, &mut out);
    }
    for time in [10, 100, 300, 600] {
        correlator.tick(time * ms, &mut out);
    }
    correlator.finish(700 * ms, &mut out);
    let mut told = shorts(&out);
    told.sort_by_key(|(_, receiver, _)| receiver.clone().ok());
    assert_eq!(told, [(Ok(10), Ok(20), 64), (Ok(10), Ok(21), 100), (Ok(10), Ok(22), 64)]);
}

#[test]
fn what_others_have_overtaken_is_in_doubt() {
    let one = arrives(ONE, 10, 7, 1, 1);
    let two = arrives(ONE, 11, 8, 2, 6);
    let second = content(receive_first(20, 64, (10, 12), wire::Op::UNKNOWN), 2);
    // It began when the first was gone, whoever took that. Its own content could not be read.
    let third = |when| receive_first(21, 64, when, wire::Op::UNKNOWN);
    let told = |third| {
        let records =
            [opened(0)].into_iter().chain(one.clone()).chain(two.clone()).chain([second.clone(), third]);
        certain(records)
    };
    assert_eq!(told(third((13, 14))), [((Ok(11), Ok(20), 64), true), ((Ok(10), Ok(21), 64), false)]);
    assert_eq!(told(third((11, 14)))[1], ((Ok(10), Ok(21), 64), true));
    // Nor was it seen to arrive.
    let unseen =
        [opened(0)].into_iter().chain(one.into_iter().take(2)).chain(two).chain([second, third((13, 14))]);
    assert_eq!(certain(unseen)[1], ((Ok(10), Ok(21), 64), false));
}

#[test]
fn steps_of_a_queue_say_what_may_be_gone() {
    let mut passed = Passed::default();
    for time in 1..=1_000_000 {
        passed.note(time * 1000, time * 1000 + 500);
    }
    // Between two steps it is not known, and long ago it may be.
    assert!(passed.may_have(999_000_000, 1_000_000_500) && !passed.may_have(999_900_000, 999_900_000));
    assert!(!passed.may_have(990_000_000, 989_000_000) && passed.may_have(1000, 2000));
    passed.note(5, 2_000_000_000);
    assert!(!passed.may_have(1_000_000_000, 3_000_000_000));
}

#[test]
fn what_of_two_alike_was_cut_and_what_is_left_is_in_doubt() {
    let datagram = |data: u64, len: u32, time: u64| {
        let [left, call] = sent(ONE, 10, data, len, time);
        [content(left, 5), call, content(arrived(data, len, time + 2), 5)]
    };
    let cut = flagged(content(receive_first(20, 8, (10, 12), wire::Op::UNKNOWN), 5), op_flag::CUT);
    let records = [opened(0)].into_iter().chain(datagram(7, 64, 1)).chain(datagram(8, 100, 2)).chain([cut]);
    // They are of one process.
    let unread = Err(Why::Unread);
    assert_eq!(
        certain(records),
        [((Ok(10), Ok(20), 8), true), ((Ok(10), unread.clone(), 56), false), ((Ok(10), unread, 100), false)]
    );
}

#[test]
fn threads_that_saw_the_same_first_one_took_one_each() {
    let one = arrives(ONE, 10, 7, 1, 1);
    let two = arrives(ONE, 11, 8, 2, 2);
    let receives = [
        content(receive_first(20, 64, (10, 14), 7), 2),
        content(receive_first(20, 64, (11, 15), wire::Op::UNKNOWN), 1),
    ];
    assert_eq!(
        correlate([opened(0)].into_iter().chain(one).chain(two).chain(receives)),
        [(Ok(11), Ok(20), 64), (Ok(10), Ok(20), 64)]
    );
}

#[test]
fn segments_of_one_are_received_one_by_one() {
    let [one, call] = sent(ONE, 10, 7, 100, 1);
    let segment = |data, len, time| seen(datagram::ARRIVED, RECEIVER, data, len, None, time);
    let records = [
        opened(0),
        one,
        call,
        segment(70, 60, 3),
        segment(71, 40, 4),
        receive_first(20, 60, (10, 12), 70),
        receive_first(20, 40, (13, 15), 71),
    ];
    assert_eq!(certain(records), [((Ok(10), Ok(20), 60), true), ((Ok(10), Ok(20), 40), true)]);
}

#[test]
fn where_arrivals_are_not_told_what_is_taken_is() {
    let [one, call_one] = sent(ONE, 10, 7, 64, 10);
    let [two, call_two] = sent(TWO, 11, 8, 64, 20);
    let [three, call_three] = sent(ONE, 10, 9, 64, 30);
    let records = [
        opened(5),
        // From before the start, and taken without having been seen to leave.
        seen(datagram::QUEUED, RECEIVER, 5, 64, None, 6),
        taken(5, 64, 7),
        receive_first(20, 64, (4, 8), 5),
        one,
        call_one,
        two,
        call_two,
        taken(7, 64, 31),
        receive_first(20, 64, (30, 32), 7),
        taken(8, 64, 34),
        receive_first(20, 64, (33, 35), 8),
        // Never received.
        three,
        call_three,
    ];
    let expected = [
        (Err(Why::BeforeStart), Ok(20), 64),
        (Ok(10), Ok(20), 64),
        (Ok(11), Ok(20), 64),
        (Ok(10), Err(Why::Unread), 64),
    ];
    assert_eq!(correlate(records), expected);
}

#[test]
fn what_waits_is_told_before_another_socket_stands_at_its_address() {
    let first = sent(ONE, 10, 1, 5, 10).into_iter().chain([arrived(1, 5, 16)]);
    let second = sent(ONE, 10, 2, 7, 20).into_iter().chain([arrived(2, 7, 26)]);
    // Either may be what was received, which is therefore waited with.
    let received = flagged(receive_first(30, 5, (30, 40), wire::Op::UNKNOWN), op_flag::CUT);
    let Record::Datagram(mut another) = arrived(3, 9, 50) else { panic!("a datagram") };
    another.inode += 1;
    let told = correlate(
        [opened(6)].into_iter().chain(first).chain(second).chain([received, Record::Datagram(another)]),
    );
    let heard: u64 =
        told.iter().filter(|(_, receiver, _)| *receiver == Ok(30)).map(|(.., bytes)| bytes).sum();
    assert_eq!(heard, 5, "{told:?}");
}

#[test]
fn what_never_left_a_socket_is_not_what_leaves_the_next_one_there() {
    let call = send(ONE, 11, 5, 20);
    let Record::Op(mut call) = call else { panic!("a call") };
    let Record::Datagram(mut left) = seen(datagram::SENT, ONE, 7, 5, None, 30) else { panic!("a datagram") };
    (call.fixed.sender_inode, left.inode) = (ONE + 7, ONE + 7);
    // The first one's neighbour is never found; the second one's answers after its call.
    let told = correlate([
        send(ONE, 10, 5, 1),
        Record::Op(call),
        Record::Datagram(left),
        arrived(7, 5, 31),
        receive_first(20, 5, (32, 33), 7),
    ]);
    assert_eq!(told[0], (Ok(11), Ok(20), 5));
}

/// With the device that it leaves by.
fn by(device: u32, record: Record) -> Record {
    let Record::Datagram(mut record) = record else { return record };
    record.device = device;
    Record::Datagram(record)
}

#[test]
fn a_datagram_that_passes_two_devices_is_one() {
    let leaves = |device| by(device, seen(datagram::SENT, ONE, 7, 5, Some((10, 20)), 21));
    let told = correlate([
        leaves(1),
        leaves(2),
        send(ONE, 10, 5, 20),
        arrived(7, 5, 31),
        receive_first(20, 5, (32, 33), 7),
    ]);
    assert_eq!(told, [(Ok(10), Ok(20), 5)]);
}

#[test]
fn a_bridge_may_hand_on_a_datagram_outside_of_the_call() {
    let told = correlate([
        by(1, seen(datagram::SENT, ONE, 7, 5, Some((10, 20)), 21)),
        send(ONE, 10, 5, 20),
        by(2, seen(datagram::SENT, ONE, 7, 5, None, 28)),
        arrived(7, 5, 31),
        receive_first(20, 5, (32, 33), 7),
    ]);
    assert_eq!(told, [(Ok(10), Ok(20), 5)]);
}

#[test]
fn datagrams_of_one_call_that_are_dropped_leave_by_one_device_and_are_several() {
    let leaves = |device| by(device, seen(datagram::SENT, ONE, 7, 5, Some((10, 20)), 21));
    let told = correlate([
        leaves(1),
        leaves(2),
        leaves(1),
        leaves(2),
        send(ONE, 10, 5, 20),
        send(ONE, 10, 5, 20),
        arrived(7, 5, 31),
        receive_first(20, 5, (32, 33), 7),
    ]);
    assert_eq!(told, [(Ok(10), Ok(20), 5), (Ok(10), Err(Why::Unread), 5)]);
}
