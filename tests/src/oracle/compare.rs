//! Holds the trace to what the members counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter, Write};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::account::Line;
use crate::check::nothing_lost;

/// Bytes and messages.
type Amount = (u64, u64);

/// Channel, sender, receiver: marks, or why there is none.
type Row = (String, String, String);

/// What a run amounted to.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Operations that moved something.
    pub operations: u64,
    /// Members that took part.
    pub members: usize,
    /// Bytes by mechanism.
    pub bytes: BTreeMap<String, u64>,
    /// Of those the bytes of transfers that say `"exact": false`.
    pub inexact: BTreeMap<String, u64>,
    /// Signals sent.
    pub signals: u64,
}

/// How a trace differs from what was done.
#[derive(Debug, Default)]
pub(super) struct Differs {
    text: String,
    /// Channels concerned.
    pub(super) channels: BTreeSet<String>,
}

impl Differs {
    fn on(&mut self, channel: &str) -> &mut String {
        self.channels.insert(channel.to_owned());
        &mut self.text
    }
}

impl Display for Differs {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "the trace differs from what was done (bytes, messages):\n{}", self.text)
    }
}

impl std::error::Error for Differs {}

/// Compares.
///
/// # Errors
/// With every difference: a byte credited to the wrong member, one that is missing or too many, a wrong name, a signal. And if
/// something was lost.
pub fn compare(truth: &[Line], lines: &[Value]) -> Result<Score> {
    nothing_lost(lines)?;
    compare_whole(truth, lines)
}

/// The same, but what the trace lost is no difference by itself.
///
/// # Errors
/// With every difference.
pub(super) fn compare_whole(truth: &[Line], lines: &[Value]) -> Result<Score> {
    let mut differences = Differs::default();
    let mut score = tally(truth, lines, true, &mut differences)?;
    signals(truth, lines, &mut score, &mut differences);
    finish(score, differences)
}

/// Compares where records were lost, and that was said: much may be unknown then, but no byte may be credited to a process
/// that did not send it, or did not take it.
///
/// # Errors
/// With every difference, or if nothing was lost.
pub fn compare_after_loss(truth: &[Line], lines: &[Value]) -> Result<Score> {
    let end = lines.last().map(|line| &line["lost"]);
    ensure!(
        end.and_then(Value::as_object).is_some_and(|lost| !lost.is_empty()),
        "nothing was lost: there is nothing to test"
    );
    let mut differences = Differs::default();
    let score = tally(truth, lines, false, &mut differences)?;
    finish(score, differences)
}

fn finish(score: Score, differences: Differs) -> Result<Score> {
    ensure!(score.operations > 0, "the workload did nothing: there is nothing to compare");
    if differences.text.is_empty() { Ok(score) } else { Err(differences.into()) }
}

/// Holds the transfers to the truth. `complete`: all of it must be there.
fn tally(truth: &[Line], lines: &[Value], complete: bool, differences: &mut Differs) -> Result<Score> {
    let mut score = Score::default();
    let members = Members::of(truth);
    score.members = members.marks.len();
    let lanes: HashMap<&str, (&str, bool)> = truth
        .iter()
        .filter_map(|line| match line {
            Line::Lane { mechanism, id, messages } => Some((id.as_str(), (mechanism.as_str(), *messages))),
            Line::Member { .. }
            | Line::Sent { .. }
            | Line::Got { .. }
            | Line::Signalled { .. }
            | Line::Handled { .. }
            | Line::Done { .. } => None,
        })
        .collect();
    let (mut sent, mut done) = (BTreeMap::<(String, u8), Amount>::new(), BTreeMap::<Row, Amount>::new());
    for line in truth {
        match line {
            Line::Sent { lane, mark, bytes, messages } => {
                let sum = sent.entry((lane.clone(), *mark)).or_default();
                sum.0 += bytes;
                sum.1 += messages;
            }
            Line::Got { lane, from, by, bytes, messages } => {
                let sum = done.entry((lane.clone(), from.to_string(), by.to_string())).or_default();
                sum.0 += bytes;
                sum.1 += messages;
            }
            Line::Done { operations } => score.operations += operations,
            Line::Lane { .. } | Line::Member { .. } | Line::Signalled { .. } | Line::Handled { .. } => {}
        }
    }
    // What was sent and nobody received is unread.
    for ((lane, mark), (bytes, _)) in &sent {
        let got = |row: &(&Row, &Amount)| row.0.0 == *lane && row.0.1 == mark.to_string();
        let heard: u64 = done.iter().filter(got).map(|(_, amount)| amount.0).sum();
        ensure!(
            heard <= *bytes,
            "the workload contradicts itself: {lane}: {mark} sent {bytes}, {heard} heard"
        );
        if heard < *bytes {
            done.insert((lane.clone(), mark.to_string(), "unread".to_owned()), (bytes - heard, 0));
        }
    }
    let (mut all, mut certain) = (BTreeMap::<Row, Amount>::new(), BTreeMap::<Row, Amount>::new());
    for line in lines.iter().filter(|line| line["type"] == "transfer") {
        let id = line["channel"]["id"].as_str().unwrap_or_default();
        // Of a connection that was not accepted yet, and from which nobody read later, the trace knows one end.
        let begins = id.strip_suffix("->socket:[?]").map(|begin| format!("{begin}->"));
        let named = begins.and_then(|begin| lanes.keys().copied().find(|lane| lane.starts_with(&begin)));
        let id = named.unwrap_or(id);
        let Some((mechanism, separate)) = lanes.get(id) else { continue };
        if line["mechanism"] != *mechanism {
            let _ = writeln!(differences.on(id), "  {id} is a {mechanism}: {line}");
        }
        let row = (id.to_owned(), members.end(line, "sender"), members.end(line, "receiver"));
        let bytes = line["bytes"].as_u64().unwrap_or(0);
        let whole = *separate && line["truncated"] != true && row.2 != "unread";
        let messages = if whole { line["messages"].as_u64().unwrap_or(0) } else { 0 };
        let exact = line["exact"] == true;
        *score.bytes.entry((*mechanism).to_owned()).or_default() += bytes;
        if !exact {
            *score.inexact.entry((*mechanism).to_owned()).or_default() += bytes;
        }
        for sums in [Some(&mut all), exact.then_some(&mut certain)].into_iter().flatten() {
            let sum = sums.entry(row.clone()).or_default();
            sum.0 += bytes;
            sum.1 += messages;
        }
    }
    for (row, amount) in &certain {
        let named = |end: &String| end.parse::<u8>().is_ok();
        let both = named(&row.1) && named(&row.2);
        if !complete && !both {
            // Whether nobody took it, or the record of who did was lost, cannot be known.
            continue;
        }
        let truth = done.get(row).copied().unwrap_or_default();
        if amount.0 > truth.0 || amount.1 > truth.1 {
            let _ =
                writeln!(differences.on(&row.0), "  {row:?}: called exact {amount:?}, but done {truth:?}");
        }
    }
    for (name, side) in [("sender", 1), ("receiver", 2)].into_iter().filter(|_| complete) {
        let (done, traced) = (by_side(&done, side), by_side(&all, side));
        for row in done.keys().chain(traced.keys()).collect::<BTreeSet<_>>() {
            let (done, traced) = (done.get(row), traced.get(row));
            if done != traced {
                let _ =
                    writeln!(differences.on(&row.0), "  {name} {row:?}: done {done:?}, traced {traced:?}");
            }
        }
    }
    Ok(score)
}

/// Sums by channel and one end.
fn by_side(rows: &BTreeMap<Row, Amount>, side: usize) -> BTreeMap<(String, String), Amount> {
    let mut sums = BTreeMap::<(String, String), Amount>::new();
    for ((lane, from, to), amount) in rows {
        let end = if side == 1 { from } else { to };
        let sum = sums.entry((lane.clone(), end.clone())).or_default();
        sum.0 += amount.0;
        // Of a sender's messages some are unread, which the members do not count one by one.
        sum.1 += if side == 1 { 0 } else { amount.1 };
    }
    sums
}

/// The members by process and name.
struct Members {
    marks: HashMap<(u64, String), u8>,
}

impl Members {
    fn of(truth: &[Line]) -> Members {
        let marks = truth.iter().filter_map(|line| match line {
            Line::Member { mark, pid, name } => Some(((u64::from(*pid), name.clone()), *mark)),
            Line::Lane { .. }
            | Line::Sent { .. }
            | Line::Got { .. }
            | Line::Signalled { .. }
            | Line::Handled { .. }
            | Line::Done { .. } => None,
        });
        Members { marks: marks.collect() }
    }

    /// One end of a line: a mark, or what stands there in place of a member.
    fn end(&self, line: &Value, side: &str) -> String {
        let process = &line[side];
        if process.is_null() {
            return line[format!("{side}_why")].as_str().unwrap_or("null without a reason").to_owned();
        }
        let pid = process["pid"].as_u64().unwrap_or(0);
        let comm = process["comm"].as_str().unwrap_or_default().to_owned();
        match self.marks.get(&(pid, comm.clone())) {
            Some(mark) => mark.to_string(),
            None => format!("{comm}[{pid}]"),
        }
    }
}

/// Every signal that was sent has one outcome, and handlers saw as many as were delivered.
fn signals(truth: &[Line], lines: &[Value], score: &mut Score, differences: &mut Differs) {
    type Way = (u32, u32, i32);
    let mut expected = BTreeMap::<Way, (u64, u64)>::new();
    for line in truth {
        match line {
            Line::Signalled { from, to, signal, count } => {
                expected.entry((*from, *to, *signal)).or_default().0 += count;
                score.signals += count;
            }
            Line::Handled { from, by, signal, count } => {
                expected.entry((*from, *by, *signal)).or_default().1 += count;
            }
            Line::Lane { .. }
            | Line::Member { .. }
            | Line::Sent { .. }
            | Line::Got { .. }
            | Line::Done { .. } => {}
        }
    }
    let mut traced = BTreeMap::<Way, (u64, u64)>::new();
    for line in lines.iter().filter(|line| line["type"] == "signal") {
        let pid = |side: &str| line[side]["pid"].as_u64().unwrap_or(0) as u32;
        let way = (pid("sender"), pid("receiver"), line["number"].as_i64().unwrap_or(0) as i32);
        if expected.contains_key(&way) {
            let sum = traced.entry(way).or_default();
            sum.0 += 1;
            sum.1 += u64::from(line["outcome"] == "delivered");
        }
    }
    for (way, expected) in &expected {
        let traced = traced.get(way).copied().unwrap_or_default();
        if *expected != traced {
            let _ = writeln!(
                differences.text,
                "  signal {way:?}: (sent, handled) {expected:?}, traced {traced:?}"
            );
        }
    }
}
