//! `sysv_msg`: whoever wants a message says of which type.

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::errno::Errno;
use nix::libc;

use super::Demo;
use super::stage::{Stage, SysvQueue};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "sysv_msg",
    summary: "messages in a System V queue taken by type, cut short, and removed with the queue",
    story: "Two senders fill a queue with messages of several types. The receiver takes them by type, lowest type first, and all \
            but one\ntype; a look at a message (MSG_COPY) is no receive, and of one that does not fit the rest is gone. In the \
            end the\nqueue is removed with a message in it.",
    mechanisms: &[Mechanism::SysvMsg],
    play,
};

/// Types and sizes of what the first sends.
const FIRST: [(i64, usize); 3] = [(3, 30), (1, 10), (7, 200)];
/// And the second.
const SECOND: [(i64, usize); 3] = [(2, 25), (3, 35), (9, 99)];
/// How the receiver asks, and the type that it is to get.
const ASKED: [(i64, i32, i64); 4] = [(3, 0, 3), (-5, 0, 1), (-5, 0, 2), (9, libc::MSG_EXCEPT, 7)];
/// Room for a message, of which one does not fit.
const ROOM: usize = 64;

fn play(stage: &Stage) -> Result<()> {
    let queue = SysvQueue::new()?;
    let mut senders = Vec::new();
    for (turn, (name, messages)) in [("sender-a", FIRST), ("sender-b", SECOND)].into_iter().enumerate() {
        let queue = &queue;
        senders.push(stage.child(name, move |stage| {
            stage.wait_for(0, turn as u32)?;
            for (kind, size) in messages {
                queue.send(kind, &stage.marked(size), 0)?;
            }
            stage.raise(0);
            stage.sent("sysv_msg", messages.iter().map(|(_, size)| size).sum(), Some(messages.len()))
        })?);
    }
    let receiver = stage.child("receiver", |stage| {
        stage.wait_for(0, 2)?;
        receive(stage, &queue)
    })?;
    stage.reap(&senders)?;
    stage.reap(&[receiver])?;
    let left = queue.receive(0, ROOM, libc::IPC_NOWAIT);
    ensure!(left == Err(Errno::E2BIG), "what is left is too long: {left:?}");
    queue.remove()?;
    tell(stage, &queue, 9, Party::Mark(stage.get(0) as u8), Party::None("unread".to_owned()), SECOND[2].1)
}

fn receive(stage: &Stage, queue: &SysvQueue) -> Result<()> {
    let looked = queue.receive(0, ROOM, libc::MSG_COPY | libc::IPC_NOWAIT);
    // Kernels without CONFIG_CHECKPOINT_RESTORE cannot copy.
    ensure!(looked.is_ok() || looked == Err(Errno::ENOSYS), "MSG_COPY: {looked:?}");
    for (asked, flags, kind) in ASKED {
        let (got, content) = queue.receive(asked, ROOM, flags | libc::MSG_NOERROR)?;
        ensure!(got == kind, "{got} where {kind} was to come");
        let from = Party::Mark(content[0]);
        tell(stage, queue, kind, from.clone(), stage.me(), content.len())?;
        if kind == 7 {
            ensure!(content.len() == ROOM);
            tell(stage, queue, kind, from, Party::None("unread".to_owned()), FIRST[2].1 - ROOM)?;
        }
    }
    let (kind, content) = queue.receive(0, ROOM, 0)?;
    ensure!(kind == 3);
    stage.put(0, content[0].into());
    tell(stage, queue, kind, Party::Mark(content[0]), stage.me(), content.len())?;
    stage.tell(&Truth::Named { channel: queue.id(), name: queue.name() })
}

fn tell(stage: &Stage, queue: &SysvQueue, kind: i64, from: Party, to: Party, bytes: usize) -> Result<()> {
    stage.tell(&Truth::Transfer {
        mechanism: "sysv_msg".to_owned(),
        channel: Some(queue.with(kind)),
        from,
        to,
        bytes: bytes as u64,
        messages: Some(1),
    })
}
