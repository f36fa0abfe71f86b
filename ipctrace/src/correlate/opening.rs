//! Waiting for what the kernel says of a channel when it first sees it.

use super::context::Context;

/// Whether the kernel has said what a channel is and holds, or is not waited for any more to say it: who sees one first may be kept from
/// telling of it while others use it, and what it tells may be lost.
#[derive(Debug)]
pub(super) struct Opening {
    /// When the channel was first touched.
    born: u64,
    open: bool,
}

impl Opening {
    /// Of a channel that nothing is known of.
    pub(super) fn new(now: u64) -> Opening {
        Opening { born: now, open: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// The kernel has said it.
    pub(super) fn told(&mut self) {
        self.open = true;
    }

    /// Whether it is given up now: it has been waited for long enough, or is not to be any longer (`force`).
    pub(super) fn is_given_up(&mut self, force: bool, context: &Context<'_>) -> bool {
        let given_up = !self.open && (force || context.overdue(self.born));
        self.open |= given_up;
        given_up
    }

    /// Whether it has been said, or is given up by now.
    pub(super) fn is_over(&mut self, force: bool, context: &Context<'_>) -> bool {
        self.is_given_up(force, context) || self.open
    }
}
