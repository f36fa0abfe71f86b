//! Messages that are equal in all that a trace looks at: several processes send them through one queue, several receive, and each message
//! has, behind that, whose it is.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ipctrace::demo::stage::{PosixQueue, SysvQueue};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::player::{child, wait_for_all};

/// Behind so many bytes nothing is looked at.
const EQUAL: usize = 64;
/// Of a message: behind what is equal stands whose it is.
const LENGTH: usize = EQUAL + size_of::<u32>();
const KIND: i64 = 1;
const PRIORITY: u32 = 1;

/// Which queue they use, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rivalry {
    /// A System V queue.
    SysV,
    /// A POSIX queue whose receivers ask for the priority.
    Posix,
    /// One whose receivers do not.
    Unasked,
}

impl Rivalry {
    /// What it is called.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

enum Queue {
    SysV(SysvQueue),
    Posix(PosixQueue),
    Unasked(PosixQueue),
}

impl Queue {
    fn new(rivalry: Rivalry) -> Result<Queue> {
        let posix = || PosixQueue::new("rivals", 10, LENGTH as i64, 0);
        Ok(match rivalry {
            Rivalry::SysV => Queue::SysV(SysvQueue::new()?),
            Rivalry::Posix => Queue::Posix(posix()?),
            Rivalry::Unasked => Queue::Unasked(posix()?),
        })
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        Ok(match self {
            Queue::SysV(queue) => queue.send(KIND, message, 0),
            Queue::Posix(queue) | Queue::Unasked(queue) => queue.send(message, PRIORITY),
        }?)
    }

    fn receive(&self) -> Result<Vec<u8>> {
        Ok(match self {
            Queue::SysV(queue) => queue.receive(0, LENGTH, 0)?.1,
            Queue::Posix(queue) => queue.receive()?.0,
            Queue::Unasked(queue) => queue.receive_unasked()?,
        })
    }
}

/// What one received: whose messages, in that order.
#[derive(Serialize, Deserialize)]
struct Received {
    pid: u32,
    from: Vec<u32>,
}

/// What the actor does when it is called for this workload: `__rivals QUEUE SENDERS RECEIVERS MESSAGES REPORT`, where the report is a prefix of
/// file names.
///
/// # Errors
/// If a system call fails that must not.
pub fn act(arguments: &[String]) -> Result<()> {
    let [queue, senders, receivers, messages, report] = arguments else {
        anyhow::bail!("usage: actor __rivals QUEUE SENDERS RECEIVERS MESSAGES REPORT");
    };
    let (senders, receivers, messages): (u32, u32, u32) =
        (senders.parse()?, receivers.parse()?, messages.parse()?);
    let rivalry = Rivalry::from_str(queue, false).map_err(anyhow::Error::msg)?;
    let queue = Queue::new(rivalry)?;
    let message = |pid: u32| [&[0; EQUAL][..], &pid.to_ne_bytes()].concat();
    for number in 0..receivers {
        child(|| {
            let mut from = Vec::new();
            loop {
                let content = queue.receive()?;
                let pid = u32::from_ne_bytes(content[EQUAL..].try_into()?);
                if pid == 0 {
                    break;
                }
                from.push(pid);
            }
            let received = Received { pid: std::process::id(), from };
            Ok(std::fs::write(format!("{report}.{number}"), serde_json::to_vec(&received)?)?)
        })?;
    }
    child(|| {
        for _ in 0..senders {
            child(|| {
                let message = message(std::process::id());
                (0..messages).try_for_each(|_| queue.send(&message))
            })?;
        }
        wait_for_all()?;
        (0..receivers).try_for_each(|_| queue.send(&message(0)))
    })?;
    wait_for_all()
}

/// Holds what a trace says of them to what they received; how many of the transfers were certain, and how many there were.
///
/// # Errors
/// If one that the trace calls certain was not so, or another number of them is told of.
pub(super) fn compare(report: &Path, receivers: u32, lines: &[Value]) -> Result<(usize, usize)> {
    let (mut certain, mut all) = (0, 0);
    for number in 0..receivers {
        let file = format!("{}.{number}", report.display());
        let received: Received = serde_json::from_slice(&std::fs::read(&file).context(file.clone())?)?;
        std::fs::remove_file(file)?;
        let is_its = |line: &&Value| line["type"] == "transfer" && line["receiver"]["pid"] == received.pid;
        let mut told: Vec<&Value> = lines.iter().filter(is_its).collect();
        told.sort_by_key(|line| line["time"].as_str());
        let told: Vec<&Value> = told
            .into_iter()
            .flat_map(|line| (0..line["messages"].as_u64().unwrap_or(0)).map(move |_| line))
            .collect();
        // And the last one, which says that it is.
        ensure!(told.len() == received.from.len() + 1, "{} of {} told", told.len(), received.from.len() + 1);
        for (line, from) in told.iter().zip(&received.from) {
            all += 1;
            if line["exact"] == true {
                certain += 1;
                ensure!(line["sender"]["pid"] == *from, "the sender was {from}: {line}");
            }
        }
    }
    Ok((certain, all))
}
