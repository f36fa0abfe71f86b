//! Which threads may be in a call that began before tracing did: user space tells the programs.

/// None.
pub const NONE: u32 = 0;
/// Those that were found and entered.
pub const LISTED: u32 = 1;
/// Each whose call was not seen to begin: they are being looked for.
pub const ALL: u32 = 2;

/// Words of 64 bits, each of them for the threads with some last digits of their ids.
pub const WORDS: u32 = 1024;

/// In which word, and as which bit, a thread stands.
#[inline(always)]
pub const fn bit(tid: u32) -> (u32, u64) {
    (tid / 64 % WORDS, 1 << (tid % 64))
}
