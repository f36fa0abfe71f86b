//! Terminals: bytes in order, of which the line discipline makes more or fewer on their way.
//!
//! A newline becomes two bytes, what is typed is echoed to the screen, an erased character never arrives. What a read takes
//! is therefore credited to the writes before it by the lengths that they are expected to have at the other end, and
//! whatever that leaves over to the last writer. Where only one process wrote there is nothing to be wrong about.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::wire::{self, op_flag};
use ipctrace_common::{Mechanism, Shape};

use crate::decode;
use crate::model::{End, Event, Proc, Transfer, Why};

use super::books::{Books, Timed};
use super::call::Recent;
use super::context::Context;
use super::naming::Naming;
use super::opening::Opening;

/// How long a read that overlapped a write is held, ns.
const LINGER: u64 = 20_000_000;
/// Most writes held for one direction.
const WRITES: usize = 4096;

/// One call.
#[derive(Clone, Debug)]
struct Call {
    who: End,
    enter: u64,
    time: u64,
    /// Bytes that the call moved.
    bytes: u64,
    /// Writes: what is expected at the other end. Reads: what is left there.
    detail: Option<u64>,
    messages: u64,
    payload: Bytes,
}

impl Timed for Call {
    fn time(&self) -> u64 {
        self.time
    }
}

/// A write of which something has not been read.
#[derive(Clone, Debug)]
struct Write {
    call: Call,
    /// Expected bytes that were not read.
    left: u64,
    taken: u64,
}

/// One direction of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    naming: Naming,
    opening: Opening,
    /// The kernel has said what was in it first.
    met: bool,
    writes: Books<Call>,
    reads: Books<Call>,
    pending: VecDeque<Write>,
    /// Who wrote what was read last.
    last: Option<Call>,
    /// Lengths have been as expected since nothing was left over.
    aligned: bool,
    readers: Recent,
    /// To the screen: when the kernel first saw the other direction, if that was after this one.
    other: Option<u64>,
    /// When it was last used.
    pub(super) used: u64,
}

impl Terminal {
    /// A direction that nothing is known of.
    pub(super) fn new(key: wire::Key, now: u64) -> Terminal {
        Terminal {
            naming: Naming::new(Mechanism::Pty, key),
            opening: Opening::new(now),
            met: false,
            writes: Books::default(),
            reads: Books::default(),
            pending: VecDeque::new(),
            last: None,
            aligned: true,
            readers: Recent::default(),
            other: None,
            used: now,
        }
    }

    /// What the kernel says of it when it first sees it.
    pub(super) fn opened(&mut self, record: &wire::Channel, context: &mut Context<'_>) {
        let other = self.other.take();
        if self.met {
            let echoes = other.map_or_else(VecDeque::new, |since| self.echoes(since, record.queued));
            self.finish(context);
            self.pending = echoes;
            self.writes = Books::default();
            self.reads = Books::default();
            self.last = None;
        }
        self.met = true;
        self.naming.meet(0, record.receiver_inode);
        self.opening.told();
        // An echo is among it.
        let known: u64 = self.pending.iter().map(|write| write.left).sum();
        if record.queued != u64::MAX && record.queued > known {
            self.pending.push_front(Write::unknown(Why::BeforeStart, record.queued - known, 0));
        }
        self.writes.follow();
        self.reads.follow();
        self.settle(false, context);
    }

    /// The kernel has seen the other direction for the first time.
    pub(super) fn other_opened(&mut self, time: u64) {
        self.other = Some(time);
    }

    /// Takes out the echoes in a new terminal, whose other direction was used first: of those since then as many as make up what is
    /// queued now.
    fn echoes(&mut self, since: u64, queued: u64) -> VecDeque<Write> {
        let is_new =
            |write: &mut Write| write.call.who == End::Unknown(Why::Kernel) && write.call.time >= since;
        let mut echoes = VecDeque::new();
        let mut sum = 0;
        while sum < queued
            && let Some(echo) = self.pending.pop_back_if(is_new)
        {
            sum += echo.left;
            echoes.push_front(echo);
        }
        echoes
    }

    /// One call.
    pub(super) fn call(&mut self, op: &decode::Op, process: Rc<Proc>, context: &mut Context<'_>) {
        let decode::Op { fixed: op, payload, .. } = op;
        let flags = op.header.flags;
        self.naming.meet(0, op.receiver_inode);
        let straddles = flags & op_flag::STRADDLES_START != 0;
        let call = Call {
            who: End::Known(process),
            enter: if straddles { 0 } else { op.enter.min(op.header.time) },
            time: op.header.time,
            bytes: op.bytes,
            detail: (flags & op_flag::DETAIL != 0).then_some(op.detail.cast_unsigned()),
            messages: u64::from(op.messages.max(1)),
            payload: payload.clone(),
        };
        let before = (flags & op_flag::SEQUENCED != 0).then_some(op.before);
        let side = if flags & op_flag::RECEIVE != 0 { &mut self.reads } else { &mut self.writes };
        if !side.push(before, call, self.opening.is_open()) {
            *context.evicted += 1;
        }
        if self.opening.is_open() {
            self.settle(false, context);
        }
    }

    /// The line discipline echoes `bytes` of what was typed, from between `enter` and `time` on.
    pub(super) fn echo(&mut self, bytes: u64, enter: u64, time: u64, context: &mut Context<'_>) {
        let mut write = Write::unknown(Why::Kernel, bytes, time);
        write.call.enter = enter;
        self.pending.push_back(write);
        self.settle(false, context);
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
        while self.writes.skip(force, context).is_some() {
            self.aligned = false;
        }
        while self.reads.skip(force, context).is_some() {
            self.aligned = false;
        }
        self.pending.extend(self.writes.ready.drain(..).map(Write::new));
        while let Some(read) = self.reads.ready.front() {
            let due = force || context.overdue(read.time) || self.reads.ready.len() > WRITES;
            if !(due || self.decided(read, context)) {
                break;
            }
            let Some(read) = self.reads.ready.pop_front() else { break };
            self.take(&read, context);
        }
        while self.pending.len() > WRITES {
            let forgotten = self.pending.pop_front();
            let sent = forgotten.is_some_and(|write| write.call.who.process().is_some());
            *context.evicted += u64::from(sent);
            self.aligned = false;
        }
    }

    /// Whether nothing that is still to come can change whose bytes a read took.
    fn decided(&self, read: &Call, context: &Context<'_>) -> bool {
        let mut before = 0u64;
        let mut possible = 0u64;
        for write in &self.pending {
            before += if write.call.time <= read.enter { write.left } else { 0 };
            possible += if write.call.enter <= read.time { write.left } else { 0 };
        }
        before >= read.bytes || (possible >= read.bytes && context.now.saturating_sub(read.time) >= LINGER)
    }

    /// One read takes its bytes.
    fn take(&mut self, read: &Call, context: &mut Context<'_>) {
        let contended = self.readers.overlaps(read.process(), read.enter);
        self.readers.note(read.process(), read.time);
        let mut parts: Vec<(Call, u64, u64)> = Vec::new();
        let mut left = read.bytes;
        let mut senders: Vec<(u32, u64)> = self.last.iter().map(Call::process).collect();
        senders.extend(self.candidates(read).map(|write| write.call.process()));
        senders.dedup();
        let foreseen = self.candidates(read).all(|write| write.call.detail.is_some());
        let alone = senders.len() <= 1;
        let agreed = self.agrees(read);
        if read.detail == Some(0) && !agreed {
            // What is not there any more was mostly flushed, or erased, before what came last.
            let stale = |write: &&mut Write| write.call.time <= read.enter;
            let all: u64 = self.pending.iter_mut().filter(stale).map(|write| write.left).sum();
            let mut gone = all.saturating_sub(read.bytes);
            for write in self.pending.iter_mut().filter(stale) {
                let count = write.left.min(gone);
                write.left -= count;
                gone -= count;
            }
        }
        for write in self.pending.iter_mut().filter(|write| write.call.enter <= read.time) {
            let count = write.left.min(left);
            if count > 0 {
                parts.push((write.call.clone(), count, write.taken));
                write.left -= count;
                write.taken += count;
                left -= count;
            }
        }
        // Bytes that nobody is known to have written: the last one may have written more than was foreseen.
        let unwritten = parts.is_empty() && left > 0;
        if left > 0 {
            self.aligned = alone && self.aligned;
            match (parts.last_mut(), &self.last) {
                (Some((_, count, _)), _) => *count += left,
                (None, Some(last)) => parts.push((last.clone(), left, 1)),
                (None, None) => {
                    let why = if context.explained(read.time) { Why::Lost } else { Why::Kernel };
                    parts.push((Write::unknown(why, left, read.time).call, left, 0));
                }
            }
        }
        self.aligned &= alone || agreed;
        let exact = !unwritten && (alone || (foreseen && self.aligned && !contended));
        if let Some((last, ..)) = parts.last() {
            self.last = Some(last.clone());
        }
        self.pending.retain(|write| write.left > 0);
        // Erased characters, and those that mean something to the line discipline, do not arrive.
        if read.detail == Some(0) {
            let stale = |write: &Write| write.call.time <= read.enter;
            self.aligned = alone || (self.aligned && !self.pending.iter().any(stale));
            self.pending.retain(|write| !stale(write));
            self.aligned |= self.pending.is_empty();
        }
        self.tell(parts, read, exact, context);
    }

    /// Whether a read left in the line discipline what it should have, by what was written before and not yet read.
    fn agrees(&self, read: &Call) -> bool {
        let Some(rest) = read.detail else { return true };
        let (mut least, mut most) = (0u64, 0u64);
        for write in self.candidates(read) {
            least += if write.call.time <= read.enter { write.left } else { 0 };
            most += write.left;
        }
        (least.saturating_sub(read.bytes)..=most.saturating_sub(read.bytes)).contains(&rest)
    }

    fn candidates(&self, read: &Call) -> impl Iterator<Item = &Write> {
        let time = read.time;
        self.pending.iter().filter(move |write| write.call.enter <= time)
    }

    fn tell(&mut self, parts: Vec<(Call, u64, u64)>, read: &Call, exact: bool, context: &mut Context<'_>) {
        let mut transfers: Vec<Transfer> = Vec::new();
        let mut at = 0usize;
        for (write, bytes, taken) in parts {
            let from = at;
            at = at.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
            let latency = write.who.process().map(|_| read.time.saturating_sub(write.time));
            if let Some(same) = transfers.last_mut()
                && same.sender == write.who
            {
                same.bytes += bytes;
                same.messages += if taken == 0 { write.messages } else { 1 };
                same.latency = latency;
                continue;
            }
            // The reader's own: what the line discipline made of it.
            let payload = read.payload.len().min(at).checked_sub(from).filter(|length| *length > 0);
            let payload = payload.map(|length| read.payload.slice(from..from + length));
            transfers.push(Transfer {
                messages: if taken == 0 { write.messages } else { 1 },
                latency,
                payload,
                ..transfer(self.naming.channel(), write.who, read.who.clone(), read.time, bytes, exact)
            });
        }
        context.out.extend(transfers.into_iter().map(Event::Transfer));
    }

    /// The end: what nobody read.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        self.settle(true, context);
        let channel = Rc::clone(self.naming.channel());
        for write in self.pending.drain(..) {
            let Write { call, left, .. } = write;
            // An echo that nobody reads is nothing that anybody sent.
            if call.who == End::Unknown(Why::Kernel) {
                continue;
            }
            let unread = End::Unknown(Why::Unread);
            let transfer = transfer(&channel, call.who, unread, call.time, left, true);
            context.out.push(Event::Transfer(transfer));
        }
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

impl Call {
    /// Identity of the caller; zeros, which no process has, for an unknown one.
    fn process(&self) -> (u32, u64) {
        self.who.process().map_or((0, 0), |process| process.identity())
    }
}

impl Write {
    fn new(call: Call) -> Write {
        Write { left: call.detail.unwrap_or(call.bytes), call, taken: 0 }
    }

    fn unknown(why: Why, bytes: u64, time: u64) -> Write {
        let who = End::Unknown(why);
        let payload = Bytes::new();
        Write::new(Call { who, enter: 0, time, bytes, detail: Some(bytes), messages: 1, payload })
    }
}

fn transfer(
    channel: &Rc<crate::model::Channel>,
    sender: End,
    receiver: End,
    time: u64,
    bytes: u64,
    exact: bool,
) -> Transfer {
    Transfer { exact, ..Transfer::new(Mechanism::Pty, Rc::clone(channel), sender, receiver, bytes, time) }
}

const _: () = assert!(matches!(Mechanism::Pty.shape(), Shape::Terminal));

#[cfg(test)]
mod tests;
