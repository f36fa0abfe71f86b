//! What the command line means: checked against what there is, in the terms of the tracer.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipctrace_common::Mechanism;
use ipctrace_common::config::PAYLOAD_MAX;

use crate::args::{Format, Hooks, Report, Show, Top};
use crate::boot;
use crate::cgroup::Hierarchy;
use crate::filter::{Mechanisms, Selection};
use crate::message;

/// Seconds between refreshes, at least.
const SHORTEST: f64 = 0.1;

/// The exit status of wrong usage.
pub const EXIT_USAGE: u8 = 2;

/// Wrong usage: one line that says what is wrong, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Usage {
    /// `-m` names what does not exist.
    #[error("unknown mechanism '{name}'{}; known: {}", hint(name), known_mechanisms())]
    Mechanism {
        /// What was typed.
        name: String,
    },
    /// `demo` names what does not exist.
    #[error("unknown demo '{name}'; `ipctrace demo --list` names them")]
    Demo {
        /// What was typed.
        name: String,
    },
    /// `-x` is out of range.
    #[error("-x takes 1 to {PAYLOAD_MAX} bytes, not {0}")]
    Payload(u32),
    /// `-d` is no time to wait.
    #[error("-d takes a number of seconds above 0, not {0}")]
    Duration(f64),
    /// `-i` is no time to wait, or one in which nothing could be read.
    #[error("-i takes a number of seconds from {SHORTEST} up, not {0}")]
    Interval(f64),
    /// `-n` is empty.
    #[error("-n takes the name of a command, not an empty string")]
    Comm,
    /// `-p` names a process that does not exist.
    #[error("there is no process {0}")]
    Pid(u32),
    /// `-p` names a thread.
    #[error("{thread} is a thread of process {process}: use -p {process}")]
    Thread {
        /// What was typed.
        thread: u32,
        /// What would be right.
        process: u32,
    },
    /// `--cgroup` names what does not exist.
    #[error("no control group '{}': {}; name a directory of the unified hierarchy", path.display(), message::chain(reason))]
    Cgroup {
        /// What was typed.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

/// How a trace is reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Reporting {
    /// Text or NDJSON.
    pub format: Format,
    /// The file that events go to; `None` for standard output.
    pub output: Option<PathBuf>,
    /// How long to trace.
    pub duration: Option<Duration>,
    /// How many events to show.
    pub count: Option<u64>,
    /// How many bytes of each message to capture; 0 for none, at most [`PAYLOAD_MAX`].
    pub payload: u32,
    /// Whether every call is told of by itself.
    pub every: bool,
    /// Which hooks are used.
    pub hooks: Hooks,
    /// Room for records between kernel and collector, bytes, if somebody has said so.
    pub buffer: Option<u32>,
    /// Whether a summary was asked for.
    pub summary: bool,
    /// Whether to say more on stderr.
    pub verbose: bool,
}

/// Works out which events are to be shown.
///
/// # Errors
/// [`Usage`] for a name of nothing: a mechanism, a process or a control group that does not exist.
pub fn selection(show: Show) -> Result<Selection, Usage> {
    for pid in &show.pid {
        check_process(Path::new("/proc"), *pid)?;
    }
    let comms: Vec<Vec<u8>> = show.comm.into_iter().map(OsString::into_vec).collect();
    if comms.iter().any(Vec::is_empty) {
        return Err(Usage::Comm);
    }
    let cgroups = if show.cgroup.is_empty() {
        Vec::new()
    } else {
        let hierarchy = Hierarchy::find();
        let locate = |path: PathBuf| match &hierarchy {
            Ok(hierarchy) => hierarchy.locate(&path).map_err(|reason| Usage::Cgroup { path, reason }),
            Err(error) => {
                Err(Usage::Cgroup { path, reason: io::Error::new(error.kind(), error.to_string()) })
            }
        };
        show.cgroup.into_iter().map(locate).collect::<Result<_, _>>()?
    };
    let mechanisms = mechanisms(&show.mechanism)?;
    Ok(Selection { pids: show.pid, had_at: boot::now(), comms, uids: show.uid, cgroups, mechanisms })
}

/// Works out how to report.
///
/// # Errors
/// [`Usage`] for a number that is out of range.
pub fn reporting(report: Report) -> Result<Reporting, Usage> {
    let payload = match report.payload {
        None => 0,
        Some(bytes) if (1..=PAYLOAD_MAX).contains(&bytes) => bytes,
        Some(bytes) => return Err(Usage::Payload(bytes)),
    };
    Ok(Reporting {
        format: report.format,
        output: report.output,
        duration: report.duration.map(duration).transpose()?,
        count: report.count,
        payload,
        every: report.every,
        hooks: report.hooks,
        buffer: report.buffer.map(|kib| kib << 10),
        summary: report.summary,
        verbose: report.verbose,
    })
}

/// How `top` reports: as a trace does, and how often. Its `count` is of refreshes.
///
/// # Errors
/// [`Usage`] for a number that is out of range.
pub fn refreshing(top: &Top) -> Result<(Reporting, Duration), Usage> {
    let reporting = reporting(Report {
        format: top.format,
        output: top.output.clone(),
        duration: top.duration,
        count: top.count,
        payload: None,
        summary: false,
        every: false,
        hooks: top.hooks,
        buffer: None,
        verbose: top.verbose,
    })?;
    match Duration::try_from_secs_f64(top.interval) {
        Ok(interval) if top.interval >= SHORTEST => Ok((reporting, interval)),
        Ok(_) | Err(_) => Err(Usage::Interval(top.interval)),
    }
}

/// Seconds as typed. More than the clock can hold is for ever, and refused as a mistake.
fn duration(seconds: f64) -> Result<Duration, Usage> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err(Usage::Duration(seconds)),
    }
}

/// The mechanisms that names and groups stand for; all if none are given.
fn mechanisms(names: &[String]) -> Result<Mechanisms, Usage> {
    if names.is_empty() {
        return Ok(Mechanisms::all());
    }
    if let Some(name) = names.iter().find(|name| Mechanism::select(name).next().is_none()) {
        return Err(Usage::Mechanism { name: name.clone() });
    }
    Ok(names.iter().flat_map(|name| Mechanism::select(name)).collect())
}

/// Makes sure that `pid` is a process, and not one of its threads.
fn check_process(proc: &Path, pid: u32) -> Result<(), Usage> {
    // A thread has a directory, too, though it is not listed.
    let status =
        fs::read_to_string(proc.join(pid.to_string()).join("status")).map_err(|_| Usage::Pid(pid))?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    match process.and_then(|process| process.trim().parse().ok()) {
        Some(process) if process != pid => Err(Usage::Thread { thread: pid, process }),
        Some(_) | None => Ok(()),
    }
}

/// Names of mechanisms and of groups of them.
fn names() -> impl Iterator<Item = &'static str> {
    let names = Mechanism::ALL.iter().map(|mechanism| mechanism.name());
    names.chain(GROUPS)
}

/// The groups that `-m` accepts.
const GROUPS: [&str; 5] = ["unix", "socket", "mq", "shm", "sem"];

fn known_mechanisms() -> String {
    let names: Vec<&str> = Mechanism::ALL.iter().map(|mechanism| mechanism.name()).collect();
    format!("{}; groups: {}", names.join(", "), GROUPS.join(", "))
}

/// The name that was probably meant, as part of a message.
fn hint(typed: &str) -> String {
    let typed = typed.to_lowercase().replace('-', "_");
    let nearest = names().map(|name| (strsim::damerau_levenshtein(&typed, name), name)).min();
    match nearest {
        // One slip in three letters is still a slip.
        Some((slips, name)) if slips * 3 <= name.len() => format!(" (did you mean '{name}'?)"),
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Result<Mechanisms, String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        mechanisms(&names).map_err(|usage| usage.to_string())
    }

    #[test]
    fn names_and_groups_stand_for_mechanisms() {
        use Mechanism::{Fifo, Pipe, Tcp, Udp, UnixDgram, UnixSeqpacket, UnixStream};
        let set = |list: &[Mechanism]| Ok(list.iter().copied().collect());
        assert_eq!(listed(&[]), Ok(Mechanisms::all()));
        assert_eq!(listed(&["pipe", "fifo", "pipe"]), set(&[Pipe, Fifo]));
        assert_eq!(listed(&["unix"]), set(&[UnixStream, UnixDgram, UnixSeqpacket]));
        assert_eq!(listed(&["socket"]), set(&[UnixStream, UnixDgram, UnixSeqpacket, Tcp, Udp]));
        for group in GROUPS {
            assert!(listed(&[group]).unwrap().bits().count_ones() > 1, "{group}");
        }
    }

    #[test]
    fn an_unknown_mechanism_is_one_line_with_the_list_and_a_hint() {
        let error = listed(&["pipe", "unix-steam"]).unwrap_err();
        let begin =
            "unknown mechanism 'unix-steam' (did you mean 'unix_stream'?); known: pipe, fifo, unix_stream, ";
        assert!(error.starts_with(begin), "{error}");
        assert!(error.ends_with("signal; groups: unix, socket, mq, shm, sem"), "{error}");
        assert!(!error.contains('\n'));
        assert!(listed(&["signals"]).unwrap_err().contains("did you mean 'signal'?"));
        assert!(listed(&["PIPE"]).unwrap_err().contains("did you mean 'pipe'?"));
        assert!(!listed(&["dbus-broker"]).unwrap_err().contains("did you mean"));
        assert!(listed(&[""]).unwrap_err().starts_with("unknown mechanism ''; known"));
    }

    #[test]
    fn numbers_have_bounds() {
        let report = |payload, duration| reporting(Report { payload, duration, ..Report::default() });
        assert_eq!(report(None, None).unwrap().payload, 0);
        assert_eq!(report(Some(4096), None).unwrap().payload, 4096);
        assert_eq!(report(Some(4097), None).unwrap_err().to_string(), "-x takes 1 to 4096 bytes, not 4097");
        assert!(report(Some(0), None).is_err());
        assert_eq!(report(None, Some(0.25)).unwrap().duration, Some(Duration::from_millis(250)));
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e30, 1e-12] {
            let error = report(None, Some(wrong)).unwrap_err().to_string();
            assert!(error.starts_with("-d takes a number of seconds above 0, not "), "{error}");
        }
    }

    #[test]
    fn a_process_must_exist_and_be_no_thread() {
        let own = std::process::id();
        assert!(check_process(Path::new("/proc"), own).is_ok());
        assert!(matches!(check_process(Path::new("/proc"), u32::MAX), Err(Usage::Pid(u32::MAX))));
        let thread = std::thread::spawn(move || {
            let thread = nix::unistd::gettid().as_raw().unsigned_abs();
            check_process(Path::new("/proc"), thread).map_err(|usage| (thread, usage.to_string()))
        });
        let (thread, error) = thread.join().unwrap().unwrap_err();
        assert_eq!(error, format!("{thread} is a thread of process {own}: use -p {own}"));
    }

    #[test]
    fn what_is_named_must_exist() {
        let show = Show { cgroup: vec!["/no/such/group".into()], ..Show::default() };
        let error = selection(show).unwrap_err().to_string();
        assert!(error.starts_with("no control group '/no/such/group': "), "{error}");
        let show = Show { comm: vec![OsString::new()], ..Show::default() };
        assert!(matches!(selection(show), Err(Usage::Comm)));
        let show = Show { pid: vec![std::process::id()], comm: vec!["sh".into()], ..Show::default() };
        let selection = selection(show).unwrap();
        assert_eq!((selection.pids, selection.comms), (vec![std::process::id()], vec![b"sh".to_vec()]));
    }
}
