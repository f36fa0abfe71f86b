use bytes::Bytes;
use ipctrace_common::wire::{Header, Key, Kind, process_event};

use super::*;
use crate::correlate::testing::{header, task};
use crate::correlate::{Correlator, Home, Limits};
use crate::decode::Record;
use crate::model::End;

/// A correlator, and what it said.
struct Trace {
    correlator: Correlator,
    out: Vec<Event>,
    now: u64,
}

impl Trace {
    fn new() -> Trace {
        let mut correlator = Correlator::new(Limits::default());
        correlator.at_home(Home { ipc: 7, net: 0 });
        Trace { correlator, out: Vec::new(), now: 100 }
    }

    fn push(&mut self, record: Record) {
        self.correlator.push(record, &mut self.out);
        self.now += 100;
    }

    fn header(&self, kind: Kind, mechanism: Mechanism, event: u16) -> Header {
        header(kind, mechanism, event, self.now)
    }

    fn share(&mut self, mechanism: Mechanism, event: u16, record: wire::Share, name: &[u8]) {
        let header = self.header(Kind::Share, mechanism, event);
        let name_len = name.len() as u32;
        let record = wire::Share { header, name_len, mounts: 3, ..record };
        self.push(Record::Share(Box::new(record), Bytes::copy_from_slice(name)));
    }

    fn map(&mut self, pid: u32, start: u64, inode: u64, writable: bool) {
        self.share(Mechanism::Memfd, share_event::MAP, mapping(pid, start, inode, writable), b"memfd:x\0");
    }

    fn unmap(&mut self, pid: u32, start: u64, len: u64) {
        let record = wire::Share { task: task(pid), start, len, ..wire::Share::default() };
        self.share(Mechanism::Memfd, share_event::UNMAP, record, b"");
    }

    fn process(&mut self, event: u16, pid: u32, parent: u32, same: bool) {
        let header = self.header(Kind::Process, Mechanism::Memfd, event);
        let (task, parent) = (task(pid), task(parent));
        let same_memory = u32::from(same);
        self.push(Record::Process(Box::new(wire::Process {
            header,
            task,
            parent,
            exit_code: 0,
            same_memory,
        })));
    }

    fn touch(&mut self, pid: u32, address: u64, write: bool) {
        let header = self.header(Kind::Touch, Mechanism::Memfd, 0);
        let write = u32::from(write);
        self.push(Record::Touch(Box::new(wire::Touch {
            header,
            task: task(pid),
            address,
            write,
            reserved: 0,
        })));
    }

    /// What was said since the last time, in short.
    fn said(&mut self) -> Vec<String> {
        let short = |event: Event| match event {
            Event::Share(share) => {
                let access = if share.writable { "rw" } else { "r" };
                format!("{} {} {access} {}", share.process.pid, share.action.name(), share.channel.id)
            }
            Event::Evidence(evidence) => format!(
                "{} wrote {:#x}, {} read it{}",
                evidence.sender.pid,
                evidence.page,
                evidence.receiver.pid,
                if evidence.exact { "" } else { ", perhaps" }
            ),
            other @ (Event::Transfer(_)
            | Event::Signal(_)
            | Event::Wake(_)
            | Event::Handoff(_)
            | Event::Lost(_)) => format!("{other:?}"),
        };
        self.out.drain(..).map(short).collect()
    }

    /// The pairs so far.
    fn pairs(&self) -> Vec<(u32, u32, u64)> {
        let pid = |end: &End| end.process().map_or(0, |process| process.pid);
        let mut pairs: Vec<_> = self
            .correlator
            .pairs(self.now)
            .iter()
            .map(|flow| (pid(&flow.sender), pid(&flow.receiver), flow.bytes))
            .collect();
        pairs.sort_unstable();
        pairs
    }
}

fn mapping(pid: u32, start: u64, inode: u64, writable: bool) -> wire::Share {
    wire::Share {
        task: task(pid),
        key: Key { id: inode, space: 1 },
        start,
        len: 0x2000,
        size: 0x2000,
        writable: u32::from(writable),
        ..wire::Share::default()
    }
}

#[test]
fn a_process_is_attached_from_its_first_mapping_to_its_last() {
    let mut trace = Trace::new();
    trace.map(10, 0x10000, 5, false);
    trace.map(10, 0x20000, 5, false);
    assert_eq!(trace.said(), ["10 attach r memfd:[0:1:5]"]);
    trace.map(10, 0x30000, 5, true);
    assert_eq!(trace.said(), ["10 attach rw memfd:[0:1:5]"]);
    trace.unmap(10, 0x10000, 0x20000);
    trace.unmap(10, 0x30000, 0x1000);
    assert_eq!(trace.said(), [""; 0]);
    trace.unmap(10, 0x0, 1 << 40);
    assert_eq!(trace.said(), ["10 detach rw memfd:[0:1:5]"]);
    trace.unmap(10, 0x0, 1 << 40);
    assert_eq!(trace.said(), [""; 0]);
}

#[test]
fn a_mapping_that_moves_or_is_replaced() {
    let mut trace = Trace::new();
    trace.map(10, 0x10000, 5, true);
    let moved = wire::Share {
        task: task(10),
        start: 0x11000,
        len: 0x1000,
        to: 0x50000,
        to_len: 0x4000,
        ..wire::Share::default()
    };
    trace.share(Mechanism::Memfd, share_event::MOVE, moved, b"");
    trace.unmap(10, 0x10000, 0x2000);
    assert_eq!(trace.said(), ["10 attach rw memfd:[0:1:5]"]);
    // What was at 0x1000 of the object is still at 0x1000 of it.
    trace.map(11, 0x10000, 5, true);
    trace.touch(11, 0x11004, true);
    trace.touch(10, 0x50000, false);
    assert_eq!(trace.said(), ["11 attach rw memfd:[0:1:5]", "11 wrote 0x1000, 10 read it"]);
    trace.map(10, 0x50000, 6, true);
    trace.unmap(10, 0x52000, 0x2000);
    assert_eq!(trace.said(), ["10 attach rw memfd:[0:1:6]", "10 detach rw memfd:[0:1:5]"]);
}

#[test]
fn children_inherit_and_programs_and_ends_detach() {
    let mut trace = Trace::new();
    trace.map(10, 0x10000, 5, true);
    trace.process(process_event::FORK, 11, 10, false);
    trace.process(process_event::FORK, 12, 10, true);
    trace.process(process_event::EXEC, 12, 0, false);
    trace.process(process_event::EXIT, 12, 0, false);
    trace.process(process_event::EXEC, 11, 0, false);
    trace.process(process_event::EXIT, 11, 0, false);
    trace.process(process_event::EXIT, 10, 0, false);
    assert_eq!(
        trace.said(),
        [
            "10 attach rw memfd:[0:1:5]",
            "11 attach rw memfd:[0:1:5]",
            "11 detach rw memfd:[0:1:5]",
            "10 detach rw memfd:[0:1:5]"
        ]
    );
    assert_eq!(trace.pairs(), [(10, 11, 0x2000), (11, 10, 0x2000)]);
}

#[test]
fn memory_outlives_the_process_that_it_was_borrowed_from() {
    let mut trace = Trace::new();
    trace.map(10, 0x10000, 5, true);
    trace.process(process_event::FORK, 12, 10, true);
    trace.process(process_event::EXIT, 10, 0, false);
    assert_eq!(
        trace.said(),
        ["10 attach rw memfd:[0:1:5]", "10 detach rw memfd:[0:1:5]", "12 attach rw memfd:[0:1:5]"]
    );
    trace.process(process_event::EXIT, 12, 0, false);
    assert_eq!(trace.said(), ["12 detach rw memfd:[0:1:5]"]);
}

#[test]
fn who_was_gone_before_the_writer_came_can_have_read_nothing() {
    let mut trace = Trace::new();
    trace.map(10, 0x10000, 5, false);
    trace.unmap(10, 0x10000, 0x2000);
    trace.map(11, 0x10000, 5, true);
    trace.unmap(11, 0x10000, 0x2000);
    assert_eq!(trace.pairs(), []);
    trace.map(12, 0x10000, 5, false);
    assert_eq!(trace.pairs(), [(11, 12, 0x2000)]);
}

#[test]
fn the_first_reader_of_a_page_is_evidence_once_and_never_of_itself() {
    let mut trace = Trace::new();
    trace.map(10, 0x10000, 5, true);
    trace.map(11, 0x90000, 5, true);
    trace.said();
    trace.touch(11, 0x91000, false);
    trace.touch(10, 0x10010, true);
    trace.touch(10, 0x10020, false);
    trace.touch(11, 0x90000, false);
    trace.touch(11, 0x90000, false);
    trace.touch(99, 0x90000, false);
    trace.touch(11, 0x80000, false);
    assert_eq!(trace.said(), ["10 wrote 0x0, 11 read it"]);
    trace.map(12, 0x10000, 5, true);
    trace.touch(12, 0x10000, true);
    trace.map(13, 0x10000, 5, false);
    trace.said();
    trace.touch(13, 0x10000, false);
    assert_eq!(trace.said(), ["10 wrote 0x0, 13 read it, perhaps", "12 wrote 0x0, 13 read it, perhaps"]);
}

#[test]
fn what_was_mapped_before_the_start_is_known_and_no_news() {
    let mut trace = Trace::new();
    let seen = mapping(10, 0x10000, 5, true);
    trace.share(Mechanism::Memfd, share_event::SEEN, seen, b"memfd:x\0");
    assert_eq!(trace.said(), [""; 0]);
    trace.map(11, 0x10000, 5, false);
    assert_eq!(trace.pairs(), [(10, 11, 0x2000)]);
    trace.process(process_event::EXIT, 10, 0, false);
    assert_eq!(trace.said(), ["11 attach r memfd:[0:1:5]", "10 detach rw memfd:[0:1:5]"]);
}

#[test]
fn a_file_that_was_mapped_before_the_start_is_nobodys_business_while_none_writes() {
    let mut trace = Trace::new();
    let seen = |trace: &mut Trace, pid, inode, writable| {
        let record = mapping(pid, 0x10000, inode, writable);
        trace.share(Mechanism::SharedFile, share_event::SEEN, record, b"/etc/a");
    };
    // Two read the one, as locales are read; of the other two one writes.
    for (pid, inode, writable) in [(10, 5, false), (11, 5, false), (12, 6, false), (13, 6, true)] {
        seen(&mut trace, pid, inode, writable);
    }
    for pid in [10, 12, 13] {
        trace.process(process_event::EXIT, pid, 0, false);
    }
    assert_eq!(trace.said(), ["12 detach r shared_file:[0:1:6]", "13 detach rw shared_file:[0:1:6]"]);
    trace.share(Mechanism::SharedFile, share_event::MAP, mapping(14, 0x10000, 5, true), b"/etc/a");
    assert_eq!(trace.said(), ["11 attach r shared_file:[0:1:5]", "14 attach rw shared_file:[0:1:5]"]);
}

#[test]
fn segments_are_known_by_namespace_and_key() {
    let mut trace = Trace::new();
    let of = |space| wire::Share { key: Key { id: 5, space }, ..mapping(10, 0x10000 * space, 0, true) };
    trace.share(Mechanism::SysvShm, share_event::MAP, of(7), b"SYSV000004d2\0");
    trace.share(Mechanism::SysvShm, share_event::MAP, of(8), b"SYSV00000000\0");
    let names: Vec<_> = trace
        .out
        .iter()
        .filter_map(
            |event| if let Event::Share(share) = event { Some(share.channel.name.clone()) } else { None },
        )
        .collect();
    assert_eq!(names, [Some(b"0x4d2".to_vec()), None]);
    assert_eq!(trace.said(), ["10 attach rw sysv_shm:5", "10 attach rw sysv_shm:5@ipc:[8]"]);
    // shmdt: all of it, whatever its length.
    trace.unmap(10, 0x70000, 0);
    trace.unmap(10, 0x80008, 0);
    trace.share(Mechanism::SysvShm, share_event::REMOVE, of(8), b"");
    assert_eq!(trace.said(), ["10 detach rw sysv_shm:5", "10 remove rw sysv_shm:5@ipc:[8]"]);
}

#[test]
fn a_segment_that_is_made_is_none_of_before() {
    let mut trace = Trace::new();
    let of = |pid| wire::Share { flag: 1, key: Key { id: 0, space: 7 }, ..mapping(pid, 0x10000, 0, true) };
    for pid in [10, 11] {
        trace.share(Mechanism::SysvShm, share_event::CREATE, of(pid), b"SYSV00000000\0");
        trace.share(Mechanism::SysvShm, share_event::MAP, of(pid), b"SYSV00000000\0");
        // With the namespace the segment is gone.
        trace.process(process_event::EXIT, pid, 0, false);
    }
    assert_eq!(trace.pairs(), []);
}

#[test]
fn a_name_in_shared_memory_is_one_objects_alone() {
    let mut trace = Trace::new();
    let file = |pid, inode| wire::Share { magic: 0x0102_1994, ..mapping(pid, 0x10000, inode, true) };
    trace.share(Mechanism::SharedFile, share_event::MAP, file(10, 5), b"/dev/shm/a");
    trace.share(Mechanism::SharedFile, share_event::MAP, file(11, 6), b"/dev/shm/a");
    assert_eq!(trace.said(), ["10 attach rw posix_shm:/a", "11 attach rw posix_shm:[0:1:6]"]);
    let gone = wire::Share { task: task(12), ..wire::Share::default() };
    trace.share(Mechanism::PosixShm, share_event::REMOVE, gone, b"/dev/shm/b");
    assert_eq!(trace.said(), [""; 0]);
    trace.share(Mechanism::SharedFile, share_event::MAP, mapping(13, 0x10000, 7, true), b"/dev/shm/a");
    assert_eq!(trace.said(), ["13 attach rw shared_file:[0:1:7]"], "not a tmpfs");
}

#[test]
fn readers_of_a_file_are_told_once_there_is_a_writer() {
    let mut trace = Trace::new();
    let file = |pid, writable| mapping(pid, 0x10000, 5, writable);
    for pid in [10, 11] {
        trace.share(Mechanism::SharedFile, share_event::MAP, file(pid, false), b"/etc/a");
    }
    trace.process(process_event::EXIT, 11, 0, false);
    assert_eq!(trace.said(), [""; 0]);
    trace.share(Mechanism::SharedFile, share_event::MAP, file(12, true), b"/etc/a");
    trace.process(process_event::EXIT, 10, 0, false);
    assert_eq!(
        trace.said(),
        [
            "10 attach r shared_file:[0:1:5]",
            "12 attach rw shared_file:[0:1:5]",
            "10 detach r shared_file:[0:1:5]"
        ]
    );
}

#[test]
fn nonsense_is_refused() {
    let mut trace = Trace::new();
    let wild = wire::Share { start: u64::MAX - 5, len: 1 << 40, ..mapping(10, 0, 5, true) };
    trace.share(Mechanism::Memfd, share_event::MAP, wild, b"memfd:x");
    trace.share(Mechanism::Pipe, share_event::MAP, mapping(10, 0, 5, true), b"");
    trace.share(Mechanism::Memfd, 99, mapping(10, 0, 5, true), b"");
    assert_eq!(trace.out.len(), 3);
    assert!(trace.out.iter().all(|event| matches!(event, Event::Lost(_))));
}
