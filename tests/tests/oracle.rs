//! Workloads made from seeds, which know their own truth: see `ipctrace_tests::oracle`.
//!
//! `IPCTRACE_SEED` plays one seed, `IPCTRACE_SEEDS` so many fresh ones, `IPCTRACE_OPERATIONS` sets their length.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ipctrace_tests::oracle::verify;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Seeds that nobody has tried.
#[test]
fn fresh_seeds() -> Result<()> {
    let operations = number("IPCTRACE_OPERATIONS", 4000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let one = std::env::var("IPCTRACE_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let count = if one.is_some() { 1 } else { number("IPCTRACE_SEEDS", 6) };
    for index in 0..count {
        let seed = one.unwrap_or(now % 1_000_000_000 + index);
        let score = verify(seed, operations, &[])?;
        println!(
            "seed {seed}: {} operations of {} members, {} signals, {} bytes inexact of {:?}",
            score.operations, score.members, score.signals, score.inexact, score.bytes
        );
    }
    Ok(())
}
