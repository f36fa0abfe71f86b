//! Events to show.

use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::{Cause, Mechanism};

use crate::cgroup::Cgroups;
use crate::model::{
    Channel, End, Event, Evidence, Flow, Handoff, Latency, Lost, Outcome, Proc, Share, ShareAction, Signal,
    Transfer, Wake, Why,
};
use crate::render::Clock;

/// Two control groups, 7 and 8; no others exist.
pub(crate) struct Groups;

impl Cgroups for Groups {
    fn path(&self, id: u64) -> Option<Rc<[u8]>> {
        match id {
            7 => Some(Rc::from(&b"/system.slice/a.service"[..])),
            8 => Some(Rc::from(&b"/init.scope"[..])),
            _ => None,
        }
    }
}

/// The machine was booted at 2026-01-01 12:30:00 UTC.
pub(crate) fn clock() -> Clock {
    Clock::new(1_767_270_600_000_000_000)
}

pub(crate) fn process(pid: u32, comm: &[u8]) -> Proc {
    Proc { pid, tid: pid, start: u64::from(pid) * 1000, comm: comm.to_vec(), uid: Some(1000), cgroup: 7 }
}

pub(crate) fn known(pid: u32, comm: &str) -> End {
    End::Known(Rc::new(process(pid, comm.as_bytes())))
}

pub(crate) fn channel(id: &str, name: Option<&str>) -> Rc<Channel> {
    Rc::new(Channel { id: id.to_owned(), name: name.map(|name| name.as_bytes().to_vec()) })
}

pub(crate) fn transfer() -> Transfer {
    let (sender, receiver) = (known(4711, "seq"), known(4712, "sort"));
    Transfer {
        latency: Some(12_345),
        ..Transfer::new(Mechanism::Pipe, channel("pipe:[98765]", None), sender, receiver, 65536, 123_456_789)
    }
}

pub(crate) fn signal() -> Signal {
    Signal {
        time: 1_000_000_000,
        number: 37,
        code: -1,
        value: Some(42),
        sender: known(100, "worker"),
        receiver: Rc::new(Proc { tid: 203, ..process(200, b"server") }),
        outcome: Outcome::Delivered,
        latency: Some(5_020),
        tty: None,
    }
}

pub(crate) fn handoff() -> Handoff {
    Handoff {
        time: 4_000_000_000,
        via: "unix_stream",
        channel: channel("socket:[52]->socket:[53]", Some("/run/front.sock")),
        sender: known(100, "front"),
        receiver: known(200, "back"),
        object: channel("socket:[60]->socket:[61]", None),
    }
}

pub(crate) fn flow() -> Flow {
    Flow {
        mechanism: Mechanism::Pipe,
        channel: channel("pipe:[98765]", None),
        sender: known(4711, "seq"),
        receiver: known(4712, "sort"),
        messages: 322,
        bytes: 1_288_895,
        first: 123_456_789,
        last: 200_000_000,
        latency: Some(Latency { count: 322, p50: 8_190, p90: 20_000, p99: 1_234_567, max: 2_000_000 }),
    }
}

/// One of each kind and more: what a line can look like.
pub(crate) fn events() -> Vec<Event> {
    vec![
        Event::Transfer(transfer()),
        Event::Transfer(Transfer {
            time: 223_456_789,
            sender: known(4710, "tmux: server"),
            bytes: 100,
            messages: 3,
            exact: false,
            latency: Some(0),
            ..transfer()
        }),
        Event::Transfer(Transfer {
            time: 323_456_789,
            mechanism: Mechanism::UnixSeqpacket,
            channel: channel("socket:[52]->socket:[53]", Some("@/tmp/.X11-unix/X0")),
            sender: End::Unknown(Why::BeforeStart),
            bytes: 22,
            latency: None,
            truncated: true,
            payload: Some(Bytes::from_static(b"GET / HTTP/1.1\r\n\x1b[31m\xff")),
            ..transfer()
        }),
        Event::Transfer(Transfer {
            time: 423_456_789,
            mechanism: Mechanism::PosixMq,
            channel: channel("posix_mq:/jobs", Some("/jobs")),
            receiver: End::Unknown(Why::Unread),
            bytes: 500,
            latency: None,
            priority: Some(9),
            payload: Some(Bytes::from_static(b"say \"hi\"")),
            ..transfer()
        }),
        Event::Signal(signal()),
        Event::Signal(Signal {
            time: 1_500_000_000,
            number: 2,
            code: 0x80,
            value: None,
            sender: End::Unknown(Why::Kernel),
            outcome: Outcome::Blocked,
            latency: None,
            tty: Some(b"pts/3".to_vec()),
            ..signal()
        }),
        Event::Share(Share {
            time: 2_000_000_000,
            mechanism: Mechanism::SysvShm,
            channel: channel("sysv_shm:3", Some("0x51020304")),
            process: Rc::new(process(300, b"postgres")),
            action: ShareAction::Attach,
            writable: true,
            bytes: 1_048_576,
        }),
        Event::Wake(Wake {
            time: 3_000_000_000,
            mechanism: Mechanism::Futex,
            channel: channel("futex:8:1:4711+0x40", None),
            sender: known(300, "producer"),
            receiver: known(301, "consumer"),
            latency: Some(1_234_567),
        }),
        Event::Handoff(handoff()),
        Event::Evidence(Evidence {
            time: 4_500_000_000,
            mechanism: Mechanism::PosixShm,
            channel: channel("posix_shm:/frames", Some("/dev/shm/frames")),
            sender: Rc::new(process(300, b"camera")),
            receiver: Rc::new(process(301, b"viewer")),
            page: 0x3000,
            latency: 42_000,
            exact: true,
        }),
        Event::Lost(Lost { time: 5_000_000_000, cause: Cause::RingFull, count: 128 }),
    ]
}
