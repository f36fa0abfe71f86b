//! Workloads made from seeds, which know their own truth: see `ipctrace_tests::oracle`.
//!
//! `IPCTRACE_SEED` plays one seed, `IPCTRACE_SEEDS` so many fresh ones, `IPCTRACE_OPERATIONS` sets their length,
//! `IPCTRACE_MECHANISMS` which mechanisms they use.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ipctrace_tests::oracle::{Score, verify, verify_with_losses};

/// Seeds that found something once.
const FOUND: &[u64] = &[861_292_622, 162_106_136, 319_854_984];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds to play: the one that was asked for, or fresh ones.
fn seeds(count: u64) -> Result<Vec<u64>> {
    if let Some(seed) = number("IPCTRACE_SEED") {
        return Ok(vec![seed]);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let count = number("IPCTRACE_SEEDS").unwrap_or(count);
    Ok((0..count).map(|index| now % 1_000_000_000 + index).collect())
}

fn tell(seed: u64, score: &Score) {
    println!(
        "seed {seed}: {} operations of {} members, {} signals, {} bytes inexact of {:?}",
        score.operations, score.members, score.signals, score.inexact, score.bytes
    );
}

/// Seeds that nobody has tried: every byte, every message, every signal.
#[test]
fn fresh_seeds() -> Result<()> {
    for seed in seeds(6)? {
        let operations = number("IPCTRACE_OPERATIONS").unwrap_or(4000);
        // Half of them with every call told of by itself.
        let options: &[&str] = if seed % 2 == 0 { &[] } else { &["--every"] };
        tell(seed, &verify(seed, operations, options)?);
    }
    Ok(())
}

/// Seeds that found something once.
#[test]
fn seeds_that_found_something() -> Result<()> {
    for seed in FOUND {
        tell(*seed, &verify(*seed, 6000, &[])?);
    }
    Ok(())
}

/// The collector does not keep up: what is lost is said, and no byte is credited to the wrong process.
#[test]
fn after_losses_nothing_is_wrong() -> Result<()> {
    for seed in seeds(2)? {
        tell(seed, &verify_with_losses(seed, number("IPCTRACE_OPERATIONS").unwrap_or(4000))?);
    }
    Ok(())
}
