//! Processes that work a pipe, and the records that the programs make of it.

use ipctrace_common::wire::{self, op_flag};
use ipctrace_common::{Cause, Mechanism};

use crate::correlate::testing::{channel, op, record};
use crate::correlate::{Correlator, Limits};
use crate::decode::Record;
use crate::model::Event;

use super::pipe::Pipe;

/// What is to be simulated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) writers: u32,
    pub(super) readers: u32,
    /// Steps of any process.
    pub(super) steps: u32,
    /// Of these, steps before tracing begins.
    pub(super) untraced: u32,
    /// Largest write and read.
    pub(super) largest: u64,
    /// One in so many calls is interrupted between two of its phases.
    pub(super) interrupted: u64,
    /// One in so many records is lost; 0: none.
    pub(super) lost: u64,
    /// The object has positions, as a pipe; a unix socket has none.
    pub(super) paged: bool,
}

impl Plan {
    pub(super) const ADVERSARIAL: Plan = Plan {
        seed: 0,
        writers: 2,
        readers: 1,
        steps: 400,
        untraced: 0,
        largest: 300,
        interrupted: 1,
        lost: 0,
        paged: true,
    };
    pub(super) const REALISTIC: Plan = Plan { steps: 600, interrupted: 30, ..Plan::ADVERSARIAL };
}

impl Plan {
    fn mechanism(self) -> Mechanism {
        if self.paged { Mechanism::Pipe } else { Mechanism::UnixStream }
    }
}

/// xorshift64*: the same numbers from the same seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit.max(1)
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// Where a process is in its call.
#[derive(Clone, Debug, Default)]
struct Caller {
    pid: u32,
    reads: bool,
    /// In a call: how many bytes it asked for.
    asked: Option<u64>,
    enter: u64,
    low: u64,
    locked: Option<u64>,
    /// Changes of the pipe when it entered.
    changes: u64,
    moved: u64,
    /// Of these, before tracing began.
    early: u64,
    straddles: bool,
    got: Vec<u32>,
    done: bool,
}

/// A call that has returned.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) pid: u32,
    pub(super) reads: bool,
    pub(super) time: u64,
    /// Bytes that the tracer is to account for.
    pub(super) bytes: u64,
    /// Who put in each byte that a read got; 0: before the start.
    pub(super) got: Vec<u32>,
    /// Whether its record was lost.
    pub(super) lost: bool,
}

/// The simulation and what came of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    dice: Dice,
    now: u64,
    pipe: Pipe,
    callers: Vec<Caller>,
    /// How often the pipe has changed.
    changes: u64,
    books: [u64; 2],
    traced: bool,
    /// Records under way, to be handed over in nearly this order.
    ring: Vec<Record>,
    pub(super) done: Vec<Done>,
    correlator: Correlator,
    pub(super) events: Vec<Event>,
    unreported: u64,
    ticked: u64,
}

const ID: u64 = 47;

impl World {
    pub(super) fn run(plan: Plan) -> World {
        let caller = |pid, reads| Caller { pid, reads, ..Caller::default() };
        let writers = (0..plan.writers).map(|index| caller(100 + index, false));
        let readers = (0..plan.readers).map(|index| caller(200 + index, true));
        let mut world = World {
            plan,
            dice: Dice(plan.seed | 1),
            now: 1_000_000,
            pipe: Pipe::default(),
            callers: writers.chain(readers).collect(),
            changes: 0,
            books: [0; 2],
            traced: false,
            ring: Vec::new(),
            done: Vec::new(),
            correlator: Correlator::new(Limits::default()),
            events: Vec::new(),
            unreported: 0,
            ticked: 0,
        };
        for step in 0..plan.steps {
            if step == plan.untraced {
                world.begin();
            }
            let index = world.dice.below(world.callers.len() as u64) as usize;
            world.step(index);
            world.hand_over(3);
        }
        world.wind_down();
        world
    }

    /// Tracing begins: the programs see the pipe for the first time.
    fn begin(&mut self) {
        self.traced = true;
        self.pipe.written.iter_mut().for_each(|who| *who = 0);
        for caller in &mut self.callers {
            caller.early = caller.moved;
            caller.straddles = caller.asked.is_some();
            caller.got.clear();
            // Nothing that the hooks would have seen before is known.
            caller.locked = None;
            caller.low = 0;
        }
        if let Record::Channel(mut fixed, name) = channel(self.plan.mechanism(), ID, self.pipe.queued(), b"")
        {
            fixed.header.time = self.now;
            fixed.write_pos = self.pipe.write_position();
            fixed.read_pos = self.pipe.read_position();
            self.ring.push(Record::Channel(fixed, name));
        }
    }

    /// One process goes on until it is interrupted.
    fn step(&mut self, index: usize) {
        loop {
            let pause = if self.dice.one_in(200) { 90_000_000 } else { 2_000 };
            self.now += 1 + self.dice.below(pause);
            if !self.phase(index) || self.dice.one_in(self.plan.interrupted) {
                return;
            }
        }
    }

    /// The next phase of a call. False if the process ends its turn: it has to wait, or its call has returned.
    fn phase(&mut self, index: usize) -> bool {
        let mut caller = std::mem::take(&mut self.callers[index]);
        let goes_on = match (caller.asked, caller.done) {
            (None, _) => {
                self.enter(&mut caller);
                true
            }
            (Some(asked), false) => self.work(&mut caller, asked),
            (Some(_), true) => {
                self.exit(&mut caller);
                false
            }
        };
        self.callers[index] = caller;
        goes_on
    }

    fn position(&self, reads: bool) -> u64 {
        if reads { self.pipe.read_position() } else { self.pipe.write_position() }
    }

    fn enter(&mut self, caller: &mut Caller) {
        // Often the same size: alike calls are the hardest to tell apart.
        let alike = self.dice.one_in(2);
        let asked = if alike { self.plan.largest.min(10) } else { 1 + self.dice.below(self.plan.largest) };
        *caller = Caller {
            pid: caller.pid,
            reads: caller.reads,
            asked: Some(asked),
            enter: self.now,
            low: self.position(caller.reads),
            changes: self.changes,
            ..Caller::default()
        };
    }

    /// With the lock held. False if it has to wait.
    fn work(&mut self, caller: &mut Caller, asked: u64) -> bool {
        // If others worked meanwhile it mostly was because the lock was taken: then the hook on the lock saw it.
        if caller.moved == 0
            && caller.locked.is_none()
            && self.changes != caller.changes
            && !self.dice.one_in(4)
        {
            caller.locked = Some(self.position(caller.reads));
        }
        caller.changes = self.changes;
        let count = if caller.reads {
            let got = self.pipe.read(asked);
            caller.got.extend(&got);
            got.len() as u64
        } else {
            // Bytes put in before tracing began carry no name.
            let who = if self.traced { caller.pid } else { 0 };
            self.pipe.write(who, asked - caller.moved, caller.moved == 0)
        };
        self.changes += u64::from(count > 0);
        caller.moved += count;
        caller.done = if caller.reads { count > 0 } else { caller.moved == asked };
        caller.done
    }

    fn exit(&mut self, caller: &mut Caller) {
        caller.asked = None;
        if !self.traced {
            return;
        }
        let bytes = caller.moved - caller.early;
        if bytes == 0 {
            return;
        }
        let mut flags = op_flag::SEQUENCED;
        for (flag, set) in [
            (op_flag::RECEIVE, caller.reads),
            (op_flag::STRADDLES_START, caller.straddles),
            (op_flag::LOCKED, self.plan.paged && caller.locked.is_some()),
            (op_flag::POSITIONS, self.plan.paged),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let side = usize::from(caller.reads);
        let enter = if caller.straddles { 0 } else { caller.enter };
        let fixed = wire::Op {
            before: self.books[side],
            pos_enter: caller.low,
            pos_locked: caller.locked.unwrap_or(0),
            pos_exit: self.position(caller.reads),
            ..op(self.plan.mechanism(), ID, caller.pid, flags, (enter, self.now), bytes)
        };
        self.books[side] += bytes;
        let lost = self.plan.lost > 0 && self.dice.one_in(self.plan.lost);
        let got = std::mem::take(&mut caller.got);
        self.done.push(Done { pid: caller.pid, reads: caller.reads, time: self.now, bytes, got, lost });
        if lost {
            self.unreported += 1;
        } else {
            self.ring.push(record(fixed));
        }
    }

    /// Hands records to the correlator until `keep` are left; neighbours may change places.
    fn hand_over(&mut self, keep: usize) {
        while self.ring.len() > keep {
            let first = self.dice.below(2.min(self.ring.len() as u64)) as usize;
            let record = self.ring.remove(first);
            self.correlator.push(record, &mut self.events);
        }
        if self.unreported > 0 && self.dice.one_in(8) {
            self.correlator.lost(self.now, Cause::RingFull, self.unreported, &mut self.events);
            self.unreported = 0;
        }
        if self.now - self.ticked > 100_000_000 {
            self.ticked = self.now;
            self.correlator.tick(self.now, &mut self.events);
        }
    }

    /// Lets calls under way return where they can, and ends the trace.
    fn wind_down(&mut self) {
        for _ in 0..4 {
            for index in 0..self.callers.len() {
                while self.callers[index].asked.is_some() && self.phase(index) {}
                if self.callers[index].asked.is_some() && self.callers[index].done {
                    self.phase(index);
                }
            }
        }
        // A writer that still waits is told EINTR: what it has put in counts.
        for index in 0..self.callers.len() {
            if self.callers[index].asked.is_some() && self.callers[index].moved > 0 {
                let mut caller = std::mem::take(&mut self.callers[index]);
                self.exit(&mut caller);
            }
        }
        self.hand_over(0);
        self.correlator.finish(self.now + 1, &mut self.events);
    }
}
