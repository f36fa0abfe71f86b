//! Compares what processes did, in their own words, with what the trace says of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use anyhow::{Result, bail, ensure};
use ipctrace::demo::stage;
use ipctrace::demo::truth::{Party, Truth};
use serde_json::Value;

/// A kind of thing between two ends: mechanism or `signal` or `handoff`, detail, from, to.
type Row = (String, String, String, String);

/// How much of it.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    bytes: u64,
    /// Where they are kept apart.
    messages: u64,
    /// How long wake-ups were waited for, ns: at least and at most.
    waited: (u64, u64),
}

impl Amount {
    /// Whether that much was traced.
    fn is(&self, traced: &Amount) -> bool {
        (self.bytes, self.messages) == (traced.bytes, traced.messages)
            && (self.waited.0..=self.waited.1).contains(&traced.waited.0)
    }
}

/// The processes of a workload: names by pid, several where a pid was used again.
pub type Members = HashMap<u64, Vec<String>>;

/// Who took part.
pub fn members(truth: &[Truth]) -> Members {
    let mut members = Members::new();
    for truth in truth {
        if let Truth::Member { pid, name, .. } = truth {
            members.entry(u64::from(*pid)).or_default().push(name.clone());
        }
    }
    members
}

/// A process: its pid, with its name where that alone tells it from another.
fn label(pid: u64, name: &str, members: &Members) -> String {
    if members.get(&pid).is_some_and(|names| names.len() > 1) {
        format!("{pid} {name}")
    } else {
        pid.to_string()
    }
}

/// The pid of a process that stands in a row.
fn pid_of(who: &str) -> Option<u64> {
    who.split(' ').next()?.parse().ok()
}

/// Holds the trace to the truth: nothing lost, all of it, nothing else between these processes, and every name right.
///
/// # Errors
/// With all differences, one a line.
pub fn check(truth: &[Truth], lines: &[Value]) -> Result<()> {
    nothing_lost(lines)?;
    compare(truth, lines)
}

/// Holds a trace to having lost nothing.
///
/// # Errors
/// With what it lost.
pub fn nothing_lost(lines: &[Value]) -> Result<()> {
    let end = lines.last().map(|line| &line["lost"]);
    ensure!(
        end.and_then(Value::as_object).is_some_and(serde_json::Map::is_empty),
        "the tracer lost something: {end:?}"
    );
    Ok(())
}

/// As [`check`], but what the trace lost is no difference by itself.
///
/// # Errors
/// As [`check`].
pub fn compare(truth: &[Truth], lines: &[Value]) -> Result<()> {
    let members = members(truth);
    let done = done(truth, &members);
    ensure!(!done.is_empty(), "the workload did nothing: there is nothing to compare");
    let known: Vec<&String> = done.keys().map(|row| &row.1).filter(|detail| !detail.is_empty()).collect();
    let tells_of_pty = done.keys().any(|row| row.0 == "pty");
    let certain: Vec<Value> = lines.iter().filter(|line| line["exact"] != false).cloned().collect();
    let certain = traced(&certain, &members, &known, tells_of_pty)?;
    let traced = traced(lines, &members, &known, tells_of_pty)?;
    // Bytes of which the trace itself says that it is not sure whose they were.
    let mut doubtful = HashMap::<&str, u64>::new();
    for line in lines.iter().filter(|line| line["type"] == "transfer" && line["exact"] == false) {
        let channel = line["channel"]["id"].as_str().unwrap_or_default();
        *doubtful.entry(channel).or_default() += line["bytes"].as_u64().unwrap_or(0);
    }
    let mut differences = String::new();
    let rows: std::collections::BTreeSet<&Row> = done.keys().chain(traced.keys()).collect();
    for row in rows {
        let (done, traced) = (done.get(row), traced.get(row));
        let same = done.zip(traced).is_some_and(|(done, traced)| done.is(traced));
        let bytes = |amount: Option<&Amount>| amount.map_or(0, |amount| amount.bytes);
        let doubt = doubtful.get(row.1.as_str()).copied().unwrap_or(0);
        // What is called certain was done; what is not may be as much as was done, and no more.
        let (done_bytes, certain) = (bytes(done), bytes(certain.get(row)));
        if !same && (doubt == 0 || !(certain..=certain.saturating_add(doubt)).contains(&done_bytes)) {
            let _ = writeln!(differences, "  {row:?}: done {done:?}, traced {traced:?}");
        }
    }
    for name in truth {
        if let Truth::Named { channel, name } = name {
            let named = lines.iter().filter(|line| line["channel"]["id"] == channel.as_str());
            for line in named.filter(|line| line["channel"]["name"] != name.as_str()) {
                let _ = writeln!(differences, "  {channel} is named {name}: {line}");
            }
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    bail!("the trace differs from what was done; processes {members:?}\n{differences}");
}

fn done(truth: &[Truth], members: &Members) -> BTreeMap<Row, Amount> {
    let mut marks = HashMap::new();
    for member in truth {
        if let Truth::Member { mark, pid, name } = member {
            marks.insert(*mark, label(u64::from(*pid), name, members));
        }
    }
    let who = |party: &Party| match party {
        Party::Mark(mark) => marks.get(mark).cloned().unwrap_or_else(|| format!("mark {mark}")),
        Party::Pid(pid) => pid.to_string(),
        Party::None(why) => why.clone(),
    };
    let mut rows = BTreeMap::<Row, Amount>::new();
    for truth in truth {
        let (row, bytes, messages) = match truth {
            Truth::Member { .. } | Truth::Sent { .. } | Truth::Named { .. } => continue,
            Truth::Transfer { mechanism, channel, from, to, bytes, messages } => (
                (mechanism.clone(), channel.clone().unwrap_or_default(), who(from), who(to)),
                *bytes,
                messages.unwrap_or(0),
            ),
            Truth::Units { channel, from, to, value, messages } => {
                (("eventfd".to_owned(), channel.clone(), who(from), who(to)), *value, *messages)
            }
            Truth::Signal { signal, from, to, outcome, value } => {
                (("signal".to_owned(), format!("{signal} {outcome} {value:?}"), who(from), who(to)), 0, 1)
            }
            Truth::Share { channel, by, action, access, bytes } => {
                (("share".to_owned(), channel.clone(), who(by), format!("{action} {access}")), *bytes, 1)
            }
            Truth::Evidence { channel, from, to, pages } => {
                (("evidence".to_owned(), channel.clone(), who(from), who(to)), 0, *pages)
            }
            Truth::Handoff { from, to, object } => {
                (("handoff".to_owned(), object.clone(), who(from), who(to)), 0, 1)
            }
            Truth::Wake { mechanism, channel, from, to, waited } => {
                let row = (mechanism.clone(), channel.clone().unwrap_or_default(), who(from), who(to));
                let sum = rows.entry(row.clone()).or_default();
                let (least, most) = waited.unwrap_or((0, u64::MAX));
                sum.waited = (sum.waited.0.saturating_add(least), sum.waited.1.saturating_add(most));
                (row, 0, 1)
            }
        };
        let sum = rows.entry(row).or_default();
        sum.bytes += bytes;
        sum.messages += messages;
    }
    rows
}

/// The other end, or why there is none; for a member also whether its name is right.
fn end(line: &Value, side: &str, members: &Members) -> Result<String> {
    let process = &line[side];
    if process.is_null() {
        let why = line[format!("{side}_why")].as_str().unwrap_or("null without a reason");
        return Ok(why.to_owned());
    }
    let pid = process["pid"].as_u64().unwrap_or(0);
    let comm = process["comm"].as_str().unwrap_or_default();
    if let Some(names) = members.get(&pid) {
        ensure!(names.iter().any(|name| name == comm), "{pid} is {names:?}, not {}: {line}", process["comm"]);
    }
    Ok(label(pid, comm, members))
}

/// What a `share` line says, if it is of a channel that is known.
fn shared(line: &Value, members: &Members, known: &[&String]) -> Result<Option<Row>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = text(&line["channel"]["id"]);
    if !known.iter().any(|known| **known == id) {
        return Ok(None);
    }
    let action = text(&line["action"]);
    // What a process has from its parent it has before it has a name of its own.
    let process = if action == "attach" {
        line["process"]["pid"].as_u64().unwrap_or(0).to_string()
    } else {
        end(line, "process", members)?
    };
    Ok(Some(("share".to_owned(), id, process, format!("{action} {}", text(&line["access"])))))
}

/// A channel with the priority or type of the message that went over it, if it is a queue.
fn queued(line: &Value, id: &str) -> Option<String> {
    let priority = line["priority"].as_u64().and_then(|priority| u32::try_from(priority).ok());
    priority
        .map(|priority| stage::queued_with_priority(id, priority))
        .or(line["msg_type"].as_i64().map(|kind| stage::queued_with_type(id, kind)))
}

fn traced(
    lines: &[Value],
    members: &Members,
    known: &[&String],
    tells_of_pty: bool,
) -> Result<BTreeMap<Row, Amount>> {
    let mut rows = BTreeMap::<Row, Amount>::new();
    for line in lines {
        let kind = line["type"].as_str().unwrap_or_default();
        let detail = match kind {
            "share" => {
                if let Some(row) = shared(line, members, known)? {
                    let sum = rows.entry(row).or_default();
                    sum.bytes += line["bytes"].as_u64().unwrap_or(0);
                    sum.messages += 1;
                }
                continue;
            }
            "evidence" => {
                let id = line["channel"]["id"].as_str().unwrap_or_default();
                if !known.iter().any(|known| *known == id) {
                    continue;
                }
                let row = (
                    "evidence".to_owned(),
                    id.to_owned(),
                    end(line, "sender", members)?,
                    end(line, "receiver", members)?,
                );
                rows.entry(row).or_default().messages += 1;
                continue;
            }
            "transfer" | "wake" => {
                let id = line["channel"]["id"].as_str().unwrap_or_default();
                let is_known = |it: &String| known.contains(&it);
                queued(line, id).filter(is_known).or(Some(id.to_owned()).filter(is_known)).unwrap_or_default()
            }
            "signal" => {
                let (signal, outcome) = (&line["signal"], &line["outcome"]);
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!("{} {} {:?}", text(signal), text(outcome), line["value"].as_u64())
            }
            "handoff" => {
                let id = line["object"]["id"].as_str().unwrap_or_default();
                id.split("->").next().unwrap_or_default().to_owned()
            }
            _ => continue,
        };
        let (from, to) = (end(line, "sender", members)?, end(line, "receiver", members)?);
        let member = |who: &String| pid_of(who).is_some_and(|pid| members.contains_key(&pid));
        let nobody = |who: &String| pid_of(who).is_none();
        if !(member(&to) || (member(&from) && nobody(&to))) {
            continue;
        }
        // What a scenario does to a terminal is a means; what it is about are the signals.
        if line["mechanism"] == "pty" && !tells_of_pty {
            continue;
        }
        let mechanism = line["mechanism"].as_str().unwrap_or(kind).to_owned();
        let separate = matches!(
            mechanism.as_str(),
            "unix_dgram" | "unix_seqpacket" | "posix_mq" | "sysv_msg" | "eventfd" | "udp"
        );
        let counted = if mechanism == "eventfd" { "value" } else { "bytes" };
        let sum = rows.entry((mechanism, detail, from, to)).or_default();
        sum.bytes += line[counted].as_u64().unwrap_or(0);
        if kind == "wake" {
            let waited = line["latency_ns"].as_u64().unwrap_or(0);
            sum.waited = (sum.waited.0 + waited, sum.waited.1 + waited);
        }
        sum.messages += match kind {
            "transfer" if separate => line["messages"].as_u64().unwrap_or(0),
            "transfer" => 0,
            _ => 1,
        };
    }
    Ok(rows)
}
