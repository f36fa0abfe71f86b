//! What was given to receives lately.
//!
//! A message may be handed to a receiver that waits for one while it is sent (`pipelined_send`, ipc/msg.c; ipc/mqueue.c), or be taken by one
//! that does not get a processor for a while: of that it is told when its call ends. Meanwhile others take what was sent later, and are
//! given what that receive has.

use foldhash::HashMap;

use super::store::Kind;
use crate::correlate::call::Recent;

/// Of so many kinds as are remembered, the processes whose messages were given away last, and when those were received.
#[derive(Debug, Default)]
pub(super) struct Given(HashMap<Kind, Recent>);

impl Given {
    /// More than a receiver is away for, as a rule.
    const MOST: usize = 1 << 14;

    /// A message of that process was given to a receive that ended then.
    pub(super) fn note(&mut self, kind: Kind, process: (u32, u64), time: u64) {
        if self.0.len() >= Self::MOST && !self.0.contains_key(&kind) {
            self.0.clear();
        }
        self.0.entry(kind).or_default().note(process, time);
    }

    /// Whether another process's message of that kind has been given away since `enter`.
    pub(super) fn since(&self, kind: Kind, process: (u32, u64), enter: u64) -> bool {
        let kinds = [Some(kind), kind.unread()];
        kinds
            .into_iter()
            .flatten()
            .any(|kind| self.0.get(&kind).is_some_and(|recent| recent.overlaps(process, enter)))
    }
}
