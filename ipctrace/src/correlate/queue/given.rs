//! What was given to receives lately.
//!
//! A message may be handed to a receiver that waits for one while it is sent (`pipelined_send`, ipc/msg.c; ipc/mqueue.c), or be taken by one
//! that does not get a processor for a while: of that it is told when its call ends. Meanwhile others take what was sent later, and are
//! given what that receive has.

use foldhash::HashMap;

use super::Sent;
use super::store::Kind;
use super::waiting::Taken;
use crate::correlate::call::Recent;

/// What is known of a message that was given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    /// All, or that not all is.
    Kind(Kind),
    /// How long it is, and its digest, 0 if none was taken; its priority may be any.
    Content(u64, u64),
}

/// The processes whose messages were given away last, and when those were received.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Whatever they were.
    all: Recent,
    /// Of so many as are remembered.
    some: HashMap<What, Recent>,
}

impl Given {
    /// More than a receiver is away for, as a rule.
    const MOST: usize = 1 << 15;

    /// That message was given to a receive that ended then.
    pub(super) fn note(&mut self, sent: &Sent, time: u64) {
        let process = sent.process();
        self.all.note(process, time);
        for what in [What::Kind(sent.kind()), What::Content(sent.bytes, sent.digest)] {
            if self.some.len() >= Self::MOST && !self.some.contains_key(&what) {
                self.some.clear();
            }
            self.some.entry(what).or_default().note(process, time);
        }
    }

    /// Whether another process's message, which may be the one that was taken, has been given away since that receive began.
    pub(super) fn since(&self, taken: &Taken, process: (u32, u64)) -> bool {
        let kind = taken.kind();
        let whats = match kind {
            // Not even its length.
            Kind::Any if taken.cut || taken.digest == 0 => return self.all.overlaps(process, taken.enter),
            Kind::Any => {
                [Some(What::Content(taken.bytes, taken.digest)), Some(What::Content(taken.bytes, 0)), None]
            }
            Kind::Number(_) | Kind::Content(..) | Kind::Alike(..) | Kind::Form(..) | Kind::Nameless => {
                [Some(What::Kind(kind)), kind.unread().map(What::Kind), Some(What::Kind(Kind::Any))]
            }
        };
        whats
            .into_iter()
            .flatten()
            .any(|what| self.some.get(&what).is_some_and(|recent| recent.overlaps(process, taken.enter)))
    }
}
