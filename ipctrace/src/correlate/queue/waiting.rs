//! Receives whose send has not come, or may not be the only one.

use std::sync::Arc;

use bytes::Bytes;
use ipctrace_common::digest;

use crate::model::Proc;

use super::store::{Kind, Stored};

/// A receive.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Who received.
    pub(super) who: Arc<Proc>,
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
    /// Its number; 0 if it has none, because it was not seen or was sent by a call that began before tracing did.
    pub(super) number: u64,
    /// Start of it, if captured.
    pub(super) payload: Bytes,
    /// When the record came.
    pub(super) since: u64,
}

impl Stored for Taken {
    fn time(&self) -> u64 {
        self.time
    }

    fn begin(&self) -> u64 {
        self.enter
    }

    fn kinds(&self) -> [Option<Kind>; 3] {
        [Some(self.kind()), None, None]
    }
}

impl Taken {
    /// Whether it was cut to so little that nothing of its content can be compared.
    pub(super) fn is_short(&self) -> bool {
        self.number == 0 && self.cut && self.bytes < digest::SHORTEST
    }

    /// What it took.
    pub(super) fn kind(&self) -> Kind {
        match self.number {
            0 if self.cut => Kind::Any,
            0 => Kind::of(self.bytes, self.detail, self.digest),
            number => Kind::Number(number),
        }
    }
}
