//! Keeps the trace from tracing itself.
//!
//! The programs skip the tracer's own calls. What is left is the other side: whoever reads our output, and what it passes
//! on (`ipctrace trace | jq . | less`), would make an event of every event. So nothing is shown of the channels that
//! our output goes to, nor of those that a reader of it writes to. Our ancestors are not counted as such readers: a
//! program that started us to read our output has a life of its own.
//!
//! A terminal is read, too: by its emulator, by tmux or sshd, which draw what we write by writing themselves, perhaps to
//! another terminal. What those write is left out as well, ancestors or not; but what is further behind them (a display
//! server, which talks to everybody) is shown.

mod terminal;

use std::collections::HashSet;
use std::os::fd::AsFd;

use ipctrace_common::wire::{Key, Op, op_flag};
use nix::sys::stat::{SFlag, fstat, major, minor};

use crate::decode::Record;

/// Decides which records are of our own making.
#[derive(Debug, Default)]
pub struct Feedback {
    /// Channels that our output goes to, and those behind them.
    channels: HashSet<Key>,
    /// Inodes of sockets that our output goes to: their key is known once they are read.
    sockets: HashSet<u64>,
    /// Processes, `(pid, start)`, that read our output.
    readers: HashSet<(u32, u64)>,
    /// Terminals that our output goes to, by their index in /dev/pts.
    terminals: HashSet<u64>,
    /// Processes, by pid, that show the terminal that our output goes to.
    emulators: HashSet<u32>,
    /// Channels that those write to.
    drawn: HashSet<Key>,
    /// Inodes of sockets that those hold: their key is known once they are used.
    drawn_sockets: HashSet<u64>,
    /// Processes that are never counted as readers of our output.
    ancestors: HashSet<u32>,
    /// Records left out.
    hidden: u64,
}

impl Feedback {
    /// For a tracer whose ancestors are these.
    pub fn new(ancestors: HashSet<u32>) -> Feedback {
        Feedback { ancestors, ..Feedback::default() }
    }

    /// Our output goes to this descriptor.
    pub fn output(&mut self, descriptor: impl AsFd) {
        let Ok(status) = fstat(descriptor) else {
            return;
        };
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFIFO {
            // The kernel's own form of a device number, include/linux/kdev_t.h.
            let device = major(status.st_dev) << 20 | minor(status.st_dev);
            self.channels.insert(Key { id: status.st_ino, space: device });
        } else if kind == SFlag::S_IFSOCK {
            self.sockets.insert(status.st_ino);
        }
    }

    /// What is shown goes to this descriptor. If it is a terminal, whoever shows it is found.
    pub fn shown_on(&mut self, descriptor: impl AsFd) {
        let found = terminal::emulators(descriptor);
        if !found.processes.is_empty() {
            log::debug!("our terminal is shown by the processes {:?}", found.processes);
        }
        self.emulators = found.processes;
        self.drawn_sockets = found.sockets;
        self.terminals = found.terminals;
        self.emulators.remove(&std::process::id());
    }

    /// Whether the record is to be left out.
    pub fn hides(&mut self, record: &Record) -> bool {
        let hidden = match record {
            Record::Op(op) if self.is_our_screen(&op.fixed.key, op.fixed.receiver_inode) => true,
            Record::Op(op) => self.hides_op(&op.fixed),
            Record::Channel(channel, _) if self.is_our_screen(&channel.key, channel.receiver_inode) => true,
            Record::Channel(channel, _) => self.is_ours(&channel.key),
            Record::Handoff(handoff) => self.is_ours(&handoff.key),
            Record::Signal(_)
            | Record::Process(_)
            | Record::Share(..)
            | Record::Touch(_)
            | Record::Direct(_)
            | Record::Wake(_)
            | Record::Datagram(_) => false,
        };
        self.hidden += u64::from(hidden);
        hidden
    }

    fn is_ours(&self, key: &Key) -> bool {
        self.channels.contains(key) || self.drawn.contains(key)
    }

    fn hides_op(&mut self, op: &Op) -> bool {
        let process = (op.task.tgid, op.task.start);
        let receives = op.header.flags & op_flag::RECEIVE != 0;
        // Whoever receives from an emulator is no reader of ours.
        if receives && op.sender_inode != 0 && self.drawn_sockets.contains(&op.sender_inode)
            || !receives && self.emulators.contains(&op.task.tgid)
        {
            // A message that is sent by address has no channel yet.
            if op.key.id == 0 {
                return !receives;
            }
            self.drawn.insert(op.key);
        }
        if self.drawn.contains(&op.key) {
            return true;
        }
        if !receives {
            if !self.readers.contains(&process) {
                return self.channels.contains(&op.key);
            }
            if op.key.id != 0 {
                self.channels.insert(op.key);
            }
            return true;
        }
        if self.sockets.contains(&op.sender_inode) {
            self.channels.insert(op.key);
        }
        let hidden = self.channels.contains(&op.key);
        if hidden && !self.ancestors.contains(&op.task.tgid) {
            self.readers.insert(process);
        }
        hidden
    }

    /// Whether this is what goes to the screen of a terminal that shows our output.
    fn is_our_screen(&self, key: &Key, number: u64) -> bool {
        key.space == Key::TERMINAL | 1 && self.terminals.contains(&number.wrapping_sub(1))
    }

    /// How many records were left out.
    pub fn hidden(&self) -> u64 {
        self.hidden
    }
}

/// The processes from this one up to the first, by what /proc says.
pub fn ancestors() -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut pid = std::process::id();
    while pid != 0 && found.insert(pid) {
        pid = parent(pid).unwrap_or(0);
    }
    found
}

/// `PPid` of /proc/PID/status.
fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use ipctrace_common::wire::{self, Task};

    use super::*;
    use crate::decode;

    const OURS: Key = Key { id: 7, space: 15 };
    const NEXT: Key = Key { id: 8, space: 15 };
    const OTHER: Key = Key { id: 9, space: 15 };

    fn op(pid: u32, key: Key, flags: u16) -> Record {
        let mut fixed = wire::Op { key, ..wire::Op::default() };
        fixed.header.flags = flags;
        fixed.task = Task { tgid: pid, start: 1, ..Task::default() };
        Record::Op(Box::new(decode::Op { fixed, address: bytes::Bytes::new(), payload: bytes::Bytes::new() }))
    }

    fn feedback() -> Feedback {
        let mut feedback = Feedback::new(HashSet::from([1, 2]));
        feedback.channels.insert(OURS);
        feedback
    }

    #[test]
    fn what_our_reader_passes_on_is_hidden_down_the_pipeline() {
        let mut feedback = feedback();
        assert!(!feedback.hides(&op(50, NEXT, 0)), "before it has read from us it is like any other");
        assert!(feedback.hides(&op(50, OURS, op_flag::RECEIVE)));
        assert!(feedback.hides(&op(50, NEXT, 0)));
        assert!(feedback.hides(&op(60, NEXT, op_flag::RECEIVE)));
        assert!(feedback.hides(&op(60, OTHER, 0)), "the reader's reader too");
        assert_eq!(feedback.hidden(), 4);
    }

    #[test]
    fn an_ancestor_that_reads_our_output_is_still_traced() {
        let mut feedback = feedback();
        assert!(feedback.hides(&op(2, OURS, op_flag::RECEIVE)));
        assert!(!feedback.hides(&op(2, OTHER, 0)));
    }

    #[test]
    fn what_draws_our_terminal_is_hidden_but_not_what_is_behind_it() {
        let mut feedback = feedback();
        feedback.emulators.insert(2);
        feedback.drawn_sockets.insert(77);
        assert!(feedback.hides(&op(2, NEXT, 0)), "an ancestor, too");
        assert!(feedback.hides(&op(90, NEXT, op_flag::RECEIVE)));
        assert!(!feedback.hides(&op(90, OTHER, 0)), "the display server serves others");
        assert!(!feedback.hides(&op(2, OTHER, op_flag::RECEIVE)), "keys of the user");
        let Record::Op(mut early) = op(90, Key { id: 10, space: 15 }, op_flag::RECEIVE) else {
            panic!("an op")
        };
        early.fixed.sender_inode = 77;
        assert!(feedback.hides(&Record::Op(early)), "before the record of the send has come");
        assert!(feedback.hides(&op(2, Key { id: 10, space: 15 }, 0)));
    }

    #[test]
    fn what_a_reader_of_ours_receives_from_others_is_shown() {
        let mut feedback = feedback();
        assert!(feedback.hides(&op(50, OURS, op_flag::RECEIVE)));
        assert!(!feedback.hides(&op(50, OTHER, op_flag::RECEIVE)));
    }
}
