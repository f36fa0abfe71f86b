//! What the processes counted, in their own words.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Line {
    /// A channel in one direction.
    Lane {
        /// As the trace names it.
        mechanism: String,
        /// As the trace names it.
        id: String,
        /// Whether messages are kept apart.
        messages: bool,
    },
    /// A process under one name: after execve(2) it is another member.
    Member {
        /// What it puts on its bytes.
        mark: u8,
        /// Its process id.
        pid: u32,
        /// Its command name.
        name: String,
    },
    /// What a member's calls said that they had sent.
    Sent {
        /// The channel's id.
        lane: String,
        /// By whom.
        mark: u8,
        /// How many bytes.
        bytes: u64,
        /// In how many messages (of a stream: calls).
        messages: u64,
    },
    /// What a member found in what it received.
    Got {
        /// The channel's id.
        lane: String,
        /// Whose mark it bore.
        from: u8,
        /// Who received it.
        by: u8,
        /// How many bytes.
        bytes: u64,
        /// In how many messages; 0 for streams.
        messages: u64,
    },
    /// Signals that a member's calls sent.
    Signalled {
        /// By which process.
        from: u32,
        /// To which process.
        to: u32,
        /// Number of the signal.
        signal: i32,
        /// How many.
        count: u64,
    },
    /// Signals that a process's handlers saw.
    Handled {
        /// From which process.
        from: u32,
        /// Which process.
        by: u32,
        /// Number of the signal.
        signal: i32,
        /// How many.
        count: u64,
    },
    /// Operations that a member has done.
    Done {
        /// How many.
        operations: u64,
    },
}

/// What one thread has done so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    sent: BTreeMap<usize, (u64, u64)>,
    got: BTreeMap<(usize, u8), (u64, u64)>,
    pub(super) operations: u64,
}

impl Account {
    pub(super) fn sent(&mut self, lane: usize, bytes: u64, messages: u64) {
        let sum = self.sent.entry(lane).or_default();
        sum.0 += bytes;
        sum.1 += messages;
    }

    /// Bytes of a stream, each by its mark.
    pub(super) fn got(&mut self, lane: usize, bytes: &[u8]) {
        let mut counts = [0u64; 256];
        bytes.iter().for_each(|mark| counts[usize::from(*mark)] += 1);
        for (mark, count) in (0..=255).zip(counts).filter(|(_, count)| *count > 0) {
            self.got.entry((lane, mark)).or_default().0 += count;
        }
    }

    /// One message.
    pub(super) fn got_message(&mut self, lane: usize, message: &[u8]) {
        if let Some(mark) = message.first() {
            let sum = self.got.entry((lane, *mark)).or_default();
            sum.0 += message.len() as u64;
            sum.1 += 1;
        }
    }

    /// As lines of the report.
    pub(super) fn lines(&self, mark: u8, lanes: &[super::channels::Lane]) -> Vec<Line> {
        let id = |lane: usize| lanes[lane].id.clone();
        let sent = self.sent.iter().map(|(lane, (bytes, messages))| Line::Sent {
            lane: id(*lane),
            mark,
            bytes: *bytes,
            messages: *messages,
        });
        let got = self.got.iter().map(|((lane, from), (bytes, messages))| Line::Got {
            lane: id(*lane),
            from: *from,
            by: mark,
            bytes: *bytes,
            messages: *messages,
        });
        sent.chain(got).chain([Line::Done { operations: self.operations }]).collect()
    }
}

/// Adds lines to the report, in one write.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(report: &Path, lines: &[Line]) -> Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(report)?;
    file.write_all(&text).with_context(|| format!("writing {}", report.display()))
}

/// Reads a report.
///
/// # Errors
/// If there is none, or it is none.
pub(super) fn read(report: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(report).with_context(|| format!("reading {}", report.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("in the report: {line}")))
        .collect()
}
