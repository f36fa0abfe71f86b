//! The live table: filling a terminal ([`Screen`]), or block after block where there is none ([`Blocks`]).

mod blocks;
mod cells;
mod screen;

pub use blocks::Blocks;
pub use screen::Screen;

use std::time::Duration;

use crate::top::Top;

/// How long the trace has been going on: `0:07`, `12:34:56`, `3 d 04:05:06`.
fn uptime(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes, seconds) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days} d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// What was not seen, by cause: `nothing lost`, or `12 lost (ring-full: 10, map-full: 2)`.
fn lost(top: &Top) -> (bool, String) {
    let total = top.lost().fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
    if total == 0 {
        return (false, "nothing lost".to_owned());
    }
    let causes: Vec<_> = top.lost().map(|(cause, count)| format!("{}: {count}", cause.name())).collect();
    (true, format!("{total} lost ({})", causes.join(", ")))
}

#[cfg(test)]
mod tests;
