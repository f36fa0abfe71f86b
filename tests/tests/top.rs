//! `ipctrace top`: blocks, NDJSON, and a real terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipctrace_tests::trace::{Scratch, lines, run, said};
use ipctrace_tests::{binary, pause_until};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

/// A process that writes a line to `cat` a hundred times a second, until it is dropped.
struct Workload(Child);

impl Workload {
    fn start() -> Result<Workload> {
        let script = "while :; do echo 0123456789; sleep 0.01; done | cat > /dev/null";
        let child =
            Command::new("bash").args(["-c", script]).process_group(0).stdin(Stdio::null()).spawn()?;
        Ok(Workload(child))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Its whole group; it may have ended.
        let _ = kill(Pid::from_raw(-(self.0.id() as i32)), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn json_has_rates_of_every_interval() -> Result<()> {
    let _workload = Workload::start()?;
    let output = run(&["top", "-f", "json", "-i", "0.5", "-d", "2.2", "-n", "cat", "-m", "pipe"])?;
    ensure!(output.status.success(), "{}", said(&output));
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let flows: Vec<_> = lines
        .iter()
        .filter(|line| {
            line["type"] == "flow" && line["sender"]["comm"] == "bash" && line["bytes"].as_u64() > Some(0)
        })
        .collect();
    ensure!(flows.len() >= 3, "an object an interval: {lines:?}");
    for flow in &flows {
        assert!(
            flow["rate_bytes"].as_f64() > Some(0.0) && flow["rate_messages"].as_f64() > Some(0.0),
            "{flow}"
        );
        assert_eq!(flow["receiver"]["comm"], "cat");
    }
    let totals: Vec<_> = flows
        .iter()
        .filter(|flow| flow["channel"] == flows[0]["channel"])
        .filter_map(|flow| flow["bytes"].as_u64())
        .collect();
    assert!(totals.is_sorted() && totals.first() < totals.last(), "{totals:?}");
    assert!(
        lines
            .iter()
            .all(|line| ["hello", "flow", "lost", "end"].contains(&line["type"].as_str().unwrap_or("")))
    );
    Ok(())
}

#[test]
fn without_a_terminal_there_are_blocks_and_a_count_is_of_refreshes() -> Result<()> {
    let _workload = Workload::start()?;
    let file = Scratch::new(".txt");
    let path = file.path().to_string_lossy().into_owned();
    for output in [None, Some(path.as_str())] {
        let mut arguments = vec!["top", "-i", "0.4", "-c", "3", "-m", "pipe"];
        arguments.extend(output.iter().flat_map(|path| ["-o", path]));
        let ran = run(&arguments)?;
        ensure!(ran.status.success(), "{}", said(&ran));
        let text = if output.is_some() {
            std::fs::read_to_string(&path)?
        } else {
            String::from_utf8(ran.stdout.clone())?
        };
        let headlines = text.lines().filter(|line| line.contains(" flows, ")).count();
        assert_eq!(headlines, 3, "{text}");
        assert!(text.contains("MECHANISM") && text.contains("cat["), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert!(said(&ran).contains("events in"), "{}", said(&ran));
    }
    Ok(())
}

#[test]
fn a_reader_that_has_gone_is_a_quiet_end() -> Result<()> {
    let _workload = Workload::start()?;
    let mut child = Command::new(binary()?)
        .args(["top", "-i", "0.2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    Ok(())
}

#[test]
fn wrong_intervals_are_wrong_usage() -> Result<()> {
    for interval in ["0", "-1", "nan", "0.01"] {
        let output = run(&["top", "-i", interval])?;
        assert_eq!(output.status.code(), Some(2), "{interval}: {}", said(&output));
    }
    Ok(())
}

/// The tracer on a terminal of its own.
struct Session {
    child: Child,
    keys: File,
    /// Kept open, so that what the terminal is set to can be asked after the end.
    terminal: OwnedFd,
    before: Termios,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Session {
    fn start(arguments: &[&str]) -> Result<Session> {
        let size = Winsize { ws_row: 30, ws_col: 130, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None)?;
        let before = tcgetattr(&slave)?;
        let mut command = Command::new(binary()?);
        command.arg("top").args(arguments).env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        let keys = File::from(master);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, into) = (keys.try_clone()?, Arc::clone(&written));
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                into.lock().expect("no panic while it is held").extend(&buffer[..count]);
            }
        });
        Ok(Session { child, keys, terminal: slave, before, written })
    }

    fn text(&self) -> String {
        self.since(0)
    }

    /// How many bytes it has written.
    fn count(&self) -> usize {
        self.written.lock().expect("no panic while it is held").len()
    }

    /// What it has written since there were so many bytes. Bytes, for a character may stand there in part.
    fn since(&self, count: usize) -> String {
        let written = self.written.lock().expect("no panic while it is held");
        String::from_utf8_lossy(written.get(count..).unwrap_or_default()).into_owned()
    }

    /// Waits until what is written from now on has the text.
    fn after(&mut self, keys: &str, text: &str) -> Result<()> {
        let before = self.count();
        self.keys.write_all(keys.as_bytes())?;
        pause_until(&format!("{text:?} after {keys:?}"), || {
            ensure!(self.child.try_wait()?.is_none(), "it ended: {}", self.text());
            Ok(self.since(before).contains(text))
        })
    }

    /// Its status once it has ended, if the terminal is as it was before.
    fn ended(mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(start.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(tcgetattr(&self.terminal)?, self.before, "the terminal is set as before");
        // What it wrote last may still be on its way to us.
        for (what, back, taken) in [
            ("the alternate screen is left", "\x1b[?1049l", "\x1b[?1049h"),
            ("the cursor is back", "\x1b[?25h", "\x1b[?25l"),
            ("long lines wrap again", "\x1b[?7h", "\x1b[?7l"),
        ] {
            pause_until(what, || {
                let text = self.text();
                Ok(text.rfind(back) > text.rfind(taken))
            })?;
        }
        Ok(status)
    }
}

#[test]
fn on_a_terminal_it_obeys_keys_and_leaves_no_trace() -> Result<()> {
    let _workload = Workload::start()?;
    let mut session = Session::start(&["-i", "0.3"])?;
    let start = Instant::now();
    session.after("", "\x1b[?1049h")?;
    println!("first screen after {:?}", start.elapsed());
    session.after("", "cat")?;
    session.after("m", "MSGS▼")?;
    session.after("m", "MSGS▲")?;
    session.after("b", "BYTES▼")?;
    session.after("l", "P99▼")?;
    session.after("r", "RATE/S▼")?;
    session.after("/no-such-flow", "no flow passes the filter")?;
    session.after("\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7fcat\r", " of ")?;
    session.after("p", "PAUSED")?;
    session.after("p", "pause")?;
    session.after("\x1b[6~\x1b[B\x1b[5~", "quit")?;
    session.keys.write_all(b"q")?;
    let status = session.ended()?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[test]
fn ctrl_c_and_signals_give_the_terminal_back() -> Result<()> {
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
    for end in [None].into_iter().chain(signals.map(Some)) {
        let mut session = Session::start(&["-i", "0.3"])?;
        session.after("", "events/s")?;
        match end {
            None => session.keys.write_all(b"\x03")?,
            Some(signal) => kill(Pid::from_raw(session.child.id() as i32), signal)?,
        }
        assert_eq!(session.ended()?.code(), Some(0), "{end:?}");
    }
    Ok(())
}

#[test]
fn stopped_it_gives_the_terminal_back_and_takes_it_again() -> Result<()> {
    let mut session = Session::start(&["-i", "0.3"])?;
    session.after("", "events/s")?;
    let pid = Pid::from_raw(session.child.id() as i32);
    kill(pid, Signal::SIGTSTP)?;
    pause_until("it stops", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    })?;
    assert_eq!(tcgetattr(&session.terminal)?, session.before);
    pause_until("the alternate screen is left", || {
        let text = session.text();
        Ok(text.rfind("\x1b[?1049l") > text.rfind("\x1b[?1049h"))
    })?;
    let before = session.count();
    kill(pid, Signal::SIGCONT)?;
    pause_until("it takes the terminal again", || {
        let new = session.since(before);
        Ok(new.contains("\x1b[?1049h") && new.contains("events/s"))
    })?;
    session.keys.write_all(b"q")?;
    session.ended()?;
    Ok(())
}

#[test]
fn a_terminal_that_is_closed_is_a_quiet_end_even_if_hangups_are_ignored() -> Result<()> {
    let _workload = Workload::start()?;
    for command in ["top", "trace"] {
        let OpenptyResult { master, slave } = openpty(None, None)?;
        // Else the tracer has that end as well.
        fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let script = format!("trap '' HUP; exec {} {command}", binary()?.display());
        let mut sh = Command::new("sh");
        sh.args(["-c", &script]).env("TERM", "xterm-256color");
        sh.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let mut child = sh.spawn()?;
        drop(sh);
        let mut screen = File::from(master);
        // Of either there is something to be seen by then.
        let mut seen = 0;
        while seen < 500 {
            seen += screen.read(&mut [0; 65536])?;
        }
        drop(screen);
        let ended = pause_until("it ends", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        ended?;
        assert_eq!(status.code(), Some(0), "{command}");
    }
    Ok(())
}
