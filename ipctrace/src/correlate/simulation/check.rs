//! What the correlator said beside what happened.

use std::collections::HashMap;

use crate::correlate::testing::transfers;
use crate::model::{End, Transfer, Why};

use super::world::{Done, World};

/// How much there was, and how much of it in doubt.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) bytes: u64,
    pub(super) transfers: u64,
    pub(super) doubtful: u64,
    /// Transfers that are called exact and are not.
    pub(super) wrong: Vec<String>,
}

impl Report {
    /// Adds another simulation's.
    pub(super) fn add(&mut self, other: Report) {
        self.bytes += other.bytes;
        self.transfers += other.transfers;
        self.doubtful += other.doubtful;
        self.wrong.extend(other.wrong);
    }
}

/// The name that a sender was given: 0 for those before the start. `None`: none was given.
fn name(end: &End) -> Option<u32> {
    match end {
        End::Known(process) => Some(process.pid),
        End::Unknown(Why::BeforeStart) => Some(0),
        End::Unknown(Why::Lost) => None,
        End::Unknown(why) => panic!("a sender that is {why}"),
    }
}

/// Panics if a sum does not balance.
pub(super) fn check(world: &World) -> Report {
    let mut wrong = Vec::new();
    let transfers = transfers(&world.events);
    let mut reads: HashMap<(u32, u64), Vec<&Transfer>> = HashMap::new();
    for transfer in &transfers {
        if let End::Known(receiver) = &transfer.receiver {
            reads.entry((receiver.pid, transfer.time)).or_default().push(transfer);
        }
    }
    for read in world.done.iter().filter(|call| call.reads && !call.lost) {
        check_read(world, read, reads.get(&(read.pid, read.time)).map_or(&[], Vec::as_slice), &mut wrong);
    }
    if world.plan.lost == 0 {
        check_senders(world, &transfers);
    }
    Report {
        bytes: transfers.iter().map(|transfer| transfer.bytes).sum(),
        wrong,
        transfers: transfers.len() as u64,
        doubtful: transfers.iter().filter(|transfer| !transfer.exact).map(|transfer| transfer.bytes).sum(),
    }
}

fn check_read(world: &World, read: &Done, transfers: &[&Transfer], wrongs: &mut Vec<String>) {
    let total: u64 = transfers.iter().map(|transfer| transfer.bytes).sum();
    if world.plan.lost == 0 || total > 0 {
        assert_eq!(total, read.bytes, "{:?}: bytes of {read:?}", world.plan);
    }
    let mut at = 0;
    for transfer in transfers {
        let part = &read.got[at..at + transfer.bytes as usize];
        at += part.len();
        let Some(name) = name(&transfer.sender) else {
            assert!(world.plan.lost > 0, "{:?}: nothing was lost, but for {transfer:?}", world.plan);
            continue;
        };
        let other = part.iter().find(|who| **who != name);
        if let (true, Some(other)) = (transfer.exact, other) {
            let (from, to) = (at - part.len(), at);
            wrongs.push(format!(
                "{:?}: bytes {from}..{to} of {} at {}: {name}, was {other}",
                world.plan, read.pid, read.time
            ));
        }
    }
}

/// Each sender's total is what its calls returned, whoever received it.
fn check_senders(world: &World, transfers: &[&Transfer]) {
    let mut said: HashMap<u32, u64> = HashMap::new();
    for transfer in transfers {
        *said.entry(name(&transfer.sender).unwrap_or(u32::MAX)).or_default() += transfer.bytes;
    }
    said.remove(&0);
    let mut was: HashMap<u32, u64> = HashMap::new();
    for call in world.done.iter().filter(|call| !call.reads) {
        *was.entry(call.pid).or_default() += call.bytes;
    }
    assert_eq!(said, was, "{:?}", world.plan);
}
