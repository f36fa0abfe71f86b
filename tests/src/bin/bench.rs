//! `cargo xtask bench` runs this as root.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use ipctrace_tests::bench::report::Report;
use ipctrace_tests::bench::{self, Mode, Wish, Workload};

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
    /// Only workloads whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Without other tools
    #[arg(long)]
    ours: bool,
    /// With empty programs on the tracepoints of single calls, too: the other way to hook them
    #[arg(long)]
    each_call: bool,
    /// Compare the CPU time of the workloads, not how long they take: for a machine that others use as well. What the tracer
    /// takes from them shows in that of the tracer alone
    #[arg(long)]
    cpu_time: bool,
    /// One round that does next to nothing: whether everything can be measured
    #[arg(long)]
    short: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    /// For docs/performance.md
    Markdown,
    Json,
}

#[derive(Subcommand)]
enum Part {
    /// One workload, in a process of its own
    #[command(name = "__workload", hide = true)]
    Workload { name: String, operations: u64 },
}

impl Arguments {
    fn wish(&self) -> Wish {
        let only =
            |workload: &&Workload| self.only.as_ref().is_none_or(|only| workload.name().contains(only));
        let mut modes = if self.ours || self.short { Mode::OURS } else { Mode::USUAL }.to_vec();
        if self.each_call {
            modes.push(Mode::FloorEachCall);
        }
        Wish {
            rounds: if self.short { 1 } else { self.rounds.max(1) },
            scale: if self.short { 0.001 } else { self.scale },
            cpu_time: self.cpu_time,
            together: if self.short { usize::MAX } else { 1 },
            modes,
            workloads: Workload::ALL.iter().filter(only).copied().collect(),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Workload { name, operations }) = arguments.part {
        let workload =
            Workload::ALL.iter().find(|workload| workload.name() == name).context("no such workload")?;
        println!("{}", workload.work(operations)?.as_nanos());
        return Ok(());
    }
    let wish = arguments.wish();
    if wish.modes.contains(&Mode::PerfTrace) || wish.modes.contains(&Mode::FloorEachCall) {
        bench::floor::see_tracefs()?;
    }
    let measured = bench::measure(&wish)?;
    let report = Report { wish: &wish, measured: &measured };
    match arguments.format {
        Format::Text => print!("{}", report.text(false)),
        Format::Markdown => print!("{}", report.text(true)),
        Format::Json => println!("{}", report.json()),
    }
    Ok(())
}
