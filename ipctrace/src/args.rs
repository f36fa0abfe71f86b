//! The command line as it is typed. What it means is in [`crate::options`].
//!
//! Help, man page and completions come from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Bytes of payload that plain `-x` captures.
const PAYLOAD_DEFAULT: &str = "64";

const EXAMPLES: &str = "\
Examples:
  ipctrace                             everything on this host, until Ctrl-C
  ipctrace -m pipe,unix -d 10          pipes and unix sockets, for ten seconds
  ipctrace -p 1234 -x                  what process 1234 says and hears
  ipctrace -n postgres -f json -o log  one program, as NDJSON, to a file
  ipctrace run -- make -j4             a command and all its descendants
  ipctrace top                         a live table of flows, busiest first
  ipctrace demo all                    see it work, checked against the truth

Exit status:
  0  done; with 'run', the status of the command, 128+N if signal N ended it
  1  a comparison failed ('demo')
  2  wrong usage
  3  not permitted, or the kernel cannot do it";

const FIELDS: &str = "\
Reading a line:
  TIME MECH SENDER -> RECEIVER CHANNEL BYTES LATENCY, then what has no column:
  the channel's name, circumstances, the start of the message in quotes.
  name[pid]       a process; name[pid/tid] if not its first thread did it
  (before-start)  the bytes were there before tracing began
  (kernel)        no process did it
  (remote ADDR)   on another host
  (unread)        nobody took the bytes
  (lost)          the record of the call was lost
  ~> for ->       calls of several processes overlapped, and the kernel does
                  not show whose bytes came first
  LATENCY         from the end of the send to the end of the receive
  \\n \\x1b \\u{202e}  what a terminal could act on, made visible";

const TOP: &str = "\
Keys:
  r b m l          sort by rate, bytes, messages, latency; once more: the other way round
  /                filter by part of a process, pid, channel or mechanism; Esc shows all again
  p, Space         pause and go on; what happens meanwhile is counted
  arrows, PgUp, PgDn, Home, End  scroll
  q, Esc, Ctrl-C   quit

RATE and MSG/S are those of the last interval; BYTES, MSGS, P50 and P99 are since the start of the trace.
With -f json there is a 'hello' first, then for each interval one 'flow' for each flow that moved in it, with
'rate_bytes' and 'rate_messages' per second, 'lost' where something was lost, and 'end' last.";

/// Shows which process talks to which, over what, how much, and how long it takes
#[derive(Clone, Debug, Parser)]
#[command(
    name = "ipctrace",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{FIELDS}"),
)]
pub struct Cli {
    /// What to do; without it, trace.
    #[command(subcommand)]
    command: Option<Command>,
    /// The options of a trace, so that `ipctrace -p 1` works.
    #[command(flatten)]
    trace: Trace,
}

impl Cli {
    /// What to do.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Trace(self.trace))
    }
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Trace the whole host, one line an event, until Ctrl-C (the default)
    Trace(Trace),
    /// Start a command and trace it and its descendants, from its first instruction until it ends
    Run(Run),
    /// Show a live table of flows, busiest first
    ///
    /// On a terminal it fills the screen and obeys keys; else it writes a table, or NDJSON, every interval.
    #[command(after_help = TOP)]
    Top(Top),
    /// Run bundled programs under the tracer and compare what they did with what was traced
    Demo(Demo),
    /// Say what this kernel and these privileges allow, mechanism by mechanism
    Doctor(Doctor),
    /// The processes of a demo, which report what they did.
    #[command(name = "__demo-workload", hide = true)]
    Workload {
        /// Which demo.
        name: String,
        /// The file that they report to.
        report: PathBuf,
    },
}

impl Command {
    /// Whether more is to be said on stderr.
    pub fn verbose(&self) -> bool {
        match self {
            Command::Trace(trace) => trace.report.verbose,
            Command::Run(run) => run.report.verbose,
            Command::Top(top) => top.verbose,
            Command::Demo(demo) => demo.verbose,
            Command::Doctor(doctor) => doctor.verbose,
            Command::Workload { .. } => false,
        }
    }
}

/// `ipctrace trace`.
#[derive(Args, Clone, Debug, Default)]
pub struct Trace {
    /// What is shown.
    #[command(flatten)]
    pub show: Show,
    /// Where and how.
    #[command(flatten)]
    pub report: Report,
}

/// `ipctrace run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
    /// What is shown.
    #[command(flatten)]
    pub show: Show,
    /// Where and how.
    #[command(flatten)]
    pub report: Report,
}

/// `ipctrace top`.
#[derive(Args, Clone, Debug)]
pub struct Top {
    /// What is shown.
    #[command(flatten)]
    pub show: Show,
    /// Refresh every so many seconds; fractions are allowed
    #[arg(short, long, value_name = "SECS", default_value_t = 1.0, allow_negative_numbers = true)]
    pub interval: f64,
    /// A table for people, or NDJSON: a 'flow' object for each flow that moved in the interval
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Output")]
    pub format: Format,
    /// Write the table to this file; messages stay on stderr
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Stop after this many seconds; fractions are allowed
    #[arg(short, long, value_name = "SECS", allow_negative_numbers = true, help_heading = "Output")]
    pub duration: Option<f64>,
    /// Where to look: at system calls, or at the functions of the objects themselves
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub hooks: Hooks,
    /// Stop after this many refreshes
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Output")]
    pub count: Option<u64>,
    /// Say more on stderr
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,
}

/// `ipctrace demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Which to run, or 'all'
    #[arg(value_name = "NAME", conflicts_with = "list")]
    pub names: Vec<String>,
    /// Name and explain them, and run none
    #[arg(long)]
    pub list: bool,
    /// Where to look: at system calls, or at the functions of the objects themselves
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub hooks: Hooks,
    /// Say more on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

/// `ipctrace doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Only list programs of this tool that are loaded in the kernel; without a running tracer there should be none
    #[arg(long)]
    pub leftovers: bool,
    /// Only list the maps of running tracers that can fill up: name, entries, room
    #[arg(long)]
    pub maps: bool,
    /// Only print what was found out about this kernel, for a report
    #[arg(long)]
    pub facts: bool,
    /// Say it for hooks of this kind
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub hooks: Hooks,
    /// Show what the kernel's verifier says of programs that it does not take
    #[arg(short, long)]
    pub verbose: bool,
}

/// Which events are shown. Filters of different kinds must all hold, values of one kind are alternatives.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters (kinds are AND-ed, values of one kind OR-ed)")]
pub struct Show {
    /// Only flows with this process at either end; repeatable
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Only flows with a process of this command name at either end; repeatable
    ///
    /// The kernel keeps the first 15 bytes of a name, and those are compared.
    #[arg(short = 'n', long, value_name = "NAME")]
    pub comm: Vec<OsString>,
    /// Only these mechanisms, separated by commas; groups: unix, socket, mq, shm, sem
    ///
    /// pipe fifo unix_stream unix_dgram unix_seqpacket tcp udp posix_mq sysv_msg sysv_shm posix_shm memfd shared_file
    /// shared_anon sysv_sem futex eventfd pty process_vm signal
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    pub mechanism: Vec<String>,
    /// Only flows with a process of this real user id at either end; repeatable
    #[arg(short, long, value_name = "UID")]
    pub uid: Vec<u32>,
    /// Only flows with a process in this control group, or in one below it, at either end; repeatable
    ///
    /// A directory of the unified hierarchy, or the path that /proc/PID/cgroup shows.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,
}

/// How events are shown.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct Report {
    /// Text for people, or NDJSON (one object a line)
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Write events to this file; messages stay on stderr
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Stop after this many seconds; fractions are allowed
    #[arg(short, long, value_name = "SECS", allow_negative_numbers = true)]
    pub duration: Option<f64>,
    /// Stop after this many events
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Capture the first bytes of each message: 64 if no number is given, at most 4096
    ///
    /// Off unless asked for: what processes tell each other may be confidential.
    #[arg(short = 'x', long, value_name = "BYTES", num_args = 0..=1, default_missing_value = PAYLOAD_DEFAULT)]
    pub payload: Option<u32>,
    /// End with one line a flow; always so for 'run', and after Ctrl-C on a terminal
    #[arg(short, long)]
    pub summary: bool,
    /// Tell of every call by itself, also of small ones that follow each other at once
    #[arg(long)]
    pub every: bool,
    /// Where to look: at system calls, or at the functions of the objects themselves, whatever way leads there; 'doctor' says
    /// what auto chooses, and why
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub hooks: Hooks,
    /// Room for records between kernel and collector: each processor has its share of it, rounded up to a power of two; more loses
    /// less in bursts
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub buffer: Option<u32>,
    /// Say more on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

/// Which hooks mechanisms are traced by that can be traced by more than one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Hooks {
    /// On the objects' own functions where every hook of a mechanism can be there and the kernel lets it, else on system calls, as
    /// those of pipes, FIFOs, sockets, terminals, System V segments and futexes
    #[default]
    Auto,
    /// On system calls
    Syscall,
    /// On the objects' own functions: of mechanisms named with -m all, or it is an error; else of those that can be
    Object,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One aligned line an event
    #[default]
    Text,
    /// NDJSON, schema 1
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use std::path::Path;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(Cli::into_command)
    }

    /// Parses a trace, with or without its name.
    fn trace(line: &str) -> Trace {
        let Command::Trace(trace) = parse(line).expect(line) else { panic!("{line} is no trace") };
        trace
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_trace_needs_no_name() {
        for line in
            ["ipctrace -p 1 -f json", "ipctrace trace -p 1 -f json", "ipctrace trace --pid=1 --format json"]
        {
            let trace = trace(line);
            assert_eq!(trace.show.pid, [1]);
            assert_eq!(trace.report.format, Format::Json);
        }
        assert_eq!(trace("ipctrace").report.format, Format::Text);
    }

    #[test]
    fn filters_repeat_and_mechanisms_are_a_list() {
        let trace = trace("ipctrace -p 1 -p 2 -n a --comm b -u 0 --cgroup /a -m pipe,unix -m tcp");
        assert_eq!(trace.show.pid, [1, 2]);
        assert_eq!(trace.show.comm, ["a", "b"]);
        assert_eq!(trace.show.mechanism, ["pipe", "unix", "tcp"]);
        assert_eq!((trace.show.uid.len(), trace.show.cgroup.len()), (1, 1));
    }

    #[test]
    fn hooks_are_chosen_by_auto_unless_told_otherwise() {
        assert_eq!(trace("ipctrace").report.hooks, Hooks::Auto);
        assert_eq!(trace("ipctrace --hooks object").report.hooks, Hooks::Object);
        let Ok(Command::Demo(demo)) = parse("ipctrace demo pipe --hooks syscall") else { panic!("no demo") };
        assert_eq!(demo.hooks, Hooks::Syscall);
    }

    #[test]
    fn payload_takes_a_number_or_not() {
        assert_eq!(trace("ipctrace").report.payload, None);
        assert_eq!(trace("ipctrace -x -v").report.payload, Some(64));
        assert_eq!(trace("ipctrace -x 100 -v").report.payload, Some(100));
        assert_eq!(trace("ipctrace --payload=7").report.payload, Some(7));
    }

    #[test]
    fn the_command_of_run_keeps_its_own_options() {
        for line in ["ipctrace run -s -- ls -l -p 1", "ipctrace run -s ls -l -p 1"] {
            let Command::Run(run) = parse(line).expect(line) else { panic!("{line} is no run") };
            assert_eq!(run.command, ["ls", "-l", "-p", "1"]);
            assert!(run.report.summary && run.show.pid.is_empty());
        }
    }

    #[test]
    fn top_refreshes_every_second_unless_told_otherwise() {
        let top = |line| {
            let Command::Top(top) = parse(line).expect(line) else { panic!("{line} is no top") };
            (top.interval, top.count, top.show.comm.len())
        };
        assert_eq!(top("ipctrace top"), (1.0, None, 0));
        assert_eq!(top("ipctrace top -i 0.5 -c 3 -n sh"), (0.5, Some(3), 1));
    }

    #[test]
    fn a_workload_is_hidden() {
        let Ok(Command::Workload { name, report }) = parse("ipctrace __demo-workload pipe /tmp/report")
        else {
            panic!("no workload")
        };
        assert_eq!((name.as_str(), report.as_path()), ("pipe", Path::new("/tmp/report")));
        assert!(!Cli::command().render_long_help().to_string().contains("__demo"));
    }

    #[test]
    fn wrong_usage_is_refused_with_status_2() {
        for (line, kind) in [
            ("ipctrace -p 0", ErrorKind::ValueValidation),
            ("ipctrace -p x", ErrorKind::ValueValidation),
            ("ipctrace -c 0", ErrorKind::ValueValidation),
            ("ipctrace -f xml", ErrorKind::InvalidValue),
            ("ipctrace top -x", ErrorKind::UnknownArgument),
            ("ipctrace top -c 0", ErrorKind::ValueValidation),
            ("ipctrace tap", ErrorKind::InvalidSubcommand),
            ("ipctrace run", ErrorKind::MissingRequiredArgument),
            ("ipctrace demo pipe --list", ErrorKind::ArgumentConflict),
            ("ipctrace -p 1 run -- ls", ErrorKind::ArgumentConflict),
            ("ipctrace --frobnicate", ErrorKind::UnknownArgument),
            ("ipctrace --hooks kprobe", ErrorKind::InvalidValue),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
        }
    }

    /// The list in the help is typed by hand.
    #[test]
    fn help_names_every_mechanism() {
        let help = Cli::command().render_long_help().to_string();
        let words: Vec<&str> = help.split_whitespace().collect();
        for mechanism in ipctrace_common::Mechanism::ALL {
            assert!(words.contains(&mechanism.name()), "{}", mechanism.name());
        }
    }

    #[test]
    fn examples_in_the_help_are_right() {
        for line in EXAMPLES.lines().filter(|line| line.starts_with("  ipctrace")) {
            let line = line.trim().split("   ").next().expect("a command");
            parse(line.split("  ").next().expect("a command")).expect(line);
        }
    }
}
