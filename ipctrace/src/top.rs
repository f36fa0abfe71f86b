//! The live table of flows: what it holds, in which order, and which part of it is looked at. It is pure: it is told
//! what the time is, what was counted and which keys were pressed, and renderers show it.

mod keys;
mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

use ipctrace_common::Cause;

use crate::flows::Recent;
use crate::model::Flow;

pub use keys::Then;
use rows::matches;

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// All that the flow has come to.
    pub flow: Flow,
    /// Bytes a second, in the last interval.
    pub rate_bytes: f64,
    /// Messages a second, in the last interval.
    pub rate_messages: f64,
    /// Whether anything came in the last interval.
    pub moved: bool,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Most bytes a second, then most messages a second.
    #[default]
    Rate,
    /// Most bytes since the start.
    Bytes,
    /// Most messages since the start.
    Messages,
    /// Longest latency, by its 99th percentile.
    Latency,
}

/// What was counted, whether or not it is in the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Now, ns since boot.
    pub time: u64,
    /// Events since the start.
    pub events: u64,
    /// What was not seen since the start, by cause.
    pub lost: BTreeMap<Cause, u64>,
}

/// The live table.
#[derive(Debug)]
pub struct Top {
    /// Of the host that is traced.
    pub host: Vec<u8>,
    /// Between refreshes.
    pub interval: Duration,
    started: u64,
    counted: Counted,
    /// Events a second, in the last interval.
    rate_events: f64,
    rows: Vec<Row>,
    order: Order,
    /// The other way round.
    reversed: bool,
    filter: String,
    /// The filter was being typed when this is the text before.
    typing: Option<String>,
    paused: bool,
    /// Lines scrolled past.
    scroll: usize,
    /// Lines that are seen at once.
    page: usize,
    /// What to tell the user, besides.
    pub message: Option<String>,
}

impl Top {
    /// An empty table of a trace that started at that time (ns since boot).
    pub fn new(host: Vec<u8>, started: u64, interval: Duration) -> Top {
        Top {
            host,
            interval,
            started,
            counted: Counted { time: started, ..Counted::default() },
            rate_events: 0.0,
            rows: Vec::new(),
            order: Order::default(),
            reversed: false,
            filter: String::new(),
            typing: None,
            paused: false,
            scroll: 0,
            page: 1,
            message: None,
        }
    }

    /// An interval has passed: what came in it, and what has been counted so far.
    ///
    /// To be left out while [`Top::is_paused`]: the next interval then lasts longer, and rates are still right.
    pub fn refresh(&mut self, counted: Counted, recent: Vec<Recent>) {
        let seconds = Duration::from_nanos(counted.time.saturating_sub(self.counted.time)).as_secs_f64();
        // Two refreshes at the same moment: a rate over no time is none.
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        self.rate_events = rate(counted.events.saturating_sub(self.counted.events));
        self.rows = recent
            .into_iter()
            .map(|recent| Row {
                rate_bytes: rate(recent.bytes),
                rate_messages: rate(recent.messages),
                moved: recent.moved,
                flow: recent.flow,
            })
            .collect();
        self.counted = counted;
        self.sort();
        self.settle();
    }

    fn sort(&mut self) {
        let Top { rows, order, reversed, .. } = self;
        rows.sort_by(|one, two| {
            let busier = rows::busier(*order, one, two);
            let busier = if *reversed { busier.reverse() } else { busier };
            busier.then_with(|| rows::settled(one, two))
        });
    }

    /// When the last refresh was, ns since boot.
    pub fn time(&self) -> u64 {
        self.counted.time
    }

    /// How long the trace had lasted at the last refresh.
    pub fn uptime(&self) -> Duration {
        Duration::from_nanos(self.counted.time.saturating_sub(self.started))
    }

    /// Events since the start, and a second in the last interval.
    pub fn events(&self) -> (u64, f64) {
        (self.counted.events, self.rate_events)
    }

    /// What was not seen since the start, by cause.
    pub fn lost(&self) -> impl Iterator<Item = (Cause, u64)> {
        self.counted.lost.iter().map(|(cause, count)| (*cause, *count)).filter(|(_, count)| *count > 0)
    }

    /// How many flows there are, and how many of them moved in the last interval.
    pub fn flows(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.iter().filter(|row| row.moved).count())
    }

    /// The lines that pass the filter, first things first.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| matches(row, &self.filter))
    }

    /// The lines that are seen at once.
    pub fn page(&self) -> impl Iterator<Item = &Row> {
        self.rows().skip(self.scroll).take(self.page)
    }

    /// From now on so many lines are seen at once.
    pub fn resize(&mut self, page: usize) {
        self.page = page.max(1);
        self.settle();
    }

    /// What comes first, and whether it is the other way round.
    pub fn order(&self) -> (Order, bool) {
        (self.order, self.reversed)
    }

    /// Sorts by that; if it is sorted by that, the other way round.
    pub fn order_by(&mut self, order: Order) {
        self.reversed = self.order == order && !self.reversed;
        self.order = order;
        self.scroll = 0;
        self.sort();
    }

    /// Part of a process, pid, channel or mechanism that lines must have; empty for all of them.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Whether the filter is being typed.
    pub fn is_typing(&self) -> bool {
        self.typing.is_some()
    }

    /// Whether the table stands still.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Lines above those that are seen, and all that pass the filter.
    pub fn position(&self) -> (usize, usize) {
        (self.scroll.min(self.last_scroll()), self.rows().count())
    }

    fn last_scroll(&self) -> usize {
        self.rows().count().saturating_sub(self.page)
    }

    /// Keeps what is seen within what there is.
    fn settle(&mut self) {
        self.scroll = self.scroll.min(self.last_scroll());
    }
}

#[cfg(test)]
mod tests;
