use ipctrace_common::wire::{Kind, channel_flag};

use super::super::testing::{correlate, header, task};
use super::*;
use crate::correlate::{Correlator, Limits};
use crate::decode::Record;
use crate::model::Event;

const HOME: u64 = 0xefff_ffff;
const FILE: wire::Key = wire::Key { id: 0xffff_8880_0000_1000, space: 22 };

fn wake(mechanism: Mechanism, flags: u16, key: wire::Key, detail: u64) -> wire::Wake {
    wire::Wake {
        header: header(Kind::Wake, mechanism, flags, 900),
        task: task(20),
        waker: task(10),
        key,
        inode: 33,
        detail,
        enter: 300,
        woken: 800,
    }
}

fn named(flags: u16, name: &[u8]) -> Record {
    let fixed = wire::Channel {
        header: header(Kind::Channel, Mechanism::Futex, flags, 1),
        key: FILE,
        ..wire::Channel::default()
    };
    Record::Channel(fixed, Bytes::copy_from_slice(name))
}

fn only(event: Event) -> Wake {
    if let Event::Wake(wake) = event { wake } else { panic!("not a wake: {event:?}") }
}

fn wakes(records: impl IntoIterator<Item = Record>) -> Vec<Wake> {
    correlate(records).into_iter().map(only).collect()
}

fn record(wake: wire::Wake) -> Record {
    Record::Wake(Box::new(wake))
}

#[test]
fn waker_woken_and_wait_are_told() {
    let futex = record(wake(Mechanism::Futex, wake_flag::WAKER, FILE, 0x40));
    let found = &wakes([named(0, b"/dev/shm/sem.foo"), futex])[0];
    assert_eq!(found.channel.id, "futex:[0:22:33]+0x40");
    assert_eq!(found.channel.name.as_deref(), Some(&b"/dev/shm/sem.foo"[..]));
    assert_eq!((found.time, found.latency), (900, Some(600)));
    assert_eq!(found.sender.process().map(|process| process.pid), Some(10));
    assert_eq!(found.receiver.process().map(|process| process.pid), Some(20));
}

#[test]
fn a_waker_that_was_not_seen_is_not_guessed() {
    let unseen = record(wire::Wake { enter: 0, ..wake(Mechanism::Futex, 0, FILE, 0) });
    let found = &wakes([unseen])[0];
    assert_eq!((&found.sender, found.latency), (&End::Unknown(Why::Lost), None));
}

#[test]
fn a_file_that_is_renamed_or_removed_has_its_new_name() {
    let futex = || record(wake(Mechanism::Futex, wake_flag::WAKER, FILE, 0));
    let found = wakes([
        named(0, b"/dev/shm/a"),
        futex(),
        named(channel_flag::DELETED, b"/dev/shm/a"),
        futex(),
        named(channel_flag::PSEUDO, b"dev/zero"),
        futex(),
        named(channel_flag::PSEUDO, b"SYSV000004d2"),
        futex(),
        named(channel_flag::PSEUDO, b"memfd:jobs"),
        futex(),
    ]);
    let names: Vec<_> = found.iter().map(|wake| wake.channel.name.as_deref()).collect();
    let expected: [Option<&[u8]>; 5] =
        [Some(b"/dev/shm/a"), Some(b"/dev/shm/a (deleted)"), None, Some(b"0x4d2"), Some(b"memfd:jobs")];
    assert_eq!(names, expected);
}

#[test]
fn semaphores_are_named_as_ipcs_does_and_namespaces_kept_apart() {
    let flags = wake_flag::WAKER | wake_flag::KEY;
    let semaphore = |space, key| record(wake(Mechanism::SysvSem, flags, wire::Key { id: 3, space }, key));
    let mut correlator = Correlator::new(Limits::default());
    correlator.at_home(Home { ipc: HOME, net: 0 });
    let mut out = Vec::new();
    for record in [semaphore(HOME, 0x4d2), semaphore(HOME + 9, 0xffff_fffe), semaphore(HOME, 0)] {
        correlator.push(record, &mut out);
    }
    let found = out.into_iter().map(only);
    let found: Vec<Wake> = found.collect();
    let channels: Vec<_> =
        found.iter().map(|wake| (wake.channel.id.as_str(), wake.channel.name.as_deref())).collect();
    assert_eq!(channels[0], ("sysv_sem:3", Some(&b"0x4d2"[..])));
    assert_eq!(channels[1], ("sysv_sem:3@ipc:[4026531848]", Some(&b"0xfffffffe"[..])));
    assert_eq!(channels[2], ("sysv_sem:3", None));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut wakes = Wakes::default();
    let process = || Rc::new(crate::render::fixture::process(1, b"sh"));
    let backwards = wire::Wake { enter: 901, ..wake(Mechanism::Futex, 0, FILE, 0) };
    assert_eq!(wakes.event(&backwards, None, process(), Home::default(), 8), None);
    assert_eq!(wakes.event(&wake(Mechanism::Pipe, 0, FILE, 0), None, process(), Home::default(), 8), None);
}

#[test]
fn a_file_at_the_address_of_another_is_another_whatever_its_name() {
    let at = |inode| record(wire::Wake { inode, ..wake(Mechanism::Futex, wake_flag::WAKER, FILE, 0) });
    let name = || named(channel_flag::PSEUDO, b"dev/zero");
    let ids: Vec<_> =
        wakes([name(), at(7), name(), at(8)]).into_iter().map(|wake| wake.channel.id.clone()).collect();
    assert_eq!(ids, ["futex:[0:22:7]+0x0", "futex:[0:22:8]+0x0"]);
}
