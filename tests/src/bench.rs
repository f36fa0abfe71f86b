//! The benchmark: what tracing costs, as ratios to no tracing and to the floor, an empty program on the same hooks.
//!
//! Absolute times say more of the machine than of the tracer. So every workload runs in every mode in turn, round after
//! round, and what is printed is the median over the rounds of the ratio within one round.

pub mod floor;
pub mod modes;
pub mod report;
pub mod workloads;

use std::time::{Duration, Instant};

use anyhow::Result;

pub use modes::Mode;
pub use workloads::Workload;

/// From starting the tracer to its first line, which it writes when everything is attached: the median of five.
///
/// # Errors
/// If it does not start.
pub fn start_up() -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let running = Mode::Trace.start()?;
        times.push(start.elapsed());
        running.stop()?;
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// Seconds that each workload took: by workload, by mode, one for each round.
pub type Times = Vec<(Workload, Vec<(Mode, Vec<f64>)>)>;

/// Runs everything `rounds` times, each workload with `scale` times its usual number of operations.
///
/// # Errors
/// If a workload or a mode cannot be started.
pub fn measure(rounds: usize, scale: f64) -> Result<Times> {
    let mut times: Times = Workload::ALL
        .iter()
        .map(|workload| (*workload, Mode::ALL.iter().map(|mode| (*mode, Vec::new())).collect()))
        .collect();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for index in 0..Mode::ALL.len() {
            // Another order in each round, so that no mode always follows the same one.
            let index = (index + round) % Mode::ALL.len();
            let running = Mode::ALL[index].start()?;
            for (workload, modes) in &mut times {
                modes[index].1.push(workload.run(scale)?.as_secs_f64());
            }
            running.stop()?;
        }
    }
    Ok(times)
}
