//! What was done beside what was traced.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use comfy_table::{CellAlignment, Table, presets};

use super::truth::{Party, Truth};
use crate::model::{Channel, End, Event, Transfer};
use crate::render::signal_name;

/// One end of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Pid(u32),
    None(String),
}

/// What is compared: one kind of thing between two ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// Mechanism, or `handoff`.
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
}

/// The comparison of one workload.
#[derive(Debug)]
pub struct Report {
    rows: BTreeMap<Row, (Amount, Amount)>,
    names: HashMap<u32, String>,
    /// Something was lost, so that nothing can be said of what is missing.
    lost: u64,
}

/// Compares. Of the events those count that have a process of the workload at an end.
pub fn compare(truth: &[Truth], events: &[Event]) -> Report {
    let mut report = Report { rows: BTreeMap::new(), names: HashMap::new(), lost: 0 };
    let mut marks = HashMap::new();
    for member in truth {
        if let Truth::Member { mark, pid, name } = member {
            marks.insert(*mark, *pid);
            report.names.insert(*pid, name.clone());
        }
    }
    let who = |party: &Party| match party {
        Party::Mark(mark) => {
            marks.get(mark).map_or_else(|| Who::None(format!("mark {mark}")), |pid| Who::Pid(*pid))
        }
        Party::Pid(pid) => Who::Pid(*pid),
        Party::None(why) => Who::None(why.clone()),
    };
    // Where the workload says which channel, the trace is held to it; elsewhere the channels of a pair are one row.
    let known: BTreeSet<&str> = truth
        .iter()
        .filter_map(|truth| match truth {
            Truth::Transfer { channel, .. } => channel.as_deref(),
            Truth::Member { .. } | Truth::Signal { .. } | Truth::Handoff { .. } => None,
        })
        .collect();
    for truth in truth {
        match truth {
            Truth::Member { .. } => {}
            Truth::Transfer { mechanism, channel, from, to, bytes, messages } => {
                let row = Row {
                    kind: mechanism.clone(),
                    detail: channel.clone().unwrap_or_default(),
                    from: who(from),
                    to: who(to),
                };
                report.done(row, *bytes, messages.unwrap_or(0));
            }
            Truth::Signal { signal, from, to, outcome, value } => {
                let row = Row {
                    kind: "signal".to_owned(),
                    detail: signal_detail(signal, outcome, *value),
                    from: who(from),
                    to: who(to),
                };
                report.done(row, 0, 1);
            }
            Truth::Handoff { from, to, object } => {
                let row =
                    Row { kind: "handoff".to_owned(), detail: object.clone(), from: who(from), to: who(to) };
                report.done(row, 0, 1);
            }
        }
    }
    for event in events {
        report.traced(event, &known);
    }
    report
}

fn signal_detail(signal: &str, outcome: &str, value: Option<u64>) -> String {
    match value {
        Some(value) => format!("{signal} {outcome} value {value}"),
        None => format!("{signal} {outcome}"),
    }
}

fn ended(end: &End) -> Who {
    match end {
        End::Known(process) => Who::Pid(process.pid),
        End::Unknown(why) => Who::None(why.to_string()),
    }
}

impl Report {
    fn done(&mut self, row: Row, bytes: u64, messages: u64) {
        let done = &mut self.rows.entry(row).or_default().0;
        done.bytes += bytes;
        done.messages += messages;
    }

    fn traced(&mut self, event: &Event, known: &BTreeSet<&str>) {
        let (row, bytes, messages) = match event {
            Event::Transfer(transfer) => self.transfer(transfer, known),
            Event::Signal(signal) => {
                let name = signal_name(signal.number);
                let row = Row {
                    kind: "signal".to_owned(),
                    detail: signal_detail(&name, signal.outcome.name(), signal.value),
                    from: ended(&signal.sender),
                    to: Who::Pid(signal.receiver.pid),
                };
                (row, 0, 1)
            }
            Event::Handoff(handoff) => {
                let row = Row {
                    kind: "handoff".to_owned(),
                    detail: own_socket(&handoff.object),
                    from: ended(&handoff.sender),
                    to: ended(&handoff.receiver),
                };
                (row, 0, 1)
            }
            Event::Lost(lost) => {
                self.lost += lost.count;
                return;
            }
            Event::Share(_) | Event::Wake(_) => return,
        };
        let ours = |who: &Who| matches!(who, Who::Pid(pid) if self.names.contains_key(pid));
        // Whoever started the workload waits for it: that is not part of it.
        if ours(&row.to) || (ours(&row.from) && matches!(row.to, Who::None(_))) {
            let traced = &mut self.rows.entry(row).or_default().1;
            traced.bytes += bytes;
            traced.messages += messages;
        }
    }

    fn transfer(&self, transfer: &Transfer, known: &BTreeSet<&str>) -> (Row, u64, u64) {
        let id = transfer.channel.id.as_str();
        let detail = if known.contains(id) { id.to_owned() } else { String::new() };
        let row = Row {
            kind: transfer.mechanism.name().to_owned(),
            detail,
            from: ended(&transfer.sender),
            to: ended(&transfer.receiver),
        };
        let separate = matches!(transfer.mechanism.shape(), ipctrace_common::Shape::Message);
        (row, transfer.bytes, if separate { transfer.messages } else { 0 })
    }

    /// Whether exactly what was done was traced, and anything was done at all.
    pub fn equal(&self) -> bool {
        !self.rows.is_empty() && self.lost == 0 && self.rows.values().all(|(done, traced)| done == traced)
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

    fn name(&self, who: &Who) -> String {
        match who {
            Who::Pid(pid) => format!("{}[{pid}]", self.names.get(pid).map_or("?", String::as_str)),
            Who::None(why) => format!("({why})"),
        }
    }

    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["what", "from", "to", "done", "traced", "equal"]);
        for (row, (done, traced)) in &self.rows {
            let what = format!("{} {}", row.kind, row.detail);
            table.add_row([
                what.trim_end(),
                &self.name(&row.from),
                &self.name(&row.to),
                &amount(done),
                &amount(traced),
                if done == traced { "yes" } else { "NO" },
            ]);
        }
        for column in table.column_iter_mut().skip(3).take(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// The side of a socket that was passed: `socket:[1]` of `socket:[1]->socket:[2]`.
fn own_socket(object: &Channel) -> String {
    object.id.split("->").next().unwrap_or_default().to_owned()
}

fn amount(amount: &Amount) -> String {
    match (amount.bytes, amount.messages) {
        (0, 0) => "-".to_owned(),
        (0, messages) => format!("{messages}x"),
        (bytes, 0) => format!("{bytes} B"),
        (bytes, messages) => format!("{bytes} B in {messages}"),
    }
}
