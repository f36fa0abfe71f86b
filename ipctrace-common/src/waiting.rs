//! Waits that began before tracing did: user space finds them and enters them among those that the programs have seen.

use crate::mechanism::Mechanism;

/// Size of a wait in the programs' map.
pub const SIZE: usize = 136;

/// What a call may do.
pub mod role {
    /// Wait until another task ends the wait.
    pub const WAITS: u8 = 1 << 0;
    /// End other tasks' waits.
    pub const WAKES: u8 = 1 << 1;
    /// Its places could not be found out when it began.
    pub const OPEN: u8 = 1 << 2;
}

/// A wait of which nothing is known yet but that it goes on: it begins with roles and mechanism, and the rest is 0.
pub const fn begun_before(mechanism: Mechanism) -> [u8; SIZE] {
    let mut wait = [0; SIZE];
    wait[0] = role::WAITS | role::OPEN;
    wait[1] = mechanism as u8;
    wait
}
