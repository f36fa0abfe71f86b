//! What all parts of the correlator are handed at each step.

use crate::model::Event;

use super::Limits;
use super::naming::Home;

/// How long something that has not come is waited for, ns: far more than the rings of two CPUs can be apart.
pub(super) const PATIENCE: u64 = 200_000_000;
/// How long calls of several processes are held, ns, so that one which was under way at the same time is known before
/// they are called certain.
pub(super) const LINGER: u64 = 5_000_000;
/// How far a report of losses may be from the gap that it explains, ns.
const REPORT: u64 = 1_000_000_000;

/// The state that is common to all channels, and where events go.
pub(super) struct Context<'a> {
    /// The latest time known, ns since boot.
    pub(super) now: u64,
    /// When losses were last reported.
    pub(super) loss: Option<u64>,
    /// The tracer's own namespaces.
    pub(super) home: Home,
    /// Bounds on memory.
    pub(super) limits: &'a Limits,
    /// Things forgotten before they were matched.
    pub(super) evicted: &'a mut u64,
    /// Events so far.
    pub(super) out: &'a mut Vec<Event>,
}

impl Context<'_> {
    /// Whether something that was missed at `since` has been waited for long enough.
    pub(super) fn overdue(&self, since: u64) -> bool {
        self.now.saturating_sub(since) >= PATIENCE
    }

    /// Whether what took a message in at `since` has waited for its send for long enough. A sender may be kept from the end of its
    /// call for as long as it likes: without a reason, a loss or that it may have been there `before_start`, it is waited for.
    pub(super) fn given_up(&self, since: u64, before_start: bool) -> bool {
        (before_start || self.loss.is_some()) && self.overdue(since)
    }

    /// Whether it has, and losses were reported that explain why it did not come.
    pub(super) fn explained(&self, since: u64) -> bool {
        self.overdue(since) && self.loss.is_some_and(|loss| loss.saturating_add(REPORT) >= since)
    }
}
