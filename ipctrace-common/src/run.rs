//! Runs: small calls of one thread on one pipe, one behind the other, told of by one record.
//!
//! A run stands in memory that kernel and collector share until it is told of: by the thread itself when its next call does
//! not continue it, or by the collector when it has stood for a while.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Op;

/// How many runs there can be: a thread's place is its id, modulo this. A power of two.
pub const RUNS: u32 = 1024;

/// One run, and who may touch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Run {
    /// 1 while somebody works on it. Taken and given back by atomic exchange; who does not get it does without.
    pub lock: u64,
    /// The thread whose run it is.
    pub owner: u64,
    /// The record, as if the calls were one. `messages` is 0 when there is nothing to tell.
    pub op: Op,
}

const _: () = assert!(size_of::<Run>() == 16 + size_of::<Op>());
