//! What is told of a seed at which trace and truth differ: the fewest operations with which it still does, and what was traced of
//! the channels concerned.

use std::fmt::Write;

use anyhow::{Error, Result};
use serde_json::Value;

use super::Recorded;
use super::compare::Differs;

/// How often fewer operations are tried: processes never run in the same order twice.
const TRIES: usize = 3;
/// With fewer operations nothing much happens.
const FEWEST: u64 = 50;
/// Most lines of a story.
const LINES: usize = 60;

/// Compares what `play` records with so many operations. If it differs, plays half of them, as long as one of a few tries still
/// differs.
///
/// # Errors
/// If a play fails, or with the differences and the story of the shortest play that differed.
pub fn compare(operations: u64, mut play: impl FnMut(u64) -> Result<Recorded>) -> Result<super::Score> {
    let recorded = play(operations)?;
    let mut shortest = match recorded.compare() {
        Ok(score) => return Ok(score),
        Err(error) => (operations, recorded, error),
    };
    let mut again = |operations: u64| {
        (0..TRIES).find_map(|_| {
            // A play that fails tells nothing.
            let recorded = play(operations).ok()?;
            let error = recorded.compare().err()?;
            Some((operations, recorded, error))
        })
    };
    while shortest.0 / 2 >= FEWEST
        && let Some(shorter) = again(shortest.0 / 2)
    {
        shortest = shorter;
    }
    let (fewest, recorded, error) = shortest;
    let story = story(&recorded.lines, &error);
    Err(error
        .context(format!("the shortest of its plays that differed had {fewest} operations; of it:\n{story}")))
}

/// What was traced of the channels at which there was a difference, one line a transfer.
pub(super) fn story(lines: &[Value], error: &Error) -> String {
    let Some(differs) = error.downcast_ref::<Differs>() else { return String::new() };
    let concerned = |line: &&Value| {
        line["channel"]["id"].as_str().is_some_and(|id| differs.channels.contains(id))
            && line["type"] == "transfer"
    };
    let all: Vec<&Value> = lines.iter().filter(concerned).collect();
    let mut story = String::new();
    let left_out = all.len().saturating_sub(LINES);
    if left_out > 0 {
        let _ = writeln!(story, "  ({left_out} transfers before these)");
    }
    for line in &all[left_out..] {
        let end = |side: &str| {
            let process = &line[side];
            if process.is_null() {
                return line[format!("{side}_why")].as_str().unwrap_or("?").to_owned();
            }
            let comm = process["comm"].as_str().unwrap_or_default();
            format!("{comm}[{}/{}]", process["pid"], process["tid"])
        };
        let time = line["time"].as_str().unwrap_or_default();
        let doubt = if line["exact"] == true { "" } else { ", in doubt" };
        let rest = if line["truncated"] == true { ", the rest of one cut short" } else { "" };
        let _ = writeln!(
            story,
            "  {time} {} {} -> {}: {} bytes{doubt}{rest}",
            line["channel"]["id"].as_str().unwrap_or_default(),
            end("sender"),
            end("receiver"),
            line["bytes"]
        );
    }
    story
}
