//! Which events the user wants to see.
//!
//! Each kind of filter asks for a process at either end, and each on its own: `--pid 100 --comm sort` shows what goes
//! between process 100 and any `sort`, and what `sort` number 100 exchanges with whomever.

use std::collections::HashSet;
use std::rc::Rc;

use ipctrace_common::{Mechanism, Shape};

use crate::cgroup::{Cgroup, Cgroups};
use crate::model::{End, Event, Flow, Proc};

/// A set of mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms(u32);

impl Mechanisms {
    /// Every mechanism.
    pub fn all() -> Mechanisms {
        Mechanism::ALL.iter().copied().collect()
    }

    /// Whether it is one of them.
    pub fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & mechanism.bit() != 0
    }

    /// Each of them, by [`Mechanism::bit`].
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromIterator<Mechanism> for Mechanisms {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(mechanisms: I) -> Mechanisms {
        Mechanisms(mechanisms.into_iter().fold(0, |bits, mechanism| bits | mechanism.bit()))
    }
}

/// Longest name of a command that the kernel keeps, `TASK_COMM_LEN` less its NUL. Longer ones are cut.
const COMM_MAX: usize = 15;

/// What the user asked to see. An empty list asks for nothing in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Process ids.
    pub pids: Vec<u32>,
    /// When processes had these ids, ns since boot: one that started later has got the id of one that is gone.
    pub had_at: u64,
    /// Command names. Of a longer name the 15 bytes count that the kernel keeps.
    pub comms: Vec<Vec<u8>>,
    /// Real user ids.
    pub uids: Vec<u32>,
    /// Control groups, with all that is below them.
    pub cgroups: Vec<Cgroup>,
    /// Mechanisms.
    pub mechanisms: Mechanisms,
}

impl Default for Selection {
    fn default() -> Selection {
        Selection {
            pids: Vec::new(),
            had_at: u64::MAX,
            comms: Vec::new(),
            uids: Vec::new(),
            cgroups: Vec::new(),
            mechanisms: Mechanisms::all(),
        }
    }
}

/// Decides what is shown.
pub struct Filter {
    selection: Selection,
    cgroups: Rc<dyn Cgroups>,
    /// For `run`: the command and its descendants, by [`Proc::identity`].
    family: Option<HashSet<(u32, u64)>>,
}

impl Filter {
    /// A filter for the whole host. `cgroups` finds the paths of control groups.
    pub fn new(mut selection: Selection, cgroups: Rc<dyn Cgroups>) -> Filter {
        selection.comms.iter_mut().for_each(|comm| comm.truncate(COMM_MAX));
        Filter { selection, cgroups, family: None }
    }

    /// From now on only flows with a member of a family at either end pass. It has no member yet.
    pub fn follow_family(&mut self) {
        self.family.get_or_insert_default();
    }

    /// As [`Filter::follow_family`], and `founder` (a [`Proc::identity`]) is a member.
    pub fn found_family(&mut self, founder: (u32, u64)) {
        self.family.get_or_insert_default().insert(founder);
    }

    /// Takes note of a fork: the child of a member is a member. Members stay members when they end, for what they
    /// sent may be received later; the pair of pid and start is never used again.
    pub fn forked(&mut self, parent: (u32, u64), child: (u32, u64)) {
        if let Some(family) = &mut self.family
            && family.contains(&parent)
        {
            family.insert(child);
        }
    }

    /// Whether an event is to be shown. A loss always is: nobody knows what was lost.
    pub fn event(&self, event: &Event) -> bool {
        match event {
            Event::Transfer(transfer) => {
                self.mechanism(transfer.mechanism) && self.ends([&transfer.sender, &transfer.receiver])
            }
            Event::Signal(signal) => {
                self.mechanism(Mechanism::Signal)
                    && self.processes([signal.sender.process(), Some(&signal.receiver)])
            }
            Event::Share(share) => {
                self.mechanism(share.mechanism) && self.processes([Some(&share.process), None])
            }
            Event::Evidence(evidence) => {
                self.mechanism(evidence.mechanism)
                    && self.processes([Some(&evidence.sender), Some(&evidence.receiver)])
            }
            Event::Wake(wake) => self.mechanism(wake.mechanism) && self.ends([&wake.sender, &wake.receiver]),
            Event::Handoff(handoff) => {
                // By pidfd_getfd(2) it goes over no mechanism: it is shown unless some were asked for. Memory does not
                // count: demos leave it out because their processes keep order by it.
                let wanted = match Mechanism::from_name(handoff.via) {
                    Some(mechanism) => self.mechanism(mechanism),
                    None => Mechanism::ALL
                        .iter()
                        .all(|mechanism| mechanism.shape() == Shape::Shared || self.mechanism(*mechanism)),
                };
                wanted && self.ends([&handoff.sender, &handoff.receiver])
            }
            Event::Lost(_) => true,
        }
    }

    /// Whether a flow belongs in the summary.
    pub fn flow(&self, flow: &Flow) -> bool {
        self.mechanism(flow.mechanism) && self.ends([&flow.sender, &flow.receiver])
    }

    fn mechanism(&self, mechanism: Mechanism) -> bool {
        self.selection.mechanisms.contains(mechanism)
    }

    fn ends(&self, ends: [&End; 2]) -> bool {
        self.processes(ends.map(End::process))
    }

    /// Whether for each kind of filter one of the ends will do.
    fn processes(&self, ends: [Option<&Rc<Proc>>; 2]) -> bool {
        let selection = &self.selection;
        let either = |wanted: &dyn Fn(&Proc) -> bool| ends.iter().flatten().any(|process| wanted(process));
        let wanted =
            |process: &Proc| selection.pids.contains(&process.pid) && process.start <= selection.had_at;
        (selection.pids.is_empty() || either(&wanted))
            && (selection.comms.is_empty() || either(&|process| selection.comms.contains(&process.comm)))
            && (selection.uids.is_empty()
                || either(&|process| process.uid.is_some_and(|uid| selection.uids.contains(&uid))))
            && (selection.cgroups.is_empty() || either(&|process| self.in_cgroup(process)))
            && self
                .family
                .as_ref()
                .is_none_or(|family| either(&|process| family.contains(&process.identity())))
    }

    fn in_cgroup(&self, process: &Proc) -> bool {
        let cgroups = &self.selection.cgroups;
        if cgroups.iter().any(|cgroup| cgroup.id == process.cgroup) {
            return true;
        }
        let path = if process.cgroup == 0 { None } else { self.cgroups.path(process.cgroup) };
        path.is_some_and(|path| cgroups.iter().any(|cgroup| cgroup.contains(&path)))
    }
}

#[cfg(test)]
mod tests;
