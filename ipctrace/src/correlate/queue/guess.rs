//! Messages that were given to receives which may have taken another of the same content.
//!
//! A receive from a POSIX queue that does not ask for the priority takes the highest that there is. Whether one that was being sent
//! at the time was there already, or one that another received at the time was gone, is not seen. If its content is that of one
//! of another priority, nothing tells which of the two was taken until a receive that asks for the priority takes what is left.

use std::collections::VecDeque;

use foldhash::HashMap;

use super::store::Kind;

/// As many as are remembered.
const MOST: usize = 4096;

/// Identity of a process.
type Process = (u32, u64);

/// The latest of a queue.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    /// Who sent those of each kind, and how many.
    senders: HashMap<Kind, Vec<(Process, u32)>>,
    order: VecDeque<Kind>,
}

impl Guesses {
    /// One more. One whose content is not known may be any.
    pub(super) fn add(&mut self, kind: Kind, process: Process) {
        if kind == Kind::Any {
            return;
        }
        if self.order.len() == MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.take_one(oldest);
        }
        self.order.push_back(kind);
        let senders = self.senders.entry(kind).or_default();
        match senders.iter_mut().find(|(sender, _)| *sender == process) {
            Some((_, count)) => *count += 1,
            None => senders.push((process, 1)),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether what a receive took may be a message that was given away, of another process.
    pub(super) fn doubt(&self, kind: Kind, process: Process) -> bool {
        let given =
            [Some(kind), kind.unread()].into_iter().flatten().filter_map(|kind| self.senders.get(&kind));
        given.flatten().any(|(sender, _)| *sender != process)
    }

    /// Takes one out: who sent it.
    pub(super) fn take(&mut self, kind: Kind) -> Option<Process> {
        self.take_one(kind).or_else(|| self.take_one(kind.unread()?))
    }

    fn take_one(&mut self, kind: Kind) -> Option<Process> {
        let senders = self.senders.get_mut(&kind)?;
        let (process, count) = senders.first_mut()?;
        let process = *process;
        *count -= 1;
        if *count == 0 {
            senders.remove(0);
        }
        if senders.is_empty() {
            self.senders.remove(&kind);
        }
        Some(process)
    }
}
