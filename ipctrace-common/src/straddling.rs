//! Which threads may be in a call that began before tracing did: user space tells the programs.

/// None.
pub const NONE: u32 = 0;
/// Those that were found and entered.
pub const LISTED: u32 = 1;
/// Each whose call was not seen to begin: they are being looked for.
pub const ALL: u32 = 2;
