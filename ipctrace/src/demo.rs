//! Bundled workloads: real programs of several processes that know what they did, so that a trace can be checked.

pub mod balance;
pub mod compare;
mod eventfd;
mod fd_passing;
mod fifo;
mod futex;
mod io_uring;
pub mod members;
mod memory;
mod pipe;
mod posix_mq;
mod process_vm;
mod pty;
mod signals;
pub mod stage;
mod sysv_msg;
mod sysv_sem;
mod tcp;
pub mod truth;
mod udp;
mod unix_dgram;
mod unix_seqpacket;
mod unix_stream;

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use ipctrace_common::Mechanism;

pub use stage::Stage;

/// A bundled workload.
pub struct Demo {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in a line.
    pub summary: &'static str,
    /// What happens in it and what to look for.
    pub story: &'static str,
    /// What it uses.
    pub mechanisms: &'static [Mechanism],
    /// Plays it, in a process of its own that has one thread.
    play: fn(&Stage) -> Result<()>,
}

/// All of them, in the order in which `demo all` plays them.
pub const DEMOS: &[Demo] = &[
    pipe::DEMO,
    fifo::DEMO,
    unix_stream::DEMO,
    unix_dgram::DEMO,
    unix_seqpacket::DEMO,
    tcp::DEMO,
    udp::DEMO,
    fd_passing::DEMO,
    memory::SYSV_SHM,
    memory::POSIX_SHM,
    memory::MEMFD,
    memory::SHARED_FILE,
    memory::SHARED_ANON,
    eventfd::DEMO,
    process_vm::DEMO,
    pty::DEMO,
    signals::DEMO,
    io_uring::DEMO,
    posix_mq::DEMO,
    sysv_msg::DEMO,
    sysv_sem::DEMO,
    futex::DEMO,
];

/// The name of the demo that makes its calls through io_uring.
pub const THROUGH_RINGS: &str = io_uring::DEMO.name;

/// The demo of that name.
pub fn find(name: &str) -> Option<&'static Demo> {
    DEMOS.iter().find(|demo| demo.name == name)
}

/// Names and explains all demos.
pub fn list() -> String {
    let mut text = String::new();
    for demo in DEMOS {
        let mechanisms: Vec<_> = demo.mechanisms.iter().map(|mechanism| mechanism.name()).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<15} {}", demo.name, demo.summary);
        for line in demo.story.lines() {
            let _ = writeln!(text, "{:<15} {}", "", line.trim());
        }
        let _ = writeln!(text, "{:<15} uses {}\n", "", mechanisms.join(", "));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Plays a demo in this process, which must have one thread only, and writes to `report` what its processes did.
///
/// # Errors
/// If there is no such demo, or it fails.
pub fn workload(name: &str, report: &Path) -> Result<()> {
    let demo = find(name).with_context(|| format!("no demo '{name}'"))?;
    let stage = Stage::new(report)?;
    (demo.play)(&stage).with_context(|| format!("the demo '{name}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_listed() {
        for demo in DEMOS {
            assert_eq!(DEMOS.iter().filter(|other| other.name == demo.name).count(), 1);
            assert!(list().contains(demo.name));
            assert!(!demo.mechanisms.is_empty());
        }
    }
}
