//! The door of the repository: everything a contributor runs goes through here.

mod bench;
mod build;
mod command;
mod demo;
mod kernels;
mod run;
mod setup;
mod soak;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, tests and shows ipctrace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building takes, where it is missing: nightly's rust-src, and a bpf-linker that matches it
    Setup,
    /// Build the self-contained binary `ipctrace`
    Build(build::Arguments),
    /// Measure what tracing costs, as ratios to no tracing and to empty programs
    Bench(bench::Arguments),
    /// Set up, build, and run the bundled demos as root
    Demo(demo::Arguments),
    /// Build and run `ipctrace` with these arguments, as root
    Run(run::Arguments),
    /// Play workloads made from fresh seeds, which know their own truth, for as long as asked
    Soak(soak::Arguments),
    /// Set up, then check the formatting, lint, and run all tests; the end-to-end tests as root
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::ready().map(|_| ExitCode::SUCCESS),
        Task::Build(arguments) => build::build(&arguments).map(|_| ExitCode::SUCCESS),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Demo(arguments) => demo::demo(&arguments),
        Task::Run(arguments) => run::run(&arguments),
        Task::Soak(arguments) => soak::soak(&arguments),
        Task::Test(arguments) => test::test(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
