//! Traces that differ from what was done, each in one thing: the comparison must find it.

use std::rc::Rc;

use ipctrace_common::{Cause, Mechanism};

use super::*;
use crate::demo::truth::Party;
use crate::model::{Handoff, Lost, Outcome, Signal, Why};
use crate::render::fixture;

const PIPE: &str = "pipe:[7]";
const SOCKETS: &str = "socket:[1]->socket:[2]";

/// Two writers and a reader share a pipe; the first writer also sends messages, a signal and a descriptor.
fn truth() -> Vec<Truth> {
    let member = |mark, pid, name: &str| Truth::Member { mark, pid, name: name.to_owned() };
    let sent = |mechanism: &str, pid, bytes, messages| Truth::Sent {
        mechanism: mechanism.to_owned(),
        by: Party::Pid(pid),
        bytes,
        messages,
    };
    let heard = |mechanism: &str, channel: &str, mark, bytes, messages| Truth::Transfer {
        mechanism: mechanism.to_owned(),
        channel: Some(channel.to_owned()),
        from: Party::Mark(mark),
        to: Party::Pid(12),
        bytes,
        messages,
    };
    vec![
        member(1, 10, "writer-a"),
        member(2, 11, "writer-b"),
        member(3, 12, "reader"),
        sent("pipe", 10, 300, None),
        sent("pipe", 11, 200, None),
        heard("pipe", PIPE, 1, 300, None),
        heard("pipe", PIPE, 2, 200, None),
        sent("unix_dgram", 10, 90, Some(2)),
        heard("unix_dgram", SOCKETS, 1, 60, Some(1)),
        heard("unix_dgram", SOCKETS, 1, 30, Some(1)),
        Truth::Named { channel: SOCKETS.to_owned(), name: "@server".to_owned() },
        Truth::Signal {
            signal: "SIGUSR1".to_owned(),
            from: Party::Pid(10),
            to: Party::Pid(12),
            outcome: "delivered".to_owned(),
            value: Some(42),
        },
        Truth::Handoff { from: Party::Mark(1), to: Party::Pid(12), object: "socket:[5]".to_owned() },
    ]
}

/// The reader, to whom all goes.
fn reader() -> Rc<crate::model::Proc> {
    Rc::new(fixture::process(12, b"reader"))
}

fn transfer(mechanism: Mechanism, sender: End, bytes: u64, messages: u64) -> Transfer {
    let channel = if mechanism == Mechanism::UnixDgram {
        fixture::channel(SOCKETS, Some("@server"))
    } else {
        fixture::channel(PIPE, None)
    };
    let receiver = End::Known(reader());
    Transfer { mechanism, channel, sender, receiver, bytes, messages, ..fixture::transfer() }
}

fn a() -> End {
    fixture::known(10, "writer-a")
}

fn b() -> End {
    fixture::known(11, "writer-b")
}

/// A trace of it that is right.
struct Trace {
    from_a: Transfer,
    from_b: Transfer,
    messages: Transfer,
    signal: Signal,
    handoff: Handoff,
    /// What else was traced.
    others: Vec<Event>,
}

impl Trace {
    fn right() -> Trace {
        Trace {
            from_a: transfer(Mechanism::Pipe, a(), 300, 3),
            from_b: transfer(Mechanism::Pipe, b(), 200, 7),
            messages: transfer(Mechanism::UnixDgram, a(), 90, 2),
            signal: Signal {
                number: 10,
                value: Some(42),
                sender: a(),
                receiver: reader(),
                outcome: Outcome::Delivered,
                ..fixture::signal()
            },
            handoff: Handoff {
                sender: a(),
                receiver: End::Known(reader()),
                object: fixture::channel("socket:[5]->socket:[6]", None),
                ..fixture::handoff()
            },
            others: Vec::new(),
        }
    }

    fn events(self) -> Vec<Event> {
        let mut events = vec![
            Event::Transfer(self.from_a),
            Event::Transfer(self.from_b),
            Event::Transfer(self.messages),
            Event::Signal(self.signal),
            Event::Handoff(self.handoff),
        ];
        events.extend(self.others);
        events
    }
}

/// What the comparison finds once `change` has been made to the trace.
fn found(change: impl FnOnce(&mut Trace)) -> Vec<String> {
    let mut trace = Trace::right();
    change(&mut trace);
    let report = compare(&truth(), &trace.events());
    assert_eq!(report.equal(), report.differences().is_empty());
    report.differences()
}

/// That a change is found, as exactly so many differences, one of which says this.
#[track_caller]
fn finds(count: usize, says: &str, change: impl FnOnce(&mut Trace)) {
    let differences = found(change);
    assert_eq!(differences.len(), count, "{differences:#?}");
    assert!(differences.iter().any(|difference| difference.contains(says)), "{differences:#?}");
}

#[test]
fn what_is_equal_is_equal() {
    let report = compare(&truth(), &Trace::right().events());
    assert_eq!(report.differences(), [""; 0]);
    assert!(report.equal());
    assert_eq!(report.score(), (5, 5));
    // Bytes of the pipe and of messages; messages, the signal and the descriptor.
    assert_eq!(report.totals(), ((590, 4), (590, 4)));
}

#[test]
fn it_does_not_matter_how_a_stream_was_cut() {
    let parts = |trace: &mut Trace| {
        trace.from_a.bytes = 299;
        trace.others.push(Event::Transfer(transfer(Mechanism::Pipe, a(), 1, 1)));
    };
    assert_eq!(found(parts), [""; 0]);
}

#[test]
fn a_missing_byte_is_found() {
    finds(1, "writer-a[10] -> reader[12]: done 300 B, traced 299 B", |trace| trace.from_a.bytes = 299);
}

#[test]
fn a_byte_of_the_wrong_writer_is_found_on_both_sides() {
    finds(2, "writer-b[11] -> reader[12]: done 200 B, traced 201 B", |trace| {
        trace.from_a.bytes = 299;
        trace.from_b.bytes = 201;
    });
}

#[test]
fn a_wrong_name_is_found() {
    finds(2, "sort[10] -> reader[12]: done -, traced 300 B", |trace| {
        trace.from_a.sender = fixture::known(10, "sort");
    });
    finds(2, "sort[12]", |trace| trace.signal.receiver = Rc::new(fixture::process(12, b"sort")));
}

#[test]
fn an_end_that_is_not_named_is_found() {
    finds(2, "(before-start) -> reader[12]: done -", |trace| {
        trace.from_a.sender = End::Unknown(Why::BeforeStart);
    });
    finds(2, "writer-a[10] -> (unread): done -", |trace| {
        trace.from_a.receiver = End::Unknown(Why::Unread);
    });
}

#[test]
fn a_flow_that_nobody_made_is_found() {
    finds(1, "pipe:[7] reader[12] -> reader[12]: done -, traced 1 B", |trace| {
        let extra = transfer(Mechanism::Pipe, End::Known(reader()), 1, 1);
        trace.others.push(Event::Transfer(extra));
    });
    // Also over a channel of which the workload says nothing.
    finds(1, "writer-b[11] -> reader[12]: done -, traced 1 B", |trace| {
        let extra = transfer(Mechanism::UnixStream, b(), 1, 1);
        trace.others.push(Event::Transfer(extra));
    });
}

#[test]
fn processes_that_take_no_part_do_not_count() {
    let strangers = |trace: &mut Trace| {
        let receiver = fixture::known(99, "cat");
        let other = Transfer { receiver, ..transfer(Mechanism::Pipe, fixture::known(98, "ls"), 5, 1) };
        trace.others.push(Event::Transfer(other));
    };
    assert_eq!(found(strangers), [""; 0]);
}

#[test]
fn the_wrong_channel_is_found() {
    finds(2, "pipe:[7] writer-a[10] -> reader[12]: done 300 B, traced -", |trace| {
        trace.from_a.channel = fixture::channel("pipe:[8]", None);
    });
    finds(2, "unix_dgram  writer-a[10] -> reader[12]: done -, traced 90 B in 2", |trace| {
        trace.messages.channel = fixture::channel("socket:[?]->socket:[2]", Some("@server"));
    });
}

#[test]
fn the_wrong_name_of_a_channel_is_found() {
    finds(1, "is named @server, traced as @else", |trace| {
        trace.messages.channel = fixture::channel(SOCKETS, Some("@else"));
    });
    finds(1, "traced as nothing", |trace| trace.messages.channel = fixture::channel(SOCKETS, None));
}

#[test]
fn merged_messages_are_found() {
    finds(1, "done 90 B in 2, traced 90 B in 1", |trace| trace.messages.messages = 1);
}

#[test]
fn what_became_of_a_signal_is_compared() {
    finds(2, "SIGUSR1 blocked value 42", |trace| trace.signal.outcome = Outcome::Blocked);
    finds(2, "SIGUSR1 delivered value 43", |trace| trace.signal.value = Some(43));
    finds(2, "SIGUSR2", |trace| trace.signal.number = 12);
    finds(2, "writer-b[11] -> reader[12]", |trace| trace.signal.sender = b());
    finds(1, "SIGUSR1 delivered value 42 writer-a[10] -> reader[12]: done 1x, traced 2x", |trace| {
        trace.others.push(Event::Signal(trace.signal.clone()));
    });
}

#[test]
fn what_was_passed_is_compared() {
    finds(2, "socket:[6]", |trace| {
        trace.handoff.object = fixture::channel("socket:[6]->socket:[5]", None);
    });
    finds(2, "writer-b[11] -> reader[12]: done -, traced 1x", |trace| trace.handoff.sender = b());
}

#[test]
fn a_loss_is_a_difference() {
    finds(1, "lost 3 records", |trace| {
        trace.others.push(Event::Lost(Lost { time: 0, cause: Cause::RingFull, count: 3 }));
    });
}

#[test]
fn what_does_not_add_up_among_the_processes_is_a_difference() {
    let mut truth = truth();
    truth.push(Truth::Sent { mechanism: "pipe".to_owned(), by: Party::Pid(11), bytes: 1, messages: None });
    let report = compare(&truth, &Trace::right().events());
    assert!(!report.equal());
    assert!(report.differences()[0].contains("writer-b[11] sent 201 bytes"), "{:?}", report.differences());
}

#[test]
fn nothing_is_not_equal_to_nothing() {
    assert!(!compare(&[], &[]).equal());
    let members = &truth()[..3];
    assert!(!compare(members, &[]).equal());
}

#[test]
fn the_table_marks_what_differs() {
    let right = compare(&truth(), &Trace::right().events()).table(Charset::Utf8).to_string();
    assert!(right.contains("writer-b[11]") && right.contains(" yes ") && !right.contains(" NO "), "{right}");
    let mut trace = Trace::right();
    trace.from_b.bytes = 199;
    let report = compare(&truth(), &trace.events());
    let wrong = report.table(Charset::Utf8).to_string();
    let line = wrong.lines().find(|line| line.contains("writer-b[11]")).expect("a row of writer-b");
    assert!(line.contains("200 B") && line.contains("199 B") && line.contains(" NO "), "{wrong}");
    assert_eq!(wrong.matches(" NO ").count(), 1, "{wrong}");
    assert!(!wrong.is_ascii() && report.table(Charset::Ascii).to_string().is_ascii());
}

#[test]
fn who_woke_whom_and_how_late_is_compared() {
    const SET: &str = "sysv_sem:3";
    let wake = |sender, latency| {
        Event::Wake(crate::model::Wake {
            time: 9_000,
            mechanism: Mechanism::SysvSem,
            channel: fixture::channel(SET, None),
            sender,
            receiver: End::Known(reader()),
            latency,
        })
    };
    let mut truth = truth();
    truth.push(Truth::Wake {
        mechanism: "sysv_sem".to_owned(),
        channel: Some(SET.to_owned()),
        from: Party::Pid(10),
        to: Party::Pid(12),
        waited: Some((500, 700)),
    });
    let found = |event: Option<Event>| {
        let mut trace = Trace::right();
        trace.others.extend(event);
        compare(&truth, &trace.events()).differences()
    };
    assert_eq!(found(Some(wake(a(), Some(600)))), [""; 0]);
    assert!(found(Some(wake(a(), Some(701))))[0].contains("traced 701 ns"));
    assert!(found(Some(wake(a(), None)))[0].contains("traced 0 ns"));
    assert!(found(Some(wake(b(), Some(600)))).iter().any(|line| line.contains("writer-b[11] -> reader[12]")));
    assert!(found(None)[0].contains("done 1x, traced -"));
}
