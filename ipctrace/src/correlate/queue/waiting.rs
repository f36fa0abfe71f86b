//! Receives whose send has not come, or may not be the only one.

use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::digest;

use crate::model::Proc;

use super::store::{Kind, Kinds, Stored};

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

    /// What it took.
    pub(super) fn kind(&self) -> Kind {
        match self.number {
            0 if self.cut => Kind::Any,
            0 => Kind::of(self.bytes, self.detail, self.digest, self.alike),
            number => Kind::Number(number),
        }
    }
}
