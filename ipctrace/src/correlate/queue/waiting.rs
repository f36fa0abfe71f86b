//! Receives whose send has not come, or may not be the only one.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::Proc;

/// A receive.
#[derive(Debug)]
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

/// Receives in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<Taken>);

impl Waiting {
    /// One more. Records of two CPUs may have changed places.
    pub(super) fn add(&mut self, taken: Taken) {
        let place = self.0.iter().rposition(|other| other.time <= taken.time).map_or(0, |index| index + 1);
        self.0.insert(place, taken);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Lets go of those that `keep` does not want, first to last.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Taken) -> bool) {
        self.0.retain(keep);
    }

    /// Forgets the older half.
    pub(super) fn drop_half(&mut self) {
        let half = self.0.len().div_ceil(2);
        self.0.drain(..half);
    }
}
