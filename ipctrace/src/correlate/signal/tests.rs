use ipctrace_common::Mechanism;
use ipctrace_common::wire::{self, Kind, process_event, signal_info, signal_phase, signal_result};

use crate::correlate::testing::{correlate, header, task};
use crate::decode::Record;
use crate::model::{End, Event, Outcome, Signal, Why};

use super::{SI_MESGQ, SI_TIMER, SIGINT, SIGKILL};

const SIGUSR1: u32 = 10;
const SIGRTMIN: u32 = 34;

fn signal(phase: u16, from: u32, to: u32, number: u32, time: u64) -> wire::Signal {
    wire::Signal {
        header: header(Kind::Signal, Mechanism::Signal, phase, time),
        task: task(from),
        target: task(to),
        signal: number,
        group: 1,
        ..wire::Signal::default()
    }
}

fn generated(from: u32, to: u32, number: u32, time: u64) -> wire::Signal {
    signal(signal_phase::GENERATE, from, to, number, time)
}

fn delivered(to: u32, number: u32, time: u64) -> wire::Signal {
    signal(signal_phase::DELIVER, to, to, number, time)
}

fn exit(pid: u32, time: u64) -> Record {
    Record::Process(Box::new(wire::Process {
        header: header(Kind::Process, Mechanism::Signal, process_event::EXIT, time),
        task: task(pid),
        ..wire::Process::default()
    }))
}

fn signals(records: impl IntoIterator<Item = wire::Signal>) -> Vec<Signal> {
    of(correlate(records.into_iter().map(|signal| Record::Signal(Box::new(signal)))))
}

fn of(events: Vec<Event>) -> Vec<Signal> {
    let signal = |event| match event {
        Event::Signal(signal) => Some(signal),
        Event::Transfer(_)
        | Event::Share(_)
        | Event::Wake(_)
        | Event::Handoff(_)
        | Event::Evidence(_)
        | Event::Lost(_) => None,
    };
    events.into_iter().filter_map(signal).collect()
}

fn pid(end: &End) -> Option<u32> {
    end.process().map(|process| process.pid)
}

#[test]
fn a_signal_goes_from_sender_to_receiver() {
    let all = signals([generated(10, 20, SIGUSR1, 5), delivered(20, SIGUSR1, 9)]);
    assert_eq!(all.len(), 1);
    let Signal { sender, receiver, outcome, latency, time, value, .. } = &all[0];
    assert_eq!((pid(sender), receiver.pid, *outcome), (Some(10), 20, Outcome::Delivered));
    assert_eq!((*latency, *time, *value), (Some(4), 9, None));
}

#[test]
fn each_result_of_generating_has_its_outcome() {
    let with = |result, number| wire::Signal { result, ..generated(10, 20, number, 1) };
    let all = signals([
        with(signal_result::IGNORED, 1),
        with(signal_result::ALREADY_PENDING, 2),
        with(signal_result::OVERFLOW_FAIL, SIGRTMIN),
        wire::Signal { blocked: 1, ..generated(10, 20, 5, 2) },
        generated(10, 20, 6, 3),
        wire::Signal { ignored: 1, ..delivered(20, 7, 4) },
    ]);
    let outcomes: Vec<Outcome> = all.iter().map(|signal| signal.outcome).collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Ignored,
            Outcome::AlreadyPending,
            Outcome::Undelivered,
            Outcome::Ignored,
            Outcome::Blocked,
            Outcome::Undelivered
        ]
    );
}

#[test]
fn queued_values_stay_with_their_signals() {
    let queued = |from, value| wire::Signal { code: -1, value, ..generated(from, 20, SIGRTMIN, value) };
    let taken = |value| wire::Signal { code: -1, value, ..delivered(20, SIGRTMIN, 9) };
    let all = signals([queued(10, 1), queued(11, 2), taken(2), taken(1)]);
    let seen: Vec<_> = all.iter().map(|signal| (pid(&signal.sender), signal.value)).collect();
    assert_eq!(seen, [(Some(11), Some(2)), (Some(10), Some(1))]);
}

#[test]
fn a_signal_to_a_thread_is_that_threads() {
    let thread = |mut record: wire::Signal, tid| {
        record.group = 0;
        record.target.tid = tid;
        record
    };
    let taken = |tid| {
        let mut record = delivered(20, SIGUSR1, 9);
        record.task.tid = tid;
        record
    };
    let all = signals([
        thread(generated(10, 20, SIGUSR1, 1), 21),
        generated(11, 20, SIGUSR1, 2),
        taken(20),
        taken(21),
    ]);
    let seen: Vec<_> = all.iter().map(|signal| (pid(&signal.sender), signal.receiver.tid)).collect();
    assert_eq!(seen, [(Some(11), 20), (Some(10), 21)]);
}

#[test]
fn the_kernel_sends_some_itself() {
    let ctrl_c = wire::Signal {
        info: signal_info::PRIVATE,
        code: 128,
        tty: *b"pts3\0\0\0\0\0\0\0\0\0\0\0\0",
        ..generated(10, 20, SIGINT, 1)
    };
    let child = wire::Signal { code: 1, ..generated(10, 20, 17, 2) };
    let timer = wire::Signal { code: SI_TIMER, value: 7, ..generated(10, 20, 14, 3) };
    let all = signals([ctrl_c, child, timer]);
    assert!(all.iter().all(|signal| signal.sender == End::Unknown(Why::Kernel)));
    assert_eq!(all[0].tty.as_deref(), Some(&b"pts/3"[..]));
    assert_eq!((all[1].tty.as_deref(), all[2].value), (None, Some(7)));
}

#[test]
fn a_fatal_signal_is_one_event_however_many_threads_die() {
    let kill = |tid, time| {
        let mut record = delivered(20, SIGKILL, time);
        (record.info, record.exit_code, record.task.tid) = (signal_info::NO_INFO, SIGUSR1, tid);
        record
    };
    let all = signals([generated(10, 20, SIGUSR1, 1), kill(21, 3), kill(20, 4)]);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].number, pid(&all[0].sender), all[0].outcome), (SIGUSR1, Some(10), Outcome::Delivered));
    // So is one to a thread, whichever dies first, and after one of that number that was handled.
    let to_thread = || {
        let mut record = generated(10, 20, SIGUSR1, 2);
        (record.group, record.target.tid) = (0, 20);
        record
    };
    let all = signals([to_thread(), kill(21, 3), kill(20, 4)]);
    let seen: Vec<_> = all.iter().map(|signal| (pid(&signal.sender), signal.outcome)).collect();
    assert_eq!(seen, [(Some(10), Outcome::Delivered)]);
    let handled = [generated(11, 20, SIGUSR1, 0), delivered(20, SIGUSR1, 1)];
    let all = signals(handled.into_iter().chain([to_thread(), kill(21, 3), kill(20, 4)]));
    let seen: Vec<_> = all.iter().map(|signal| (pid(&signal.sender), signal.outcome)).collect();
    assert_eq!(seen, [(Some(11), Outcome::Delivered), (Some(10), Outcome::Delivered)]);
    // exit_group() ends threads by SIGKILL too, and nobody sent one.
    let mut exits = kill(21, 3);
    exits.exit_code = 0x100;
    assert_eq!(signals([exits]), []);
}

#[test]
fn a_delivery_alone_began_before_the_start() {
    let all = signals([delivered(20, SIGUSR1, 9), wire::Signal { code: 1, ..delivered(20, 17, 9) }]);
    assert_eq!(all[0].sender, End::Unknown(Why::BeforeStart));
    assert_eq!(all[1].sender, End::Unknown(Why::Kernel));
    assert_eq!(all[0].latency, None);
}

#[test]
fn the_end_of_the_receiver_settles_its_signals() {
    let pending = Record::Signal(Box::new(wire::Signal { blocked: 1, ..generated(10, 20, SIGUSR1, 1) }));
    let other = Record::Signal(Box::new(generated(10, 30, SIGUSR1, 2)));
    let all = of(correlate([pending, other, exit(20, 5)]));
    let seen: Vec<_> = all.iter().map(|signal| (signal.receiver.pid, signal.outcome)).collect();
    assert_eq!(seen, [(20, Outcome::Blocked), (30, Outcome::Undelivered)]);
}

#[test]
fn that_a_message_has_come_is_told_by_its_sender() {
    let told = |record| wire::Signal { code: SI_MESGQ, value: 9, ..record };
    let all = signals([told(generated(10, 20, SIGUSR1, 1)), told(delivered(20, SIGUSR1, 2))]);
    assert_eq!((pid(&all[0].sender), all[0].value), (Some(10), Some(9)));
}
