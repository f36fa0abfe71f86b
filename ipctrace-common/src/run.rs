//! Runs: small calls of one thread on one pipe, one behind the other, told of by one record.
//!
//! A run stands in memory that kernel and collector share until it is told of: by the thread itself when its next call does
//! not continue it, or by the collector when it has stood for a while.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Op;

/// How many runs there can be: a thread's place is its id, modulo this. A power of two.
pub const RUNS: u32 = 1024;

/// Which runs may stand: a byte for each place that is not 0 from when a run begins until the collector has seen to it, so that it
/// need not look at all of them.
pub type Standing = [u8; RUNS as usize];

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
    /// Up to the end of the cache line: the next run is that of another thread.
    pub reserved: [u64; 6],
}

const _: () = assert!(size_of::<Run>().is_multiple_of(64));
