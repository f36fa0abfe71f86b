//! Builders of records for the tests of this module.

use bytes::Bytes;
use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Header, Kind, Task, op_flag};

use crate::decode::{self, Record};
use crate::model::{End, Event, Transfer, Why};

use super::{Correlator, Limits};

/// A process whose pid, tid and start all follow from `pid`.
pub(super) fn task(pid: u32) -> Task {
    Task { tgid: pid, tid: pid, start: 1000 + u64::from(pid), ..Task::default() }
}

/// The key of the channel `id`.
pub(super) fn key(id: u64) -> wire::Key {
    wire::Key { id, space: 7 }
}

pub(super) fn header(kind: Kind, mechanism: Mechanism, flags: u16, time: u64) -> Header {
    Header { kind: kind as u8, mechanism: mechanism as u8, flags, time, ..Header::default() }
}

/// The record of a channel with `queued` in it.
pub(super) fn channel(mechanism: Mechanism, id: u64, queued: u64, name: &[u8]) -> Record {
    let fixed = wire::Channel {
        header: header(Kind::Channel, mechanism, 0, 0),
        key: key(id),
        queued,
        ..wire::Channel::default()
    };
    Record::Channel(fixed, Bytes::copy_from_slice(name))
}

/// A send of `bytes` by `pid`, with `before` in the books; `flags` besides.
pub(super) fn op(
    mechanism: Mechanism,
    id: u64,
    pid: u32,
    flags: u16,
    when: (u64, u64),
    bytes: u64,
) -> wire::Op {
    wire::Op {
        header: header(Kind::Op, mechanism, flags, when.1),
        task: task(pid),
        key: key(id),
        enter: when.0,
        bytes,
        message_len: bytes,
        messages: 1,
        ..wire::Op::default()
    }
}

/// The record of an `op`.
pub(super) fn record(fixed: wire::Op) -> Record {
    Record::Op(Box::new(decode::Op { fixed, address: Bytes::new(), payload: Bytes::new() }))
}

/// The record, changed if it is that of an op.
pub(super) fn changed(record: Record, change: impl FnOnce(&mut wire::Op)) -> Record {
    match record {
        Record::Op(mut op) => {
            change(&mut op.fixed);
            Record::Op(op)
        }
        other @ (Record::Channel(..)
        | Record::Signal(_)
        | Record::Process(_)
        | Record::Handoff(_)
        | Record::Share(..)
        | Record::Touch(_)
        | Record::Direct(_)
        | Record::Wake(_)
        | Record::Datagram(_)) => other,
    }
}

/// A send or receive on a stream, with its side's books before it.
pub(super) fn stream(id: u64, pid: u32, receive: bool, when: (u64, u64), before: u64, bytes: u64) -> Record {
    let flags = op_flag::SEQUENCED | if receive { op_flag::RECEIVE } else { 0 };
    record(wire::Op { before, ..op(Mechanism::UnixStream, id, pid, flags, when, bytes) })
}

/// The events of `records`, and of the end.
pub(super) fn correlate(records: impl IntoIterator<Item = Record>) -> Vec<Event> {
    let mut correlator = Correlator::new(Limits::default());
    let mut out = Vec::new();
    for record in records {
        correlator.push(record, &mut out);
    }
    correlator.finish(1 << 40, &mut out);
    out
}

/// A transfer in short: pid or reason of both ends, and bytes.
pub(super) type Short = (Result<u32, Why>, Result<u32, Why>, u64);

fn end(end: &End) -> Result<u32, Why> {
    match end {
        End::Known(process) => Ok(process.pid),
        End::Unknown(why) => Err(why.clone()),
    }
}

pub(super) fn short(transfer: &Transfer) -> Short {
    (end(&transfer.sender), end(&transfer.receiver), transfer.bytes)
}

/// The transfers among the events.
pub(super) fn transfers(events: &[Event]) -> Vec<&Transfer> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Transfer(transfer) => Some(transfer),
            Event::Signal(_)
            | Event::Share(_)
            | Event::Wake(_)
            | Event::Handoff(_)
            | Event::Evidence(_)
            | Event::Lost(_) => None,
        })
        .collect()
}

/// The transfers of the events in short.
pub(super) fn shorts(events: &[Event]) -> Vec<Short> {
    transfers(events).into_iter().map(short).collect()
}
