//! A running trace: takes records from the ring and gives events.

use std::cmp::Reverse;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipctrace_common::wire::{Header, Op, process_event};
use ipctrace_common::{Cause, Mechanism, Shape};
use zerocopy::{FromBytes, IntoBytes};

use crate::addresses;
use crate::attach::Attached;
use crate::boot::now;
use crate::correlate::{Correlator, Home, Limits};
use crate::decode::{self, Record};
use crate::feedback::Feedback;
use crate::kernel::Plan;
use crate::model::{Event, Flow};
use crate::straddlers;

/// How often the correlator is told that time has passed.
const TICK: Duration = Duration::from_millis(100);

/// How often runs are taken while there is much to do, ns. They stand for so much longer than what they are told before.
const SWEEP: u64 = 1_000_000;

/// How often the kernel is asked how many runs of programs it skipped.
const ASK: Duration = Duration::from_secs(1);

/// How often this host's addresses are gathered, if an unknown one has been met.
const GATHER: Duration = Duration::from_secs(1);

/// Records taken in one go before the caller is given a chance to look at signals and deadlines, and the events that they made: few
/// enough for these to be in the cache still.
const BATCH: usize = 1024;

/// How long the end waits for records that are being made.
const UNFINISHED: Duration = Duration::from_millis(500);

/// A new process, both by `(pid, start)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Who made it.
    pub parent: (u32, u64),
    /// The new one.
    pub child: (u32, u64),
}

/// A running trace.
pub struct Tracer {
    attached: Attached,
    intake: Intake,
    /// Runs of small calls that stood beside the ring, latest first: each waits for what is in the ring from before its end.
    runs: Vec<Op>,
    ticked: u64,
    /// When the runs that stood were last taken.
    swept: u64,
    evicted: u64,
    /// When this host's addresses were gathered.
    gathered: u64,
    /// When the kernel was asked for runs of programs that it skipped.
    asked: u64,
    /// Records have come since then.
    busy: bool,
    /// None has come lately.
    quiet: bool,
}

/// What happens to a record.
struct Intake {
    correlator: Correlator,
    feedback: Feedback,
    forks: Vec<Fork>,
    /// Room for the next record.
    spare: Option<Box<decode::Op>>,
}

impl Intake {
    /// Takes in the runs that ended by `time`; the earliest is last.
    fn runs(&mut self, runs: &mut Vec<Op>, time: u64, events: &mut Vec<Event>) {
        while let Some(run) = runs.pop_if(|run| run.header.time <= time) {
            self.record(run.as_bytes(), events);
        }
    }

    fn record(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        match decode::decode_reusing(bytes, &mut self.spare) {
            Ok(record) => {
                self.forks.extend(fork(&record));
                if !self.feedback.hides(&record) {
                    self.correlator.push(&record, events);
                }
                if let Record::Op(op) = record {
                    self.spare = Some(op);
                }
            }
            Err(error) => {
                log::warn!("{error}");
                self.correlator.lost(now(), Cause::Malformed, 1, events);
            }
        }
    }
}

impl Tracer {
    /// Begins to take the records of programs that are attached ([`crate::attach::attach`]). Nothing has been missed since, as
    /// long as the collector keeps up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn start(plan: &Plan, mut attached: Attached, feedback: Feedback) -> Result<Tracer> {
        attached.straddlers(&straddlers::find())?;
        if plan.config.mechanisms & Mechanism::of_shape(Shape::Shared) != 0
            && let Err(error) = attached.shared_memory()
        {
            log::warn!("memory that is shared already is not known: {error:#}");
        }
        let mut correlator = Correlator::new(Limits::default());
        let own = |kind| own_namespace(kind).unwrap_or(0);
        correlator.at_home(Home { ipc: own("ipc"), net: own("net") });
        let intake = Intake { correlator, feedback, forks: Vec::new(), spare: None };
        give_back();
        hurry();
        Ok(Tracer {
            attached,
            intake,
            runs: Vec::new(),
            ticked: now(),
            swept: 0,
            evicted: 0,
            gathered: 0,
            asked: 0,
            busy: true,
            quiet: false,
        })
    }

    /// A descriptor that is readable when a ring has filled up somewhat.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn readable(&self) -> Result<OwnedFd> {
        self.attached.rings.descriptor()
    }

    /// Appends the events of what is in the rings; says whether there may be more.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub fn take(&mut self, events: &mut Vec<Event>) -> Result<bool> {
        self.take_until(None, events)
    }

    /// As [`Tracer::take`], what was made before `end`; before now, if nobody has said so.
    fn take_until(&mut self, end: Option<u64>, events: &mut Vec<Event>) -> Result<bool> {
        // Before the records, and of all that were made until then, so that what is taken for certain is known to have lost nothing.
        let begun = now();
        self.losses(events)?;
        if begun.saturating_sub(self.swept) >= SWEEP {
            self.swept = begun;
            self.sweep(false);
        }
        // What happens after that waits for the next round, which takes the runs that have come to stand meanwhile.
        let until = self.swept + SWEEP;
        let Tracer { attached, intake, runs, quiet, .. } = self;
        *quiet = runs.is_empty();
        let drained = attached.rings.take(BATCH, end.unwrap_or(begun), |record| {
            *quiet = false;
            let time = Header::read_from_prefix(record).map_or(0, |(header, _)| header.time);
            intake.runs(runs, time, events);
            intake.record(record, events);
            time <= until
        });
        if drained {
            intake.runs(runs, begun, events);
        }
        self.busy |= !self.quiet;
        // Nothing has been missed for long while it may still be in the ring.
        let seen = if drained { begun } else { intake.correlator.now().min(begun) };
        if seen.saturating_sub(self.ticked) >= TICK.as_nanos() as u64 {
            self.ticked = seen;
            self.tick(seen, false, events)?;
        }
        Ok(!drained)
    }

    /// Whether there is nothing to do until the next record, by which we are woken then.
    pub fn rests(&self) -> bool {
        self.quiet && self.attached.rest()
    }

    /// Tells of what the kernel lost.
    fn losses(&mut self, events: &mut Vec<Event>) -> Result<()> {
        for (cause, count) in self.attached.losses()? {
            self.intake.correlator.lost(now(), cause, count, events);
        }
        Ok(())
    }

    /// Takes the runs that have stood for a while; all of them if `force`.
    fn sweep(&mut self, force: bool) {
        let runs = &mut self.runs;
        self.attached.runs.take(now(), force, |run| runs.push(run));
        runs.sort_unstable_by_key(|run| Reverse(run.header.time));
    }

    fn tick(&mut self, now: u64, last: bool, events: &mut Vec<Event>) -> Result<()> {
        // A program that is skipped has another of its kind running.
        if last || (self.busy && now.saturating_sub(self.asked) >= ASK.as_nanos() as u64) {
            (self.asked, self.busy) = (now, false);
            self.intake.correlator.lost(now, Cause::Recursion, self.attached.misses(), events);
        }
        let evicted = self.intake.correlator.evicted();
        if evicted > self.evicted {
            self.intake.correlator.lost(now, Cause::Evicted, evicted - self.evicted, events);
            self.evicted = evicted;
        }
        if self.intake.correlator.wants_addresses()
            && (last || now.saturating_sub(self.gathered) >= GATHER.as_nanos() as u64)
        {
            self.gathered = now;
            let addresses = addresses::of_this_host();
            // In the end nothing more will be seen.
            let until = if last { now } else { self::now() };
            self.intake.correlator.learn(addresses, (now, until));
        }
        self.intake.correlator.tick(now, events);
        self.attached.forget(&self.intake.correlator.take_forgotten());
        Ok(())
    }

    /// Takes what is left and settles what is open.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<()> {
        // Else a host that is busy enough would have us go on for ever.
        self.attached.detach();
        let patience = Instant::now() + UNFINISHED;
        loop {
            while self.take_until(Some(u64::MAX), events)? {}
            // Programs that were at work then may be making a record still, which holds back what came after it.
            if self.attached.rings.is_empty() || Instant::now() >= patience {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let now = now();
        self.losses(events)?;
        self.sweep(true);
        self.intake.runs(&mut self.runs, u64::MAX, events);
        self.tick(now, true, events)?;
        self.intake.correlator.finish(now, events);
        Ok(())
    }

    /// The forks among the records taken since the last call. A fork comes before anything its child does.
    pub fn forks(&mut self) -> std::vec::Drain<'_, Fork> {
        self.intake.forks.drain(..)
    }

    /// Who could write to shared memory that another had mapped: see [`Correlator::pairs`].
    pub fn pairs(&self) -> Vec<Flow> {
        let mut pairs = self.intake.correlator.pairs(now());
        pairs.sort_by(|one, two| (one.first, &one.channel.id).cmp(&(two.first, &two.channel.id)));
        pairs
    }

    /// Records left out because our own output made them.
    pub fn hidden(&self) -> u64 {
        self.intake.feedback.hidden()
    }

    /// Hooks that could not be attached although the kernel has them.
    pub fn failed_hooks(&self) -> &[(ipctrace_common::Hook, String)] {
        &self.attached.failed
    }
}

/// Gives memory that is free back to the kernel: the types of a kernel take much, and only at the start.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: looks at free memory of the allocator alone, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Puts this thread before others: on a host whose processors are all busy, what is traced would else leave us too little time
/// to keep up with it, and records would be lost. Not what we start, and not if somebody has given us another place.
fn hurry() {
    /// Of 40 steps; each is worth about a quarter more of a processor that many want.
    const NICENESS: i32 = -15;
    // SAFETY: calls that take numbers, and a structure that lives until they return.
    unsafe {
        let usual = libc::getpriority(libc::PRIO_PROCESS, 0) == 0;
        let parameters = libc::sched_param { sched_priority: 0 };
        if usual
            && libc::sched_getscheduler(0) == libc::SCHED_OTHER
            && libc::sched_setscheduler(
                0,
                libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK,
                &raw const parameters,
            ) == 0
            && libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) != 0
        {
            // Without CAP_SYS_NICE, which nothing else needs.
            log::debug!("at the usual priority: {}", std::io::Error::last_os_error());
        }
    }
}

/// The number of our own namespace of some kind: `ipc:[4026531839]` in /proc/self/ns/ipc.
fn own_namespace(kind: &str) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    let text = link.to_str()?.strip_prefix(kind)?.strip_prefix(":[")?;
    text.strip_suffix(']')?.parse().ok()
}

/// The fork that a record tells of, if it does.
fn fork(record: &Record) -> Option<Fork> {
    let Record::Process(process) = record else {
        return None;
    };
    (process.header.flags == process_event::FORK).then_some(Fork {
        parent: (process.parent.tgid, process.parent.start),
        child: (process.task.tgid, process.task.start),
    })
}
