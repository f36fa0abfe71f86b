//! One direction of a stream: two sequences of bytes, put in and taken out, joined by offset.

use std::rc::Rc;

use bytes::Bytes;
use ipctrace_common::{Mechanism, wire};

use crate::model::{Channel, Why};

use super::call::Call;
use super::context::Context;
use super::join::{Receiver, Runs, UNREAD};
use super::naming::Naming;
use super::opening::Opening;
use super::position::Place;
use super::put::{Mode, Progress, Put};
use super::range::{Range, Ranges};
use super::sequence::{Arrived, give_back};
use super::take::{Settled, Take};

/// One queue of bytes.
#[derive(Debug)]
pub(super) struct Stream {
    mechanism: Mechanism,
    key: wire::Key,
    naming: Naming,
    /// Of the kernel's books.
    opening: Opening,
    /// The books of the two sides may not agree: transfers are not exact until positions prove that they do.
    doubt: bool,
    put: Put,
    ranges: Ranges,
    take: Take,
    /// How often the object began anew, as its senders, its receivers and both saw it.
    generations: Generations,
    /// Calls so far.
    arrivals: u64,
    /// When it was last used.
    pub(super) used: u64,
}

/// Lives of one FIFO.
#[derive(Debug, Default)]
struct Generations {
    put: u64,
    take: u64,
    both: u64,
}

impl Stream {
    /// A stream that nothing is known of.
    pub(super) fn new(mechanism: Mechanism, key: wire::Key, now: u64) -> Stream {
        Stream {
            mechanism,
            key,
            naming: Naming::new(mechanism, key),
            opening: Opening::new(now),
            doubt: false,
            put: Put::default(),
            ranges: Ranges::default(),
            take: Take::default(),
            generations: Generations::default(),
            arrivals: 0,
            used: now,
        }
    }

    /// A connection that is called `id`. It begins with [`Stream::begin`].
    pub(super) fn between(mechanism: Mechanism, key: wire::Key, id: String, now: u64) -> Stream {
        Stream { naming: Naming::called(mechanism, key, id), ..Stream::new(mechanism, key, now) }
    }

    /// The books of both sides begin, with so much in the stream that was put in before.
    pub(super) fn begin(&mut self, queued: u64, time: u64, context: &mut Context<'_>) {
        self.opening.told();
        self.precede(queued, time);
        self.put.calls.follow();
        self.take.calls.follow();
        self.settle(false, context);
    }

    /// What had been put in before the sender's books began. Nothing has been taken yet.
    pub(super) fn precede(&mut self, queued: u64, time: u64) {
        self.ranges.push_front(Range::unknown(Why::BeforeStart, queued, time, true));
    }

    /// The first `bytes` of the sender's books are accounted for already.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.put.calls.owe(bytes);
    }

    /// It is not certain that its sides belong together.
    pub(super) fn suspect(&mut self, doubt: bool) {
        self.doubt |= doubt;
    }

    /// What the kernel says of the channel when it first sees it, or sees it again.
    pub(super) fn opened(&mut self, record: &wire::Channel, name: &Bytes, context: &mut Context<'_>) {
        if self.opening.is_open() {
            self.settle(true, context);
        }
        if self.naming.is_other_now(record.sender_inode, record.receiver_inode) {
            self.renew(context);
        }
        self.naming.meet(record.sender_inode, record.receiver_inode);
        self.naming.named(name);
        let position = self.paged().then_some(record.write_pos);
        if self.opening.is_open() {
            self.put.restart(position);
            self.take.restart(record.read_pos, true);
            self.trust(record, context);
        } else {
            self.opening.told();
            self.put.restart(position);
            // Nobody has put anything in: whatever is under way will be in the books.
            self.take.restart(record.read_pos, record.write_pos != 0);
            self.doubt |= record.queued == u64::MAX;
            let queued = if record.queued == u64::MAX { 0 } else { record.queued };
            let place = position.and_then(|position| Place::queued(record.read_pos, position, queued));
            let range = Range::unknown(Why::BeforeStart, queued, record.header.time, true);
            self.ranges.push(range.at(place));
        }
        self.put.calls.follow();
        self.take.calls.follow();
        self.settle(false, context);
    }

    /// The kernel's books began again while the model has bytes unread: the kernel is right about how many.
    fn trust(&mut self, record: &wire::Channel, context: &mut Context<'_>) {
        if record.queued == u64::MAX {
            self.doubt = true;
            return;
        }
        let (model, kernel) = (self.ranges.left(), record.queued);
        if kernel > model {
            self.ranges.push(Range::unknown(Why::Lost, kernel - model, record.header.time, true));
        }
        if kernel < model {
            let call = Call::lost(model - kernel, record.header.time);
            self.receive(&Settled { call, exact: true, tight: false }, context);
        }
        self.doubt |= kernel != model;
    }

    /// One call.
    pub(super) fn call(
        &mut self,
        receive: bool,
        inodes: (u64, u64),
        mut call: Call,
        context: &mut Context<'_>,
    ) {
        if self.naming.is_other(inodes.0, inodes.1) {
            self.renew(context);
        }
        self.naming.meet(inodes.0, inodes.1);
        if call.bytes == 0 {
            return;
        }
        self.arrivals += 1;
        call.arrival = self.arrivals;
        if self.opening.is_open() && !self.paged() && !call.overlaps {
            // What most calls are: one process on this side, and nobody to wait for.
            if receive && self.put.calls.ready.is_empty() && self.take.passes(&call, &self.ranges) {
                self.take.pass(&call);
                self.receive(&Settled { call, exact: true, tight: false }, context);
                return;
            }
            if !receive && self.take.calls.ready.is_empty() && self.put.calls.passes(&call) {
                self.put.pass(call, &mut self.ranges);
                self.bound(context);
                return;
            }
        }
        let calls = if receive { &mut self.take.calls } else { &mut self.put.calls };
        match calls.push(call, self.opening.is_open()) {
            Arrived::Taken => {}
            Arrived::Replaced => *context.evicted += 1,
            Arrived::Stale(mut call) => {
                // Either its gap was given up, and others have its bytes, or the kernel's books began again and
                // the record of that was lost.
                if call.before == Some(0) {
                    calls.restart(0);
                    call.before = None;
                    calls.push(call, true);
                    self.doubt = true;
                } else {
                    *context.evicted += 1;
                }
            }
        }
        if self.opening.is_open() {
            self.advance(false, context);
        }
    }

    /// Another socket at the same address: its books begin with its own `Channel` record.
    fn renew(&mut self, context: &mut Context<'_>) {
        self.finish(context);
        let key = self.key;
        *self = Stream::new(self.mechanism, key, context.now);
    }

    fn paged(&self) -> bool {
        matches!(self.mechanism, Mechanism::Pipe | Mechanism::Fifo)
    }

    /// Settles what time has decided; all that is left if `force`.
    pub(super) fn settle(&mut self, force: bool, context: &mut Context<'_>) {
        if self.opening.is_given_up(force, context) {
            // The Channel record is lost. The books began with 0, but what was queued then is not known.
            self.doubt = true;
            self.put.calls.follow();
            self.take.calls.follow();
        }
        if !self.opening.is_open() {
            return;
        }
        for calls in [&mut self.put.calls, &mut self.take.calls] {
            let full = calls.held() > context.limits.ranges;
            while calls.skip(force || full, context) {}
        }
        self.advance(force, context);
    }

    /// Joins the two sides as far as they go.
    fn advance(&mut self, force: bool, context: &mut Context<'_>) {
        let senders = self.put.crowded();
        let mut mode = Mode { paged: self.paged(), force, pending: false, senders, until: u64::MAX };
        loop {
            let put = self.put.settle(mode, &mut self.ranges, context);
            mode.pending = !self.put.calls.ready.is_empty() || self.put.calls.held() > 0;
            mode.senders |= self.put.crowded();
            if put == Progress::Anew {
                self.outlive(mode, context);
            }
            let take = self.take(mode, context);
            match (put, take) {
                (Progress::Anew, _) => {
                    self.generations.put += 1;
                    self.anew(self.generations.put, context);
                }
                (_, Progress::Anew) => {
                    self.generations.take += 1;
                    self.anew(self.generations.take, context);
                }
                (_, Progress::Starved(since)) if force || self.hopeless(since, context) => self.feed(since),
                (_, Progress::Starved(_)) if self.take.calls.ready.len() >= context.limits.ranges => {
                    self.take.condense();
                    if self.take.calls.ready.len() >= context.limits.ranges {
                        *context.evicted += 1;
                        self.feed(context.now);
                    } else {
                        break;
                    }
                }
                (Progress::Done | Progress::Starved(_), Progress::Done | Progress::Starved(_)) => break,
            }
        }
        self.bound(context);
    }

    /// The receives, as far as they go.
    fn take(&mut self, mode: Mode, context: &mut Context<'_>) -> Progress {
        let Stream { mechanism, naming, doubt, put: Put { latest, .. }, ranges, take, .. } = self;
        let channel = naming.channel();
        take.settle(mode, latest, ranges, context, |settled, ranges, context| {
            receive(*mechanism, channel, doubt, &settled, ranges, context);
        })
    }

    /// The next send is of another life of a FIFO: what was received before it began is of the one that is over, whatever it waits for.
    fn outlive(&mut self, mode: Mode, context: &mut Context<'_>) {
        if self.mechanism != Mechanism::Fifo {
            return;
        }
        let Some(until) = self.put.calls.ready.front().map(|call| call.enter) else { return };
        loop {
            match self.take(Mode { force: true, pending: false, until, ..mode }, context) {
                Progress::Done => break,
                Progress::Anew => {
                    self.generations.take += 1;
                    self.anew(self.generations.take, context);
                }
                Progress::Starved(since) => self.feed(since),
            }
        }
    }

    /// Keeps to the bounds on memory.
    fn bound(&mut self, context: &mut Context<'_>) {
        if self.ranges.len() > context.limits.ranges {
            *context.evicted += self.ranges.forget_half();
        }
    }

    /// As the function of that name.
    fn receive(&mut self, settled: &Settled, context: &mut Context<'_>) {
        let Stream { mechanism, naming, doubt, ranges, .. } = self;
        receive(*mechanism, naming.channel(), doubt, settled, ranges, context);
    }

    /// Whether the send for which a receive has waited since then will not come. A gap among the sends is filled
    /// first.
    fn hopeless(&self, since: u64, context: &Context<'_>) -> bool {
        self.put.calls.held() == 0 && self.put.calls.ready.is_empty() && context.explained(since)
    }

    /// Lets the first waiting receive have bytes of an unknown sender, whose call, should it still come, has them
    /// taken off.
    fn feed(&mut self, time: u64) {
        let Some(front) = self.take.calls.ready.front() else { return };
        let missing = front.bytes.saturating_sub(self.ranges.left());
        self.put.calls.owe(missing);
        self.ranges.push(Range::unknown(Why::Lost, missing, time, true));
    }

    /// One side saw the object begin anew, for the `seen`th time.
    fn anew(&mut self, seen: u64, context: &mut Context<'_>) {
        // A pipe that is resized numbers its buffers anew too, but keeps its bytes.
        if self.mechanism == Mechanism::Fifo && seen > self.generations.both {
            self.generations.both = seen;
            self.flush(context);
        }
        self.ranges.displace();
        self.take.renumbered();
    }

    /// Nobody will take what is in the stream.
    fn flush(&mut self, context: &mut Context<'_>) {
        if let Some(loss) = context.loss {
            self.ranges.doubt_until(loss);
        }
        let left = self.ranges.left();
        let receiver = Receiver { who: &UNREAD, time: None, exact: true };
        let mut runs = Runs::new(self.mechanism, self.naming.channel(), receiver);
        self.ranges.take(left, |range, count| runs.add(range, count, context.out));
    }

    /// The end: everything still held is written.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        self.settle(true, context);
        self.flush(context);
    }

    /// As [`Naming::name_of`].
    pub(super) fn name_of(&self, mechanism: Mechanism, inodes: (u64, u64)) -> Option<&[u8]> {
        self.naming.name_of(mechanism, inodes)
    }

    /// Gives back the room of what it held, if it has not been used for a while: the queues of a busy connection are a hundred times as
    /// large as the rest of it, which is kept when it is closed.
    pub(super) fn give_back(&mut self, context: &Context<'_>) {
        if context.overdue(self.used) {
            give_back(&mut self.put.calls.ready);
            give_back(&mut self.take.calls.ready);
            self.ranges.give_back();
        }
    }

    /// How many things would be lost with it.
    pub(super) fn holds(&self) -> u64 {
        let calls = [&self.put.calls, &self.take.calls];
        let held: usize = calls.iter().map(|calls| calls.held() + calls.ready.len()).sum();
        (held + self.ranges.len()) as u64
    }
}

/// A settled receive: its bytes leave the stream.
fn receive(
    mechanism: Mechanism,
    channel: &Rc<Channel>,
    doubt: &mut bool,
    settled: &Settled,
    ranges: &mut Ranges,
    context: &mut Context<'_>,
) {
    let &Settled { ref call, exact, tight } = settled;
    // Where a lost call stands among the others is the books' guess.
    let guess = call.who.process().is_none() || ranges.lost_within(call.bytes);
    let receiver =
        Receiver { who: &call.who, time: Some(call.time), exact: exact && !guess && (tight || !*doubt) };
    let mut runs = Runs::new(mechanism, channel, receiver);
    ranges.take(call.bytes, |range, count| runs.add(range, count, context.out));
    *doubt = guess || (*doubt && !tight);
}

#[cfg(test)]
mod tests;
