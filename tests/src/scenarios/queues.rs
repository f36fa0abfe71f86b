//! Message queues of both kinds, as fast as they go: one record tells of several messages where one process sends, one receives and all
//! messages are of one priority or type, and of one each as soon as that ends, whatever ends it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ipctrace::demo::Stage;
use ipctrace::demo::stage::{self, PosixQueue, SysvQueue};
use ipctrace::demo::truth::{Party, Truth};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "posix_mq_fast", play: posix },
    Scenario { name: "sysv_msg_fast", play: sysv },
    Scenario { name: "a_message_that_cannot_be_copied_is_gone", play: gone },
];

/// Messages of a sender: so many that it goes on for longer than a queue must have been known before its messages are told of
/// together.
const COUNT: usize = 12_000;
/// Of those that come later, of whose messages each is told of by itself.
const FEWER: usize = 3_000;

/// A queue of either kind.
struct Ends<'a> {
    mechanism: &'a str,
    /// Sends a message of this kind.
    send: &'a dyn Fn(u8, &[u8]) -> Result<()>,
    /// Receives one, and gives its kind and content; asks for the kind, if that is for the receiver to say.
    receive: &'a dyn Fn(bool) -> Result<(u8, Vec<u8>)>,
    /// The channel as traced, for messages of that kind.
    channel: &'a dyn Fn(u8) -> String,
}

fn posix(stage: &Stage) -> Result<()> {
    let queue = PosixQueue::new("fast", 10, 64, 0)?;
    play(
        stage,
        &Ends {
            mechanism: "posix_mq",
            send: &|kind, content| Ok(queue.send(content, kind.into())?),
            receive: &|asks| {
                if asks {
                    let (content, kind) = queue.receive()?;
                    return Ok((u8::try_from(kind)?, content));
                }
                let content = queue.receive_unasked()?;
                Ok((content[1], content))
            },
            channel: &|kind| queue.with(kind.into()),
        },
    )
}

fn sysv(stage: &Stage) -> Result<()> {
    let queue = SysvQueue::new()?;
    play(
        stage,
        &Ends {
            mechanism: "sysv_msg",
            send: &|kind, content| Ok(queue.send(kind.into(), content, 0)?),
            receive: &|_| {
                let (kind, content) = queue.receive(0, 64, 0)?;
                Ok((u8::try_from(kind)?, content))
            },
            channel: &|kind| queue.with(kind.into()),
        },
    )
}

/// One sends and one receives; others come, one after the other, and send and receive, too; then messages of other kinds.
fn play(stage: &Stage, ends: &Ends<'_>) -> Result<()> {
    let send = |name: &str, count: usize, kinds: u8| {
        stage.child(name, move |stage| {
            for turn in 0..count {
                let kind = 1 + (turn / 500) as u8 % kinds;
                // Of two lengths, in turn after a while.
                let mut content = stage.marked(if turn / 2000 % 2 == 0 { 20 } else { 20 + turn % 2 });
                content[1] = kind;
                (ends.send)(kind, &content)?;
            }
            Ok(())
        })
    };
    let receive = |name: &str, count: usize, asks: bool| {
        stage.child(name, move |stage| {
            let mut sums = BTreeMap::<_, (u64, u64)>::new();
            for _ in 0..count {
                let (kind, content) = (ends.receive)(asks)?;
                let sum = sums.entry((content[0], kind)).or_default();
                *sum = (sum.0 + 1, sum.1 + content.len() as u64);
            }
            sums.into_iter().try_for_each(|((mark, kind), (messages, bytes))| {
                stage.tell(&Truth::Transfer {
                    mechanism: ends.mechanism.to_owned(),
                    channel: Some((ends.channel)(kind)),
                    from: Party::Mark(mark),
                    to: stage.me(),
                    bytes,
                    messages: Some(messages),
                })
            })
        })
    };
    let first = [send("alone", COUNT, 1)?, receive("receives-alone", COUNT, true)?];
    stage.reap(&first)?;
    // Another process receives, and then another sends: what the first left in the queue is before what the next puts there.
    let few = 8;
    let left: [Pid; 1] = [send("leaves-some", few, 1)?];
    stage.reap(&left)?;
    let both = [
        send("sender-a", FEWER, 1)?,
        send("sender-b", FEWER, 1)?,
        receive("receiver-a", FEWER + few, true)?,
        receive("receiver-b", FEWER, false)?,
    ];
    stage.reap(&both)?;
    let kinds = [send("kinds", FEWER, 3)?, receive("receives-kinds", FEWER, true)?];
    stage.reap(&kinds)
}

/// A receiver's memory is not there: it has taken the message all the same, of which nothing arrives, and the next receive gets the next.
fn gone(stage: &Stage) -> Result<()> {
    let posix = PosixQueue::new("gone", 4, 64, 0)?;
    let sysv = SysvQueue::new()?;
    let mut senders = Vec::new();
    for (index, name) in ["sender-a", "sender-b"].into_iter().enumerate() {
        let sender = stage.child(name, |stage| {
            posix.send(&stage.marked(10), 3)?;
            sysv.send(7, &stage.marked(10 + index), 0).map_err(Into::into)
        })?;
        stage.reap(&[sender])?;
        senders.push(sender);
    }
    let receiver = stage.child("receiver", |stage| {
        let told = |mechanism: &str, channel: String, from: Pid, to: Party, bytes: u64| {
            let (mechanism, channel, from) = (mechanism.to_owned(), Some(channel), stage::party(from));
            stage.tell(&Truth::Transfer { mechanism, channel, from, to, bytes, messages: Some(1) })
        };
        let unread = || Party::None("unread".to_owned());
        ensure!(posix.receive_in_vain() == Err(Errno::EFAULT));
        told("posix_mq", posix.with(3), senders[0], stage.me(), 0)?;
        told("posix_mq", posix.with(3), senders[0], unread(), 10)?;
        ensure!(posix.receive()?.0.len() == 10);
        told("posix_mq", posix.with(3), senders[1], stage.me(), 10)?;
        ensure!(sysv.receive_in_vain(0) == Err(Errno::EFAULT));
        told("sysv_msg", sysv.with(7), senders[0], stage.me(), 0)?;
        told("sysv_msg", sysv.with(7), senders[0], unread(), 10)?;
        ensure!(sysv.receive(0, 64, 0)?.1.len() == 11);
        told("sysv_msg", sysv.with(7), senders[1], stage.me(), 11)
    })?;
    stage.reap(&[receiver])
}
