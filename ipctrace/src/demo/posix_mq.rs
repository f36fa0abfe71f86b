//! `posix_mq`: what is urgent overtakes.

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::Demo;
use super::stage::{self, PosixQueue, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "posix_mq",
    summary: "jobs of two producers in one POSIX message queue, the urgent ones first",
    story: "Two producers fill a queue before a consumer takes what is in it, by priority and not as it came. One of them \
            finds it\nfull: its call that does not wait fails and is not counted, the next one waits. Then the consumer has \
            itself told by\na signal when a message comes: the signal is of who sent the message.",
    mechanisms: &[Mechanism::PosixMq, Mechanism::Signal],
    play,
};

/// Sizes and priorities of what the first sends.
const FIRST: [(usize, u32); 3] = [(20, 1), (30, 9), (40, 1)];
/// And the second.
const SECOND: [(usize, u32); 2] = [(21, 5), (31, 9)];
/// What comes when the queue is full.
const LATE: (usize, u32) = (41, 0);
/// What comes when it is empty.
const LAST: (usize, u32) = (10, 2);
/// Priorities as they are to arrive.
const ARRIVAL: [u32; 6] = [9, 9, 5, 1, 1, 0];
/// What the signal carries.
const VALUE: usize = 815;

/// Flag: the first has sent.
const FILLED: usize = 0;
/// Flag: the queue is full, and the second knows.
const FULL: usize = 1;
/// Flag: the consumer waits for the signal.
const EMPTY: usize = 2;

fn play(stage: &Stage) -> Result<()> {
    let room = FIRST.len() + SECOND.len();
    let queue = PosixQueue::new("demo", room as i64, 64, 0)?;
    let consumer = stage.child("consumer", |stage| consume(stage, &queue))?;
    let first = stage.child("producer-a", |stage| {
        let mut bytes = 0;
        for (size, priority) in FIRST {
            queue.send(&stage.marked(size), priority)?;
            bytes += size;
        }
        stage.raise(FILLED);
        stage.wait_for(EMPTY, 1)?;
        queue.send(&stage.marked(LAST.0), LAST.1)?;
        stage.tell(&Truth::Signal {
            signal: "SIGUSR1".to_owned(),
            from: stage.me(),
            to: stage::party(consumer),
            outcome: "delivered".to_owned(),
            value: Some(VALUE as u64),
        })?;
        stage.sent("posix_mq", bytes + LAST.0, Some(FIRST.len() + 1))
    })?;
    let second = stage.child("producer-b", |stage| {
        stage.wait_for(FILLED, 1)?;
        let mut bytes = 0;
        for (size, priority) in SECOND {
            queue.send(&stage.marked(size), priority)?;
            bytes += size;
        }
        let refused = queue.try_send(&stage.marked(LATE.0), LATE.1);
        ensure!(refused == Err(Errno::ETIMEDOUT), "a full queue takes a message: {refused:?}");
        stage.put(FULL, std::process::id().into());
        stage.raise(FULL);
        queue.send(&stage.marked(LATE.0), LATE.1)?;
        stage.sent("posix_mq", bytes + LATE.0, Some(SECOND.len() + 1))
    })?;
    stage.reap(&[consumer, first, second])
}

fn consume(stage: &Stage, queue: &PosixQueue) -> Result<()> {
    let mut told = SigSet::empty();
    told.add(Signal::SIGUSR1);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&told), None)?;
    stage.wait_for(FULL, 1)?;
    let second = nix::unistd::Pid::from_raw(stage.get(FULL) as i32);
    stage.wait_until(|| stage::sleeps(second))?;
    for priority in ARRIVAL {
        ensure!(take(stage, queue)? == priority, "not the order of a priority queue");
    }
    queue.notify(libc::SIGUSR1, VALUE)?;
    stage.raise(EMPTY);
    ensure!(told.wait()? == Signal::SIGUSR1);
    take(stage, queue)?;
    stage.tell(&Truth::Named { channel: queue.id(), name: queue.name().to_owned() })
}

/// Takes a message, reports it and gives its priority.
fn take(stage: &Stage, queue: &PosixQueue) -> Result<u32> {
    let (message, priority) = queue.receive()?;
    stage.tell(&Truth::Transfer {
        mechanism: "posix_mq".to_owned(),
        channel: Some(queue.with(priority)),
        from: Party::Mark(message.first().copied().unwrap_or(0)),
        to: stage.me(),
        bytes: message.len() as u64,
        messages: Some(1),
    })?;
    Ok(priority)
}
