//! What goes on while a workload is timed.

use std::time::Duration;

use anyhow::Result;
use aya::Ebpf;

use super::floor;
use super::others::{Other, Program};
use super::tracer::{Own, TOP, TRACE, Tracer};

/// How a workload is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Untraced,
    /// Empty programs on all hooks that the tracer uses: the floor.
    Floor,
    /// Empty programs on the tracepoints of the single calls that carry data.
    FloorEachCall,
    /// `ipctrace top`, as JSON to a file.
    Top,
    /// `ipctrace trace -f json` to a file.
    Trace,
    /// A script of bpftrace that sums the bytes of each process.
    Bpftrace,
    /// `perf trace` of the whole host to a file.
    PerfTrace,
    /// `strace -f` of the workload to a file.
    Strace,
    /// `sysdig` of the whole host to a file.
    Sysdig,
}

impl Mode {
    /// Those that are compared unless others are asked for.
    pub const USUAL: &'static [Mode] = &[
        Mode::Untraced,
        Mode::Floor,
        Mode::Top,
        Mode::Trace,
        Mode::Bpftrace,
        Mode::PerfTrace,
        Mode::Strace,
        Mode::Sysdig,
    ];
    /// Those that need nothing but ourselves.
    pub const OURS: &'static [Mode] = &[Mode::Untraced, Mode::Floor, Mode::Top, Mode::Trace];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Untraced => "untraced",
            Mode::Floor => "empty programs",
            Mode::FloorEachCall => "empty, per call",
            Mode::Top => "top",
            Mode::Trace => "trace -f json",
            Mode::Bpftrace => "bpftrace",
            Mode::PerfTrace => "perf trace",
            Mode::Strace => "strace -f",
            Mode::Sysdig => "sysdig",
        }
    }

    /// By how much less a workload does while it is watched like this, so that it ends.
    pub fn slowness(self) -> f64 {
        match self {
            Mode::Untraced | Mode::Floor | Mode::FloorEachCall | Mode::Top | Mode::Trace | Mode::Bpftrace => {
                1.0
            }
            Mode::Sysdig => 2.0,
            Mode::PerfTrace => 25.0,
            Mode::Strace => 100.0,
        }
    }

    /// Starts it; it goes on until it is stopped. `None` if it is another tool that is not installed, or does not work here.
    ///
    /// # Errors
    /// If the programs cannot be attached, or the tracer does not start.
    pub fn start(self) -> Result<Option<Running>> {
        let program = |program: Program| Ok(Other::start(program)?.map(Running::Other));
        Ok(Some(match self {
            Mode::Untraced => Running::Nothing,
            Mode::Floor => Running::Programs(floor::on_all_hooks()?),
            Mode::FloorEachCall => Running::Programs(vec![floor::on_each_call()?]),
            Mode::Top => Running::Tracer(Tracer::start(TOP)?),
            Mode::Trace => Running::Tracer(Tracer::start(TRACE)?),
            Mode::Bpftrace => return program(Program::Bpftrace),
            Mode::PerfTrace => return program(Program::PerfTrace),
            Mode::Strace => return program(Program::Strace),
            Mode::Sysdig => return program(Program::Sysdig),
        }))
    }
}

/// What goes on.
pub enum Running {
    /// Nothing.
    Nothing,
    /// Programs that are attached as long as this exists.
    Programs(Vec<Ebpf>),
    /// The tracer.
    Tracer(Tracer),
    /// Another one.
    Other(Other),
}

impl Running {
    /// What the command of the workload is put behind.
    pub fn wrapper(&mut self) -> &[String] {
        match self {
            Running::Nothing | Running::Programs(_) | Running::Tracer(_) => &[],
            Running::Other(other) => other.wrapper(),
        }
    }

    /// CPU time that the tracer took so far.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cpu(&self) -> Result<Duration> {
        match self {
            Running::Nothing | Running::Programs(_) | Running::Other(_) => Ok(Duration::ZERO),
            Running::Tracer(tracer) => tracer.cpu(),
        }
    }

    /// What the tracer took since then.
    ///
    /// # Errors
    /// If it has ended.
    pub fn own(&self, before: Duration, operations: u64) -> Result<Option<Own>> {
        match self {
            Running::Nothing | Running::Programs(_) | Running::Other(_) => Ok(None),
            Running::Tracer(tracer) => tracer.own(before, operations).map(Some),
        }
    }

    /// Ends it; gives what the tracer lost.
    ///
    /// # Errors
    /// If the tracer fails.
    pub fn stop(self) -> Result<u64> {
        match self {
            Running::Nothing | Running::Programs(_) | Running::Other(_) => Ok(0),
            Running::Tracer(tracer) => tracer.stop(),
        }
    }
}
