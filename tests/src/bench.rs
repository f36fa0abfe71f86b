//! The benchmark: what tracing costs, as ratios to no tracing and to the floor, empty programs on the same hooks.
//!
//! Absolute times say more of the machine than of the tracer. So every workload runs in every mode in turn, round after
//! round, and what is printed is the median over the rounds of the ratio within one round.

pub mod floor;
pub mod machine;
pub mod modes;
pub mod others;
pub mod report;
pub mod tracer;
pub mod workloads;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use modes::Mode;
pub use tracer::Own;
pub use workloads::Workload;

/// How much is done.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Times that every workload runs in every mode.
    pub rounds: usize,
    /// Operations of a workload, as a multiple of the usual number.
    pub scale: f64,
    /// Compare the CPU time of the workloads, not how long they take: for a machine that others use as well.
    pub cpu_time: bool,
    /// Workloads that run one after the other before the mode changes. One: so that what is compared is close in time.
    pub together: usize,
    /// What to compare.
    pub modes: Vec<Mode>,
    /// What to run.
    pub workloads: Vec<Workload>,
}

/// One run of one workload in one mode.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds that an operation took, all in all.
    pub seconds: f64,
    /// What the tracer itself took, if the mode is ours.
    pub own: Option<Own>,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// By workload and mode, one sample for each round; `None` where the mode could not be had.
    pub samples: Vec<(Workload, Mode, Vec<Option<Sample>>)>,
    /// From starting the tracer to its first line, which it writes when everything is attached.
    pub start_up: Vec<Duration>,
}

impl Measured {
    /// The samples of a workload in a mode, one for each round.
    pub fn of(&self, workload: Workload, mode: Mode) -> &[Option<Sample>] {
        let found = self.samples.iter().find(|(this, that, _)| (*this, *that) == (workload, mode));
        found.map_or(&[], |(.., samples)| samples)
    }
}

/// Runs everything.
///
/// # Errors
/// If a workload, or a mode of our own, cannot be started.
pub fn measure(wish: &Wish) -> Result<Measured> {
    let mut measured = Measured::default();
    for workload in &wish.workloads {
        measured.samples.extend(wish.modes.iter().map(|mode| (*workload, *mode, Vec::new())));
    }
    for round in 0..wish.rounds {
        measured.start_up.push(start_up()?);
        for workloads in wish.workloads.chunks(wish.together.max(1)) {
            let names: Vec<_> = workloads.iter().map(|workload| workload.name()).collect();
            eprintln!("round {} of {}: {}", round + 1, wish.rounds, names.join(", "));
            for index in 0..wish.modes.len() {
                // Another order in each round, so that no mode always follows the same one.
                let mode = wish.modes[(index + round) % wish.modes.len()];
                let samples =
                    watched(mode, workloads, wish).with_context(|| format!("with {}", mode.name()))?;
                for (workload, sample) in workloads.iter().zip(samples) {
                    let place = measured
                        .samples
                        .iter_mut()
                        .find(|(this, that, _)| (*this, *that) == (*workload, mode));
                    place.context("made above")?.2.push(sample);
                }
            }
        }
    }
    Ok(measured)
}

/// Runs workloads while the mode goes on.
fn watched(mode: Mode, workloads: &[Workload], wish: &Wish) -> Result<Vec<Option<Sample>>> {
    let Wish { scale, cpu_time, .. } = *wish;
    let Some(mut running) = mode.start()? else {
        return Ok(vec![None; workloads.len()]);
    };
    let mut samples = Vec::new();
    for workload in workloads {
        let operations = workload.operations(scale / mode.slowness());
        let before = running.cpu()?;
        let (time, cpu) = workload.run(operations, running.wrapper())?;
        let seconds = if cpu_time { cpu } else { time }.as_secs_f64() / operations as f64;
        let own = running.own(before, operations)?;
        samples.push(Some(Sample { seconds, own }));
    }
    let lost = running.stop()?;
    for sample in samples.iter_mut().flatten() {
        if let Some(own) = &mut sample.own {
            own.lost = lost;
        }
    }
    Ok(samples)
}

fn start_up() -> Result<Duration> {
    let start = Instant::now();
    let tracer = tracer::Tracer::start(tracer::TRACE)?;
    let time = start.elapsed();
    tracer.stop()?;
    Ok(time)
}
