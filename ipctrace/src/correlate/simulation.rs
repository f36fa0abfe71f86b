//! A pipe as the kernel keeps it, worked by several processes at once, and what the programs would report of it: the
//! correlator's attribution is compared with what really happened, byte by byte.

mod check;
mod pipe;
mod world;

use proptest::prelude::*;

use check::Report;
use world::{Plan, World};

/// Runs a plan and checks what must always hold.
fn run(plan: Plan) -> Report {
    let world = World::run(plan);
    check::check(&world)
}

/// Any schedule at all: a call may be interrupted for any time at any point.
fn adversarial(seed: u64, writers: u32, readers: u32) -> Plan {
    Plan { seed, writers, readers, ..Plan::ADVERSARIAL }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_called_exact_is_true(seed: u64, writers in 1_u32..4, readers in 1_u32..4) {
        let report = run(adversarial(seed, writers, readers));
        prop_assert!(report.bytes > 0);
    }

    #[test]
    fn large_writes_keep_the_sums(seed: u64, writers in 1_u32..4, readers in 1_u32..3) {
        run(Plan { largest: 20_000, ..adversarial(seed, writers, readers) });
    }

    #[test]
    fn tracing_may_begin_in_the_middle(seed: u64, writers in 1_u32..4, readers in 1_u32..3) {
        run(Plan { untraced: 60, ..adversarial(seed, writers, readers) });
    }

    #[test]
    fn losses_never_cause_a_wrong_name(seed: u64, writers in 1_u32..4, readers in 1_u32..3) {
        run(Plan { lost: 40, ..adversarial(seed, writers, readers) });
    }

    #[test]
    fn one_writer_and_one_reader_are_always_exact(seed: u64, largest in 1_u64..10_000) {
        let report = run(Plan { largest, ..adversarial(seed, 1, 1) });
        prop_assert_eq!(report.doubtful, 0);
    }
}

/// Schedules as they are: a call is seldom interrupted between its hooks.
#[test]
fn few_bytes_are_in_doubt() {
    let (mut bytes, mut doubtful) = (0, 0);
    for seed in 0..200 {
        let report = run(Plan { seed, writers: 3, readers: 2, ..Plan::REALISTIC });
        bytes += report.bytes;
        doubtful += report.doubtful;
    }
    assert!(bytes > 100_000, "too little was moved to tell: {bytes}");
    assert!(doubtful * 100 < bytes, "{doubtful} of {bytes} bytes are in doubt");
}
