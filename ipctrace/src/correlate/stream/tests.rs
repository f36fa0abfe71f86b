use bytes::Bytes;
use ipctrace_common::wire::{self, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::correlate::testing::{
    changed, channel, correlate, key, op, record, short, shorts, stream, transfers,
};
use crate::correlate::{Correlator, Limits};
use crate::decode::Record;
use crate::model::{Event, Why};

const MS: u64 = 1_000_000;

fn unix(queued: u64) -> Record {
    channel(Mechanism::UnixStream, 1, queued, b"")
}

#[test]
fn each_byte_goes_to_its_writer_however_reads_cut() {
    let events = correlate([
        unix(0),
        stream(1, 10, false, (1, 2), 0, 5),
        stream(1, 11, false, (3, 4), 5, 5),
        stream(1, 20, true, (5, 6), 0, 3),
        stream(1, 20, true, (7, 8), 3, 7),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 3), (Ok(10), Ok(20), 2), (Ok(11), Ok(20), 5)]);
    assert!(transfers(&events).iter().all(|transfer| transfer.exact));
    assert_eq!(transfers(&events)[1].latency, Some(6));
}

#[test]
fn a_run_of_sends_is_one_transfer_that_counts_them() {
    let sends = (0..4).map(|n| stream(1, 10, false, (n, n), n * 3, 3));
    let events = correlate([unix(0)].into_iter().chain(sends).chain([stream(1, 20, true, (8, 9), 0, 10)]));
    let all = transfers(&events);
    assert_eq!((short(all[0]), all[0].messages), ((Ok(10), Ok(20), 10), 4));
    assert_eq!(short(all[1]), (Ok(10), Err(Why::Unread), 2));
}

#[test]
fn the_receive_may_come_before_the_send_and_sends_in_any_order() {
    let events = correlate([
        unix(0),
        stream(1, 20, true, (1, 9), 0, 10),
        stream(1, 10, false, (6, 7), 5, 5),
        stream(1, 10, false, (2, 3), 0, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 10)]);
    assert_eq!(transfers(&events)[0].latency, Some(2));
}

#[test]
fn what_was_queued_before_the_start_has_no_sender() {
    let events = correlate([unix(4), stream(1, 10, false, (1, 2), 0, 5), stream(1, 20, true, (3, 4), 0, 6)]);
    assert_eq!(
        shorts(&events),
        [(Err(Why::BeforeStart), Ok(20), 4), (Ok(10), Ok(20), 2), (Ok(10), Err(Why::Unread), 3)]
    );
}

#[test]
fn overlapping_senders_without_positions_are_in_doubt_and_no_others() {
    let events = correlate([
        unix(0),
        stream(1, 10, false, (1, 5), 0, 4),
        stream(1, 11, false, (2, 6), 4, 4),
        stream(1, 10, false, (7, 8), 8, 4),
        stream(1, 20, true, (9, 10), 0, 12),
    ]);
    let exact: Vec<bool> = transfers(&events).iter().map(|transfer| transfer.exact).collect();
    assert_eq!(exact, [false, false, true]);
}

#[test]
fn a_receive_waits_for_a_long_write_however_long_it_takes() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(unix(0), &mut out);
    for n in 0..100 {
        correlator.push(stream(1, 20, true, (n, n + 1), n * 10, 10), &mut out);
        correlator.tick(n * 1000 * MS, &mut out);
    }
    assert_eq!(out, []);
    correlator.push(stream(1, 10, false, (0, 100_000 * MS), 0, 1000), &mut out);
    assert_eq!(out.len(), 100);
    assert!(shorts(&out).iter().all(|short| *short == (Ok(10), Ok(20), 10)));
}

#[test]
fn a_gap_is_lost_and_what_is_behind_it_is_right() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(unix(0), &mut out);
    correlator.push(stream(1, 10, false, (1, 2), 0, 5), &mut out);
    correlator.push(stream(1, 10, false, (5, 6), 12, 5), &mut out);
    correlator.push(stream(1, 20, true, (7, 8), 0, 5), &mut out);
    correlator.push(stream(1, 20, true, (9, 10), 5, 12), &mut out);
    correlator.lost(20 * MS, Cause::RingFull, 1, &mut out);
    correlator.tick(300 * MS, &mut out);
    let lost = out.iter().filter(|event| matches!(event, Event::Lost(_))).count();
    assert_eq!(lost, 1);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5), (Err(Why::Lost), Ok(20), 7), (Ok(10), Ok(20), 5)]);
}

#[test]
fn room_that_was_needed_once_is_given_back() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(unix(0), &mut out);
    for n in 0..300 {
        correlator.push(stream(1, 10, false, (n, n), n, 1), &mut out);
    }
    correlator.push(stream(1, 20, true, (300, 301), 0, 300), &mut out);
    let room = |correlator: &Correlator| {
        correlator.streams.values().map(|stream| stream.ranges.room()).sum::<usize>()
    };
    correlator.tick(2 * MS, &mut out);
    assert!(room(&correlator) >= 300, "it may be needed again");
    correlator.tick(500 * MS, &mut out);
    assert_eq!((room(&correlator), out.len()), (0, 1));
}

#[test]
fn what_a_lost_receive_may_have_taken_is_not_certainly_unread() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(unix(0), &mut out);
    correlator.push(stream(1, 10, false, (1, 2), 0, 5), &mut out);
    correlator.lost(20 * MS, Cause::Recursion, 1, &mut out);
    correlator.push(stream(1, 11, false, (21 * MS, 22 * MS), 5, 3), &mut out);
    correlator.finish(30 * MS, &mut out);
    let unread: Vec<_> = transfers(&out).iter().map(|left| (short(left), left.exact)).collect();
    let nobody = || Err(Why::Unread);
    assert_eq!(unread, [((Ok(10), nobody(), 5), false), ((Ok(11), nobody(), 3), true)]);
}

#[test]
fn a_send_whose_record_is_lost_at_the_end_lets_its_receive_go() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(unix(0), &mut out);
    correlator.push(stream(1, 20, true, (1, 2), 0, 5), &mut out);
    correlator.lost(3, Cause::RingFull, 1, &mut out);
    correlator.tick(300 * MS, &mut out);
    // The next send shows the gap; what is in it has been accounted for.
    correlator.push(stream(1, 10, false, (400 * MS, 401 * MS), 5, 3), &mut out);
    correlator.push(stream(1, 20, true, (402 * MS, 403 * MS), 5, 3), &mut out);
    correlator.tick(700 * MS, &mut out);
    assert_eq!(shorts(&out), [(Err(Why::Lost), Ok(20), 5), (Ok(10), Ok(20), 3)]);
}

/// A record with these inodes.
fn with(record: Record, sender_inode: u64, receiver_inode: u64) -> Record {
    if let Record::Channel(channel, name) = record {
        return Record::Channel(wire::Channel { sender_inode, receiver_inode, ..channel }, name);
    }
    changed(record, |op| (op.sender_inode, op.receiver_inode) = (sender_inode, receiver_inode))
}

#[test]
fn a_socket_at_an_address_used_again_is_another() {
    let events = correlate([
        with(unix(0), 50, 0),
        with(stream(1, 10, false, (1, 2), 0, 5), 50, 0),
        with(stream(1, 20, true, (3, 4), 0, 2), 50, 60),
        with(unix(0), 51, 61),
        with(stream(1, 11, false, (5, 6), 0, 4), 51, 61),
        with(stream(1, 21, true, (7, 8), 0, 4), 51, 61),
    ]);
    let channels: Vec<&str> =
        transfers(&events).iter().map(|transfer| transfer.channel.id.as_str()).collect();
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 2), (Ok(10), Err(Why::Unread), 3), (Ok(11), Ok(21), 4)]);
    let (old, new) = ("socket:[50]->socket:[60]", "socket:[51]->socket:[61]");
    assert_eq!(channels, [old, old, new]);
}

#[test]
fn a_socket_that_was_accepted_meanwhile_is_the_same() {
    // The sender looked before, and its call ends last.
    let receive = with(stream(1, 20, true, (3, 4), 0, 5), 50, 60);
    assert_eq!(
        shorts(&correlate([unix(0), receive, with(stream(1, 10, false, (1, 5), 0, 5), 50, 0)])),
        [(Ok(10), Ok(20), 5)]
    );
}

#[test]
fn what_nobody_accepted_is_not_what_the_next_at_that_address_gets() {
    let events = correlate([
        with(unix(0), 50, 0),
        with(stream(1, 10, false, (1, 2), 0, 5), 50, 0),
        with(unix(0), 51, 0),
        with(stream(1, 11, false, (3, 4), 0, 5), 51, 0),
        // Its sender is closed.
        with(stream(1, 20, true, (5, 6), 0, 5), 0, 60),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Err(Why::Unread), 5), (Ok(11), Ok(20), 5)]);
}

#[test]
fn the_kernel_is_right_when_its_books_begin_again() {
    let books = |queued, sends: u64| {
        correlate([
            unix(0),
            stream(1, 10, false, (1, 2), 0, sends),
            unix(queued),
            stream(1, 10, false, (5, 6), 0, 3),
            stream(1, 20, true, (7, 8), 0, queued + 3),
        ])
    };
    let more = shorts(&books(6, 4));
    assert_eq!(more, [(Ok(10), Ok(20), 4), (Err(Why::Lost), Ok(20), 2), (Ok(10), Ok(20), 3)]);
    let fewer = shorts(&books(1, 4));
    assert_eq!(fewer, [(Ok(10), Err(Why::Lost), 3), (Ok(10), Ok(20), 4)]);
}

fn paged(pid: u32, receive: bool, when: (u64, u64), before: u64, span: (u64, u64), bytes: u64) -> Record {
    let flags = op_flag::SEQUENCED | op_flag::POSITIONS | if receive { op_flag::RECEIVE } else { 0 };
    let fixed = op(Mechanism::Fifo, 1, pid, flags, when, bytes);
    record(wire::Op { before, pos_enter: span.0, pos_exit: span.1, ..fixed })
}

#[test]
fn a_fifo_begins_anew_when_all_have_closed_it() {
    let at = |head: u64, end: u64| head << 32 | end;
    let events = correlate([
        channel(Mechanism::Fifo, 1, 0, b"/tmp/fifo\0"),
        paged(10, false, (1, 2), 0, (0, at(1, 5)), 5),
        paged(20, true, (3, 4), 0, (0, at(0, 2)), 2),
        paged(11, false, (5, 6), 5, (0, at(1, 9)), 9),
        paged(21, true, (7, 8), 2, (0, at(1, 0)), 9),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 2), (Ok(10), Err(Why::Unread), 3), (Ok(11), Ok(21), 9)]);
    assert!(transfers(&events).iter().all(|transfer| transfer.exact));
    assert_eq!(transfers(&events)[0].channel.name.as_deref(), Some(&b"/tmp/fifo"[..]));
}

#[test]
fn the_payload_is_that_of_the_first_byte() {
    let send = |before, text: &'static [u8]| {
        let Record::Op(mut op) = stream(1, 10, false, (1, 2), before, text.len() as u64) else {
            unreachable!()
        };
        op.payload = Bytes::from_static(text);
        Record::Op(op)
    };
    let events = correlate([
        unix(0),
        send(0, b"hello "),
        stream(1, 20, true, (3, 4), 0, 2),
        send(6, b"world"),
        stream(1, 20, true, (5, 6), 2, 9),
    ]);
    let payloads: Vec<_> = transfers(&events).iter().map(|transfer| transfer.payload.as_deref()).collect();
    assert_eq!(payloads, [Some(&b"he"[..]), Some(&b"llo "[..])]);
}

#[test]
fn memory_is_bounded_and_what_is_forgotten_is_counted() {
    let limits = Limits { streams: 16, ranges: 8, messages: 8, signals: 8, processes: 8 };
    let (mut correlator, mut out) = (Correlator::new(limits), Vec::new());
    for id in 0..100 {
        correlator.push(channel(Mechanism::UnixStream, id, 0, b""), &mut out);
        correlator.push(stream(id, 10, false, (id, id), 0, 5), &mut out);
    }
    assert!(correlator.streams.len() <= 16);
    assert!(correlator.evicted() > 80);
    let forgotten = correlator.take_forgotten();
    assert!(forgotten.contains(&key(0)) && !forgotten.contains(&key(99)));
    for n in 0..100 {
        correlator.push(stream(99, 10, false, (n, n), 5 + n, 1), &mut out);
    }
    correlator.finish(1000, &mut out);
    let sent: u64 = transfers(&out).iter().map(|transfer| transfer.bytes).sum();
    assert_eq!(sent, 100 * 5 + 100, "what is pushed out is written");
}

/// A pipe that was in use when it was first seen, page 8 being the next to be read and the next to be written.
fn midway(queued: u64) -> Record {
    let Record::Channel(mut fixed, name) = channel(Mechanism::Pipe, 1, queued, b"") else { unreachable!() };
    (fixed.read_pos, fixed.write_pos) = (at(8, 0), at(8 + queued.div_ceil(4096), 4096));
    Record::Channel(fixed, name)
}

fn at(page: u64, byte: u64) -> u64 {
    page << 32 | byte
}

/// The `n`th write of a page from page `first` on, and the read of the `n`th.
fn pages(n: u64, first: u64, pages_read: u64) -> [Record; 2] {
    let (head, tail) = (first + n, pages_read + n);
    let when = (n * 10 * MS, n * 10 * MS + 1);
    [
        paged(10, false, when, n * 4096, (at(head, 4096), at(head + 1, 4096)), 4096),
        paged(20, true, (when.0 + 2, when.1 + 2), n * 4096, (at(tail, 0), at(tail + 1, 0)), 4096),
    ]
}

#[test]
fn a_position_of_which_only_the_page_is_known_delays_nothing() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(midway(0), &mut out);
    for n in 0..50 {
        // The buffer was just read to its end, and not yet counted as read, when the next write began.
        let low = if n % 3 == 2 { at(8 + n, 0) } else { at(8 + n, if n == 0 { 4096 } else { 64 }) };
        let when = (n * 10, n * 10 + 1);
        correlator.push(paged(10, false, when, n * 64, (low, at(9 + n, 64)), 64), &mut out);
        let when = (when.0 + 2, when.1 + 2);
        correlator.push(paged(20, true, when, n * 64, (at(8 + n, 0), at(9 + n, 0)), 64), &mut out);
        assert_eq!(out.len() as u64, n + 1);
    }
    let all = transfers(&out);
    assert!(all.iter().all(|transfer| transfer.exact && short(transfer) == (Ok(10), Ok(20), 64)));
}

/// A reader had moved the start of the buffer, and not yet taken what it took off its length, when the write ended.
#[test]
fn an_end_that_was_seen_too_high_is_a_bound() {
    let rough = |span: (u64, u64)| (span.0, span.1 | wire::ROUGH);
    let writes = [(at(9, 64), at(9, 192)), (at(9, 128), at(9, 256)), (at(9, 192), at(10, 64))];
    let mut records = vec![midway(0), paged(10, false, (0, 1), 0, (at(8, 4096), at(9, 64)), 64)];
    for (n, span) in (1..).zip(writes) {
        records.push(paged(10, false, (n * 10, n * 10 + 1), n * 64, rough(span), 64));
    }
    records.push(paged(20, true, (50, 51), 0, (at(8, 0), at(8, 192)), 192));
    records.push(paged(20, true, (60, 61), 192, (at(8, 192), at(10, 0)), 64));
    let events = correlate(records);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 192), (Ok(10), Ok(20), 64)]);
    assert!(transfers(&events).iter().all(|transfer| transfer.exact), "{events:?}");
}

#[test]
fn a_receive_before_the_books_is_told_of_once_and_the_rest_is_exact() {
    // Page 8 was queued, and taken by a call that was under way when the books were opened and is not in them.
    let events = correlate([midway(4096)].into_iter().chain((0..50).flat_map(|n| pages(n, 9, 9))));
    let all = transfers(&events);
    assert_eq!(short(all[0]), (Err(Why::BeforeStart), Err(Why::Lost), 4096));
    assert_eq!(all.len(), 51);
    assert!(all[1..].iter().all(|transfer| transfer.exact && short(transfer) == (Ok(10), Ok(20), 4096)));
}

#[test]
fn a_send_before_the_books_is_told_of_once_and_the_rest_is_exact() {
    // Page 8 was put in by a call that was under way when the books were opened and is not in them.
    let first = paged(20, true, (0, 1), 0, (at(8, 0), at(9, 0)), 4096);
    let rest = (0..50).map(|n| {
        let when = (n * 10 * MS, n * 10 * MS + 1);
        let write = paged(10, false, when, n * 4096, (at(9 + n, 4096), at(10 + n, 4096)), 4096);
        let when = (when.0 + 2, when.1 + 2);
        [write, paged(20, true, when, (n + 1) * 4096, (at(9 + n, 0), at(10 + n, 0)), 4096)]
    });
    let events = correlate([midway(0), first].into_iter().chain(rest.flatten()));
    let all = transfers(&events);
    // Where the first send that is known stands cannot be known: it is in doubt with the one that is not.
    let unknown = all.iter().filter(|transfer| short(transfer) == (Err(Why::Lost), Ok(20), 4096)).count();
    assert_eq!((unknown, all.len()), (1, 51));
    let doubtful: Vec<bool> = all.iter().map(|transfer| !transfer.exact).collect();
    assert_eq!((&doubtful[..2], doubtful[2..].contains(&true)), (&[true, true][..], false));
}
