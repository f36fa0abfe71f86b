//! A trace from its first line to its last: takes events, lets those pass that were asked for, and shows them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipctrace_common::{Cause, Mechanism};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot;
use crate::filter::Filter;
use crate::flows::Flows;
use crate::model::{Event, Lost};
use crate::output::{self, Output};
use crate::render::{Hello, Renderer, Totals};
use crate::top::{Counted, Top};
use crate::tracer::Tracer;

/// How long a record may lie in the ring before it is looked at, while there is little in it.
const GLANCE: Duration = Duration::from_millis(20);
/// The same where none has come for a while: the first one wakes us. For what is to be done when time has passed.
const REST: Duration = Duration::from_millis(100);

/// Flows in a live table: enough for a busy host, in little memory. Then the oldest go.
const LIVE: usize = 12_288;

/// What a session is made of.
pub struct Parts {
    /// Where events come from.
    pub tracer: Tracer,
    /// Which of them are shown.
    pub filter: Filter,
    /// How.
    pub renderer: Box<dyn Renderer>,
    /// Where.
    pub output: Output,
    /// Stop after so many events.
    pub limit: Option<u64>,
    /// Show flows in a table that is refreshed, not events; losses are told either way.
    pub live: bool,
    /// Keep every event that passes, for who compares them.
    pub keep: bool,
    /// Follow the children of this process.
    pub parent: Option<u32>,
}

/// A running session.
pub struct Session {
    parts: Parts,
    readable: AsyncFd<OwnedFd>,
    flows: Flows,
    lost: BTreeMap<Cause, u64>,
    events: Vec<Event>,
    kept: Vec<Event>,
    shown: u64,
    started: Instant,
    /// What is traced by hooks on objects.
    at_objects: Vec<Mechanism>,
}

/// Why following events came to an end.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// What was waited for happened.
    Done(T),
    /// As many events were shown as were asked for.
    Limit,
    /// Nobody reads the output any more.
    ReaderGone,
}

/// Whether to go on.
enum Pump {
    /// The ring is empty.
    Idle,
    /// There may be more in it.
    More,
    Limit,
    ReaderGone,
}

impl Session {
    /// Begins: says hello.
    ///
    /// # Errors
    /// If the output or the ring cannot be used.
    pub fn begin(parts: Parts, hello: &Hello) -> Result<Session> {
        let ring = parts.tracer.readable()?;
        // SAFETY: an OwnedFd's descriptor stays open, and the same, for as long as it lives.
        let readable = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .context("watching the ring buffer")?;
        let flows = if parts.live { Flows::live(LIVE) } else { Flows::default() };
        let mut session = Session {
            parts,
            readable,
            flows,
            lost: BTreeMap::new(),
            events: Vec::new(),
            kept: Vec::new(),
            shown: 0,
            started: Instant::now(),
            at_objects: hello
                .hooks
                .iter()
                .filter(|(_, hooks)| *hooks == "object")
                .map(|(mechanism, _)| *mechanism)
                .collect(),
        };
        let Parts { renderer, output, .. } = &mut session.parts;
        let said = renderer.hello(hello, output);
        said.and_then(|()| io::Write::flush(output)).or_else(ignore_gone)?;
        Ok(session)
    }

    /// Shows events until `until` is done, or until there is nothing more to show or nobody to show it to.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub async fn follow<T>(&mut self, until: impl Future<Output = T>) -> Result<Ended<T>> {
        tokio::pin!(until);
        loop {
            let pause = if self.parts.tracer.rests() { REST } else { GLANCE };
            tokio::select! {
                biased;
                done = &mut until => return Ok(Ended::Done(done)),
                ready = self.readable.readable() => ready.context("waiting for the ring buffer")?.clear_ready(),
                () = tokio::time::sleep(pause) => {}
            }
            loop {
                match self.pump()? {
                    Pump::Idle => break,
                    // Signals and deadlines have their turn however much there is to do.
                    Pump::More => tokio::task::yield_now().await,
                    Pump::Limit => return Ok(Ended::Limit),
                    Pump::ReaderGone => return Ok(Ended::ReaderGone),
                }
                if let std::task::Poll::Ready(done) = futures_poll_once(until.as_mut()).await {
                    return Ok(Ended::Done(done));
                }
            }
        }
    }

    fn pump(&mut self) -> Result<Pump> {
        let more = self.parts.tracer.take(&mut self.events)?;
        self.show(more)
    }

    /// Shows what was taken.
    fn show(&mut self, more: bool) -> Result<Pump> {
        for fork in self.parts.tracer.forks() {
            if Some(fork.parent.0) == self.parts.parent {
                self.parts.filter.found_family(fork.child);
            }
            self.parts.filter.forked(fork.parent, fork.child);
        }
        let count = unwritten(&mut self.parts.output);
        if count > 0 {
            self.events.push(Event::Lost(Lost { time: boot::now(), cause: Cause::WriteFailed, count }));
        }
        let mut state = if more { Pump::More } else { Pump::Idle };
        let Parts { filter, renderer, output, limit, keep, live, .. } = &mut self.parts;
        // By reference: an event is large, and most are only counted.
        for event in &self.events {
            if let Event::Lost(lost) = event {
                *self.lost.entry(lost.cause).or_default() += lost.count;
            }
            if !filter.event(event) {
                continue;
            }
            if limit.is_some_and(|limit| self.shown >= limit) {
                state = Pump::Limit;
                break;
            }
            self.flows.add(event);
            self.shown += u64::from(!matches!(event, Event::Lost(_)));
            let written = if matches!(event, Event::Lost(_)) {
                // It counts what is lost, and is none of it.
                renderer.event(event, output)
            } else if *live {
                Ok(())
            } else {
                renderer.event(event, &mut output.of_events())
            };
            if *keep {
                self.kept.push(event.clone());
            }
            if let Err(error) = written {
                ignore_gone(error)?;
                state = Pump::ReaderGone;
                break;
            }
        }
        self.events.clear();
        if limit.is_some_and(|limit| self.shown >= limit) {
            state = Pump::Limit;
        }
        if !more && output.send().is_err() {
            state = Pump::ReaderGone;
        }
        Ok(state)
    }

    /// Brings a live table up to date.
    ///
    /// # Errors
    /// If the output fails other than by losing records.
    pub fn refresh(&mut self, top: &mut Top) -> Result<()> {
        let evicted = self.flows.take_evicted();
        if evicted > 0 {
            *self.lost.entry(Cause::Evicted).or_default() += evicted;
            let lost = Lost { time: boot::now(), cause: Cause::Evicted, count: evicted };
            let Parts { renderer, output, .. } = &mut self.parts;
            renderer.event(&Event::Lost(lost), output).or_else(ignore_gone)?;
        }
        let counted = Counted { time: boot::now(), events: self.shown, lost: self.lost.clone() };
        top.refresh(counted, self.flows.recent());
        Ok(())
    }

    /// Shows a live table. Whether there is still somebody to see it.
    ///
    /// # Errors
    /// If the output fails other than by losing records.
    pub fn draw(&mut self, top: &Top) -> Result<bool> {
        let Parts { renderer, output, .. } = &mut self.parts;
        match renderer.interval(top, output).and_then(|()| io::Write::flush(output)) {
            Ok(()) => Ok(true),
            Err(error) => ignore_gone(error).map(|()| false).map_err(Into::into),
        }
    }

    /// Takes what is left and settles what is open, so that a live table can be shown for the last time.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub fn settle(&mut self) -> Result<()> {
        self.parts.tracer.finish(&mut self.events)?;
        self.show(false)?;
        Ok(())
    }

    /// Ends: takes what is left, shows the summary if wanted, and says goodbye. Gives the totals, and the events if they
    /// were to be kept.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read, or the output fails other than by losing records.
    pub fn end(mut self, ended_by_limit: bool, summary: bool) -> Result<(Totals, Vec<Event>)> {
        if !ended_by_limit {
            self.parts.tracer.finish(&mut self.events)?;
            self.show(false)?;
        }
        let time = boot::now();
        let Parts { renderer, output, filter, tracer, .. } = &mut self.parts;
        if summary {
            let mut flows = self.flows.sorted();
            // Pairs are of all that was traced; of events only those that passed are in a flow.
            flows.extend(tracer.pairs().into_iter().filter(|pair| filter.flow(pair)));
            renderer.flows(time, &flows, output).or_else(ignore_gone)?;
        }
        io::Write::flush(output).or_else(ignore_gone)?;
        count_unwritten(output, &mut self.lost);
        let mut totals = Totals {
            time,
            events: self.shown,
            lost: self.lost.clone().into_iter().collect(),
            left_out: if summary { self.flows.left_out() } else { 0 },
            duration: self.started.elapsed(),
            at_objects: self.at_objects,
            incomplete: output.has_failed(),
        };
        renderer.end(&totals, output).or_else(ignore_gone)?;
        output.finish().map_err(Into::into).or_else(ignore_gone)?;
        // Of what it says of itself the end cannot tell.
        count_unwritten(output, &mut self.lost);
        totals.lost = self.lost.into_iter().collect();
        totals.incomplete = output.has_failed();
        Ok((totals, self.kept))
    }
}

/// How many events could not be written since it was last asked for; says so if that is new.
fn unwritten(output: &mut Output) -> u64 {
    let losses = output.take_losses();
    if let Some(report) = losses.as_ref().and_then(|losses| losses.report.as_ref()) {
        log::error!("{report}");
    }
    losses.map_or(0, |losses| losses.count)
}

/// Counts them.
fn count_unwritten(output: &mut Output, lost: &mut BTreeMap<Cause, u64>) {
    let count = unwritten(output);
    if count > 0 {
        *lost.entry(Cause::WriteFailed).or_default() += count;
    }
}

/// That nobody reads the output any more is no error.
fn ignore_gone(error: io::Error) -> io::Result<()> {
    if output::is_reader_gone(&error) { Ok(()) } else { Err(error) }
}

/// Looks once whether a future is done.
async fn futures_poll_once<T>(
    mut future: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>,
) -> std::task::Poll<T> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}
