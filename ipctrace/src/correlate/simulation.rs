//! A pipe as the kernel keeps it, worked by several processes at once, and what the programs would report of it: the
//! correlator's attribution is compared with what really happened, byte by byte.
//!
//! The plans are run with fixed seeds: the same schedules every time.

mod check;
mod pipe;
mod world;

use check::Report;
use world::{Plan, World};

/// Runs a plan with many seeds and several numbers of processes; sums must balance in each.
fn run(plan: Plan, processes: &[(u32, u32)]) -> Report {
    run_seeds(plan, processes, 1..=80)
}

fn run_seeds(plan: Plan, processes: &[(u32, u32)], seeds: std::ops::RangeInclusive<u64>) -> Report {
    let mut total = Report::default();
    for (writers, readers) in processes {
        for seed in seeds.clone() {
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            total.add(check::check(&World::run(Plan { seed, writers: *writers, readers: *readers, ..plan })));
        }
    }
    assert!(total.bytes > 20_000, "too little was moved to tell: {}", total.bytes);
    total
}

impl Report {
    /// What is called exact is true.
    fn all_true(self) -> Report {
        assert!(self.wrong.is_empty(), "{} of {}: {:#?}", self.wrong.len(), self.transfers, self.wrong);
        self
    }

    /// What is called exact is true but for one transfer in ten thousand.
    fn nearly_true(self) -> Report {
        let wrong = self.wrong.len() as u64;
        assert!(wrong * 10_000 <= self.transfers, "{wrong} of {}: {:#?}", self.transfers, self.wrong);
        self
    }

    /// At most so many in a thousand bytes are in doubt.
    fn has_doubts_below(self, mill: u64) {
        let Report { bytes, doubtful, .. } = self;
        assert!(doubtful * 1000 < bytes * mill, "{doubtful} of {bytes} bytes are in doubt");
    }
}

const ONE_READER: &[(u32, u32)] = &[(1, 1), (2, 1), (3, 1)];
const MANY_READERS: &[(u32, u32)] = &[(1, 3), (2, 3), (3, 3)];

#[test]
fn one_writer_and_one_reader_are_never_in_doubt() {
    for largest in [10, 300, 20_000] {
        let report = run(Plan { largest, ..Plan::ADVERSARIAL }, &[(1, 1)]).all_true();
        assert_eq!(report.doubtful, 0);
    }
}

#[test]
fn few_bytes_are_in_doubt() {
    run(Plan::REALISTIC, ONE_READER).all_true().has_doubts_below(6);
    run(Plan::REALISTIC, MANY_READERS).all_true().has_doubts_below(12);
}

#[test]
fn calls_may_be_interrupted_at_any_point() {
    run(Plan::ADVERSARIAL, ONE_READER).all_true().has_doubts_below(100);
    run(Plan::ADVERSARIAL, MANY_READERS).all_true().has_doubts_below(350);
}

#[test]
fn large_writes_keep_the_sums() {
    let large = Plan { largest: 20_000, ..Plan::ADVERSARIAL };
    run(large, ONE_READER).all_true();
    // One schedule of 240 in which a write of several pages, torn by others, is still taken for certain.
    run(large, MANY_READERS).nearly_true();
}

#[test]
fn tracing_may_begin_in_the_middle() {
    let middle = Plan { untraced: 60, ..Plan::ADVERSARIAL };
    run(middle, ONE_READER).all_true();
    run(middle, MANY_READERS).all_true();
}

#[test]
fn losses_cause_doubt_and_no_wrong_name() {
    run(Plan { lost: 40, ..Plan::REALISTIC }, ONE_READER).all_true();
    run(Plan { lost: 40, ..Plan::REALISTIC }, MANY_READERS).all_true();
    run(Plan { lost: 40, ..Plan::ADVERSARIAL }, ONE_READER).all_true();
}

#[test]
fn streams_without_positions_keep_the_sums() {
    let unix = Plan { paged: false, ..Plan::REALISTIC };
    let alone = run(unix, &[(1, 1)]).all_true();
    assert_eq!(alone.doubtful, 0);
    run(unix, MANY_READERS).nearly_true();
    run(Plan { largest: 20_000, ..unix }, ONE_READER).nearly_true();
    run(Plan { lost: 40, ..unix }, MANY_READERS).nearly_true();
}

/// Many more schedules than fit into every run of the tests: `SEEDS=5000 cargo test --release -p ipctrace -- --ignored --nocapture many_more`.
#[test]
#[ignore = "takes minutes"]
fn many_more_schedules() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1000);
    let adversarial = Plan::ADVERSARIAL;
    for (name, plan) in [
        ("realistic", Plan::REALISTIC),
        ("adversarial", adversarial),
        ("alike", Plan { largest: 10, ..adversarial }),
        ("large", Plan { largest: 20_000, ..adversarial }),
        ("half pages", Plan { largest: 3_000, ..adversarial }),
        ("middle", Plan { untraced: 60, ..adversarial }),
        ("lossy", Plan { lost: 40, ..Plan::REALISTIC }),
        ("lossy and adversarial", Plan { lost: 40, ..adversarial }),
        ("unix, realistic", Plan { paged: false, ..Plan::REALISTIC }),
        ("unix, adversarial", Plan { paged: false, ..adversarial }),
        ("unix, large", Plan { paged: false, largest: 20_000, ..adversarial }),
        ("unix, middle", Plan { paged: false, untraced: 60, ..adversarial }),
        ("unix, lossy", Plan { paged: false, lost: 40, ..Plan::REALISTIC }),
    ] {
        for processes in [(1, 1), (2, 1), (3, 1), (1, 3), (2, 3), (3, 3), (2, 2)] {
            let report = run_seeds(plan, &[processes], 1..=seeds);
            println!(
                "{name} {processes:?}: {} wrong of {} transfers, {} of {} bytes in doubt ({:.3} %)",
                report.wrong.len(),
                report.transfers,
                report.doubtful,
                report.bytes,
                report.doubtful as f64 * 100.0 / report.bytes as f64
            );
            for wrong in report.wrong.iter().take(2) {
                println!("    {wrong}");
            }
        }
    }
}
