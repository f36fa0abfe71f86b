//! One side of a counter or a terminal in the order of the kernel's books, which count its calls.

use std::collections::{BTreeMap, VecDeque};

use super::context::Context;

/// A call that is over at some time.
pub(super) trait Timed {
    /// When.
    fn time(&self) -> u64;
}

/// The calls of one side.
#[derive(Debug)]
pub(super) struct Books<C> {
    /// Calls before the next one.
    next: u64,
    /// Calls beyond a gap, by how many were before them.
    early: BTreeMap<u64, C>,
    /// Calls in order, none missing before them.
    pub(super) ready: VecDeque<C>,
}

impl<C> Default for Books<C> {
    fn default() -> Books<C> {
        Books { next: 0, early: BTreeMap::new(), ready: VecDeque::new() }
    }
}

impl<C: Timed> Books<C> {
    /// Takes a call in; `open` is false as long as the beginning of the books is not known. False if the books are
    /// beyond it, or have another in its place.
    pub(super) fn push(&mut self, before: Option<u64>, access: C, open: bool) -> bool {
        let before = before.unwrap_or(self.next);
        if !open || before > self.next {
            return self.early.insert(before, access).is_none();
        }
        if before < self.next {
            return false;
        }
        self.append(access);
        self.follow();
        true
    }

    /// Moves what has become continuous to `ready`.
    pub(super) fn follow(&mut self) {
        while let Some(entry) = self.early.first_entry()
            && *entry.key() <= self.next
        {
            let (before, access) = entry.remove_entry();
            if before == self.next {
                self.append(access);
            }
        }
    }

    fn append(&mut self, access: C) {
        self.next = self.next.saturating_add(1);
        self.ready.push_back(access);
    }

    /// Declares the first gap lost, if there is one and it is `due` or waited for too long. Gives how many calls it is.
    pub(super) fn skip(&mut self, due: bool, context: &Context<'_>) -> Option<u64> {
        let (before, access) = self.early.first_key_value()?;
        if !due && !context.overdue(access.time()) {
            return None;
        }
        let lost = before.saturating_sub(self.next);
        self.next = self.next.max(*before);
        self.follow();
        Some(lost)
    }

    /// Calls held beyond a gap.
    pub(super) fn held(&self) -> usize {
        self.early.len()
    }
}
