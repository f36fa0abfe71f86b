//! One copy of each process.

use std::rc::Rc;

use foldhash::HashMap;
use ipctrace_common::wire::Task;

use crate::model::Proc;

/// Text up to its first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The processes seen last, one entry a thread.
#[derive(Debug, Default)]
pub(super) struct Procs {
    threads: HashMap<u32, (Task, Rc<Proc>)>,
}

impl Procs {
    /// The process of `task` as it is now; the same `Rc` as before if nothing about it has changed.
    pub(super) fn intern(&mut self, task: &Task, limit: usize) -> Rc<Proc> {
        if let Some((known, process)) = self.threads.get(&task.tid)
            && known == task
        {
            return Rc::clone(process);
        }
        if self.threads.len() >= limit {
            // What is still in use lives on in the channels; the rest comes back with its next call.
            self.threads.clear();
        }
        let process = Rc::new(Proc {
            pid: task.tgid,
            tid: task.tid,
            start: task.start,
            comm: until_nul(&task.comm).to_vec(),
            uid: (task.uid != u32::MAX).then_some(task.uid),
            cgroup: task.cgroup,
        });
        self.threads.insert(task.tid, (*task, Rc::clone(&process)));
        process
    }

    /// The thread has ended.
    pub(super) fn forget(&mut self, tid: u32) {
        self.threads.remove(&tid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_task_is_one_process_until_it_changes() {
        let mut procs = Procs::default();
        let task = Task { tgid: 1, tid: 2, comm: *b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0", ..Task::default() };
        let first = procs.intern(&task, 8);
        assert!(Rc::ptr_eq(&first, &procs.intern(&task, 8)));
        assert_eq!(first.comm, b"sh");
        let renamed = procs.intern(&Task { comm: *b"cat\0\0\0\0\0\0\0\0\0\0\0\0\0", ..task }, 8);
        assert_eq!((renamed.comm.as_slice(), first.comm.as_slice()), (&b"cat"[..], &b"sh"[..]));
    }

    #[test]
    fn memory_is_bounded() {
        let mut procs = Procs::default();
        for tid in 0..100 {
            procs.intern(&Task { tid, ..Task::default() }, 8);
            assert!(procs.threads.len() <= 8);
        }
    }
}
