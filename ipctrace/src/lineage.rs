//! The descendants of the tracer: what `run` and `demo` follow.

use std::collections::HashSet;

use ipctrace_common::wire::process_event;

use crate::decode::Record;

/// A process and all that came of it, for as long as the trace lasts.
#[derive(Debug)]
pub struct Lineage {
    root: u32,
    members: HashSet<(u32, u64)>,
}

impl Lineage {
    /// The children that the process `root` (not itself a member) will have.
    pub fn of_children(root: u32) -> Lineage {
        Lineage { root, members: HashSet::new() }
    }

    /// Takes note of a new process. A fork's record is on the ring before any record of the child.
    pub fn learn(&mut self, record: &Record) {
        if let Record::Process(process) = record
            && process.header.flags == process_event::FORK
        {
            let parent = (process.parent.tgid, process.parent.start);
            if parent.0 == self.root || self.members.contains(&parent) {
                self.members.insert((process.task.tgid, process.task.start));
            }
        }
    }

    /// The members, `(pid, start)`, those that have ended included.
    pub fn members(&self) -> &HashSet<(u32, u64)> {
        &self.members
    }
}

#[cfg(test)]
mod tests {
    use ipctrace_common::wire::{Process, Task};

    use super::*;

    fn fork(parent: (u32, u64), child: (u32, u64)) -> Record {
        let mut process = Process::default();
        process.header.flags = process_event::FORK;
        process.parent = Task { tgid: parent.0, start: parent.1, ..Task::default() };
        process.task = Task { tgid: child.0, start: child.1, ..Task::default() };
        Record::Process(Box::new(process))
    }

    #[test]
    fn descendants_are_followed_and_strangers_are_not() {
        let mut lineage = Lineage::of_children(10);
        lineage.learn(&fork((10, 1), (11, 2)));
        lineage.learn(&fork((11, 2), (12, 3)));
        lineage.learn(&fork((20, 1), (21, 4)));
        assert_eq!(lineage.members(), &HashSet::from([(11, 2), (12, 3)]));
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let mut lineage = Lineage::of_children(10);
        lineage.learn(&fork((10, 1), (11, 2)));
        lineage.learn(&fork((11, 9), (12, 10)));
        assert_eq!(lineage.members(), &HashSet::from([(11, 2)]));
    }
}
