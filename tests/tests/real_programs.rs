//! Real programs, none of ours: what Python's library makes of IPC, and a shell.
//!
//! The scripts in `python/` say in a report what their processes did: who moved how many bytes to whom, by what the calls
//! returned. The trace must hold each of these flows, once, and no other between processes of theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipctrace_tests::trace::{Scratch, Trace, lines, run, said};
use ipctrace_tests::{binary, pause_until, skip};
use serde_json::Value;

/// A flow: mechanism, sender, receiver.
type Pair = (String, u64, u64);

/// What a script did, and what was traced of it.
struct Play {
    report: Vec<Value>,
    lines: Vec<Value>,
}

/// A Python new enough for the scripts, if there is one. Where `python3` is a script that looks for it, this is what it
/// finds.
fn python() -> Option<PathBuf> {
    let script = "import sys; print(sys.executable); sys.exit(sys.version_info < (3, 9))";
    let output = Command::new("python3").args(["-c", script]).stderr(Stdio::null()).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (output.status.success() && path.exists()).then_some(path)
}

/// Plays a script under `ipctrace run`; `None` if there is no Python.
fn play(name: &str, script: &str) -> Result<Option<Play>> {
    let Some(python) = python() else {
        skip(name, "python3 (3.9 or newer) is not installed")?;
        return Ok(None);
    };
    let (source, report, trace) = (Scratch::new(".py"), Scratch::new(".report"), Scratch::new(".json"));
    fs::write(source.path(), [include_str!("python/prelude.py"), script].join("\n"))?;
    let mechanisms = traced_mechanisms()?.join(",");
    let output = Command::new(binary()?)
        .args(["run", "-f", "json", "-o"])
        .arg(trace.path())
        .arg("--")
        .arg(python)
        .args([source.path(), report.path()])
        .arg(mechanisms)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{name}: {}", said(&output));
    let report: Vec<Value> =
        read(report.path())?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let lines = lines(&read(trace.path())?)?;
    let lost = &lines.last().context("an end")?["lost"];
    ensure!(lost.as_object().is_some_and(serde_json::Map::is_empty), "the tracer lost something: {lost}");
    Ok(Some(Play { report, lines }))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The mechanisms that are on here.
fn traced_mechanisms() -> Result<Vec<String>> {
    let output = run(&["run", "-f", "json", "--", "true"])?;
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let mechanisms = lines[0]["mechanisms"].as_object().context("mechanisms in hello")?;
    Ok(mechanisms.iter().filter(|(_, state)| *state == "on").map(|(name, _)| name.clone()).collect())
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or(0)
}

impl Play {
    /// Lines of the trace of one type.
    fn of_type(&self, kind: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["type"] == kind).collect()
    }

    /// Lines of the report of one kind.
    fn told(&self, what: &str) -> Vec<&Value> {
        self.report.iter().filter(|line| line["what"] == what).collect()
    }

    /// Bytes by flow, as the processes have it.
    fn moved(&self) -> BTreeMap<Pair, u64> {
        let mut sums = BTreeMap::new();
        for line in self.told("moved") {
            let mechanism = line["mechanism"].as_str().unwrap_or_default().to_owned();
            let pair = (mechanism, number(line, "sender"), number(line, "receiver"));
            *sums.entry(pair).or_insert(0) += number(line, "bytes");
        }
        sums
    }

    /// Bytes by flow in lines of one type. 0 stands for no process.
    fn traced(&self, kind: &str) -> BTreeMap<Pair, u64> {
        let mut sums = BTreeMap::new();
        for line in self.of_type(kind) {
            let mechanism = line["mechanism"].as_str().unwrap_or_default().to_owned();
            if !matches!(mechanism.as_str(), "pipe" | "fifo" | "unix_stream" | "unix_dgram" | "tcp" | "udp") {
                continue;
            }
            let pair = (mechanism, number(&line["sender"], "pid"), number(&line["receiver"], "pid"));
            if pair.2 == 0 && self.told("unread").iter().any(|told| number(told, "sender") == pair.1) {
                continue;
            }
            *sums.entry(pair).or_insert(0) += number(line, "bytes");
        }
        sums
    }

    /// Every flow is there with the right processes and bytes, in transfers and in the summary, and no other.
    fn check_flows(&self) -> Result<()> {
        let moved = self.moved();
        ensure!(!moved.is_empty(), "the script moved nothing: there is nothing to compare");
        assert_eq!(self.traced("transfer"), moved, "transfers (left), what was done (right)");
        assert_eq!(self.traced("flow"), moved, "the summary (left), what was done (right)");
        let mut flows: Vec<String> = self
            .of_type("flow")
            .iter()
            .map(|line| {
                let pid = |end: &str| line[end]["pid"].clone();
                format!("{} {} {}", line["channel"]["id"], pid("sender"), pid("receiver"))
            })
            .collect();
        let count = flows.len();
        flows.sort();
        flows.dedup();
        ensure!(flows.len() == count, "a flow is told twice: {flows:?}");
        Ok(())
    }

    /// Exactly the wake-ups that were told happened, at semaphores whose files have lost their names.
    fn check_wakes(&self) -> Result<()> {
        let wakes = self.of_type("wake");
        for told in self.told("woken") {
            let (sender, receiver) = (number(told, "sender"), number(told, "receiver"));
            let between = wakes.iter().filter(|wake| {
                number(&wake["sender"], "pid") == sender && number(&wake["receiver"], "pid") == receiver
            });
            assert_eq!(between.count() as u64, number(told, "least"), "{sender} wakes {receiver}: {wakes:?}");
        }
        let expected: u64 = self.told("woken").iter().map(|told| number(told, "least")).sum();
        assert_eq!(wakes.len() as u64, expected, "{wakes:?}");
        for wake in wakes {
            let name = wake["channel"]["name"].as_str().unwrap_or_default();
            ensure!(name.starts_with("/dev/shm/sem.") && name.ends_with(" (deleted)"), "{wake}");
            ensure!(number(wake, "latency_ns") > 0, "{wake}");
        }
        Ok(())
    }
}

macro_rules! flows {
    ($($name:ident, $script:literal;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            match play(stringify!($name), include_str!(concat!("python/", $script)))? {
                Some(play) => play.check_flows(),
                None => Ok(()),
            }
        }
    )*};
}

flows! {
    python_pipe, "pipe.py";
    python_manager, "manager.py";
    python_socket_servers, "sockets.py";
}

#[test]
fn python_queue() -> Result<()> {
    let Some(play) = play("python_queue", include_str!("python/queue.py"))? else {
        return Ok(());
    };
    play.check_flows()?;
    play.check_wakes()
}

#[test]
fn python_value_and_array_with_a_lock() -> Result<()> {
    let name = "python_value_and_array_with_a_lock";
    let Some(play) = play(name, include_str!("python/lock.py"))? else {
        return Ok(());
    };
    ensure!(play.told("woken").iter().any(|told| number(told, "least") > 0), "nobody was woken");
    play.check_wakes()
}

#[test]
fn python_fifo() -> Result<()> {
    let Some(play) = play("python_fifo", include_str!("python/fifo.py"))? else {
        return Ok(());
    };
    play.check_flows()?;
    let sum: u64 = play.told("read").iter().map(|read| number(read, "bytes")).sum();
    assert_eq!(play.moved().into_values().sum::<u64>(), sum, "what was written was read");
    let named = play.told("named")[0]["name"].clone();
    assert!(play.of_type("transfer").iter().all(|line| line["channel"]["name"] == named), "{named}");
    Ok(())
}

#[test]
fn python_signals() -> Result<()> {
    let Some(play) = play("python_signals", include_str!("python/signals.py"))? else {
        return Ok(());
    };
    play.check_flows()?;
    let describe = |line: &Value, pid: fn(&Value) -> u64| {
        let (sender, receiver) = (pid(&line["sender"]), pid(&line["receiver"]));
        format!("{} {sender} {receiver} {} {}", line["signal"], line["outcome"], line["value"])
    };
    let told: Vec<String> =
        play.told("signal").iter().map(|line| describe(line, |pid| pid.as_u64().unwrap_or(0))).collect();
    let traced: Vec<String> = play
        .of_type("signal")
        .iter()
        .filter(|line| !line["sender"].is_null())
        .map(|line| describe(line, |process| number(process, "pid")))
        .collect();
    assert_eq!(traced, told);
    Ok(())
}

#[test]
fn a_wait_from_before_the_start_has_its_waker() -> Result<()> {
    let name = "a_wait_from_before_the_start_has_its_waker";
    let Some(python) = python() else {
        return skip(name, "python3 (3.9 or newer) is not installed");
    };
    let (source, report) = (Scratch::new(".py"), Scratch::new(".report"));
    let script = include_str!("python/before.py");
    fs::write(source.path(), [include_str!("python/prelude.py"), script].join("\n"))?;
    let mut child =
        Command::new(python).args([source.path(), report.path()]).stdin(Stdio::piped()).spawn()?;
    let told = || Ok(fs::read_to_string(report.path()).is_ok_and(|text| text.ends_with('\n')));
    pause_until("the process to wait", told)?;
    let trace = Trace::start(&["-m", "futex"])?;
    // The end of its input is what lets it go on.
    drop(child.stdin.take());
    ensure!(child.wait()?.success(), "the script failed");
    let lines = trace.stop()?;
    let told: Value = serde_json::from_str(&read(report.path())?)?;
    let wakes: Vec<&Value> = lines
        .iter()
        .filter(|line| line["type"] == "wake")
        .filter(|line| line["receiver"]["pid"] == told["receiver"])
        .collect();
    assert_eq!(wakes.len(), 1, "{wakes:?}");
    assert_eq!(wakes[0]["sender"]["pid"], told["sender"]);
    assert!(wakes[0]["latency_ns"].is_null(), "nobody knows: {}", wakes[0]);
    Ok(())
}

#[test]
fn a_pipeline_of_four() -> Result<()> {
    let script = "head -c 300000 /dev/zero | cat | tr '\\0' 'x' | wc -c";
    let output = run(&["run", "-f", "json", "--", "sh", "-c", script])?;
    ensure!(output.status.success(), "{}", said(&output));
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let flows: Vec<String> = lines
        .iter()
        .filter(|line| line["type"] == "flow" && line["mechanism"] == "pipe")
        .map(|line| format!("{} {} {}", line["sender"]["comm"], line["receiver"]["comm"], line["bytes"]))
        .collect();
    assert_eq!(flows.len(), 3, "{flows:?}");
    for (sender, receiver) in [("head", "cat"), ("cat", "tr"), ("tr", "wc")] {
        let flow = format!("{sender:?} {receiver:?} 300000");
        assert!(flows.contains(&flow), "{flow} is missing: {flows:?}");
    }
    Ok(())
}
