//! Counters: what is put in adds up, and who takes takes all of it, or one at a time.
//!
//! Units have no identity. They are taken in the order in which they were put in, as far as that can be seen; what one
//! read took of one writer is one transfer.

use std::collections::VecDeque;
use std::rc::Rc;

use ipctrace_common::wire::{self, channel_flag, op_flag};
use ipctrace_common::{Mechanism, Shape};

use crate::model::{End, Event, Proc, Transfer, Why};

use super::books::{Books, Timed};
use super::call::Recent;
use super::context::Context;
use super::naming::Naming;
use super::opening::Opening;

mod choose;

use choose::Fit;

/// Bytes of one read or write: eventfd(2).
const WIDTH: u64 = 8;
/// How long a read that overlapped a write is held, ns, so that other writes which were under way at that time are known:
/// a writer may be off the processor for a while between what it does and the end of its call.
const LINGER: u64 = 20_000_000;
/// Writes that nobody has read yet are summed up by writer beyond this many.
const COMPACT: usize = 1024;

/// One call on a counter.
#[derive(Clone, Debug)]
struct Access {
    who: End,
    enter: u64,
    time: u64,
    /// What it added or took; `None` if that could not be read.
    value: Option<u64>,
    /// Calls it stands for.
    messages: u64,
    /// False where a read may have taken it that was credited with another.
    exact: bool,
}

impl Timed for Access {
    fn time(&self) -> u64 {
        self.time
    }
}

impl Access {
    fn new(op: &wire::Op, process: Rc<Proc>) -> Access {
        let flags = op.header.flags;
        let straddles = flags & op_flag::STRADDLES_START != 0;
        Access {
            who: if flags & op_flag::BY_KERNEL != 0 {
                End::Unknown(Why::Kernel)
            } else {
                End::Known(process)
            },
            enter: if straddles { 0 } else { op.enter.min(op.header.time) },
            time: op.header.time,
            value: (flags & op_flag::DETAIL != 0).then_some(op.detail.cast_unsigned()),
            messages: u64::from(op.messages.max(1)),
            exact: true,
        }
    }

    fn unknown(why: Why, value: u64, time: u64) -> Access {
        Access { who: End::Unknown(why), enter: 0, time, value: Some(value), messages: 1, exact: true }
    }

    /// Identity of the caller; zeros, which no process has, for an unknown one.
    fn process(&self) -> (u32, u64) {
        self.who.process().map_or((0, 0), |process| process.identity())
    }

    fn units(&self) -> u64 {
        self.value.unwrap_or(0)
    }

    /// Whether they were under way at the same time, in different processes.
    fn rivals(&self, other: &Access) -> bool {
        self.process() != other.process() && self.enter < other.time && other.enter < self.time
    }
}

/// One eventfd.
#[derive(Debug)]
pub(super) struct Counter {
    naming: Naming,
    key: wire::Key,
    /// Of what it stood at first.
    opening: Opening,
    semaphore: bool,
    /// What the kernel adds is told of.
    complete: bool,
    writes: Books<Access>,
    reads: Books<Access>,
    /// Put in and not taken, in order.
    pending: VecDeque<Access>,
    readers: Recent,
    /// The first process that wrote, and that read.
    first: [Option<(u32, u64)>; 2],
    /// Another has too, or was seen in a call on it.
    several: bool,
    /// How many writes may be pending before they are summed up.
    compact: usize,
    /// When it was last used.
    pub(super) used: u64,
}

/// Units of one writer that one read took.
struct Part {
    who: End,
    units: u64,
    messages: u64,
    time: u64,
    exact: bool,
}

impl Counter {
    /// A counter that nothing is known of.
    pub(super) fn new(key: wire::Key, now: u64) -> Counter {
        Counter {
            naming: Naming::new(Mechanism::Eventfd, key),
            key,
            opening: Opening::new(now),
            semaphore: false,
            complete: false,
            writes: Books::default(),
            reads: Books::default(),
            pending: VecDeque::new(),
            readers: Recent::default(),
            first: [None; 2],
            several: false,
            compact: COMPACT,
            used: now,
        }
    }

    /// What the kernel says of it when it first sees it, and who made it, if that was now. If it is known already, this is
    /// another at its address.
    pub(super) fn opened(
        &mut self,
        record: &wire::Channel,
        maker: Option<Rc<Proc>>,
        context: &mut Context<'_>,
    ) {
        if self.opening.is_open() || self.naming.is_other(0, record.receiver_inode) {
            self.finish(context);
            *self = Counter::new(self.key, context.now);
        }
        self.naming.meet(0, record.receiver_inode);
        self.opening.told();
        self.semaphore = record.header.flags & channel_flag::SEMAPHORE != 0;
        self.complete = record.header.flags & channel_flag::COMPLETE != 0;
        if record.queued != 0 && record.queued != u64::MAX {
            let queued = Access::unknown(Why::BeforeStart, record.queued, 0);
            self.pending.push_front(match maker {
                Some(maker) => {
                    let time = record.header.time;
                    Access { who: End::Known(maker), enter: time, time, ..queued }
                }
                None => queued,
            });
        }
        self.writes.follow();
        self.reads.follow();
        self.settle(false, context);
    }

    /// One call.
    pub(super) fn call(&mut self, op: &wire::Op, process: Rc<Proc>, context: &mut Context<'_>) {
        if self.naming.is_other(0, op.receiver_inode) {
            self.finish(context);
            *self = Counter::new(self.key, context.now);
        }
        self.naming.meet(0, op.receiver_inode);
        let receive = op.header.flags & op_flag::RECEIVE != 0;
        let first = self.first[usize::from(receive)].get_or_insert(process.identity());
        self.several |= *first != process.identity() || op.header.flags & op_flag::OVERLAPS != 0;
        let side = if receive { &mut self.reads } else { &mut self.writes };
        let before = (op.header.flags & op_flag::SEQUENCED != 0).then_some(op.before);
        if !side.push(before, Access::new(op, process), self.opening.is_open()) {
            *context.evicted += 1;
        }
        if self.opening.is_open() {
            self.settle(false, context);
        }
    }

    /// Settles what is certain, and what has waited for long enough; all that is left if `force`.
    pub(super) fn settle(&mut self, force: bool, context: &mut Context<'_>) {
        if self.opening.is_given_up(force, context) {
            self.writes.follow();
            self.reads.follow();
        }
        if !self.opening.is_open() {
            return;
        }
        let full = |side: &Books<Access>| side.held() > context.limits.ranges;
        while self.writes.skip(force || full(&self.writes), context).is_some() {}
        while let Some(lost) = self.reads.skip(force || full(&self.reads), context) {
            self.missed(lost, context);
        }
        self.pending.extend(self.writes.ready.drain(..).filter(|write| write.units() > 0));
        while let Some(read) = self.reads.ready.front() {
            let crowd = self.reads.ready.len() > context.limits.ranges;
            if !(force || crowd || self.decided(read, context)) {
                break;
            }
            let Some(read) = self.reads.ready.pop_front() else { break };
            self.take(&read, context);
        }
        self.trim(context);
    }

    /// Whether nothing that is still to come can change what a read took.
    fn decided(&self, read: &Access, context: &Context<'_>) -> bool {
        if context.overdue(read.time) {
            return true;
        }
        let Some(value) = read.value else { return self.writes.held() == 0 };
        // One process writes and one reads: there is one order.
        if !self.several && self.begins_with(value, read.time) {
            return true;
        }
        let before = self.sum(|write| write.time <= read.enter);
        let possible = self.sum(|write| write.enter <= read.time);
        let certain = value <= before && !self.contended(read);
        if certain || possible < value || context.now.saturating_sub(read.time) < LINGER {
            return certain;
        }
        self.semaphore || choose::choose(&self.pending, read, value).1 != Fit::Short
    }

    /// Whether the writes that are known to have begun by then, from the first on, make up so many units.
    fn begins_with(&self, value: u64, time: u64) -> bool {
        let mut left = value;
        for write in self.pending.iter().take_while(|write| write.enter <= time) {
            if left == 0 {
                break;
            }
            let Some(rest) = left.checked_sub(write.units()) else { return self.semaphore };
            left = rest;
        }
        left == 0
    }

    fn sum(&self, which: impl Fn(&Access) -> bool) -> u64 {
        let of = self.pending.iter().filter(|write| which(write));
        of.fold(0, |sum, write| sum.saturating_add(write.units()))
    }

    /// Whether another process read at the same time.
    fn contended(&self, read: &Access) -> bool {
        self.readers.overlaps(read.process(), read.enter)
            || self.reads.ready.iter().any(|other| other.rivals(read))
    }

    /// One read takes its units.
    fn take(&mut self, read: &Access, context: &mut Context<'_>) {
        let contended = self.contended(read);
        let mut several = self.pending.iter().filter(|write| write.enter <= read.time);
        let first = several.next().map(Access::process);
        let several = several.any(|write| Some(write.process()) != first);
        let known = read.value.is_some();
        let before = self.sum(|write| write.time <= read.enter);
        let value = read.value.unwrap_or(if self.semaphore { 1 } else { before });
        let exact = known && !(contended && several);
        let mut certain = exact;
        let mut parts = Vec::new();
        let mut missing = value;
        if self.semaphore || (contended && value < before) {
            let exact = exact && !self.torn(value, read.time);
            certain &= exact;
            missing -= self.take_first(value, read.time, exact, &mut parts);
        } else {
            // All that was in it before goes, to somebody whose call was not seen if not to this one.
            let unseen = before.saturating_sub(value);
            if unseen > 0 {
                self.missed_units(unseen, read.enter, context);
            }
            let (chosen, fit) = choose::choose(&self.pending, read, value);
            let overlapped =
                self.pending.iter().any(|write| write.enter <= read.time && write.time > read.enter);
            certain &= fit == Fit::Certain || (fit == Fit::Short && !overlapped);
            for index in chosen.into_iter().rev() {
                if let Some(write) = self.pending.remove(index) {
                    missing = missing.saturating_sub(write.units());
                    parts.push(Part::of(&write, write.units(), certain));
                }
            }
            parts.reverse();
        }
        if missing > 0 {
            // Units that nobody was seen to add are the kernel's only where it is not seen to add any.
            let lost = self.complete || context.loss.is_some_and(|_| context.explained(read.time));
            let why = if lost { Why::Lost } else { Why::Kernel };
            let write = Access::unknown(why, missing, read.time);
            parts.push(Part::of(&write, missing, exact));
        }
        if !certain {
            let doubtful = self.pending.iter_mut().filter(|write| write.enter <= read.time);
            doubtful.for_each(|write| write.exact = false);
        }
        self.readers.note(read.process(), read.time);
        self.tell(parts, &read.who, Some(read.time), context);
    }

    /// Takes units in order; gives how many there were.
    fn take_first(&mut self, value: u64, time: u64, exact: bool, parts: &mut Vec<Part>) -> u64 {
        let mut left = value;
        self.pending.retain_mut(|write| {
            if left == 0 || write.enter > time {
                return true;
            }
            let units = write.units().min(left);
            left -= units;
            parts.push(Part::of(write, units, exact));
            write.value = Some(write.units() - units);
            write.units() > 0
        });
        value - left
    }

    /// Whether the first `value` units end amid writes of several processes whose order could not be seen.
    fn torn(&self, value: u64, time: u64) -> bool {
        let writes: Vec<&Access> = self.pending.iter().filter(|write| write.enter <= time).collect();
        let mut sum = 0u64;
        let fits = |write: &&&Access| {
            let with = sum.saturating_add(write.units());
            let fits = with <= value;
            sum = if fits { with } else { sum };
            fits
        };
        let whole = writes.iter().take_while(fits).count();
        let touched = whole + usize::from(sum < value && whole < writes.len());
        writes[..touched].iter().any(|one| writes[whole..].iter().any(|other| other.rivals(one)))
    }

    /// Reads of which the records are lost.
    fn missed(&mut self, reads: u64, context: &mut Context<'_>) {
        if self.semaphore {
            self.missed_units(reads, u64::MAX, context);
        }
        // Else the next read shows what is gone.
    }

    /// Units that a call took which was not seen.
    fn missed_units(&mut self, units: u64, time: u64, context: &mut Context<'_>) {
        let mut parts = Vec::new();
        self.take_first(units, time, true, &mut parts);
        self.tell(parts, &End::Unknown(Why::Lost), None, context);
    }

    /// One transfer for each writer of whom a read (or nobody, at the time of the writes) took something.
    fn tell(&mut self, parts: Vec<Part>, receiver: &End, time: Option<u64>, context: &mut Context<'_>) {
        let mut transfers: Vec<Transfer> = Vec::new();
        for part in parts {
            let known = part.who.process().is_some() && receiver.process().is_some();
            let latency = time.filter(|_| known).map(|time| time.saturating_sub(part.time));
            if let Some(same) = transfers.iter_mut().find(|transfer| transfer.sender == part.who) {
                same.value = same.value.map(|value| value.saturating_add(part.units));
                same.messages = same.messages.saturating_add(part.messages);
                same.bytes = same.messages.saturating_mul(WIDTH);
                same.latency = latency;
                same.exact &= part.exact;
                same.time = same.time.max(time.unwrap_or(part.time));
                continue;
            }
            let (channel, bytes) = (Rc::clone(self.naming.channel()), part.messages.saturating_mul(WIDTH));
            let time = time.unwrap_or(part.time);
            transfers.push(Transfer {
                messages: part.messages,
                latency,
                exact: part.exact,
                value: Some(part.units),
                ..Transfer::new(Mechanism::Eventfd, channel, part.who, receiver.clone(), bytes, time)
            });
        }
        context.out.extend(transfers.into_iter().map(Event::Transfer));
    }

    /// Keeps memory within bounds: many programs write to eventfds that are never read.
    fn trim(&mut self, context: &mut Context<'_>) {
        if self.pending.len() <= self.compact {
            return;
        }
        let recent = self.pending.split_off(self.pending.len() - COMPACT / 2);
        let mut old: VecDeque<Access> = VecDeque::new();
        for write in std::mem::replace(&mut self.pending, recent) {
            match old.back_mut() {
                Some(last) if last.who == write.who => {
                    last.value = Some(last.units().saturating_add(write.units()));
                    last.messages = last.messages.saturating_add(write.messages);
                    last.time = last.time.max(write.time);
                    last.exact &= write.exact;
                }
                Some(_) | None => old.push_back(write),
            }
        }
        if old.len() > context.limits.ranges {
            let rest = old.split_off(old.len() / 2);
            *context.evicted += old.len() as u64;
            let units = old.iter().fold(0u64, |sum, write| sum.saturating_add(write.units()));
            let time = old.back().map_or(0, |write| write.time);
            old = VecDeque::from([Access::unknown(Why::Lost, units, time)]);
            old.extend(rest);
        }
        old.append(&mut self.pending);
        self.pending = old;
        self.compact = (self.pending.len() * 2).max(COMPACT);
    }

    /// The end: what nobody took is unread.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        self.settle(true, context);
        let parts = self.pending.drain(..).map(|write| Part::of(&write, write.units(), true)).collect();
        self.tell(parts, &End::Unknown(Why::Unread), None, context);
    }

    /// How many things would be lost with it.
    pub(super) fn holds(&self) -> u64 {
        let calls = [&self.writes, &self.reads];
        (calls.iter().map(|side| side.held() + side.ready.len()).sum::<usize>() + self.pending.len()) as u64
    }

    /// Whether something waits for time to pass.
    pub(super) fn waits(&self) -> bool {
        !self.opening.is_open() || self.writes.held() + self.reads.held() + self.reads.ready.len() > 0
    }
}

impl Part {
    fn of(write: &Access, units: u64, exact: bool) -> Part {
        Part {
            who: write.who.clone(),
            units,
            messages: write.messages,
            time: write.time,
            exact: exact && write.exact,
        }
    }
}

const _: () = assert!(matches!(Mechanism::Eventfd.shape(), Shape::Counter));

#[cfg(test)]
mod tests;
