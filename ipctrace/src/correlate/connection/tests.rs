use std::collections::HashSet;
use std::net::IpAddr;

use bytes::Bytes;
use ipctrace_common::wire::{Kind, op_flag};
use zerocopy::IntoBytes;

use super::*;
use crate::correlate::testing::{Short, header, op, record, shorts};
use crate::correlate::{Correlator, Limits};
use crate::decode::Record;

const CLIENT: u64 = 100;
const SERVER: u64 = 200;
/// The key's part for the ports is of no importance here.
const SEND: u64 = Key::SOCKET;
const RECEIVE: u64 = Key::SOCKET | Key::RECEIVES;

fn address([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// A half of the connection between the client's port 5 and the server's port 80.
fn half(
    sock: u64,
    space: u64,
    hosts: [[u8; 4]; 2],
    netns: u32,
    sequence: u32,
    queued: u64,
    time: u64,
) -> Record {
    let (own, other) = if sock == CLIENT { (0, 1) } else { (1, 0) };
    let ports = [5, 80];
    let ends = wire::Ends {
        local: address(hosts[own]),
        remote: address(hosts[other]),
        local_port: ports[own],
        remote_port: ports[other],
        netns,
    };
    let fixed = wire::Channel {
        header: header(Kind::Channel, Mechanism::Tcp, 0, time),
        key: Key { id: sock, space },
        queued,
        write_pos: u64::from(sequence),
        read_pos: u64::from(sequence),
        receiver_inode: sock + 1,
        ..wire::Channel::default()
    };
    Record::Channel(fixed, Bytes::copy_from_slice(ends.as_bytes()))
}

fn call(sock: u64, space: u64, pid: u32, before: u64, bytes: u64, time: u64) -> Record {
    let flags = op_flag::SEQUENCED | if space == RECEIVE { op_flag::RECEIVE } else { 0 };
    record(wire::Op {
        key: Key { id: sock, space },
        before,
        receiver_inode: sock + 1,
        ..op(Mechanism::Tcp, 0, pid, flags, (time - 1, time), bytes)
    })
}

const LOOPBACK: [[u8; 4]; 2] = [[127, 0, 0, 1], [127, 0, 0, 1]];
const FAR: [[u8; 4]; 2] = [[10, 0, 0, 1], [10, 0, 0, 2]];

/// What comes of these records, and after them of the end.
fn correlate(records: Vec<Record>) -> Vec<Short> {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    records.into_iter().for_each(|record| correlator.push(record, &mut out));
    correlator.finish(1 << 40, &mut out);
    shorts(&out)
}

#[test]
fn halves_pair_in_either_order() {
    let sender = half(CLIENT, SEND, LOOPBACK, 1, u32::MAX - 2, 0, 1);
    let receiver = half(SERVER, RECEIVE, LOOPBACK, 1, u32::MAX - 2, 0, 1);
    for halves in [[sender.clone(), receiver.clone()], [receiver, sender]] {
        let mut records = halves.to_vec();
        records.push(call(CLIENT, SEND, 10, 0, 30, 5));
        records.push(call(SERVER, RECEIVE, 20, 0, 10, 6));
        records.push(call(SERVER, RECEIVE, 20, 10, 20, 7));
        assert_eq!(correlate(records), [(Ok(10), Ok(20), 10), (Ok(10), Ok(20), 20)]);
    }
}

#[test]
fn what_was_under_way_at_the_start_is_nobodys() {
    let sender = half(CLIENT, SEND, LOOPBACK, 1, 1100, 0, 1);
    // 40 of the 100 bytes have arrived.
    let receiver = half(SERVER, RECEIVE, LOOPBACK, 1, 1000, 40, 1);
    let early = call(SERVER, RECEIVE, 20, 0, 30, 5);
    let expected =
        [(Err(Why::BeforeStart), Ok(20), 30), (Err(Why::BeforeStart), Ok(20), 70), (Ok(10), Ok(20), 7)];
    for records in [
        [sender.clone(), receiver.clone(), early.clone()],
        [receiver.clone(), sender.clone(), early.clone()],
        [receiver, early, sender],
    ] {
        let mut records = records.to_vec();
        records.push(call(CLIENT, SEND, 10, 0, 7, 6));
        records.push(call(SERVER, RECEIVE, 20, 30, 77, 7));
        assert_eq!(correlate(records), expected);
    }
}

#[test]
fn a_sender_that_shows_late_has_only_what_it_sent_itself() {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    correlator.push(half(SERVER, RECEIVE, LOOPBACK, 1, 1000, 40, 1), &mut out);
    correlator.push(call(SERVER, RECEIVE, 20, 0, 30, 5), &mut out);
    assert_eq!(shorts(&out), []);
    correlator.tick(1 << 30, &mut out);
    assert_eq!(shorts(&out), [(Err(Why::BeforeStart), Ok(20), 30)]);
    // Of what was sent before its half was seen, 60 bytes were still to arrive.
    correlator.push(half(CLIENT, SEND, LOOPBACK, 1, 1100, 0, 1 << 30), &mut out);
    correlator.push(call(CLIENT, SEND, 10, 0, 7, (1 << 30) + 1), &mut out);
    correlator.push(call(SERVER, RECEIVE, 20, 30, 77, (1 << 30) + 2), &mut out);
    assert_eq!(shorts(&out)[1..], [(Err(Why::BeforeStart), Ok(20), 70), (Ok(10), Ok(20), 7)]);
}

#[test]
fn equal_loopback_addresses_in_two_places_are_two_connections() {
    let records = vec![
        half(CLIENT, SEND, LOOPBACK, 1, 1000, 0, 1),
        half(SERVER, RECEIVE, LOOPBACK, 2, 1000, 0, 1),
        call(CLIENT, SEND, 10, 0, 5, 3),
        call(SERVER, RECEIVE, 20, 0, 5, 4),
    ];
    assert_eq!(correlate(records), [(Ok(10), Err(Why::Unread), 5), (Err(Why::Lost), Ok(20), 5)]);
}

#[test]
fn between_namespaces_the_closest_numbers_decide() {
    let other = |record: Record, sock: u64| {
        let Record::Channel(mut fixed, name) = record else { return record };
        fixed.key.id = sock;
        fixed.receiver_inode = sock + 1;
        Record::Channel(fixed, name)
    };
    let records = vec![
        half(CLIENT, SEND, FAR, 1, 5_000_000, 0, 1),
        other(half(CLIENT, SEND, FAR, 3, 1000, 0, 1), 300),
        half(SERVER, RECEIVE, FAR, 2, 1000, 0, 2),
        call(CLIENT, SEND, 10, 0, 5, 3),
        call(300, SEND, 11, 0, 5, 3),
        call(SERVER, RECEIVE, 20, 0, 5, 4),
    ];
    assert_eq!(correlate(records), [(Ok(11), Ok(20), 5), (Ok(10), Err(Why::Unread), 5)]);
}

#[test]
fn an_end_on_another_host_has_its_address() {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    correlator.push(half(CLIENT, SEND, FAR, 1, 1000, 0, 5), &mut out);
    correlator.push(call(CLIENT, SEND, 10, 0, 5, 6), &mut out);
    correlator.push(half(CLIENT, RECEIVE, FAR, 1, 70, 0, 7), &mut out);
    correlator.push(call(CLIENT, RECEIVE, 10, 0, 9, 8), &mut out);
    assert!(correlator.wants_addresses() && out.is_empty());
    correlator.learn(HashSet::from([IpAddr::from([10, 0, 0, 1])]), (9, 10));
    correlator.tick(10, &mut out);
    let far = || Why::Remote("10.0.0.2:80".to_owned());
    assert_eq!(shorts(&out), [(Ok(10), Err(far()), 5), (Err(far()), Ok(10), 9)]);
    correlator.push(call(CLIENT, SEND, 10, 5, 6, 11), &mut out);
    assert_eq!(shorts(&out)[2..], [(Ok(10), Err(far()), 6)]);
}

#[test]
fn what_ended_while_addresses_were_gathered_was_here() {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    correlator.push(half(CLIENT, RECEIVE, FAR, 1, 1000, 0, 5), &mut out);
    assert!(correlator.wants_addresses());
    // The other end's namespace was gone when it would have been found, at 20.
    correlator.learn(HashSet::from([IpAddr::from([10, 0, 0, 1])]), (7, 30));
    correlator.tick(8, &mut out);
    correlator.push(half(SERVER, SEND, FAR, 2, 1000, 0, 10), &mut out);
    correlator.push(call(SERVER, SEND, 10, 0, 5, 11), &mut out);
    correlator.push(call(CLIENT, RECEIVE, 20, 0, 5, 15), &mut out);
    correlator.tick(40, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
}

#[test]
fn a_new_socket_at_an_old_address_is_another_connection() {
    let renewed = |record: Record| {
        let Record::Channel(mut fixed, name) = record else { return record };
        fixed.receiver_inode = 7;
        Record::Channel(fixed, name)
    };
    let records = vec![
        half(CLIENT, SEND, LOOPBACK, 1, 1000, 0, 1),
        half(SERVER, RECEIVE, LOOPBACK, 1, 1000, 0, 1),
        call(CLIENT, SEND, 10, 0, 5, 3),
        renewed(half(CLIENT, SEND, LOOPBACK, 1, 1000, 0, 4)),
        call(SERVER, RECEIVE, 20, 0, 5, 5),
    ];
    assert_eq!(correlate(records), [(Ok(10), Ok(20), 5)]);
}

#[test]
fn calls_may_be_told_of_before_their_half() {
    let records = vec![
        call(SERVER, RECEIVE, 20, 0, 2, 3),
        call(SERVER, RECEIVE, 21, 2, 3, 4),
        call(CLIENT, SEND, 10, 0, 5, 2),
        half(SERVER, RECEIVE, LOOPBACK, 1, 1000, 0, 1),
        half(CLIENT, SEND, LOOPBACK, 1, 1000, 0, 1),
    ];
    assert_eq!(correlate(records), [(Ok(10), Ok(20), 2), (Ok(10), Ok(21), 3)]);
    // One that is not told of at all.
    let records = vec![half(CLIENT, SEND, LOOPBACK, 1, 1000, 0, 1), call(SERVER, RECEIVE, 20, 0, 2, 3)];
    assert_eq!(correlate(records), [(Err(Why::Lost), Ok(20), 2)]);
}

#[test]
fn books_that_begin_anew_go_on_where_they_were() {
    let records = vec![
        half(CLIENT, SEND, LOOPBACK, 1, 1000, 0, 1),
        half(SERVER, RECEIVE, LOOPBACK, 1, 1000, 0, 1),
        call(CLIENT, SEND, 10, 0, 5, 3),
        half(CLIENT, SEND, LOOPBACK, 1, 1005, 0, 4),
        call(CLIENT, SEND, 11, 0, 6, 5),
        call(SERVER, RECEIVE, 20, 0, 11, 6),
    ];
    assert_eq!(correlate(records), [(Ok(10), Ok(20), 5), (Ok(11), Ok(20), 6)]);
}
