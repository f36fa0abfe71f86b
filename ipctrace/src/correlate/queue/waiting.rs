//! Receives whose send has not come, or may not be the only one.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::digest;

use crate::model::Proc;

use super::store::{Kind, Kinds, Stored};
use crate::correlate::context::PATIENCE;

/// A receive.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Who received.
    pub(super) who: Rc<Proc>,
    /// Beginning of the call; 0 if it was not seen.
    pub(super) enter: u64,
    /// End of the call.
    pub(super) time: u64,
    /// Bytes received.
    pub(super) bytes: u64,
    /// The message may have been longer than that.
    pub(super) cut: bool,
    /// Priority or type; `None` if unknown.
    pub(super) detail: Option<i64>,
    /// Of what was received.
    pub(super) digest: u64,
    /// The message itself was seen.
    pub(super) seen: bool,
    /// Its number, or the first of theirs, which follow each other; 0 if it has none, because it was not seen or was sent by a call that
    /// began before tracing did.
    pub(super) number: u64,
    /// Start of it, if captured.
    pub(super) payload: Bytes,
    /// When the record came.
    pub(super) since: u64,
    /// How many messages it stands for that have not been joined to their sends: more than 1 only if they are [`Taken::alike`] or have
    /// numbers.
    pub(super) messages: u64,
    /// What was in them was not looked at: one process sends, one receives, and all messages have this priority or type.
    pub(super) alike: bool,
    /// From the begin of the first to the end of the last.
    pub(super) span: Span,
    /// Another process was receiving at the same time, and has not been given its message yet.
    pub(super) rivalled: bool,
    /// The kernel saw another process receiving at the same time.
    pub(super) overlaps: bool,
    /// When senders were counted whose calls were under way; 0 if there were none.
    pub(super) counted: u64,
}

/// Sends of which is still to be told, as the programs counted them at the end of a receive: what it took may be theirs, whatever is told of
/// before.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// How many, by when they were counted and the receiver's thread.
    sends: BTreeMap<(u64, u32), u64>,
    /// Begin and end of those that were told of last.
    latest: VecDeque<(u64, u64)>,
    /// The latest time that was told of.
    now: u64,
}

impl Pending {
    /// More than are told of between that count and the record of the receive.
    const LATEST: usize = 64;
    const MOST: usize = 1 << 16;

    /// A send is told of.
    pub(super) fn told(&mut self, enter: u64, time: u64) {
        if self.latest.len() == Self::LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back((enter, time));
        for left in self.sends.range_mut((enter, 0)..=(time, u32::MAX)).map(|(_, left)| left) {
            *left = left.saturating_sub(1);
        }
        self.now = self.now.max(time);
        self.tidy();
    }

    /// Takes those from the front that are waited for no more. Those that have been for too long are of receives that were forgotten.
    fn tidy(&mut self) {
        while let Some(first) = self.sends.first_entry()
            && (*first.get() == 0 || first.key().0.saturating_add(PATIENCE) < self.now)
        {
            first.remove();
        }
    }

    /// A receive is told of, at the end of which so many were under way.
    pub(super) fn count(&mut self, taken: &Taken, sends: u64) {
        let told = self.latest.iter().filter(|(enter, time)| (*enter..=*time).contains(&taken.counted));
        let left = sends.saturating_sub(told.count() as u64);
        if self.sends.len() >= Self::MOST {
            // Those of receives that were forgotten, or whose sends were lost.
            self.sends.clear();
        }
        if left > 0 {
            self.sends.insert(taken.ends_at(), left);
        }
        self.now = self.now.max(taken.time);
        self.tidy();
    }

    /// Whether some are to be told of that were under way at the end of this receive, or of one before: that one has the first choice.
    pub(super) fn has(&self, taken: &Taken) -> bool {
        self.sends.first_key_value().is_some_and(|((counted, _), _)| *counted <= taken.time)
    }

    /// They are not waited for any more.
    pub(super) fn forget(&mut self, taken: &Taken) {
        if taken.counted != 0 {
            self.sends.remove(&taken.ends_at());
            self.tidy();
        }
    }
}

/// When the calls of a run ended, of which the times of the first and the last alone are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// From the begin of the first to the end of the last.
    pub(super) length: u64,
    /// How many.
    pub(super) calls: u64,
}

impl Span {
    /// About how long before the end of the last the one ended behind which so many are left.
    pub(super) fn before_end(self, left: u64) -> u64 {
        if self.calls == 0 {
            0
        } else {
            (u128::from(self.length) * u128::from(left) / u128::from(self.calls)) as u64
        }
    }
}

impl Stored for Taken {
    fn time(&self) -> u64 {
        self.time
    }

    fn begin(&self) -> u64 {
        self.enter
    }

    fn kinds(&self) -> Kinds {
        [Some(self.kind()), self.kind().form(), None, None]
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

impl Taken {
    /// So many of them have been joined to their sends, from the front.
    pub(super) fn joined(&mut self, messages: u64) {
        self.messages -= messages;
        if self.number != 0 {
            self.number = self.number.saturating_add(messages);
        }
    }

    /// Whether it was cut to so little that nothing of its content can be compared.
    pub(super) fn is_short(&self) -> bool {
        self.number == 0 && self.cut && self.bytes < digest::SHORTEST
    }

    /// The end of the last call of which the send is known.
    pub(super) fn end(&self) -> u64 {
        self.time - self.span.before_end(self.messages)
    }

    /// See [`Pending::sends`].
    fn ends_at(&self) -> (u64, u32) {
        (self.counted, self.who.thread().0)
    }

    /// What it took.
    pub(super) fn kind(&self) -> Kind {
        match self.number {
            0 if self.cut => Kind::Any,
            0 => Kind::of(self.bytes, self.detail, self.digest, self.alike),
            number => Kind::Number(number),
        }
    }
}
