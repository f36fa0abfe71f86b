//! System V message queues: the message that was really taken, not the first.

use std::fs;

use anyhow::{Result, ensure};
use ipctrace::demo::stage::SysvQueue;
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::{Scenario, blocks_in, middle};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "sysv_msg_by_type", play: by_type },
    Scenario { name: "sysv_msg_two_receivers", play: two_receivers },
    Scenario { name: "sysv_msg_cut_short", play: cut_short },
    Scenario { name: "sysv_msg_removed", play: removed },
    Scenario { name: "sysv_msg_id_used_again", play: used_again },
    Scenario { name: "sysv_msg_namespaces", play: namespaces },
];

pub(super) const IN_THE_MIDDLE: &[Scenario] =
    &[Scenario { name: "sysv_msg_in_the_middle", play: in_the_middle }];

/// Sets the identifier that the next queue of this IPC namespace gets.
const NEXT_ID: &str = "/proc/sys/kernel/msg_next_id";

fn tell(stage: &Stage, channel: String, from: Party, to: Party, bytes: usize) -> Result<()> {
    stage.tell(&Truth::Transfer {
        mechanism: "sysv_msg".to_owned(),
        channel: Some(channel),
        from,
        to,
        bytes: bytes as u64,
        messages: Some(1),
    })
}

fn unread() -> Party {
    Party::None("unread".to_owned())
}

/// Takes a message and reports it.
fn take(stage: &Stage, queue: &SysvQueue, kind: i64, flags: i32) -> Result<i64> {
    let (kind, content) = queue.receive(kind, 512, flags)?;
    tell(stage, queue.with(kind), Party::Mark(content[0]), stage.me(), content.len())?;
    Ok(kind)
}

/// Two send with changing types, at the same time; one takes what it wants.
fn by_type(stage: &Stage) -> Result<()> {
    const TYPES: i64 = 5;
    const ROUNDS: i64 = 8;
    let queue = SysvQueue::with_key(0)?;
    let mut senders = Vec::new();
    for name in ["sender-a", "sender-b"] {
        senders.push(stage.child(name, |stage| {
            stage.raise(0);
            stage.wait_for(0, 2)?;
            for turn in 0..TYPES * ROUNDS {
                queue.send(1 + turn % TYPES, &stage.marked(1 + turn as usize % 7), 0)?;
            }
            Ok(())
        })?);
    }
    let receiver = stage.child("receiver", |stage| {
        // Waits for one that is not there yet, as likely as not.
        for _ in 0..2 * ROUNDS {
            ensure!(take(stage, &queue, 4, 0)? == 4);
        }
        stage.wait_for(1, 1)?;
        // A look takes nothing, where the kernel can look.
        let looked = queue.receive(0, 512, libc::MSG_COPY | libc::IPC_NOWAIT);
        ensure!(looked.is_ok() || looked == Err(Errno::ENOSYS), "{looked:?}");
        for _ in 0..2 * ROUNDS {
            ensure!(take(stage, &queue, -3, 0)? == 1);
        }
        for _ in 0..2 * ROUNDS {
            ensure!(take(stage, &queue, 5, libc::MSG_EXCEPT)? != 5);
        }
        ensure!(queue.receive(1, 512, libc::IPC_NOWAIT).is_err());
        for _ in 0..2 * 2 * ROUNDS {
            take(stage, &queue, 0, 0)?;
        }
        ensure!(queue.receive(0, 512, libc::IPC_NOWAIT) == Err(Errno::ENOMSG));
        Ok(())
    })?;
    stage.reap(&senders)?;
    stage.raise(1);
    stage.reap(&[receiver])
}

/// Two receive what two send.
fn two_receivers(stage: &Stage) -> Result<()> {
    let queue = SysvQueue::new()?;
    let mut children = Vec::new();
    for index in 0..2 {
        children.push(stage.child(&format!("receiver-{index}"), |stage| {
            (0..50).try_for_each(|_| take(stage, &queue, 0, 0).map(drop))
        })?);
        children.push(stage.child(&format!("sender-{index}"), |stage| {
            (0..50).try_for_each(|turn| Ok(queue.send(1 + turn % 3, &stage.marked(20), 0)?))
        })?);
    }
    children.push(
        stage
            .child("namer", |stage| stage.tell(&Truth::Named { channel: queue.id(), name: queue.name() }))?,
    );
    stage.reap(&children)
}

/// What does not fit is gone, if the receiver says so, and else stays. Messages of equal beginnings are told apart.
fn cut_short(stage: &Stage) -> Result<()> {
    let queue = SysvQueue::new()?;
    let mut senders = Vec::new();
    for (index, len) in [100, 300, 4].into_iter().enumerate() {
        let queue = &queue;
        senders.push(stage.child(&format!("sender-{index}"), move |stage| {
            stage.wait_for(0, index as u32)?;
            queue.send(1, &stage.marked(len), 0)?;
            stage.raise(0);
            Ok(())
        })?);
    }
    stage.reap(&senders)?;
    let receiver = stage.child("receiver", |stage| {
        ensure!(queue.receive(0, 40, 0) == Err(Errno::E2BIG));
        for (room, whole) in [(40, 100), (4, 300), (4, 4)] {
            let (kind, content) = queue.receive(0, room, libc::MSG_NOERROR)?;
            ensure!(content.len() == room);
            let from = || Party::Mark(content[0]);
            tell(stage, queue.with(kind), from(), stage.me(), room)?;
            if whole > room {
                tell(stage, queue.with(kind), from(), unread(), whole - room)?;
            }
        }
        Ok(())
    })?;
    stage.reap(&[receiver])
}

/// A queue is removed with messages in it, while a receiver waits for another type.
fn removed(stage: &Stage) -> Result<()> {
    let queue = SysvQueue::new()?;
    let receiver = stage.child("receiver", |_| {
        let refused = queue.receive(9, 512, 0);
        ensure!(refused == Err(Errno::EIDRM), "{refused:?}");
        Ok(())
    })?;
    let sender = stage.child("sender", |stage| {
        for len in [5, 6] {
            queue.send(2, &stage.marked(len), 0)?;
            tell(stage, queue.with(2), stage.me(), unread(), len)?;
        }
        Ok(())
    })?;
    stage.reap(&[sender])?;
    stage.wait_until(|| blocks_in(receiver, libc::SYS_msgrcv))?;
    queue.remove()?;
    stage.reap(&[receiver])?;
    // The key is free again; the identifier differs.
    let again = SysvQueue::new()?;
    let sender = stage.child("sender-again", |stage| Ok(again.send(2, &stage.marked(5), 0)?))?;
    stage.reap(&[sender])?;
    let receiver = stage.child("receiver-again", |stage| take(stage, &again, 0, 0).map(drop))?;
    stage.reap(&[receiver])
}

/// A new queue has the identifier of one that was removed with equal messages in it.
fn used_again(stage: &Stage) -> Result<()> {
    let space = stage.child("space", |stage| {
        unshare(CloneFlags::CLONE_NEWIPC)?;
        let queue = || -> Result<SysvQueue> {
            if fs::exists(NEXT_ID)? {
                fs::write(NEXT_ID, "4711")?;
            }
            SysvQueue::with_key(0x1234)?.apart()
        };
        let old = queue()?;
        let sender = stage.child("sender-old", |stage| {
            for _ in 0..2 {
                old.send(1, b"equal", 0)?;
                tell(stage, old.with(1), stage.me(), unread(), 5)?;
            }
            Ok(())
        })?;
        stage.reap(&[sender])?;
        old.remove()?;
        let new = queue()?;
        let sender = stage.child("sender-new", |_| Ok(new.send(1, b"equal", 0)?))?;
        stage.reap(&[sender])?;
        let receiver = stage.child("receiver", |stage| {
            new.receive(0, 512, 0)?;
            tell(stage, new.with(1), stage::party(sender), stage.me(), 5)
        })?;
        stage.reap(&[receiver])
    })?;
    stage.reap(&[space])
}

/// Two queues of one key and identifier, in two IPC namespaces.
fn namespaces(stage: &Stage) -> Result<()> {
    let mut children = Vec::new();
    for index in 0..2 {
        children.push(stage.child(&format!("space-{index}"), move |stage| {
            unshare(CloneFlags::CLONE_NEWIPC)?;
            let queue = SysvQueue::with_key(0x4d2)?.apart()?;
            stage.put(index, queue.number() as u64);
            stage.raise(0);
            stage.wait_for(0, 2)?;
            ensure!(stage.get(0) == stage.get(1), "the identifiers differ");
            let receiver = stage.child(&format!("receiver-{index}"), |stage| {
                (0..20).try_for_each(|_| take(stage, &queue, 0, 0).map(drop))
            })?;
            let sender = stage.child(&format!("sender-{index}"), |stage| {
                (0..20).try_for_each(|_| Ok(queue.send(1, &stage.marked(12), 0)?))
            })?;
            stage.tell(&Truth::Named { channel: queue.id(), name: queue.name() })?;
            stage.reap(&[receiver, sender])
        })?);
    }
    stage.reap(&children)
}

/// What was in queues before tracing began, and calls that began before.
fn in_the_middle(stage: &Stage) -> Result<()> {
    let full = SysvQueue::new()?;
    let empty = SysvQueue::with_key(0)?;
    let tight = SysvQueue::with_key(0)?;
    // Only the order tells these apart.
    let equal = b"tick";
    [1, 2, 1].into_iter().try_for_each(|kind| full.send(kind, equal, 0))?;
    // Two of these are as much as a queue takes.
    let large = vec![7; 8192];
    (0..2).try_for_each(|_| tight.send(5, &large, 0))?;
    let waiting = stage.child("waiting", |stage| take(stage, &empty, 0, 0).map(drop))?;
    let blocked = stage.child("blocked", |_| Ok(tight.send(5, &large, 0)?))?;
    stage.wait_until(|| blocks_in(waiting, libc::SYS_msgrcv))?;
    stage.wait_until(|| blocks_in(blocked, libc::SYS_msgsnd))?;
    middle(stage)?;
    let late = stage.child("late", |stage| {
        empty.send(3, &stage.marked(5), 0)?;
        [1, 2].into_iter().try_for_each(|kind| Ok(full.send(kind, equal, 0)?))
    })?;
    stage.reap(&[late, waiting])?;
    let before = || Party::None("before-start".to_owned());
    let receiver = stage.child("receiver", |stage| {
        for (kind, from) in [(2, before()), (2, stage::party(late)), (1, before()), (1, before())] {
            full.receive(kind, 512, 0)?;
            tell(stage, full.with(kind), from, stage.me(), equal.len())?;
        }
        full.receive(0, 512, 0)?;
        tell(stage, full.with(1), stage::party(late), stage.me(), equal.len())?;
        for from in [before(), before(), stage::party(blocked)] {
            tight.receive(0, large.len(), 0)?;
            tell(stage, tight.with(5), from, stage.me(), large.len())?;
        }
        stage.tell(&Truth::Named { channel: full.id(), name: full.name() })
    })?;
    stage.reap(&[receiver, blocked])
}
