//! POSIX message queues: the message that was really taken, not the first.

use anyhow::{Result, ensure};
use ipctrace::demo::stage::PosixQueue;
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::{Scenario, blocks_in, middle};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "posix_mq_by_priority", play: by_priority },
    Scenario { name: "posix_mq_two_receivers", play: two_receivers },
    Scenario { name: "posix_mq_full_and_empty", play: full_and_empty },
    Scenario { name: "posix_mq_notifies", play: notifies },
    Scenario { name: "posix_mq_namespaces", play: namespaces },
    Scenario { name: "posix_mq_unlinked_and_made_again", play: made_again },
];

pub(super) const IN_THE_MIDDLE: &[Scenario] =
    &[Scenario { name: "posix_mq_in_the_middle", play: in_the_middle }];

fn tell(stage: &Stage, channel: String, from: Party, to: Party, bytes: usize) -> Result<()> {
    stage.tell(&Truth::Transfer {
        mechanism: "posix_mq".to_owned(),
        channel: Some(channel),
        from,
        to,
        bytes: bytes as u64,
        messages: Some(1),
    })
}

/// A message that says who sent it and with what priority.
fn message(stage: &Stage, priority: u32, len: usize) -> Vec<u8> {
    let mut message = stage.marked(len);
    message[1] = priority as u8;
    message
}

/// Takes a message, with its priority or without asking, and reports it.
fn take(stage: &Stage, queue: &PosixQueue, ask: bool) -> Result<()> {
    let message = if ask {
        let (message, priority) = queue.receive()?;
        ensure!(priority == u32::from(message[1]));
        message
    } else {
        queue.receive_unasked()?
    };
    let channel = queue.with(message[1].into());
    tell(stage, channel, Party::Mark(message[0]), stage.me(), message.len())
}

/// Two send with changing priorities, at the same time; one receives, and does not always ask for the priority.
fn by_priority(stage: &Stage) -> Result<()> {
    const COUNT: u32 = 60;
    let queue = PosixQueue::new("priority", 10, 64, 0)?;
    let mut children = Vec::new();
    for name in ["sender-a", "sender-b"] {
        children.push(stage.child(name, |stage| {
            stage.raise(0);
            stage.wait_for(0, 2)?;
            for turn in 0..COUNT {
                let priority = turn * 7 % 5;
                queue.send(&message(stage, priority, 2 + turn as usize % 9), priority)?;
            }
            Ok(())
        })?);
    }
    children.push(
        stage.child("receiver", |stage| {
            (0..2 * COUNT).try_for_each(|turn| take(stage, &queue, turn % 3 != 0))
        })?,
    );
    stage.reap(&children)
}

/// Two receive what two send.
fn two_receivers(stage: &Stage) -> Result<()> {
    let queue = PosixQueue::new("two", 10, 64, 0)?;
    let mut children = Vec::new();
    for index in 0..2 {
        children.push(stage.child(&format!("receiver-{index}"), |stage| {
            (0..50).try_for_each(|_| take(stage, &queue, true))
        })?);
        children.push(stage.child(&format!("sender-{index}"), |stage| {
            for turn in 0..50_u32 {
                let priority = turn % 3;
                queue.send(&message(stage, priority, 20), priority)?;
            }
            Ok(())
        })?);
    }
    stage.reap(&children)
}

/// What fails is not counted; what waits is, and so is a message of no bytes.
fn full_and_empty(stage: &Stage) -> Result<()> {
    let impatient = PosixQueue::new("impatient", 2, 16, libc::O_NONBLOCK)?;
    let patient = PosixQueue::new("patient", 2, 16, 0)?;
    let sender = stage.child("sender", |stage| {
        stage.wait_for(0, 1)?;
        ensure!(impatient.send(&stage.marked(17), 0) == Err(Errno::EMSGSIZE));
        for len in [3, 4] {
            impatient.send(&message(stage, 1, len), 1)?;
        }
        ensure!(impatient.send(&stage.marked(5), 9) == Err(Errno::EAGAIN));
        stage.raise(1);
        // The third waits until the first is taken; then the receiver waits for the last.
        for len in [6, 7, 8] {
            patient.send(&message(stage, 2, len), 2)?;
        }
        stage.wait_for(2, 1)?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        patient.send(&[], 3)?;
        Ok(())
    })?;
    let receiver = stage.child("receiver", |stage| {
        ensure!(impatient.receive() == Err(Errno::EAGAIN));
        stage.raise(0);
        stage.wait_for(1, 1)?;
        take(stage, &impatient, true)?;
        take(stage, &impatient, false)?;
        ensure!(impatient.receive() == Err(Errno::EAGAIN));
        stage.wait_until(|| blocks_in(sender, libc::SYS_mq_timedsend))?;
        (0..3).try_for_each(|_| take(stage, &patient, true))?;
        stage.raise(2);
        ensure!(patient.receive()? == (Vec::new(), 3));
        tell(stage, patient.with(3), stage::party(sender), stage.me(), 0)
    })?;
    stage.reap(&[sender, receiver])
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// The signal that a message has come is of who sent it to the empty queue.
fn notifies(stage: &Stage) -> Result<()> {
    let queue = PosixQueue::new("notifies", 4, 16, 0)?;
    let receiver = stage.child("receiver", |stage| {
        let handler = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { sigaction(Signal::SIGUSR2, &handler) }?;
        queue.notify(libc::SIGUSR2, 77)?;
        stage.raise(0);
        stage.wait_for(1, 2)?;
        (0..2).try_for_each(|_| take(stage, &queue, true))
    })?;
    let mut children = vec![receiver];
    for turn in 0..2 {
        let queue = &queue;
        children.push(stage.child(&format!("sender-{turn}"), move |stage| {
            stage.wait_for(0, 1)?;
            stage.wait_for(1, turn)?;
            queue.send(&message(stage, 0, 9), 0)?;
            if turn == 0 {
                stage.tell(&Truth::Signal {
                    signal: "SIGUSR2".to_owned(),
                    from: stage.me(),
                    to: stage::party(receiver),
                    outcome: "delivered".to_owned(),
                    value: Some(77),
                })?;
            }
            stage.raise(1);
            Ok(())
        })?);
    }
    stage.reap(&children)
}

/// Two queues of one name, in two IPC namespaces.
fn namespaces(stage: &Stage) -> Result<()> {
    let name = format!("/ipctrace-ns-{}", std::process::id());
    let mut children = Vec::new();
    for index in 0..2 {
        let name = &name;
        children.push(stage.child(&format!("space-{index}"), move |stage| {
            unshare(CloneFlags::CLONE_NEWIPC)?;
            let queue = PosixQueue::named(name.clone(), 4, 64, 0)?.apart()?;
            stage.raise(0);
            stage.wait_for(0, 2)?;
            let receiver = stage.child(&format!("receiver-{index}"), |stage| {
                (0..20).try_for_each(|_| take(stage, &queue, true))
            })?;
            let sender = stage.child(&format!("sender-{index}"), |stage| {
                (0..20).try_for_each(|_| Ok(queue.send(&message(stage, 1, 12), 1)?))
            })?;
            stage.reap(&[receiver, sender])
        })?);
    }
    stage.reap(&children)
}

/// A queue without a name goes on, and another takes its name.
fn made_again(stage: &Stage) -> Result<()> {
    let name = format!("/ipctrace-again-{}", std::process::id());
    let old = PosixQueue::named(name.clone(), 4, 64, 0)?;
    let path = std::ffi::CString::new(name.as_str())?;
    // SAFETY: a string that lives until the call returns.
    Errno::result(unsafe { libc::mq_unlink(path.as_ptr()) })?;
    let new = PosixQueue::named(name, 4, 64, 0)?;
    let mut children = Vec::new();
    for (sender, queue) in [("sender-old", &old), ("sender-new", &new)] {
        children.push(stage.child(sender, |_| {
            // Equal contents, but for the queue.
            (0..3).try_for_each(|_| Ok(queue.send(&[0, 1, 9], 1)?))
        })?);
    }
    stage.reap(&children)?;
    let senders = children;
    let receiver = stage.child("receiver", |stage| {
        for (queue, sender) in [&new, &old].into_iter().zip(senders.iter().rev()) {
            for _ in 0..3 {
                queue.receive()?;
                tell(stage, queue.with(1), stage::party(*sender), stage.me(), 3)?;
            }
        }
        Ok(())
    })?;
    stage.reap(&[receiver])
}

/// What was in queues before tracing began, and calls that began before.
fn in_the_middle(stage: &Stage) -> Result<()> {
    const EARLY: [u32; 5] = [1, 7, 1, 3, 7];
    const LATE: [u32; 4] = [1, 7, 1, 3];
    let full = PosixQueue::new("middle", 10, 16, 0)?;
    let empty = PosixQueue::new("middle-empty", 2, 16, 0)?;
    let tight = PosixQueue::new("middle-tight", 2, 16, 0)?;
    // Only the order tells these apart.
    let equal = b"tick";
    EARLY.into_iter().try_for_each(|priority| full.send(equal, priority))?;
    (0..2).try_for_each(|_| tight.send(equal, 4))?;
    let waiting = stage.child("waiting", |stage| take(stage, &empty, true))?;
    let blocked = stage.child("blocked", |_| Ok(tight.send(equal, 4)?))?;
    stage.wait_until(|| blocks_in(waiting, libc::SYS_mq_timedreceive))?;
    stage.wait_until(|| blocks_in(blocked, libc::SYS_mq_timedsend))?;
    middle(stage)?;
    let late = stage.child("late", |stage| {
        empty.send(&message(stage, 6, 5), 6)?;
        LATE.into_iter().try_for_each(|priority| Ok(full.send(equal, priority)?))
    })?;
    stage.reap(&[late, waiting])?;
    let before = || Party::None("before-start".to_owned());
    let receiver = stage.child("receiver", |stage| {
        let mut early = EARLY.to_vec();
        for _ in 0..EARLY.len() + LATE.len() {
            let (message, priority) = full.receive()?;
            let place = early.iter().position(|other| *other == priority);
            let from = match place {
                Some(place) => {
                    early.remove(place);
                    before()
                }
                None => stage::party(late),
            };
            tell(stage, full.with(priority), from, stage.me(), message.len())?;
        }
        for from in [before(), before(), stage::party(blocked)] {
            tight.receive()?;
            tell(stage, tight.with(4), from, stage.me(), equal.len())?;
        }
        Ok(())
    })?;
    stage.reap(&[receiver, blocked])
}
