//! `cargo xtask bench` runs this as root.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use ipctrace_tests::bench::{self, Workload, report};

/// What tracing costs, as ratios.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Times that every workload runs in every mode
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Operations of a workload, as a multiple of the usual number
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Part {
    /// One workload, in a process of its own
    #[command(name = "__workload", hide = true)]
    Workload { name: String, operations: u64 },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Workload { name, operations }) = arguments.part {
        let workload =
            Workload::ALL.iter().find(|workload| workload.name() == name).context("no such workload")?;
        println!("{}", workload.work(operations)?.as_nanos());
        return Ok(());
    }
    bench::floor::see_tracefs()?;
    let times = bench::measure(arguments.rounds.max(1), arguments.scale)?;
    match arguments.format {
        Format::Text => {
            println!("{}", report::table(&times));
            println!("start to first possible event: {} ms (median of 5)", bench::start_up()?.as_millis());
        }
        Format::Json => println!("{}", report::json(&times)),
    }
    Ok(())
}
