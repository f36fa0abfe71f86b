use bytes::Bytes;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Key, op_flag};

use crate::correlate::testing::{changed, channel, correlate, op, record, shorts, transfers};
use crate::correlate::{Correlator, Limits};
use crate::decode::{self, Record};
use crate::model::{Event, Why};

const DGRAM: Mechanism = Mechanism::UnixDgram;
const MS: u64 = 1_000_000;

/// `pid` sends `bytes` through its socket `sock` to the socket `to`.
fn send(to: u64, pid: u32, sock: u64, when: (u64, u64), bytes: u64) -> Record {
    record(wire::Op { sender_sock: sock, sender_inode: sock, ..op(DGRAM, to, pid, 0, when, bytes) })
}

/// The same by address.
fn send_to(name: &[u8], pid: u32, sock: u64, when: (u64, u64), bytes: u64) -> Record {
    let fixed = op(DGRAM, 0, pid, op_flag::ADDRESS, when, bytes);
    let address = Bytes::from([&1_u16.to_ne_bytes()[..], name].concat());
    let fixed = wire::Op { key: Key::default(), sender_sock: sock, sender_inode: sock, ..fixed };
    Record::Op(Box::new(decode::Op { fixed, address, payload: Bytes::new() }))
}

/// `pid` receives, from the socket `from`, the first `bytes` of a message of `length`.
fn receive(own: u64, pid: u32, from: u64, when: (u64, u64), bytes: u64, length: u64) -> Record {
    let flags = op_flag::RECEIVE | op_flag::FROM;
    let fixed = op(DGRAM, own, pid, flags, when, bytes);
    record(wire::Op { sender_sock: from, receiver_inode: own, message_len: length, ..fixed })
}

/// The record of a socket that is first seen at `time`.
fn opened_at(time: u64, record: Record) -> Record {
    let Record::Channel(mut channel, name) = record else { return record };
    channel.header.time = time;
    Record::Channel(channel, name)
}

/// The record of an op with the books of its side.
fn with_books(record: Record, before: u64) -> Record {
    changed(record, |op| {
        op.before = before;
        op.header.flags |= op_flag::SEQUENCED;
    })
}

/// The same by another thread of the process.
fn by_thread(tid: u32, record: Record) -> Record {
    changed(record, |op| op.task.tid = tid)
}

#[test]
fn each_message_goes_to_who_took_it() {
    let events = correlate([
        channel(DGRAM, 1, 0, b""),
        send(1, 10, 50, (1, 2), 5),
        send(1, 11, 51, (3, 4), 5),
        send(1, 10, 50, (5, 6), 0),
        receive(1, 20, 50, (7, 8), 5, 5),
        receive(1, 21, 51, (7, 9), 5, 5),
        receive(1, 20, 50, (10, 11), 0, 0),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(11), Ok(21), 5), (Ok(10), Ok(20), 0)]);
    assert!(transfers(&events).iter().all(|transfer| transfer.exact));
    assert_eq!(transfers(&events)[1].channel.id, "socket:[51]->socket:[1]");
}

#[test]
fn what_did_not_fit_is_told() {
    let events = correlate([
        channel(DGRAM, 1, 0, b""),
        send(1, 10, 50, (1, 2), 100),
        receive(1, 20, 50, (3, 4), 30, 100),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 30), (Ok(10), Err(Why::Unread), 70)]);
    let truncated: Vec<bool> = transfers(&events).iter().map(|transfer| transfer.truncated).collect();
    assert_eq!(truncated, [false, true]);
}

#[test]
fn what_was_sent_to_a_receiver_that_is_gone_is_not_the_next_ones() {
    // The socket of that name is closed with a message in it, and another is bound to it, in which there is one.
    let events = correlate([
        channel(DGRAM, 1, 0, b"/log\0"),
        send_to(b"/log\0", 10, 50, (1, 2), 5),
        send_to(b"/log\0", 11, 50, (3, 4), 5),
        opened_at(5, channel(DGRAM, 2, 1, b"/log\0")),
        receive(2, 20, 50, (6, 7), 5, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(11), Ok(20), 5), (Ok(10), Err(Why::Unread), 5)]);
    assert!(transfers(&events)[0].exact);
}

#[test]
fn what_was_sent_while_the_kernel_counted_is_in_the_queue() {
    // Nothing was in it yet when that was looked for.
    let Record::Channel(mut opened, name) = channel(DGRAM, 1, 0, b"/log\0") else { panic!("a channel") };
    (opened.header.time, opened.counting) = (5, 4);
    let sent = send_to(b"/log\0", 10, 50, (1, 3), 5);
    let events = correlate([sent, Record::Channel(opened, name), receive(1, 20, 50, (0, 6), 5, 5)]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5)]);
}

#[test]
fn a_socket_that_is_gone_has_nothing_in_a_queue() {
    let closed = |record| changed(record, |op| op.sender_inode = 0);
    let next = |record| changed(record, |op| op.sender_inode = 51);
    let old = send_to(b"/a\0", 10, 50, (1, 2), 5);
    let new = || next(send_to(b"/b\0", 11, 50, (3, 4), 5));
    for receive in [closed(receive(1, 20, 50, (5, 6), 5, 5)), next(receive(1, 20, 50, (5, 6), 5, 5))] {
        let events = correlate([channel(DGRAM, 1, 0, b""), old.clone(), new(), receive]);
        assert_eq!(shorts(&events), [(Ok(11), Ok(20), 5), (Ok(10), Err(Why::Unread), 5)]);
    }
    // Taken while the next one's message may not have been sent yet.
    let events = correlate([channel(DGRAM, 1, 0, b""), old, new(), closed(receive(1, 20, 50, (2, 6), 5, 5))]);
    assert_eq!(shorts(&events)[0], (Ok(10), Ok(20), 5));
}

#[test]
fn addresses_lead_to_the_socket_of_that_name() {
    let events = correlate([
        channel(DGRAM, 1, 0, b"/tmp/one\0"),
        channel(DGRAM, 2, 0, b"\0two"),
        send_to(b"\0two", 10, 50, (1, 2), 5),
        send_to(b"/tmp/one\0", 11, 50, (3, 4), 5),
        receive(1, 20, 50, (5, 6), 5, 5),
        receive(2, 21, 50, (7, 8), 5, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(11), Ok(20), 5), (Ok(10), Ok(21), 5)]);
    assert!(transfers(&events).iter().all(|transfer| transfer.exact));
    assert_eq!(transfers(&events)[1].channel.name.as_deref(), Some(&b"@two"[..]));
}

#[test]
fn names_that_cannot_be_told_apart_are_in_doubt() {
    let events = correlate([
        channel(DGRAM, 1, 0, b""),
        send_to(b"../a", 10, 50, (1, 2), 5),
        send_to(b"../b", 11, 50, (3, 4), 5),
        receive(1, 20, 50, (5, 6), 5, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(11), Err(Why::Unread), 5)]);
    assert!(!transfers(&events)[0].exact);
}

#[test]
fn the_receive_may_come_first() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(DGRAM, 1, 0, b""), &mut out);
    correlator.push(receive(1, 20, 50, (3, 8), 5, 5), &mut out);
    correlator.tick(10, &mut out);
    assert_eq!(out, []);
    correlator.push(send(1, 10, 50, (6, 9), 5), &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
    assert_eq!(transfers(&out)[0].latency, Some(0));
}

#[test]
fn a_sender_may_be_kept_from_the_end_of_its_call() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(DGRAM, 1, 0, b""), &mut out);
    correlator.push(receive(1, 20, 50, (3, 4), 5, 5), &mut out);
    correlator.tick(2000 * MS, &mut out);
    assert_eq!(out.len(), 0, "nothing was lost, so it comes");
    correlator.push(send(1, 10, 50, (1, 2000 * MS), 5), &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
}

#[test]
fn messages_from_before_the_start_have_no_sender() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(DGRAM, 1, 1, b""), &mut out);
    correlator.push(receive(1, 20, 50, (1, 2), 5, 5), &mut out);
    correlator.tick(300 * MS, &mut out);
    assert_eq!(shorts(&out), [(Err(Why::BeforeStart), Ok(20), 5)]);
    // With the books it is known at once, although an equal message is under way.
    let books = |before| with_books(receive(2, 20, 50, (5, 6), 5, 5), before);
    let events = correlate([channel(DGRAM, 2, 1, b""), send(2, 10, 50, (3, 4), 5), books(0), books(1)]);
    assert_eq!(shorts(&events), [(Err(Why::BeforeStart), Ok(20), 5), (Ok(10), Ok(20), 5)]);
}

#[test]
fn unread_messages_are_told_at_the_end() {
    let events =
        correlate([channel(DGRAM, 1, 0, b""), send(1, 10, 50, (1, 2), 5), send_to(b"/x", 11, 51, (3, 4), 6)]);
    assert_eq!(shorts(&events), [(Ok(10), Err(Why::Unread), 5), (Ok(11), Err(Why::Unread), 6)]);
}

#[test]
fn memory_is_bounded() {
    let limits = Limits { messages: 16, ..Limits::default() };
    let (mut correlator, mut out) = (Correlator::new(limits), Vec::new());
    for n in 0..100 {
        correlator.push(send(1 + n % 3, 10, 50, (n, n), 5), &mut out);
    }
    assert!(correlator.messages.count <= 16);
    correlator.finish(1000, &mut out);
    let told = out.iter().filter(|event| matches!(event, Event::Transfer(_))).count() as u64;
    assert_eq!(told + correlator.evicted(), 100);
}

#[test]
fn what_was_sent_by_address_before_the_receiver_looked_is_not_from_before_the_start() {
    // Two messages wait when the socket is first seen: one from before, and one whose send was seen.
    let receives = [(0, (20, 21)), (1, (22, 23))]
        .map(|(before, when)| with_books(receive(1, 20, 50, when, 5, 5), before));
    let opened = opened_at(15, channel(DGRAM, 1, 2, b"\0name"));
    let [first, second] = receives;
    let sent = send_to(b"\0name", 10, 50, (3, 4), 5);
    let events = correlate([sent, opened, first, second]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Err(Why::BeforeStart), Ok(20), 5)]);
}

#[test]
fn what_was_sent_by_address_may_be_received_before_its_call_ends() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(opened_at(15, channel(DGRAM, 1, 1, b"\0name")), &mut out);
    correlator.push(with_books(receive(1, 20, 50, (20, 21), 5, 5), 0), &mut out);
    assert_eq!(shorts(&out), []);
    correlator.push(send_to(b"\0name", 10, 50, (3, 24), 5), &mut out);
    correlator.tick(MS, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
}

#[test]
fn two_threads_of_a_process_may_each_have_taken_either_of_equal_messages() {
    // One call takes the beginning of a message, waits for more and ends late; meanwhile another thread takes a whole one.
    let events = correlate([
        channel(DGRAM, 1, 0, b""),
        send(1, 10, 50, (1, 2), 512),
        send(1, 11, 50, (5, 6), 512),
        by_thread(22, receive(1, 20, 50, (7, 8), 512, 512)),
        by_thread(21, receive(1, 20, 50, (3, 20), 64, 512)),
    ]);
    assert_eq!(transfers(&events).len(), 3);
    assert!(transfers(&events).iter().all(|transfer| !transfer.exact));
}

#[test]
fn an_equal_message_by_address_is_a_rival() {
    // Another process receives before both, so that calls are waited for; of two messages one was sent by address.
    let events = correlate([
        channel(DGRAM, 1, 0, b"\0name"),
        send(1, 12, 51, (1, 2), 3),
        send(1, 10, 50, (1, 2), 5),
        send_to(b"\0name", 11, 50, (3, 4), 5),
        receive(1, 22, 51, (5, 6), 3, 3),
        receive(1, 20, 50, (7, 9), 5, 5),
        receive(1, 21, 50, (7, 10), 5, 5),
    ]);
    let equal = transfers(&events).into_iter().filter(|transfer| transfer.bytes == 5);
    assert!(equal.map(|transfer| transfer.exact).eq([false, false]));
    // Sent at the same time, and either may have been first.
    let events = correlate([
        channel(DGRAM, 1, 0, b"\0name"),
        send(1, 10, 50, (1, 5), 5),
        send_to(b"\0name", 11, 50, (3, 4), 5),
        receive(1, 20, 50, (6, 7), 5, 5),
    ]);
    assert!(!transfers(&events)[0].exact);
}

#[test]
fn what_was_sent_to_another_spelling_of_a_name_before_it_was_looked_at_is_received() {
    let events = correlate([
        send_to(b"r\0", 10, 50, (3, 4), 5),
        opened_at(15, channel(DGRAM, 1, 1, b"/tmp/d/r\0")),
        with_books(receive(1, 20, 50, (20, 21), 5, 5), 0),
        send_to(b"r\0", 10, 50, (30, 31), 5),
        with_books(receive(1, 20, 50, (32, 33), 5, 5), 1),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(10), Ok(20), 5)]);
    let latencies: Vec<_> = transfers(&events).iter().map(|transfer| transfer.latency).collect();
    assert_eq!(latencies, [Some(17), Some(2)]);
}

#[test]
fn a_client_where_one_was_that_nobody_accepted_has_a_queue_of_its_own() {
    const PACKETS: Mechanism = Mechanism::UnixSeqpacket;
    let between = |record, sender, receiver| {
        changed(record, |op| {
            (op.header.mechanism, op.sender_inode, op.receiver_inode) = (PACKETS as u8, sender, receiver);
        })
    };
    let opened = |sender_inode, receiver_inode| {
        let Record::Channel(opened, name) = channel(PACKETS, 1, 0, b"") else { panic!("a channel") };
        Record::Channel(wire::Channel { sender_inode, receiver_inode, ..opened }, name)
    };
    let events = correlate([
        opened(60, 0),
        between(send(1, 10, 50, (1, 2), 5), 60, 0),
        // Its receiver waits before it is accepted, so its peer has no inode.
        opened(0, 70),
        between(send(1, 11, 50, (5, 6), 5), 71, 70),
        between(receive(1, 20, 50, (3, 7), 5, 5), 0, 70),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Err(Why::Unread), 5), (Ok(11), Ok(20), 5)]);
    let ids: Vec<_> = transfers(&events).iter().map(|transfer| transfer.channel.id.clone()).collect();
    assert_eq!(ids, ["socket:[60]->socket:[?]", "socket:[71]->socket:[70]"]);
}

#[test]
fn what_is_left_may_be_what_was_taken_where_equal_ones_were_sent_at_once() {
    let events = correlate([
        channel(DGRAM, 1, 0, b""),
        send(1, 10, 50, (1, 4), 63),
        send(1, 11, 50, (2, 5), 63),
        // One that is not equal to them is not in doubt.
        send(1, 11, 50, (6, 7), 5),
        receive(1, 20, 50, (8, 9), 13, 63),
    ]);
    let told: Vec<_> =
        shorts(&events).into_iter().zip(transfers(&events).iter().map(|one| one.exact)).collect();
    assert_eq!(
        told,
        [
            ((Ok(10), Ok(20), 13), false),
            ((Ok(10), Err(Why::Unread), 50), false),
            ((Ok(11), Err(Why::Unread), 63), false),
            ((Ok(11), Err(Why::Unread), 5), true),
        ]
    );
}

#[test]
fn what_is_told_late_is_as_much_in_doubt_as_what_was_taken_for_it() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    let with_another = changed(send(1, 10, 50, (1, 4), 32), |op| op.header.flags |= op_flag::OVERLAPS);
    for record in [channel(DGRAM, 1, 0, b""), with_another, receive(1, 20, 50, (5, 6), 32, 32)] {
        correlator.push(record, &mut out);
    }
    // The kernel has seen another call: it may be told of.
    assert_eq!(shorts(&out), []);
    correlator.tick(100 * MS, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 32)]);
    // It ends late, as does one that began after the first was sent.
    correlator.push(send(1, 11, 50, (2, 101 * MS), 32), &mut out);
    correlator.push(send(1, 12, 50, (5, 102 * MS), 32), &mut out);
    correlator.finish(200 * MS, &mut out);
    let told: Vec<_> = shorts(&out).into_iter().zip(transfers(&out).iter().map(|one| one.exact)).collect();
    assert_eq!(
        told,
        [
            ((Ok(10), Ok(20), 32), false),
            ((Ok(11), Err(Why::Unread), 32), false),
            ((Ok(12), Err(Why::Unread), 32), true),
        ]
    );
}

#[test]
fn what_is_unread_may_have_been_taken_by_a_call_that_was_lost() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(DGRAM, 1, 0, b""), &mut out);
    correlator.push(send(1, 10, 50, (1, 2), 5), &mut out);
    correlator.lost(3, ipctrace_common::Cause::RingFull, 1, &mut out);
    correlator.push(send(1, 10, 50, (4, 5), 6), &mut out);
    correlator.finish(9, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Err(Why::Unread), 5), (Ok(10), Err(Why::Unread), 6)]);
    let exact: Vec<bool> = transfers(&out).iter().map(|one| one.exact).collect();
    assert_eq!(exact, [false, true]);
}

#[test]
fn of_a_call_that_began_before_what_is_left_was_there_or_is_in_doubt() {
    let sent = |time: u64, bytes: u64| {
        changed(send(1, 10, 50, (0, time), bytes), |op| op.header.flags |= op_flag::STRADDLES_START)
    };
    let events = correlate([
        channel(DGRAM, 1, 0, b""),
        sent(2, 20),
        sent(3, 30),
        sent(4, 40),
        receive(1, 20, 50, (1, 5), 30, 30),
    ]);
    // The first was taken before that one was, by nobody that was seen.
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 30), (Ok(10), Err(Why::Unread), 40)]);
    let exact: Vec<bool> = transfers(&events).iter().map(|transfer| transfer.exact).collect();
    assert_eq!(exact, [true, false]);
}
