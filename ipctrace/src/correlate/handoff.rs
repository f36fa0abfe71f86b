//! Descriptors passed over unix sockets: the same `struct file` at both ends.

use std::collections::VecDeque;
use std::rc::Rc;

use foldhash::HashMap;
use ipctrace_common::{Mechanism, wire};

use crate::model::{Channel, End, Event, Handoff, Proc, Why};

use super::context::Context;
use super::naming::{self, may_be_same};

/// One end of a hand-over that waits for the other.
#[derive(Debug)]
struct Half {
    record: wire::Handoff,
    who: Rc<Proc>,
    mechanism: Mechanism,
    name: Option<Vec<u8>>,
    /// What is passed.
    object: Rc<Channel>,
    /// When it came.
    since: u64,
}

/// The hand-overs of which one end has been seen.
#[derive(Debug, Default)]
pub(super) struct Handoffs {
    /// Sent, by file.
    sent: HashMap<u64, VecDeque<Half>>,
    /// Received before the record of the sender came.
    received: VecDeque<Half>,
    count: usize,
}

/// What kind of channel was passed; `None` if it is none.
pub(super) fn mechanism(record: &wire::Handoff) -> Option<Mechanism> {
    u8::try_from(record.object_mechanism).ok().and_then(Mechanism::from_wire)
}

/// What was passed, as far as the record says it.
pub(super) fn object(record: &wire::Handoff) -> Channel {
    let (device, inode, peer) = (record.object_device, record.object_inode, record.object_peer_inode);
    let id = match mechanism(record) {
        Some(Mechanism::Pipe) => format!("pipe:[{inode}]"),
        Some(Mechanism::Pty) => format!("pty:{}", naming::terminal(inode)),
        Some(Mechanism::Eventfd) => format!("eventfd:{inode}"),
        Some(Mechanism::Fifo) => naming::file("fifo", device, inode),
        Some(Mechanism::UnixStream | Mechanism::UnixDgram | Mechanism::UnixSeqpacket) if peer != 0 => {
            naming::sockets(inode, peer)
        }
        Some(
            Mechanism::UnixStream
            | Mechanism::UnixDgram
            | Mechanism::UnixSeqpacket
            | Mechanism::Tcp
            | Mechanism::Udp,
        ) => format!("socket:[{inode}]"),
        Some(
            Mechanism::PosixMq
            | Mechanism::SysvMsg
            | Mechanism::SysvShm
            | Mechanism::PosixShm
            | Mechanism::Memfd
            | Mechanism::SharedFile
            | Mechanism::SharedAnon
            | Mechanism::SysvSem
            | Mechanism::Futex
            | Mechanism::ProcessVm
            | Mechanism::Signal,
        )
        | None => naming::file("file", device, inode),
    };
    Channel { id, name: None }
}

impl Handoffs {
    /// One end. `name` is that of the channel, if it has one; `object` is what is passed.
    #[expect(clippy::too_many_arguments, reason = "each says another thing of one record")]
    pub(super) fn push(
        &mut self,
        record: wire::Handoff,
        mechanism: Mechanism,
        receive: bool,
        who: Rc<Proc>,
        name: Option<Vec<u8>>,
        object: Rc<Channel>,
        context: &mut Context<'_>,
    ) {
        let half = Half { record, who, mechanism, name, object, since: context.now };
        if self.count >= context.limits.messages {
            *context.evicted += self.count as u64;
            *self = Handoffs::default();
        }
        self.count += 1;
        if receive {
            self.received.push_back(half);
        } else {
            self.sent.entry(record.file).or_default().push_back(half);
        }
        self.join(false, context);
    }

    /// Joins what has come, and gives up what has waited for long enough.
    pub(super) fn join(&mut self, force: bool, context: &mut Context<'_>) {
        for _ in 0..self.received.len() {
            let Some(taken) = self.received.pop_front() else { return };
            match self.sender(&taken.record) {
                Some(sent) => {
                    self.count -= 2;
                    let sender = End::Known(sent.who);
                    let sender_inode = sent.record.sender_inode;
                    let receiver = End::Known(Rc::clone(&taken.who));
                    context.out.push(event(&taken, sender, receiver, sender_inode));
                }
                None if force || context.overdue(taken.since) => {
                    self.count -= 1;
                    let why = if context.loss.is_some() { Why::Lost } else { Why::BeforeStart };
                    let receiver = End::Known(Rc::clone(&taken.who));
                    context.out.push(event(&taken, End::Unknown(why), receiver, 0));
                }
                None => self.received.push_back(taken),
            }
        }
    }

    /// The first send of that file from that socket over that channel; a send by address has no channel yet. Where a file or a socket was
    /// another's may be now: what it is of, and the sockets' inodes as far as they are known, tell.
    fn sender(&mut self, record: &wire::Handoff) -> Option<Half> {
        let sent = self.sent.get_mut(&record.file)?;
        let object = |record: &wire::Handoff| (record.object_device, record.object_inode);
        let is_it = |half: &Half| {
            (half.record.key == record.key || half.record.key.id == 0)
                && may_be_same(half.record.sender_sock, record.sender_sock)
                && may_be_same(half.record.sender_inode, record.sender_inode)
                && may_be_same(half.record.receiver_inode, record.receiver_inode)
                && object(&half.record) == object(record)
        };
        let index = sent.iter().position(is_it)?;
        let half = sent.remove(index);
        if sent.is_empty() {
            self.sent.remove(&record.file);
        }
        half
    }

    /// The end: what was sent and not received.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        self.join(true, context);
        let mut rest: Vec<Half> = self.sent.drain().flat_map(|(_, sent)| sent).collect();
        rest.sort_by_key(|half| half.record.header.time);
        self.count = 0;
        for half in rest {
            let sender = End::Known(Rc::clone(&half.who));
            context.out.push(event(&half, sender, End::Unknown(Why::Unread), 0));
        }
    }
}

/// A descriptor that `taker` took from `owner`; `None`: that process was gone already.
pub(super) fn taken(
    record: &wire::Handoff,
    owner: Option<Rc<Proc>>,
    taker: Rc<Proc>,
    object: Rc<Channel>,
) -> Event {
    let id = match &owner {
        Some(owner) => format!("pidfd:{}", owner.pid),
        None => "pidfd:?".to_owned(),
    };
    Event::Handoff(Handoff {
        time: record.header.time,
        via: "pidfd_getfd",
        channel: Rc::new(Channel { id, name: None }),
        sender: owner.map_or(End::Unknown(Why::Lost), End::Known),
        receiver: End::Known(taker),
        object,
    })
}

/// The event as the end `half` has it; `sender_inode` is what the other end knows of the sending socket.
fn event(half: &Half, sender: End, receiver: End, sender_inode: u64) -> Event {
    let record = &half.record;
    let sending = if record.sender_inode == 0 { sender_inode } else { record.sender_inode };
    Event::Handoff(Handoff {
        time: record.header.time,
        via: half.mechanism.name(),
        channel: Rc::new(Channel {
            id: naming::sockets(sending, record.receiver_inode),
            name: half.name.clone(),
        }),
        sender,
        receiver,
        object: Rc::clone(&half.object),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::testing::{channel, correlate, header, key, op, record, task};
    use crate::decode::Record;
    use ipctrace_common::wire::{Header, Kind, op_flag};

    fn half(receive: bool, pid: u32, file: u64, time: u64) -> Record {
        let flags = if receive { op_flag::RECEIVE } else { 0 };
        Record::Handoff(Box::new(wire::Handoff {
            header: header(Kind::Handoff, Mechanism::UnixStream, flags, time),
            task: task(pid),
            key: key(1),
            sender_inode: if receive { 0 } else { 50 },
            receiver_inode: 60,
            file,
            object_inode: file,
            object_mechanism: Mechanism::Pipe as u32,
            ..wire::Handoff::default()
        }))
    }

    fn handoffs(records: impl IntoIterator<Item = Record>) -> Vec<Handoff> {
        let handoff = |event| match event {
            Event::Handoff(handoff) => Some(handoff),
            Event::Transfer(_)
            | Event::Signal(_)
            | Event::Share(_)
            | Event::Wake(_)
            | Event::Evidence(_)
            | Event::Lost(_) => None,
        };
        correlate(records).into_iter().filter_map(handoff).collect()
    }

    fn pids(handoff: &Handoff) -> (Option<u32>, Option<u32>) {
        let pid = |end: &End| end.process().map(|process| process.pid);
        (pid(&handoff.sender), pid(&handoff.receiver))
    }

    #[test]
    fn the_same_file_joins_both_ends_in_either_order() {
        let name = channel(Mechanism::UnixStream, 1, 0, b"/tmp/s\0");
        let all = handoffs([
            name,
            half(false, 10, 7, 1),
            half(true, 20, 7, 2),
            half(true, 21, 8, 4),
            half(false, 11, 8, 5),
        ]);
        assert_eq!(all.iter().map(pids).collect::<Vec<_>>(), [(Some(10), Some(20)), (Some(11), Some(21))]);
        let Handoff { channel, object, via, .. } = &all[0];
        assert_eq!(
            (channel.id.as_str(), object.id.as_str(), *via),
            ("socket:[50]->socket:[60]", "pipe:[7]", "unix_stream")
        );
        assert_eq!(channel.name.as_deref(), Some(&b"/tmp/s"[..]));
    }

    #[test]
    fn what_was_sent_from_another_socket_or_is_another_object_is_not_it() {
        let changed = |record: Record, sock: u64, inode: u64| {
            let Record::Handoff(mut handoff) = record else { return record };
            (handoff.sender_sock, handoff.object_inode) = (sock, inode);
            Record::Handoff(handoff)
        };
        let all = handoffs([
            changed(half(false, 10, 7, 1), 90, 7),
            changed(half(false, 11, 7, 2), 91, 7),
            // The same `struct file`, of another pipe.
            changed(half(false, 12, 7, 3), 91, 8),
            changed(half(true, 20, 7, 4), 91, 8),
            changed(half(true, 21, 7, 5), 91, 7),
        ]);
        let expected = [(Some(12), Some(20)), (Some(11), Some(21)), (Some(10), None)];
        assert_eq!(all.iter().map(pids).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_nobody_received_is_not_what_the_next_socket_there_gets() {
        let through = |record: Record, receiver: u64| {
            let Record::Handoff(mut handoff) = record else { return record };
            handoff.receiver_inode = receiver;
            Record::Handoff(handoff)
        };
        let all = handoffs([
            through(half(false, 10, 7, 1), 60),
            through(half(false, 11, 7, 2), 61),
            through(half(true, 20, 7, 3), 61),
        ]);
        assert_eq!(all.iter().map(pids).collect::<Vec<_>>(), [(Some(11), Some(20)), (Some(10), None)]);
    }

    #[test]
    fn a_socket_at_the_address_of_one_with_a_name_does_not_get_its_name() {
        let over = |mechanism, file, receiver_inode| {
            let passed = |flags, pid, time| {
                Record::Handoff(Box::new(wire::Handoff {
                    header: header(Kind::Handoff, mechanism, flags, time),
                    task: task(pid),
                    key: key(1),
                    receiver_inode,
                    file,
                    ..wire::Handoff::default()
                }))
            };
            [passed(0, 10, file), passed(op_flag::RECEIVE, 20, file + 1)]
        };
        // The name is that of the stream to socket 60; at its address is then a stream to socket 61, and one of records.
        let sent = wire::Op { receiver_inode: 60, ..op(Mechanism::UnixStream, 1, 10, 0, (1, 2), 5) };
        let named = [channel(Mechanism::UnixStream, 1, 0, b"/tmp/s\0"), record(sent)];
        let all = handoffs(
            named
                .into_iter()
                .chain(over(Mechanism::UnixStream, 10, 60))
                .chain(over(Mechanism::UnixStream, 20, 61))
                .chain(over(Mechanism::UnixSeqpacket, 30, 62)),
        );
        let names: Vec<_> = all.iter().map(|handoff| handoff.channel.name.as_deref()).collect();
        assert_eq!(names, [Some(&b"/tmp/s"[..]), None, None]);
    }

    #[test]
    fn what_is_taken_is_of_its_owner() {
        let taken = |owner| {
            Record::Handoff(Box::new(wire::Handoff {
                header: Header { mechanism: 0, ..header(Kind::Handoff, Mechanism::Pipe, op_flag::GETFD, 1) },
                task: task(20),
                owner,
                object_inode: 7,
                object_mechanism: Mechanism::Eventfd as u32,
                ..wire::Handoff::default()
            }))
        };
        let all = handoffs([taken(task(10)), taken(wire::Task::default())]);
        assert_eq!(all.iter().map(pids).collect::<Vec<_>>(), [(Some(10), Some(20)), (None, Some(20))]);
        let Handoff { channel, object, via, .. } = &all[0];
        assert_eq!((channel.id.as_str(), object.id.as_str(), *via), ("pidfd:10", "eventfd:7", "pidfd_getfd"));
    }

    #[test]
    fn memory_is_called_as_in_its_own_events() {
        let memfd = |event, time| {
            let fixed = wire::Share {
                header: header(Kind::Share, Mechanism::Memfd, event, time),
                task: task(10),
                key: wire::Key { id: 7, space: 1 },
                ..wire::Share::default()
            };
            Record::Share(Box::new(fixed), b"memfd:x\0"[..].into())
        };
        let Record::Handoff(mut passed) = half(true, 20, 7, 2) else { panic!("no hand-over") };
        (passed.object_device, passed.object_mechanism) = (1, 0);
        let object = |records: Vec<Record>| Channel::clone(&handoffs(records)[0].object);
        let known = object(vec![memfd(wire::share_event::CREATE, 1), Record::Handoff(passed.clone())]);
        assert_eq!((known.id.as_str(), known.name.as_deref()), ("memfd:[0:1:7]", Some(&b"memfd:x"[..])));
        let unknown = object(vec![Record::Handoff(passed)]);
        assert_eq!((unknown.id.as_str(), unknown.name), ("file:[0:1:7]", None));
    }

    #[test]
    fn an_end_alone_is_told_at_the_end() {
        let all = handoffs([half(true, 20, 7, 2), half(false, 10, 8, 3)]);
        assert_eq!(all.iter().map(pids).collect::<Vec<_>>(), [(None, Some(20)), (Some(10), None)]);
        assert_eq!(all[1].receiver, End::Unknown(Why::Unread));
    }
}
