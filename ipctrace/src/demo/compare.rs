//! What was done beside what was traced.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::AddAssign;

use comfy_table::{CellAlignment, Table};
use ipctrace_common::Mechanism;

use super::balance::imbalances;
use super::members::{Members, Who};
use super::stage::{queued_with_priority, queued_with_type};
use super::truth::Truth;
use crate::model::{Channel, End, Event, Proc, Share, ShareAction, Transfer};
use crate::render::{Charset, ruled, signal_name};

/// What is compared: one kind of thing between two ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// Mechanism, or `signal`, or `handoff`.
    kind: String,
    /// Channel id where the workload knows it, signal and outcome, or what was passed.
    detail: String,
    from: Who,
    to: Who,
}

/// How much of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    /// Messages, signals or descriptors; 0 for streams, which have none.
    messages: u64,
    /// Units of counters.
    units: u64,
}

/// How long the wake-ups of one row were waited for in all, ns.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    least: u64,
    most: u64,
    traced: u64,
}

impl Waits {
    /// One more, of which the processes know at most how long it was.
    fn expect(&mut self, waited: Option<(u64, u64)>) {
        let (least, most) = waited.unwrap_or((0, u64::MAX));
        self.least = self.least.saturating_add(least);
        self.most = self.most.saturating_add(most);
    }

    fn agree(&self) -> bool {
        (self.least..=self.most).contains(&self.traced)
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited between {} and {} ns, traced {} ns", self.least, self.most, self.traced)
    }
}

/// The comparison of one workload.
#[derive(Debug)]
pub struct Report {
    rows: BTreeMap<Row, (Amount, Amount)>,
    members: Members,
    /// How long wake-ups were waited for.
    waits: BTreeMap<Row, Waits>,
    /// Something was lost, so that nothing can be said of what is missing.
    lost: u64,
    /// Differences that no row shows.
    others: Vec<String>,
}

/// Compares. Of the events those count that have a process of the workload at an end.
pub fn compare(truth: &[Truth], events: &[Event]) -> Report {
    let members = Members::of(truth);
    let mut report =
        Report { rows: BTreeMap::new(), members, waits: BTreeMap::new(), lost: 0, others: imbalances(truth) };
    // Where the workload says which channel, the trace is held to it; elsewhere the channels of a pair are one row.
    let mut known = BTreeSet::new();
    let mut names = HashMap::new();
    for line in truth {
        let who = |party| report.members.who(party);
        match line {
            Truth::Member { .. } | Truth::Sent { .. } => {}
            Truth::Named { channel, name } => {
                names.insert(channel.as_str(), name.as_str());
            }
            Truth::Transfer { mechanism, channel, from, to, bytes, messages } => {
                known.extend(channel.as_deref());
                let detail = channel.clone().unwrap_or_default();
                let row = Row { kind: mechanism.clone(), detail, from: who(from), to: who(to) };
                report.done(row, *bytes, messages.unwrap_or(0));
            }
            Truth::Units { channel, from, to, value, messages } => {
                known.insert(channel.as_str());
                let kind = Mechanism::Eventfd.name().to_owned();
                let row = Row { kind, detail: channel.clone(), from: who(from), to: who(to) };
                report.add_done(row, Amount { units: *value, messages: *messages, bytes: 0 });
            }
            Truth::Signal { signal, from, to, outcome, value } => {
                let detail = signal_detail(signal, outcome, *value);
                let row = Row { kind: "signal".to_owned(), detail, from: who(from), to: who(to) };
                report.done(row, 0, 1);
            }
            Truth::Share { channel, by, action, access, bytes } => {
                known.insert(channel.as_str());
                let row = Row {
                    kind: "share".to_owned(),
                    detail: channel.clone(),
                    from: who(by),
                    to: Who::None(format!("{action} {access}")),
                };
                report.done(row, *bytes, 1);
            }
            Truth::Evidence { channel, from, to, pages } => {
                known.insert(channel.as_str());
                let (from, to) = (who(from), who(to));
                let row = Row { kind: "evidence".to_owned(), detail: channel.clone(), from, to };
                report.done(row, 0, *pages);
            }
            Truth::Wake { mechanism, channel, from, to, waited } => {
                known.extend(channel.as_deref());
                let detail = channel.clone().unwrap_or_default();
                let row = Row { kind: mechanism.clone(), detail, from: who(from), to: who(to) };
                report.waits.entry(row.clone()).or_default().expect(*waited);
                report.done(row, 0, 1);
            }
            Truth::Handoff { from, to, object } => {
                let detail = object.clone();
                let row = Row { kind: "handoff".to_owned(), detail, from: who(from), to: who(to) };
                report.done(row, 0, 1);
            }
        }
    }
    for event in events {
        report.traced(event, &known);
    }
    report.others.extend(misnamed(&names, events));
    report
}

/// Channels that the trace gives other names than they have.
fn misnamed(names: &HashMap<&str, &str>, events: &[Event]) -> BTreeSet<String> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Transfer(transfer) => Some(&transfer.channel),
            Event::Wake(wake) => Some(&wake.channel),
            Event::Share(share) => Some(&share.channel),
            Event::Signal(_) | Event::Handoff(_) | Event::Evidence(_) | Event::Lost(_) => None,
        })
        .filter_map(|channel| {
            let name = *names.get(channel.id.as_str())?;
            let traced = channel.name.as_deref();
            (traced != Some(name.as_bytes())).then(|| {
                let traced = traced.map_or_else(|| "nothing".to_owned(), |it| it.escape_ascii().to_string());
                format!("{} is named {name}, traced as {traced}", channel.id)
            })
        })
        .collect()
}

fn signal_detail(signal: &str, outcome: &str, value: Option<u64>) -> String {
    match value {
        Some(value) => format!("{signal} {outcome} value {value}"),
        None => format!("{signal} {outcome}"),
    }
}

impl Report {
    fn done(&mut self, row: Row, bytes: u64, messages: u64) {
        self.add_done(row, Amount { bytes, messages, units: 0 });
    }

    fn add_done(&mut self, row: Row, amount: Amount) {
        self.rows.entry(row).or_default().0 += amount;
    }

    /// An end as the trace has it, name and all.
    fn ended(&self, end: &End) -> Who {
        match end {
            End::Known(process) => self.members.called(process.pid, &process.comm),
            End::Unknown(why) => Who::None(why.to_string()),
        }
    }

    /// Who did something to shared memory. What a process has from its parent it has before it has a name of its own.
    fn actor(&self, share: &Share) -> Who {
        match share.action {
            ShareAction::Attach => Who::Pid(share.process.pid),
            ShareAction::Create | ShareAction::Detach | ShareAction::Remove => {
                self.members.called(share.process.pid, &share.process.comm)
            }
        }
    }

    fn traced(&mut self, event: &Event, known: &BTreeSet<&str>) {
        let mut units = 0;
        let (row, bytes, messages) = match event {
            Event::Transfer(transfer) if transfer.mechanism == Mechanism::Eventfd => {
                units = transfer.value.unwrap_or(0);
                (self.transfer(transfer, known).0, 0, transfer.messages)
            }
            Event::Transfer(transfer) => self.transfer(transfer, known),
            Event::Signal(signal) => {
                let name = signal_name(signal.number);
                let row = Row {
                    kind: "signal".to_owned(),
                    detail: signal_detail(&name, signal.outcome.name(), signal.value),
                    from: self.ended(&signal.sender),
                    to: self.members.called(signal.receiver.pid, &signal.receiver.comm),
                };
                (row, 0, 1)
            }
            Event::Handoff(handoff) => {
                let row = Row {
                    kind: "handoff".to_owned(),
                    detail: own_socket(&handoff.object),
                    from: self.ended(&handoff.sender),
                    to: self.ended(&handoff.receiver),
                };
                (row, 0, 1)
            }
            Event::Lost(lost) => {
                self.lost += lost.count;
                return;
            }
            Event::Wake(wake) => {
                let row = Row {
                    kind: wake.mechanism.name().to_owned(),
                    detail: if known.contains(wake.channel.id.as_str()) {
                        wake.channel.id.clone()
                    } else {
                        String::new()
                    },
                    from: self.ended(&wake.sender),
                    to: self.ended(&wake.receiver),
                };
                if let Some(waits) = self.waits.get_mut(&row) {
                    waits.traced = waits.traced.saturating_add(wake.latency.unwrap_or(0));
                }
                (row, 0, 1)
            }
            Event::Share(share) if known.contains(share.channel.id.as_str()) => {
                let access = if share.writable { "rw" } else { "r" };
                let row = Row {
                    kind: "share".to_owned(),
                    detail: share.channel.id.clone(),
                    from: self.actor(share),
                    to: Who::None(format!("{} {access}", share.action.name())),
                };
                (row, share.bytes, 1)
            }
            Event::Evidence(evidence) if known.contains(evidence.channel.id.as_str()) => {
                let called = |process: &Proc| self.members.called(process.pid, &process.comm);
                let row = Row {
                    kind: "evidence".to_owned(),
                    detail: evidence.channel.id.clone(),
                    from: called(&evidence.sender),
                    to: called(&evidence.receiver),
                };
                (row, 0, 1)
            }
            Event::Share(_) | Event::Evidence(_) => return,
        };
        let ours = |who: &Who| self.members.contains(who);
        // Whoever started the workload waits for it: that is not part of it.
        if ours(&row.to) || (ours(&row.from) && matches!(row.to, Who::None(_))) {
            self.rows.entry(row).or_default().1 += Amount { bytes, messages, units };
        }
    }

    fn transfer(&self, transfer: &Transfer, known: &BTreeSet<&str>) -> (Row, u64, u64) {
        let id = transfer.channel.id.as_str();
        let kind = match (transfer.priority, transfer.msg_type) {
            (Some(priority), _) => queued_with_priority(id, priority),
            (None, Some(kind)) => queued_with_type(id, kind),
            (None, None) => id.to_owned(),
        };
        let detail = if known.contains(kind.as_str()) {
            kind
        } else if known.contains(id) {
            id.to_owned()
        } else {
            String::new()
        };
        let row = Row {
            kind: transfer.mechanism.name().to_owned(),
            detail,
            from: self.ended(&transfer.sender),
            to: self.ended(&transfer.receiver),
        };
        let separate = matches!(
            transfer.mechanism.shape(),
            ipctrace_common::Shape::Message | ipctrace_common::Shape::Queue
        );
        (row, transfer.bytes, if separate { transfer.messages } else { 0 })
    }

    /// Whether exactly what was done was traced, nothing was lost, what the processes say adds up, and anything was done at
    /// all.
    pub fn equal(&self) -> bool {
        self.differences().is_empty()
    }

    /// In what they differ, for people, one a line.
    pub fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.rows.values().all(|(done, _)| *done == Amount::default()) {
            differences.push("nothing was done: there is nothing to compare".to_owned());
        }
        if self.lost > 0 {
            differences.push(format!("the tracer lost {} records", self.lost));
        }
        let unequal = self.rows.iter().filter(|(_, (done, traced))| done != traced);
        differences.extend(unequal.map(|(row, (done, traced))| {
            let (from, to) = (self.members.describe(&row.from), self.members.describe(&row.to));
            format!("{} {} {from} -> {to}: done {done}, traced {traced}", row.kind, row.detail)
        }));
        differences.extend(self.waits.iter().filter(|(_, waits)| !waits.agree()).map(|(row, waits)| {
            let (from, to) = (self.members.describe(&row.from), self.members.describe(&row.to));
            format!("{} {} {from} -> {to}: {waits}", row.kind, row.detail)
        }));
        differences.extend_from_slice(&self.others);
        differences
    }

    /// How many rows there are, and how many of them are equal.
    pub fn score(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.values().filter(|(done, traced)| done == traced).count())
    }

    /// How many losses were reported.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes and messages done, and traced, over all rows.
    pub fn totals(&self) -> ((u64, u64), (u64, u64)) {
        let sum = |pick: fn(&(Amount, Amount)) -> Amount| {
            self.rows
                .values()
                .map(pick)
                .fold((0, 0), |(bytes, messages), amount| (bytes + amount.bytes, messages + amount.messages))
        };
        (sum(|row| row.0), sum(|row| row.1))
    }

    /// For people who can be shown these characters.
    pub fn table(&self, charset: Charset) -> Table {
        let mut table = Table::new();
        table.load_preset(ruled(charset));
        table.set_header(["mechanism", "channel", "sender", "receiver", "done", "traced", "equal"]);
        for (row, (done, traced)) in &self.rows {
            table.add_row([
                row.kind.as_str(),
                &row.detail,
                &self.members.describe(&row.from),
                &self.members.describe(&row.to),
                &done.to_string(),
                &traced.to_string(),
                if done == traced { "yes" } else { "NO" },
            ]);
        }
        for column in table.column_iter_mut().skip(4).take(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// The side of a socket that was passed: `socket:[1]` of `socket:[1]->socket:[2]`.
fn own_socket(object: &Channel) -> String {
    object.id.split("->").next().unwrap_or_default().to_owned()
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.bytes += other.bytes;
        self.messages += other.messages;
        self.units += other.units;
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.units > 0 {
            return write!(f, "{} units in {}", self.units, self.messages);
        }
        match (self.bytes, self.messages) {
            (0, 0) => f.write_str("-"),
            (0, messages) => write!(f, "{messages}x"),
            (bytes, 0) => write!(f, "{bytes} B"),
            (bytes, messages) => write!(f, "{bytes} B in {messages}"),
        }
    }
}

#[cfg(test)]
mod tests;
