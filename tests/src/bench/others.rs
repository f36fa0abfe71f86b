//! Other tools that are asked the same, or the nearest that they know.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::trace::Scratch;

/// Another tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// bpftrace, with [`SCRIPT`].
    Bpftrace,
    /// `perf trace`.
    PerfTrace,
    /// strace.
    Strace,
    /// sysdig.
    Sysdig,
}

/// Calls whose result is how many bytes went, or how many were woken: the question that `top` answers, without the other end.
const SCRIPT: &str = r#"
tracepoint:syscalls:sys_exit_write, tracepoint:syscalls:sys_exit_writev, tracepoint:syscalls:sys_exit_sendto,
tracepoint:syscalls:sys_exit_sendmsg, tracepoint:syscalls:sys_exit_mq_timedsend, tracepoint:syscalls:sys_exit_msgsnd
/args->ret >= 0/ { @sent[pid, comm] = sum(args->ret); @sends[pid, comm] = count(); }
tracepoint:syscalls:sys_exit_read, tracepoint:syscalls:sys_exit_readv, tracepoint:syscalls:sys_exit_recvfrom,
tracepoint:syscalls:sys_exit_recvmsg, tracepoint:syscalls:sys_exit_mq_timedreceive, tracepoint:syscalls:sys_exit_msgrcv
/args->ret >= 0/ { @received[pid, comm] = sum(args->ret); @receives[pid, comm] = count(); }
tracepoint:syscalls:sys_exit_futex
/args->ret > 0/ { @woken[pid, comm] = sum(args->ret); @wakes[pid, comm] = count(); }
interval:ms:100 { printf("ready\n"); }
"#;

/// How long a tool may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one that does not say when it is ready is given.
const START: Duration = Duration::from_millis(1500);

/// One at work.
#[derive(Debug)]
pub struct Other {
    child: Option<Child>,
    wrapper: Vec<String>,
    /// Removed when this is dropped.
    _file: Scratch,
}

impl Other {
    /// Starts it; `None` if it is not there, or does not work.
    ///
    /// # Errors
    /// None but those of the system.
    pub fn start(program: Program) -> Result<Option<Other>> {
        let file = Scratch::new(".out");
        let path = file.path().to_string_lossy().into_owned();
        let (name, arguments): (_, &[&str]) = match program {
            // Line by line, which it does of its standard output alone: else it is never seen to be ready.
            Program::Bpftrace => ("bpftrace", &["-B", "line", "-e", SCRIPT]),
            Program::PerfTrace => ("perf", &["trace", "-a", "-o", &path]),
            Program::Strace => ("strace", &["-f", "-qq", "-o", &path]),
            Program::Sysdig => ("sysdig", &["--modern-bpf", "-w", &path]),
        };
        if program == Program::Strace {
            let there = Command::new(name).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            let wrapper = std::iter::once(name).chain(arguments.iter().copied()).map(str::to_owned).collect();
            return Ok(there.is_ok().then_some(Other { child: None, wrapper, _file: file }));
        }
        let mut command = Command::new(name);
        let output =
            if program == Program::Bpftrace { fs::File::create(&path)?.into() } else { Stdio::null() };
        command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            return Ok(None);
        };
        let mut other = Other { child: Some(child), wrapper: Vec::new(), _file: file };
        let works = other.wait(program, &path)?;
        Ok(works.then_some(other))
    }

    /// Waits until it is ready; whether it is.
    fn wait(&mut self, program: Program, path: &str) -> Result<bool> {
        let start = Instant::now();
        let ready = || match program {
            Program::Bpftrace => fs::read_to_string(path).unwrap_or_default().contains("ready"),
            Program::PerfTrace | Program::Strace | Program::Sysdig => start.elapsed() > START,
        };
        while !ready() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || start.elapsed() > PATIENCE {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }

    /// What the command of the workload is put behind.
    pub fn wrapper(&self) -> &[String] {
        &self.wrapper
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // It may have ended.
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
