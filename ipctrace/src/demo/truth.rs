//! What the processes of a workload did, in their own words.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One end, as a workload knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Party {
    /// The process that put this mark on its bytes.
    Mark(u8),
    /// That process.
    Pid(u32),
    /// No process, for a reason that the interface names: `before-start`, `unread`, `kernel`.
    None(String),
}

/// One thing that a process did or heard. A line of the report.
///
/// Process ids are those of the initial PID namespace, by which the trace names processes: see
/// [`stage::pid`](super::stage::pid).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Truth {
    /// A process joined: its mark, and its name for people.
    Member {
        /// What it puts on its bytes.
        mark: u8,
        /// Its process id.
        pid: u32,
        /// Its command name.
        name: String,
    },
    /// A process put bytes into a channel (or units into a counter): what its calls returned. See [`imbalances`](super::balance::imbalances).
    Sent {
        /// Over what.
        mechanism: String,
        /// Who did.
        by: Party,
        /// How many.
        bytes: u64,
        /// How many messages, for mechanisms that keep them apart.
        messages: Option<u64>,
    },
    /// Bytes went from one to another.
    Transfer {
        /// Over what.
        mechanism: String,
        /// The channel's id, where the process knows it.
        channel: Option<String>,
        /// From whom.
        from: Party,
        /// To whom.
        to: Party,
        /// How many.
        bytes: u64,
        /// How many messages, for mechanisms that keep them apart.
        messages: Option<u64>,
    },
    /// Units of a counter went from one to another.
    Units {
        /// The channel's id.
        channel: String,
        /// From whom.
        from: Party,
        /// To whom.
        to: Party,
        /// How many.
        value: u64,
        /// How many writes they stand for, whole or in part, each counted anew for each read.
        messages: u64,
    },
    /// A channel has a name: a path, or an abstract name with `@` for its leading NUL.
    Named {
        /// The channel's id.
        channel: String,
        /// Its name.
        name: String,
    },
    /// A signal was sent.
    Signal {
        /// `SIGUSR1`.
        signal: String,
        /// By whom.
        from: Party,
        /// To whom.
        to: Party,
        /// What became of it, as the interface names it.
        outcome: String,
        /// Value of sigqueue.
        value: Option<u64>,
    },
    /// A process did something to shared memory. The trace is held to all that happens to a channel that is named so.
    Share {
        /// The channel's id.
        channel: String,
        /// Who did.
        by: Party,
        /// What, as the interface names it.
        action: String,
        /// `rw` or `r`.
        access: String,
        /// The size of the object then.
        bytes: u64,
    },
    /// A process wrote to pages that another read first afterwards.
    Evidence {
        /// The channel's id.
        channel: String,
        /// Who wrote.
        from: Party,
        /// Who read.
        to: Party,
        /// How many pages.
        pages: u64,
    },
    /// A descriptor was passed.
    Handoff {
        /// By whom.
        from: Party,
        /// To whom.
        to: Party,
        /// The id of what was passed, or how it begins.
        object: String,
    },
    /// A process that waited was woken by another.
    Wake {
        /// Over what.
        mechanism: String,
        /// The channel's id, where the process knows it.
        channel: Option<String>,
        /// The waker.
        from: Party,
        /// The woken.
        to: Party,
        /// How long it waited, ns: at least what the waker let it wait, at most what it measured itself. `None` where
        /// nobody knows.
        waited: Option<(u64, u64)>,
    },
}

/// Reads a report.
///
/// # Errors
/// If there is none, or it is none.
pub fn read(report: &Path) -> Result<Vec<Truth>> {
    let text = fs::read_to_string(report).with_context(|| format!("reading {}", report.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("in the report: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_it_was() {
        let mechanism = || "unix_dgram".to_owned();
        for line in [
            Truth::Sent { mechanism: mechanism(), by: Party::Pid(10), bytes: 7, messages: Some(1) },
            Truth::Transfer {
                mechanism: mechanism(),
                channel: None,
                from: Party::Mark(1),
                to: Party::None("unread".to_owned()),
                bytes: 3,
                messages: None,
            },
        ] {
            let text = serde_json::to_string(&line).expect("it is plain data");
            assert_eq!(serde_json::from_str::<Truth>(&text).expect(&text), line);
        }
    }
}
