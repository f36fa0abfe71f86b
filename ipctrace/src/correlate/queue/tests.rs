use std::ops::Range;

use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, channel_flag, op_flag};

use crate::correlate::testing::{changed, channel, correlate, key, op, record, shorts, transfers};
use crate::correlate::{Correlator, Home, Limits};
use crate::decode::Record;
use crate::model::{Event, Why};

const MQ: Mechanism = Mechanism::PosixMq;
const MSG: Mechanism = Mechanism::SysvMsg;
/// IPC namespace and name of a POSIX queue.
const JOBS: &[u8] = b"\x09\0\0\0jobs";
const MS: u64 = 1_000_000;

/// `pid` sends a message with that priority or type and digest.
fn send(mechanism: Mechanism, pid: u32, when: Range<u64>, detail: i64, digest: u64) -> Record {
    record(wire::Op { detail, digest, ..op(mechanism, 1, pid, 0, (when.start, when.end), 5) })
}

/// `pid` takes it.
fn receive(mechanism: Mechanism, pid: u32, when: Range<u64>, detail: i64, digest: u64) -> Record {
    let flags = op_flag::RECEIVE;
    record(wire::Op { detail, digest, ..op(mechanism, 1, pid, flags, (when.start, when.end), 5) })
}

/// It was there before.
fn found(mechanism: Mechanism, time: u64, detail: i64, digest: u64) -> Record {
    record(wire::Op { detail, digest, ..op(mechanism, 1, 0, op_flag::FOUND, (0, time), 5) })
}

fn removed(time: u64) -> Record {
    let Record::Channel(mut removed, name) = channel(MSG, 1, 0, b"") else { panic!("a channel") };
    (removed.header.time, removed.header.flags) = (time, channel_flag::REMOVED);
    Record::Channel(removed, name)
}

fn exact(events: &[Event]) -> Vec<bool> {
    transfers(events).iter().map(|transfer| transfer.exact).collect()
}

#[test]
fn what_is_received_waits_for_the_name_of_its_queue() {
    let events = correlate([
        send(MQ, 10, 1..2, 1, 7),
        receive(MQ, 20, 3..4, 1, 7),
        channel(MQ, 1, 0, JOBS),
        send(MQ, 10, 5..6, 1, 7),
        receive(MQ, 20, 7..8, 1, 7),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(10), Ok(20), 5)]);
    let transfers = transfers(&events);
    assert!(transfers.iter().all(|transfer| transfer.channel.name.as_deref() == Some(b"/jobs")));
}

#[test]
fn what_is_received_does_not_wait_for_ever_for_the_name_of_its_queue() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(send(MQ, 10, 1..2, 1, 7), &mut out);
    correlator.push(receive(MQ, 20, 3..4, 1, 7), &mut out);
    correlator.tick(100 * MS, &mut out);
    assert_eq!(shorts(&out), []);
    correlator.tick(300 * MS, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
}

#[test]
fn the_message_taken_is_the_first_of_its_priority() {
    let events = correlate([
        channel(MQ, 1, 0, JOBS),
        send(MQ, 10, 1..2, 1, 7),
        send(MQ, 11, 3..4, 9, 7),
        send(MQ, 12, 5..6, 9, 7),
        receive(MQ, 20, 7..8, 9, 7),
        // The priority was not asked for.
        receive(MQ, 20, 9..10, -1, 7),
        receive(MQ, 20, 11..12, 1, 7),
    ]);
    assert_eq!(shorts(&events), [(Ok(11), Ok(20), 5), (Ok(12), Ok(20), 5), (Ok(10), Ok(20), 5)]);
    assert!(exact(&events).into_iter().all(|exact| exact));
    let last = transfers(&events)[1];
    assert_eq!((last.priority, last.msg_type, last.latency), (Some(9), None, Some(4)));
    assert_eq!(
        (last.channel.id.as_str(), last.channel.name.as_deref()),
        ("posix_mq:/jobs", Some(&b"/jobs"[..]))
    );
}

#[test]
fn a_receive_waits_for_those_that_took_the_same_and_for_no_others() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    let mut push = |record| {
        correlator.push(record, &mut out);
        out.len()
    };
    push(channel(MSG, 1, 0, &[0; 4]));
    // Its send is still on its way.
    assert_eq!(push(receive(MSG, 20, 3..4, 1, 7)), 0);
    // Another kind: nothing to wait for.
    assert_eq!(push(send(MSG, 10, 5..6, 2, 7)), 0);
    assert_eq!(push(receive(MSG, 20, 7..8, 2, 7)), 1);
    // The same kind: who waits has the first.
    assert_eq!(push(send(MSG, 10, 9..10, 1, 7)), 1);
    assert_eq!(push(receive(MSG, 21, 11..12, 1, 7)), 1);
    assert_eq!(push(send(MSG, 10, 1..2, 1, 7)), 2);
    correlator.tick(13, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5), (Ok(10), Ok(20), 5), (Ok(10), Ok(21), 5)]);
}

#[test]
fn contents_tell_messages_apart() {
    let events = correlate([
        channel(MSG, 1, 0, &0x4d2_i32.to_ne_bytes()),
        send(MSG, 10, 1..9, 3, 5),
        send(MSG, 11, 1..9, 3, 6),
        receive(MSG, 20, 10..11, 3, 6),
        receive(MSG, 20, 12..13, 3, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(11), Ok(20), 5), (Ok(10), Ok(20), 5)]);
    assert_eq!(exact(&events), [true, true]);
    let first = transfers(&events)[0];
    assert_eq!((first.priority, first.msg_type), (None, Some(3)));
    assert_eq!(
        (first.channel.id.as_str(), first.channel.name.as_deref()),
        ("sysv_msg:1", Some(&b"0x4d2"[..]))
    );
}

#[test]
fn equal_messages_of_two_at_once_are_in_doubt() {
    let both = [send(MSG, 10, 1..9, 3, 5), send(MSG, 11, 1..9, 3, 5)];
    let takes = [receive(MSG, 20, 10..11, 3, 5), receive(MSG, 20, 12..13, 3, 5)];
    let events = correlate(both.into_iter().chain(takes));
    // Which of two was first is open, and with it which is left.
    assert_eq!(exact(&events), [false, false]);
    let one_by_one = [send(MSG, 10, 1..4, 3, 5), send(MSG, 11, 5..9, 3, 5)];
    let at_once = [receive(MSG, 20, 10..13, 3, 5), receive(MSG, 21, 11..14, 3, 5)];
    let events = correlate(one_by_one.into_iter().chain(at_once));
    assert_eq!(transfers(&events).len(), 2);
}

/// The same as seen at the object, where the message has a number.
fn numbered(record: Record, number: u64) -> Record {
    let Record::Op(mut op) = record else { panic!("a send or a receive") };
    op.fixed.header.flags |= op_flag::FROM;
    op.fixed.sender_sock = number;
    op.fixed.digest = 0;
    Record::Op(op)
}

#[test]
fn a_message_with_a_number_is_that_one_whatever_it_is_like() {
    let events = correlate([
        channel(MSG, 1, 0, b""),
        numbered(send(MSG, 10, 1..9, 3, 5), 101),
        numbered(send(MSG, 11, 1..9, 3, 5), 102),
        numbered(send(MSG, 12, 1..9, 3, 5), 103),
        numbered(receive(MSG, 20, 2..11, 3, 5), 102),
        numbered(receive(MSG, 21, 2..11, 3, 5), 101),
    ]);
    let expected = [(Ok(11), Ok(20), 5), (Ok(10), Ok(21), 5), (Ok(12), Err(Why::Unread), 5)];
    assert_eq!(shorts(&events), expected);
    assert!(exact(&events).into_iter().all(|exact| exact));
    assert_eq!(transfers(&events)[0].latency, Some(2));
}

#[test]
fn a_receive_waits_for_the_message_with_its_number_alone() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MQ, 1, u64::MAX, b"jobs"), &mut out);
    correlator.push(numbered(receive(MQ, 20, 1..8, 1, 5), 101), &mut out);
    correlator.push(numbered(send(MQ, 10, 2..3, 1, 5), 100), &mut out);
    correlator.push(send(MQ, 11, 4..5, 1, 5), &mut out);
    correlator.tick(10_000 * MS, &mut out);
    assert_eq!(out, []);
    correlator.push(numbered(send(MQ, 12, 3..9, 1, 5), 101), &mut out);
    assert_eq!(shorts(&out), [(Ok(12), Ok(20), 5)]);
    // Without its send it is lost, not from before: then it would have been found.
    correlator.push(numbered(receive(MQ, 20, 11..12, 1, 5), 102), &mut out);
    correlator.lost(13, ipctrace_common::Cause::RingFull, 1, &mut out);
    correlator.tick(11_000 * MS, &mut out);
    assert_eq!(shorts(&out)[1..], [(Err(Why::Lost), Ok(20), 5)]);
}

#[test]
fn what_was_found_has_a_number_too() {
    let events = correlate([
        channel(MQ, 1, 2, b"jobs"),
        numbered(found(MQ, 1, 9, 5), 101),
        numbered(found(MQ, 1, 9, 5), 102),
        // Found while it was being sent.
        numbered(send(MQ, 10, 0..2, 9, 5), 102),
        numbered(receive(MQ, 20, 3..4, 9, 5), 102),
        numbered(receive(MQ, 21, 5..6, 9, 5), 101),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Err(Why::BeforeStart), Ok(21), 5)]);
    // Taken by a call that saw it before it was found.
    let events = correlate([
        channel(MQ, 1, 1, b"jobs"),
        numbered(found(MQ, 1, 9, 5), 101),
        receive(MQ, 20, 0..4, 9, 0),
    ]);
    assert_eq!(shorts(&events), [(Err(Why::BeforeStart), Ok(20), 5)]);
}

#[test]
fn calls_that_began_before_the_hooks_are_matched_by_what_is_known() {
    let events = correlate([
        channel(MSG, 1, 0, b""),
        // Blocked since before: its message was made then.
        send(MSG, 10, 0..5, 3, 0),
        numbered(send(MSG, 11, 2..4, 3, 0), 101),
        receive(MSG, 20, 6..7, 3, 0),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(11), Err(Why::Unread), 5)]);
}

#[test]
fn a_content_that_could_not_be_read_tells_no_senders_apart() {
    let events = correlate([
        send(MSG, 10, 1..2, 3, 5),
        send(MSG, 11, 3..4, 3, 6),
        receive(MSG, 20, 5..6, 3, 0),
        receive(MSG, 20, 7..8, 3, 0),
    ]);
    // With one left there is no doubt.
    assert_eq!(exact(&events), [false, true]);
}

#[test]
fn what_was_there_before_comes_first() {
    let events = correlate([
        channel(MQ, 1, 2, JOBS),
        found(MQ, 1, 9, 5),
        found(MQ, 2, 1, 5),
        send(MQ, 10, 3..4, 9, 5),
        receive(MQ, 20, 5..6, 9, 5),
        receive(MQ, 20, 7..8, 9, 5),
        receive(MQ, 20, 9..10, 1, 5),
    ]);
    let before = Err(Why::BeforeStart);
    assert_eq!(shorts(&events), [(before.clone(), Ok(20), 5), (Ok(10), Ok(20), 5), (before, Ok(20), 5)]);
    assert_eq!(transfers(&events)[0].latency, None);
}

#[test]
fn a_message_found_while_it_is_sent_is_one() {
    for [first, second] in
        [[found(MQ, 5, 1, 5), send(MQ, 10, 3..6, 1, 5)], [send(MQ, 10, 3..6, 1, 5), found(MQ, 5, 1, 5)]]
    {
        let events = correlate([channel(MQ, 1, 1, JOBS), first, second, receive(MQ, 20, 7..8, 1, 5)]);
        assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5)]);
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let flags = op_flag::RECEIVE | op_flag::CUT;
    let cut = wire::Op { detail: 3, digest: 6 << 48, ..op(MSG, 1, 20, flags, (3, 4), 8) };
    let sent = wire::Op { detail: 3, digest: 6 << 48 | 99, ..op(MSG, 1, 10, 0, (1, 2), 100) };
    let other = wire::Op { detail: 3, digest: 5 << 48 | 99, ..op(MSG, 1, 11, 0, (0, 1), 100) };
    let events = correlate([other, sent, cut].map(record));
    let expected = [(Ok(10), Ok(20), 8), (Ok(10), Err(Why::Unread), 92), (Ok(11), Err(Why::Unread), 100)];
    assert_eq!(shorts(&events), expected);
    assert!(transfers(&events)[1].truncated && !transfers(&events)[2].truncated);
}

#[test]
fn a_receive_waits_for_its_send() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MQ, 1, 0, JOBS), &mut out);
    correlator.push(receive(MQ, 20, 1..8, 1, 5), &mut out);
    // Nothing was in the queue, nothing is lost: it will come.
    correlator.tick(10_000 * MS, &mut out);
    assert_eq!(out, []);
    correlator.push(send(MQ, 10, 6..9, 1, 5), &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
    assert_eq!(transfers(&out)[0].latency, Some(0));
}

#[test]
fn without_a_send_it_is_from_before_the_start_or_lost() {
    for (queued, loss, why) in
        [(u64::MAX, 0, Why::BeforeStart), (1, 0, Why::BeforeStart), (1, 1, Why::Lost), (0, 1, Why::Lost)]
    {
        let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
        correlator.push(channel(MQ, 1, queued, JOBS), &mut out);
        correlator.push(receive(MQ, 20, 1..8, 1, 5), &mut out);
        correlator.lost(9, ipctrace_common::Cause::RingFull, loss, &mut out);
        correlator.tick(100 * MS, &mut out);
        assert_eq!(shorts(&out), []);
        correlator.tick(300 * MS, &mut out);
        assert_eq!(shorts(&out), [(Err(why), Ok(20), 5)], "{queued} {loss}");
    }
}

#[test]
fn what_is_being_sent_at_the_end_of_a_receive_is_waited_for() {
    // It may have been first in the queue, and its call be held up.
    for (content, certain) in [(5, false), (6, true)] {
        let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
        let counted = changed(receive(MQ, 20, 3 * MS..4 * MS, 1, 5), |op| {
            (op.pos_enter, op.pos_locked) = (1, 4 * MS);
        });
        for record in [channel(MQ, 1, 0, JOBS), send(MQ, 10, MS..2 * MS, 1, 5), counted] {
            correlator.push(record, &mut out);
        }
        correlator.tick(100 * MS, &mut out);
        assert_eq!(shorts(&out), []);
        correlator.push(send(MQ, 11, MS..110 * MS, 1, content), &mut out);
        correlator.tick(120 * MS, &mut out);
        assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
        assert_eq!(exact(&out), [certain]);
    }
}

#[test]
fn what_is_being_sent_for_long_is_not_in_the_queue_yet() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    let counted = changed(receive(MQ, 20, 3..4, 1, 5), |op| (op.pos_enter, op.pos_locked) = (1, 4));
    for record in [channel(MQ, 1, 0, JOBS), send(MQ, 10, 1..2, 1, 5), counted] {
        correlator.push(record, &mut out);
    }
    correlator.tick(100 * MS, &mut out);
    assert_eq!(shorts(&out), []);
    correlator.tick(300 * MS, &mut out);
    assert_eq!((shorts(&out), exact(&out)), (vec![(Ok(10), Ok(20), 5)], vec![true]));
}

#[test]
fn which_of_equal_messages_it_was_is_in_doubt_while_another_receives() {
    for flags in [0, op_flag::OVERLAPS] {
        let events = correlate([
            channel(MQ, 1, 0, JOBS),
            send(MQ, 10, 1..2, 1, 5),
            send(MQ, 11, 3..4, 1, 5),
            changed(receive(MQ, 20, 5..6, 1, 5), |op| op.header.flags |= flags),
        ]);
        assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(11), Err(Why::Unread), 5)]);
        assert_eq!(exact(&events), [flags == 0; 2]);
    }
}

#[test]
fn a_receive_may_have_taken_what_another_was_given_meanwhile() {
    // The first waits, and is handed what is sent first, but is slow to end.
    for (content, certain) in [(5, false), (6, true)] {
        let events = correlate([
            channel(MQ, 1, 0, JOBS),
            send(MQ, 10, 2..3, 1, content),
            send(MQ, 11, 3..4, 1, 5),
            send(MQ, 11, 4..5, 1, 5),
            changed(receive(MQ, 21, 5..6, 1, content), |op| op.header.flags |= op_flag::OVERLAPS),
            changed(receive(MQ, 21, 6..7, 1, 5), |op| op.header.flags |= op_flag::OVERLAPS),
            changed(receive(MQ, 20, 1..8, 1, 5), |op| op.header.flags |= op_flag::OVERLAPS),
        ]);
        let told = [(Ok(10), Ok(21), 5), (Ok(11), Ok(21), 5), (Ok(11), Ok(20), 5)];
        assert_eq!(shorts(&events), told);
        assert_eq!(exact(&events), [certain, certain, certain]);
    }
}

#[test]
fn what_another_was_given_meanwhile_is_found_where_not_all_is_known_of_what_was_taken() {
    let cut = |op: &mut wire::Op| op.header.flags |= op_flag::CUT;
    let unread = |op: &mut wire::Op| op.digest = 0;
    let unasked = |op: &mut wire::Op| op.detail = -1;
    type Change = fn(&mut wire::Op);
    for (content, certain) in [(5, false), (6, true)] {
        let changes: [(Change, bool); 3] = [(unasked, certain), (cut, false), (unread, false)];
        for (change, certain) in changes {
            let last = changed(receive(MQ, 20, 1..8, 1, 5), |op| op.header.flags |= op_flag::OVERLAPS);
            let events = correlate([
                channel(MQ, 1, 0, JOBS),
                send(MQ, 10, 2..3, 1, content),
                send(MQ, 11, 3..4, 1, 5),
                changed(receive(MQ, 21, 5..6, 1, content), |op| op.header.flags |= op_flag::OVERLAPS),
                changed(last, change),
            ]);
            assert_eq!(shorts(&events), [(Ok(10), Ok(21), 5), (Ok(11), Ok(20), 5)]);
            assert_eq!(exact(&events)[1], certain);
        }
    }
}

#[test]
fn where_a_receive_was_lost_each_equal_message_behind_it_is_in_doubt() {
    let after = |processes: [u32; 3]| {
        let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
        correlator.push(channel(MQ, 1, 0, JOBS), &mut out);
        // It is taken, but not told of.
        correlator.push(send(MQ, processes[0], 1..2, 1, 5), &mut out);
        correlator.lost(3, ipctrace_common::Cause::RingFull, 1, &mut out);
        for record in [
            send(MQ, processes[1], 4..5, 1, 5),
            send(MQ, processes[2], 5..6, 1, 5),
            receive(MQ, 20, 7..8, 1, 5),
            receive(MQ, 20, 8..9, 1, 5),
            send(MQ, processes[2], 10..11, 1, 5),
            receive(MQ, 20, 12..13, 1, 5),
        ] {
            correlator.push(record, &mut out);
        }
        correlator.finish(20, &mut out);
        exact(&out)[..3].to_vec()
    };
    assert_eq!(after([10, 11, 12]), [false, false, false]);
    assert_eq!(after([10, 10, 12]), [false, false, false]);
}

#[test]
fn where_records_were_lost_what_was_sent_before_may_be_gone() {
    let lost = |records: [Record; 2], last: Record| {
        let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
        correlator.push(channel(MQ, 1, 0, JOBS), &mut out);
        for record in records {
            correlator.push(record, &mut out);
        }
        // Its receive, and the send of an equal one by another.
        correlator.lost(3, ipctrace_common::Cause::RingFull, 2, &mut out);
        correlator.push(last, &mut out);
        correlator.finish(9, &mut out);
        let exact = exact(&out);
        shorts(&out).into_iter().zip(exact).collect::<Vec<_>>()
    };
    let sent = || [send(MQ, 10, 1..2, 1, 5), send(MQ, 10, 1..2, 2, 6)];
    let told = |exact| [((Ok(10), Ok(20), 5), exact), ((Ok(10), Err(Why::Unread), 5), false)];
    assert_eq!(lost(sent(), receive(MQ, 20, 7..8, 1, 5)), told(false));
    // A number tells that it is the very message.
    let [first, second] = sent();
    let sent = [numbered(first, 7), numbered(second, 8)];
    assert_eq!(lost(sent, numbered(receive(MQ, 20, 7..8, 1, 5), 7)), told(true));
    // Where all are alike one process has sent them all.
    let sent_alike = || [send(MQ, 10, 1..2, 1, 0), send(MQ, 10, 2..3, 1, 0)];
    let alike = |record| changed(record, |op| op.header.flags |= op_flag::ALIKE);
    let [first, second] = sent_alike().map(alike);
    assert_eq!(lost([first, second], alike(receive(MQ, 20, 7..8, 1, 0))), told(true));
}

#[test]
fn a_queue_that_is_removed_is_unread_and_another_has_its_id() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    for record in [send(MSG, 10, 1..2, 3, 5), send(MSG, 10, 3..4, 3, 5), removed(6)] {
        correlator.push(record, &mut out);
    }
    // It was under way, and is told of late.
    correlator.push(receive(MSG, 20, 5..9, 3, 5), &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    correlator.push(send(MSG, 11, 7..8, 3, 5), &mut out);
    correlator.push(receive(MSG, 20, 9..10, 3, 5), &mut out);
    // What tells of a queue under that number was taken to be of the one before.
    correlator.tick(300 * MS, &mut out);
    assert_eq!(shorts(&out)[1..], [(Ok(10), Err(Why::Unread), 5), (Ok(11), Ok(20), 5)]);
    correlator.push(send(MSG, 11, 11..12, 3, 5), &mut out);
    correlator.push(removed(20), &mut out);
    correlator.tick(600 * MS, &mut out);
    assert_eq!(shorts(&out)[3..], [(Ok(11), Err(Why::Unread), 5)]);
    assert_eq!(correlator.queues.count, 0);
}

#[test]
fn spaces_are_kept_apart() {
    let elsewhere = |pid, flags, when| {
        let mut op = op(MSG, 1, pid, flags, when, 5);
        (op.key.space, op.detail, op.digest) = (key(1).space + 1, 3, 5);
        record(op)
    };
    let events = correlate([
        send(MSG, 10, 1..2, 3, 5),
        elsewhere(11, 0, (3, 4)),
        elsewhere(21, op_flag::RECEIVE, (5, 6)),
        receive(MSG, 20, 7..8, 3, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(11), Ok(21), 5)]);
}

#[test]
fn memory_is_bounded() {
    let limits = Limits { messages: 16, ..Limits::default() };
    let (mut correlator, mut out) = (Correlator::new(limits), Vec::new());
    for n in 0..100 {
        correlator.push(send(MSG, 10, n..n + 1, 3, n + 1), &mut out);
    }
    assert!(correlator.queues.count <= 16);
    correlator.finish(1000, &mut out);
    assert_eq!(transfers(&out).len() as u64 + correlator.evicted(), 100);
}

#[test]
fn queues_of_other_namespaces_say_so() {
    let ids = |home: u64| {
        let mut correlator = Correlator::new(Limits::default());
        correlator.at_home(Home { ipc: home, net: 0 });
        let mut out = Vec::new();
        let not_text = &b"\x09\0\0\0a\xff"[..];
        for (mechanism, name) in [(MQ, JOBS), (MQ, not_text), (MSG, &[][..])] {
            correlator.push(channel(mechanism, 1, 0, name), &mut out);
            correlator.push(send(mechanism, 10, 1..2, 1, 7), &mut out);
            correlator.push(receive(mechanism, 20, 3..4, 1, 7), &mut out);
        }
        correlator.finish(10, &mut out);
        transfers(&out).iter().map(|transfer| transfer.channel.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(9), ["posix_mq:/jobs", "posix_mq:[0:7:1]", "sysv_msg:1@ipc:[7]"]);
    assert_eq!(ids(7), ["posix_mq:/jobs@ipc:[9]", "posix_mq:[0:7:1]", "sysv_msg:1"]);
}

/// While one takes a message without asking for its priority, `other` sends the same of a higher one: that is there for the next.
fn overtaken(other: u32) -> [Record; 5] {
    [
        channel(MQ, 1, 0, JOBS),
        send(MQ, 10, 1..2, 1, 7),
        send(MQ, other, 3..6, 9, 7),
        receive(MQ, 20, 4..5, -1, 7),
        receive(MQ, 21, 7..8, 9, 7),
    ]
}

#[test]
fn a_receive_that_did_not_ask_may_have_taken_the_lower_priority() {
    let events = correlate(overtaken(10));
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(10), Ok(21), 5)]);
    assert_eq!(exact(&events), [true, true]);
    let priorities: Vec<_> = transfers(&events).iter().map(|transfer| transfer.priority).collect();
    assert_eq!(priorities, [None, Some(9)]);
}

#[test]
fn of_two_senders_it_is_not_certain_then() {
    let events = correlate(overtaken(11));
    assert_eq!(transfers(&events).len(), 2);
    assert_eq!(exact(&events), [false, false]);
}

#[test]
fn of_two_receives_at_once_the_one_that_asked_tells_what_the_other_took() {
    let events = correlate([
        channel(MQ, 1, 0, JOBS),
        send(MQ, 10, 1..2, 1, 7),
        receive(MQ, 21, 3..4, 1, 7),
        send(MQ, 10, 5..6, 1, 7),
        send(MQ, 10, 7..8, 9, 7),
        // The other was first, but its call ended later.
        receive(MQ, 20, 9..11, -1, 7),
        receive(MQ, 21, 10..12, 9, 7),
    ]);
    assert_eq!(shorts(&events)[1..], [(Ok(10), Ok(20), 5), (Ok(10), Ok(21), 5)]);
    let told: Vec<_> = transfers(&events).iter().map(|told| (told.priority, told.exact)).collect();
    assert_eq!(told[1..], [(None, true), (Some(9), true)]);
    assert_eq!(transfers(&events)[1].latency, None);
}

#[test]
fn what_is_left_of_a_guess_is_waited_for_like_all_others() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    overtaken(10).into_iter().for_each(|record| correlator.push(record, &mut out));
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 5)]);
    correlator.tick(300 * MS, &mut out);
    assert_eq!(shorts(&out).len(), 2);
}

#[test]
fn what_is_cut_too_short_to_be_known_is_what_others_leave() {
    let cut = |digest| {
        let Record::Op(mut op) = receive(MSG, 20, 7..8, 3, digest) else { panic!("a receive") };
        op.fixed.header.flags |= op_flag::CUT;
        op.fixed.bytes = 2;
        Record::Op(op)
    };
    let events = correlate([
        channel(MSG, 1, 0, &[0; 4]),
        // This one is behind the other, though its call ended first.
        send(MSG, 10, 1..4, 3, 5),
        send(MSG, 11, 2..5, 3, 6),
        cut(9),
        receive(MSG, 21, 9..10, 3, 5),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(21), 5), (Ok(11), Ok(20), 2), (Ok(11), Err(Why::Unread), 3)]);
}

/// So many messages that one record tells of.
fn several(record: Record, count: u32) -> Record {
    changed(record, |op| (op.bytes, op.messages, op.digest) = (op.bytes * u64::from(count), count, 0))
}

/// The same of a queue whose messages are alike.
fn run(record: Record, count: u32) -> Record {
    changed(several(record, count), |op| op.header.flags |= op_flag::ALIKE)
}

#[test]
fn runs_are_joined_message_by_message() {
    let events = correlate([
        channel(MQ, 1, 0, JOBS),
        send(MQ, 10, 1..2, 1, 7),
        run(send(MQ, 10, 3..13, 1, 0), 10),
        // One, and four of the ten.
        run(receive(MQ, 20, 4..9, 1, 0), 5),
        receive(MQ, 20, 14..15, 1, 8),
        run(receive(MQ, 20, 16..18, 1, 0), 2),
    ]);
    let expected = [
        (Ok(10), Ok(20), 5),
        (Ok(10), Ok(20), 20),
        (Ok(10), Ok(20), 5),
        (Ok(10), Ok(20), 10),
        (Ok(10), Err(Why::Unread), 15),
    ];
    assert_eq!(shorts(&events), expected);
    let told: Vec<_> =
        transfers(&events).iter().map(|told| (told.messages, told.latency, told.time)).collect();
    // The fourth of ten that were sent from 3 to 13 is taken to have been sent at 7, and so on.
    assert_eq!(told, [(1, Some(3), 5), (4, Some(2), 9), (1, Some(7), 15), (2, Some(8), 18), (3, None, 13)]);
    assert!(exact(&events).into_iter().all(|exact| exact));
}

#[test]
fn a_run_of_receives_waits_for_its_sends() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    correlator.push(run(receive(MSG, 20, 4..9, 1, 0), 3), &mut out);
    correlator.push(run(receive(MSG, 20, 10..15, 1, 0), 3), &mut out);
    correlator.push(run(send(MSG, 10, 1..3, 1, 0), 2), &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 10)]);
    correlator.push(run(send(MSG, 10, 4..8, 1, 0), 5), &mut out);
    assert_eq!(shorts(&out)[1..], [(Ok(10), Ok(20), 5), (Ok(10), Ok(20), 15)]);
    correlator.push(receive(MSG, 20, 16..17, 1, 9), &mut out);
    assert_eq!(shorts(&out)[3..], [(Ok(10), Ok(20), 5)]);
    assert_eq!(correlator.queues.count, 0);
}

#[test]
fn what_another_sends_behind_a_run_is_told_from_it() {
    let events = correlate([
        channel(MSG, 1, 0, b""),
        run(send(MSG, 10, 1..3, 1, 0), 2),
        send(MSG, 11, 4..5, 1, 7),
        receive(MSG, 20, 6..7, 1, 8),
        receive(MSG, 20, 8..9, 1, 8),
        receive(MSG, 20, 10..11, 1, 7),
    ]);
    assert_eq!(shorts(&events), [(Ok(10), Ok(20), 5), (Ok(10), Ok(20), 5), (Ok(11), Ok(20), 5)]);
    assert!(exact(&events).into_iter().all(|exact| exact));
}

#[test]
fn of_runs_that_are_lost_each_message_is() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    correlator.push(run(send(MSG, 10, 1..3, 1, 0), 2), &mut out);
    correlator.lost(4, ipctrace_common::Cause::RingFull, 3, &mut out);
    correlator.push(run(receive(MSG, 20, 5..9, 1, 0), 5), &mut out);
    correlator.tick(1000 * MS, &mut out);
    let told: Vec<_> = transfers(&out).iter().map(|told| (told.messages, told.bytes)).collect();
    assert_eq!((told, shorts(&out)[1].0.clone()), (vec![(2, 10), (3, 15)], Err(Why::Lost)));
}

#[test]
fn what_is_found_in_a_queue_after_it_was_removed_is_told_already() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    // A call that found the queue before it was removed looks at it after that.
    for record in [send(MSG, 10, 1..2, 3, 5), removed(6), channel(MSG, 1, 1, b""), found(MSG, 8, 3, 5)] {
        correlator.push(record, &mut out);
    }
    correlator.finish(300 * MS, &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Err(Why::Unread), 5)]);
}

/// The same with numbers from this one on.
fn numbered_run(record: Record, first: u64, count: u32) -> Record {
    numbered(several(record, count), first)
}

#[test]
fn a_run_with_numbers_is_taken_by_whoever_has_each() {
    let events = correlate([
        channel(MSG, 1, 0, b""),
        numbered_run(send(MSG, 10, 1..9, 1, 0), 100, 8),
        numbered_run(send(MSG, 11, 1..9, 1, 0), 200, 2),
        // Two of them from the middle on, before those ahead of them are told of.
        numbered_run(receive(MSG, 21, 3..10, 1, 0), 103, 2),
        numbered_run(receive(MSG, 20, 3..11, 1, 0), 100, 3),
        numbered_run(receive(MSG, 20, 12..13, 1, 0), 200, 1),
        numbered_run(receive(MSG, 20, 14..15, 1, 0), 105, 1),
    ]);
    let expected = [
        (Ok(10), Ok(21), 10),
        (Ok(10), Ok(20), 15),
        (Ok(11), Ok(20), 5),
        (Ok(10), Ok(20), 5),
        (Ok(10), Err(Why::Unread), 10),
        (Ok(11), Err(Why::Unread), 5),
    ];
    assert_eq!(shorts(&events), expected);
    assert!(exact(&events).into_iter().all(|exact| exact));
    // Of eight that were sent from 1 to 9 the fifth at 6, and so on.
    let latencies: Vec<_> = transfers(&events).iter().map(|told| told.latency).collect();
    assert_eq!(latencies[..4], [Some(4), Some(7), Some(8), Some(8)]);
}

#[test]
fn of_a_run_with_numbers_what_was_lost_is_told_by_itself() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    correlator.lost(4, ipctrace_common::Cause::RingFull, 1, &mut out);
    correlator.push(numbered_run(receive(MSG, 20, 3..9, 1, 0), 100, 5), &mut out);
    // The first and the fourth have not come.
    correlator.push(numbered_run(send(MSG, 10, 1..2, 1, 0), 101, 2), &mut out);
    correlator.push(numbered_run(send(MSG, 10, 1..2, 1, 0), 104, 1), &mut out);
    correlator.tick(1000 * MS, &mut out);
    correlator.finish(2000 * MS, &mut out);
    let (lost, known) = (|| Err(Why::Lost), || Ok(10));
    let expected = [(lost(), Ok(20), 5), (known(), Ok(20), 10), (lost(), Ok(20), 5), (known(), Ok(20), 5)];
    assert_eq!(shorts(&out), expected);
}

#[test]
fn what_is_found_of_a_run_with_numbers_is_told_once() {
    // The queue was forgotten and is seen anew, while a run of its sender was not told of yet.
    let found = || (100..104).map(|number| numbered(found(MSG, 10, 1, 0), number));
    let sent = || numbered_run(send(MSG, 10, 1..9, 1, 0), 100, 4);
    let taken = || numbered_run(receive(MSG, 20, 20..30, 1, 0), 100, 4);
    let opened = || channel(MSG, 1, 4, b"");
    for records in [
        [opened()].into_iter().chain(found()).chain([sent(), taken()]).collect::<Vec<_>>(),
        [opened(), sent()].into_iter().chain(found()).chain([taken()]).collect(),
    ] {
        assert_eq!(shorts(&correlate(records)), [(Ok(10), Ok(20), 20)]);
    }
}

#[test]
fn all_that_wait_for_a_run_with_numbers_are_served_at_once() {
    let (mut correlator, mut out) = (Correlator::new(Limits::default()), Vec::new());
    correlator.push(channel(MSG, 1, 0, b""), &mut out);
    for (pid, first) in [(21, 106), (20, 100), (22, 103)] {
        let end = u64::from(pid) + 10;
        correlator.push(numbered_run(receive(MSG, pid, 3..end, 1, 0), first, 2), &mut out);
    }
    correlator.push(numbered_run(send(MSG, 10, 1..9, 1, 0), 100, 8), &mut out);
    assert_eq!(shorts(&out), [(Ok(10), Ok(20), 10), (Ok(10), Ok(21), 10), (Ok(10), Ok(22), 10)]);
}

/// Messages of three processes, by number, in runs as they were told of.
#[derive(Clone, Debug)]
struct Told {
    pid: u32,
    first: u64,
    count: u32,
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(50))]

    #[test]
    fn numbers_say_who_sent_what_in_whatever_runs_it_is_told(
        sends in proptest::collection::vec((0_u32..3, 1_u32..9), 1..60),
        takes in proptest::collection::vec((0_u32..3, 1_u32..9), 1..120),
        swaps in proptest::collection::vec(0_usize..180, 0..40),
    ) {
        let mut next = [1_u64 << 40, 2 << 40, 3 << 40];
        let mut sent = Vec::new();
        let mut queue: Vec<(u32, u64)> = Vec::new();
        for (who, count) in sends {
            let first = next[who as usize];
            next[who as usize] += u64::from(count);
            sent.push(Told { pid: 10 + who, first, count });
            queue.extend((0..u64::from(count)).map(|index| (10 + who, first + index)));
        }
        // Each takes what is first, and a run ends where numbers do not follow each other.
        let mut taken: Vec<Told> = Vec::new();
        let mut model = std::collections::BTreeMap::new();
        let mut rest = queue.into_iter();
        for (who, most) in takes {
            for (sender, number) in rest.by_ref().take(most as usize) {
                *model.entry((sender, 20 + who)).or_insert(0_u64) += 5;
                match taken.last_mut() {
                    Some(last) if last.pid == 20 + who && last.first + u64::from(last.count) == number => {
                        last.count += 1;
                    }
                    _ => taken.push(Told { pid: 20 + who, first: number, count: 1 }),
                }
            }
        }
        let unread: u64 = rest.map(|_| 5).sum();
        let mut records: Vec<Record> = Vec::new();
        for told in &sent {
            records.push(numbered_run(send(MSG, told.pid, 10..1000, 1, 0), told.first, told.count));
        }
        for told in &taken {
            records.push(numbered_run(receive(MSG, told.pid, 10..1000, 1, 0), told.first, told.count));
        }
        for swap in swaps {
            let (one, other) = (swap % records.len(), (swap * 7 + 3) % records.len());
            records.swap(one, other);
        }
        records.insert(0, channel(MSG, 1, 0, b""));
        let events = correlate(records);
        let mut found = std::collections::BTreeMap::new();
        let mut left = 0;
        for (sender, receiver, bytes) in shorts(&events) {
            match (sender, receiver) {
                (Ok(sender), Ok(receiver)) => *found.entry((sender, receiver)).or_insert(0_u64) += bytes,
                (Ok(_), Err(Why::Unread)) => left += bytes,
                other => proptest::prop_assert!(false, "{other:?}"),
            }
        }
        proptest::prop_assert_eq!((found, left), (model, unread));
        proptest::prop_assert!(exact(&events).into_iter().all(|exact| exact));
    }
}
