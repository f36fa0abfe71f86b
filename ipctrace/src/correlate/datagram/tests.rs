use std::collections::HashSet;
use std::net::Ipv6Addr;

use ipctrace_common::wire::Kind;
use zerocopy::IntoBytes;

use super::*;
use crate::correlate::testing::{Short, header, op, record, shorts, task, transfers};
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
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    records.into_iter().for_each(|record| correlator.push(record, &mut out));
    correlator.finish(1 << 40, &mut out);
    shorts(&out)
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
    let records = [one, arrived(7, 900, 3), call_one, two, call_two, receive_first(20, 100, (20, 21), 7)];
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
    correlator.learn(HashSet::new(), 1 << 30);
    correlator.tick(1 << 30, &mut out);
    let why = |port: u16| Err(Why::Remote(format!("10.0.0.9:{port}")));
    assert_eq!(shorts(&out), [(why(1), Ok(20), 30), (Ok(10), why(2), 64)]);
    assert_eq!(transfers(&out)[1].channel.id, "udp:[::1]:1->10.0.0.9:2");
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
