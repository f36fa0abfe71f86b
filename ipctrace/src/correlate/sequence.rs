//! One side of a stream in the order of the kernel's books.
//!
//! Every record says what its side had moved before it, so records that arrive in another order find their place, and
//! one that does not arrive leaves a gap of known size.

use std::collections::{BTreeMap, VecDeque};

use super::call::Call;
use super::context::Context;

/// The calls of one side.
#[derive(Debug, Default)]
pub(super) struct Sequencer {
    /// What the books say before the next call.
    next: u64,
    /// Calls beyond a gap, by `before`.
    early: BTreeMap<u64, Call>,
    /// Bytes that were given up before their call arrived: taken off the calls that come.
    debt: u64,
    /// Calls in order, none missing before them.
    pub(super) ready: VecDeque<Call>,
    /// The first process that called.
    first: Option<(u32, u64)>,
    /// Another has called too.
    several: bool,
}

impl Sequencer {
    /// Takes a call in. `open` is false as long as the beginning of the books is not known.
    pub(super) fn push(&mut self, mut call: Call, open: bool) -> Arrived {
        let before = call.before.unwrap_or(self.next);
        if !open || before > self.next {
            let late = self.early.insert(before, call).is_some();
            return if late { Arrived::Replaced } else { Arrived::Taken };
        }
        let stale = self.next - before;
        if stale >= call.bytes {
            return Arrived::Stale(call);
        }
        // A gap was declared lost too early: what of the call is behind it still counts.
        call.trim(stale);
        self.append(call);
        if !self.early.is_empty() {
            self.follow();
        }
        Arrived::Taken
    }

    /// Whether nothing waits here, and a call is next that is of the one process that has called so far: all that is to be done for
    /// it is [`Sequencer::pass`].
    pub(super) fn passes(&self, call: &Call) -> bool {
        self.ready.is_empty()
            && self.early.is_empty()
            && self.debt == 0
            && !self.several
            && call.before.is_none_or(|before| before == self.next)
            && call
                .who
                .process()
                .is_some_and(|process| self.first.is_none_or(|first| first == process.identity()))
    }

    /// A call has come and gone.
    pub(super) fn pass(&mut self, call: &Call) {
        self.next = self.next.saturating_add(call.bytes);
        self.first = Some(call.process());
    }

    /// Moves what has become continuous from `early` to `ready`.
    pub(super) fn follow(&mut self) {
        while let Some(entry) = self.early.first_entry()
            && *entry.key() <= self.next
        {
            let (before, mut call) = entry.remove_entry();
            let stale = self.next - before;
            if stale < call.bytes {
                call.trim(stale);
                self.append(call);
            }
        }
    }

    fn append(&mut self, mut call: Call) {
        self.next = self.next.saturating_add(call.bytes);
        let owed = self.debt.min(call.bytes);
        self.debt -= owed;
        call.trim(owed);
        if call.bytes > 0 {
            if let Some(process) = call.who.process() {
                let first = *self.first.get_or_insert(process.identity());
                self.several |= first != process.identity();
            }
            sparing(&mut self.ready);
            self.ready.push_back(call);
        }
    }

    /// Declares the first gap lost, if there is one and it is `due` or waited for too long. Says whether it did.
    pub(super) fn skip(&mut self, due: bool, context: &Context<'_>) -> bool {
        let Some((before, call)) = self.early.first_key_value() else { return false };
        if !due && !context.overdue(call.time) {
            return false;
        }
        let before = *before;
        let gap = before.saturating_sub(self.next);
        let time = call.time;
        self.append(Call::lost(gap, time));
        self.next = self.next.max(before);
        self.follow();
        true
    }

    /// The books begin again at `next`.
    pub(super) fn restart(&mut self, next: u64) {
        self.next = next;
        self.debt = 0;
    }

    /// What the other side has seen of `bytes` for which no call came.
    pub(super) fn owe(&mut self, bytes: u64) {
        self.debt = self.debt.saturating_add(bytes);
    }

    /// Whether more than one process is, or has been, busy on this side.
    pub(super) fn crowded(&self) -> bool {
        self.several
    }

    /// Calls held beyond a gap.
    pub(super) fn held(&self) -> usize {
        self.early.len()
    }
}

/// Has an empty queue begin with room for one: most never hold more, and there is one for each side of each channel.
pub(super) fn sparing<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
}

/// Gives back the room of an empty queue that has held more than a few.
pub(super) fn give_back<T>(queue: &mut VecDeque<T>) {
    const FEW: usize = 4;
    if queue.is_empty() && queue.capacity() > FEW {
        *queue = VecDeque::new();
    }
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Arrived {
    /// It is in its place.
    Taken,
    /// It took the place of one that claimed the same: one of the two is wrong.
    Replaced,
    /// The books are beyond it already.
    Stale(Call),
}
