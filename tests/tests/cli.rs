//! The command line: what it prints, where, and with which exit status.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipctrace_tests::trace::{Scratch, Trace, lines, run, said};
use ipctrace_tests::{binary, pause_until, skip, slowed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

/// Events of a kind.
fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// Bytes from one command name to another.
fn bytes(lines: &[Value], sender: &str, receiver: &str) -> u64 {
    of_type(lines, "transfer")
        .iter()
        .filter(|line| line["sender"]["comm"] == sender && line["receiver"]["comm"] == receiver)
        .filter_map(|line| line["bytes"].as_u64())
        .sum()
}

#[test]
fn a_shell_pipeline_is_traced_to_the_byte() -> Result<()> {
    let output = run(&["run", "-f", "json", "--", "sh", "-c", "seq 1 200000 | sort -n | tail -1"])?;
    ensure!(output.status.success(), "{}", said(&output));
    ensure!(said(&output).lines().any(|line| line == "200000"), "the command's output goes to stderr");
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let written: u64 = (1..=200_000u32).map(|number| number.to_string().len() as u64 + 1).sum();
    assert_eq!(bytes(&lines, "seq", "sort"), written);
    assert_eq!(bytes(&lines, "sort", "tail"), written);
    let flows = of_type(&lines, "flow").iter().filter(|flow| flow["mechanism"] == "pipe").count();
    assert_eq!(flows, 2, "two pipes, one flow each");
    assert!(of_type(&lines, "signal").iter().all(|line| line["receiver"]["comm"] == "sh"));
    Ok(())
}

#[test]
fn jobserver_tokens_move_between_make_and_its_children() -> Result<()> {
    if Command::new("make").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("jobserver_tokens_move_between_make_and_its_children", "make is not installed");
    }
    let folder = Scratch::new(".make");
    fs::create_dir(folder.path())?;
    // Only a recipe that runs make is handed the jobserver.
    fs::write(
        folder.path().join("Makefile"),
        "all: a b c\na b c:\n\t+@$(MAKE) -s -f sub.mk\n.PHONY: all a b c\n",
    )?;
    fs::write(folder.path().join("sub.mk"), "all: x y z\nx y z:\n\t@sleep 0.05\n.PHONY: all x y z\n")?;
    let trace = Scratch::new(".json");
    let (folder_path, trace_path) = (folder.path().to_string_lossy(), trace.path().to_string_lossy());
    let output =
        run(&["run", "-f", "json", "-o", &trace_path, "--", "make", "-s", "-j4", "-C", &folder_path])?;
    let text = fs::read_to_string(trace.path())?;
    fs::remove_dir_all(folder.path())?;
    ensure!(output.status.success(), "{}", said(&output));
    let lines = lines(&text)?;
    let tokens: Vec<_> = of_type(&lines, "transfer")
        .into_iter()
        .filter(|line| line["mechanism"] == "pipe" || line["mechanism"] == "fifo")
        .filter(|line| line["sender"]["comm"] == "make" && line["receiver"]["comm"] == "make")
        .collect();
    let ends = |line: &Value| (line["sender"]["pid"].clone(), line["receiver"]["pid"].clone());
    assert!(tokens.iter().any(|line| ends(line).0 != ends(line).1), "tokens between processes: {tokens:?}");
    Ok(())
}

#[test]
fn the_status_of_run_is_the_commands() -> Result<()> {
    assert_eq!(run(&["run", "--", "sh", "-c", "exit 7"])?.status.code(), Some(7));
    assert_eq!(run(&["run", "--", "sh", "-c", "kill -TERM $$"])?.status.code(), Some(128 + 15));
    let missing = run(&["run", "-f", "json", "--", "/no/such/program"])?;
    assert_eq!(missing.status.code(), Some(127));
    // What we do to start it is none of its events.
    assert_eq!(lines(&String::from_utf8_lossy(&missing.stdout))?.len(), 2);
    assert!(said(&missing).contains("/no/such/program"), "{}", said(&missing));
    Ok(())
}

#[test]
fn the_command_has_the_priority_that_it_would_have() -> Result<()> {
    let usual = std::process::Command::new("nice").output()?.stdout;
    let file = Scratch::new(".txt");
    let path = file.path().to_string_lossy().into_owned();
    let output = run(&["run", "-o", &path, "--", "nice"])?;
    ensure!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&usual));
    Ok(())
}

#[test]
fn the_command_has_the_signals_that_it_would_have() -> Result<()> {
    // Of the first 28; those behind them that the C library uses for itself come and go.
    let show = r"sed -n 's/^\(Sig[BIC]..\):.*\(.......\)$/\1 \2/p' /proc/self/status";
    let tracer = format!("{} run -o /dev/null --", binary()?.display());
    for change in ["", "trap '' PIPE;", "trap '' PIPE CHLD ALRM XFSZ USR1 QUIT;"] {
        let shown = |through: &str| -> Result<String> {
            let script = format!("{change} exec {through} {show}");
            // SIGPIPE is as it is in shells, not as the runtime of these tests has it.
            let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output()?;
            ensure!(output.status.success(), "{}", said(&output));
            Ok(said_out(&output))
        };
        assert_eq!(shown(&tracer)?, shown("env")?, "{change}");
    }
    Ok(())
}

#[test]
fn interrupts_are_heeded_from_the_beginning() -> Result<()> {
    // As a shell has it for what it runs in the background.
    let script = format!("trap '' INT; exec {} trace -o /dev/null", binary()?.display());
    let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    // Before that it is the shell that would be told.
    let (place, tracer) = (format!("/proc/{pid}/exe"), binary()?.canonicalize()?);
    pause_until("the shell is the tracer", || Ok(fs::read_link(&place)? == tracer))?;
    pause_until("it ends", || {
        kill(pid, Signal::SIGINT)?;
        Ok(child.try_wait()?.is_some())
    })?;
    // Before it had anything to undo.
    assert_eq!(child.wait()?.signal(), Some(libc::SIGINT));
    Ok(())
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it() -> Result<()> {
    for milliseconds in [0, 20, 100, 200, 300, 400, 600, 1000] {
        for (arguments, signal) in [
            (&["trace", "-o", "/dev/null"][..], Signal::SIGTERM),
            (&["run", "-o", "/dev/null", "--", "sleep", "20"], Signal::SIGINT),
        ] {
            let mut child = Command::new(binary()?)
                .args(arguments)
                .process_group(0)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            std::thread::sleep(Duration::from_millis(milliseconds));
            // As from a terminal, to the whole group.
            kill(Pid::from_raw(-(child.id() as i32)), signal)?;
            let start = std::time::Instant::now();
            let status = child.wait()?;
            ensure!(start.elapsed() < slowed(Duration::from_secs(15)), "{arguments:?} went on");
            let number = status.signal().or_else(|| status.code().map(|code| code & 0x7f));
            assert!(number == Some(signal as i32) || status.success(), "{arguments:?}: {status}");
        }
    }
    Ok(())
}

#[test]
fn a_time_zone_that_has_no_end_is_none() -> Result<()> {
    let fifo = Scratch::new(".zone");
    nix::unistd::mkfifo(fifo.path(), nix::sys::stat::Mode::S_IRWXU)?;
    for zone in ["/dev/zero".into(), fifo.path().display().to_string()] {
        let mut child = Command::new(binary()?)
            .args(["trace", "-d", "0.1"])
            .env("TZ", format!(":{zone}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let ended = pause_until("it ends", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        ended.context(zone)?;
        assert!(status.success());
    }
    Ok(())
}

#[test]
fn wrong_usage_is_one_line_with_the_remedy_and_status_2() -> Result<()> {
    let unknown = run(&["trace", "-m", "pipes"])?;
    assert_eq!(unknown.status.code(), Some(2));
    let message = said(&unknown);
    assert!(message.contains("unknown mechanism 'pipes'") && message.contains("unix_stream"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(run(&["trace", "-x", "5000"])?.status.code(), Some(2));
    assert_eq!(run(&["demo", "nothing"])?.status.code(), Some(2));
    Ok(())
}

/// Runs the binary as the user nobody.
fn as_nobody(arguments: &[&str]) -> Result<std::process::Output> {
    let copy = Scratch::new(".bin");
    fs::copy(binary()?, copy.path())?;
    let mut command = Command::new(copy.path());
    Ok(command.args(arguments).uid(65_534).gid(65_534).stdin(Stdio::null()).output()?)
}

#[test]
fn without_root_it_says_what_to_do() -> Result<()> {
    let output = as_nobody(&["trace", "-d", "1"])?;
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("sudo") && said(&output).lines().count() == 1, "{}", said(&output));
    for help in [["--help"].as_slice(), &["--version"], &["demo", "--list"]] {
        assert!(as_nobody(help)?.status.success(), "{help:?}");
    }
    Ok(())
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() -> Result<()> {
    let mut child = Command::new(binary()?)
        .args(["trace", "-f", "json", "-d", "20"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut first)?;
    assert!(first.contains("\"hello\""));
    // The reader is gone. What happens now cannot be told to anybody.
    pause_until("the tracer ends", || {
        let _ = Command::new("sh").args(["-c", "echo x | cat > /dev/null"]).status();
        Ok(child.try_wait()?.is_some())
    })?;
    let output = child.wait_with_output()?;
    assert!(output.status.success());
    assert_eq!(said(&output), "");
    Ok(())
}

#[test]
fn a_full_disk_is_said_and_its_losses_are_counted() -> Result<()> {
    let output =
        run(&["run", "-f", "json", "-o", "/dev/full", "--", "sh", "-c", "seq 1 100 | cat > /dev/null"])?;
    assert!(output.status.success(), "{}", said(&output));
    let message = said(&output);
    assert!(message.contains("/dev/full") && message.contains("No space left"), "{message}");
    assert!(message.contains("write-failed: "), "{message}");
    // There is no command whose status it could have.
    for command in ["trace", "top"] {
        let output = run(&[command, "-f", "json", "-o", "/dev/full", "-d", "0.3"])?;
        assert_eq!(output.status.code(), Some(3), "{command}: {}", said(&output));
    }
    Ok(())
}

#[test]
fn of_a_full_disk_only_events_are_counted() -> Result<()> {
    // Losses become known again and again, each of them a line that cannot be written either.
    let script = "for i in 1 2 3 4 5; do seq 1 100 | cat > /dev/null; sleep 0.2; done";
    let output = run(&["run", "-f", "json", "-m", "pipe", "-o", "/dev/full", "--", "sh", "-c", script])?;
    let message = said(&output);
    let counts = message.lines().last().context("the totals")?;
    let events = counts.strip_prefix("ipctrace: ").and_then(|rest| rest.split(' ').next());
    let events: u64 = events.context("how many events")?.parse()?;
    ensure!(events > 0, "{message}");
    assert!(counts.ends_with(&format!("{events} lost (write-failed: {events})")), "{message}");
    Ok(())
}

#[test]
fn a_file_that_may_not_grow_is_a_full_disk() -> Result<()> {
    let file = Scratch::new(".json");
    let script = "for i in 1 2 3 4 5 6 7 8 9; do seq 1 1000 | cat > /dev/null; done";
    let (tracer, path) = (binary()?, file.path().display());
    // In blocks of 512 bytes.
    let limited =
        format!("ulimit -f 10; exec {} run --every -f json -o {path} -- sh -c '{script}'", tracer.display());
    let output = Command::new("sh").args(["-c", &limited]).stdin(Stdio::null()).output()?;
    let message = said(&output);
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("File too large") && message.contains("ulimit -f"), "{message}");
    assert!(message.contains("write-failed: "), "{message}");
    let text = fs::read_to_string(file.path())?;
    ensure!(text.ends_with('\n') && text.lines().count() > 1, "{text}");
    for line in text.lines() {
        serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// Waits until a process sleeps in write(2), and has for a while.
fn until_it_cannot_write(pid: Pid) -> Result<()> {
    let mut times = 0;
    pause_until("it sleeps in a write", || {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
        times = if call.starts_with(&format!("{} ", libc::SYS_write)) { times + 1 } else { 0 };
        Ok(times > 20)
    })
}

/// Makes events, far more than a pipe and the tracer's buffer hold.
const FLOOD: &str = "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo 0123456789; done | cat > /dev/null";

#[test]
fn it_ends_when_told_although_its_output_is_stuck() -> Result<()> {
    let flood = ["run", "-f", "json", "--every", "--", "sh", "-c", FLOOD];
    for (arguments, code) in [(&["trace", "-f", "json", "--every"][..], 3), (&flood, 0)] {
        let (mut reader, writer) = std::io::pipe()?;
        let mut child = Command::new(binary()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()?;
        ensure!(reader.read(&mut [0; 1])? == 1, "it does not begin");
        if arguments[0] == "trace" {
            Command::new("sh").args(["-c", FLOOD]).status()?;
        }
        let pid = Pid::from_raw(child.id() as i32);
        until_it_cannot_write(pid)?;
        // Of run it is passed on to the command, which has ended by then.
        kill(pid, Signal::SIGTERM)?;
        let ended = pause_until("it ends", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        ended?;
        let message = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(
            message.contains("nothing more was taken") && message.contains("write-failed: "),
            "{message}"
        );
        drop(reader);
    }
    Ok(())
}

#[test]
fn a_signal_that_the_command_survives_changes_nothing() -> Result<()> {
    let (up, go) = (Scratch::new(".up"), Scratch::new(".go"));
    let script = format!(
        "trap : HUP; : > {}; while [ ! -e {} ]; do sleep 0.05; done; {FLOOD}",
        up.path().display(),
        go.path().display()
    );
    let (mut reader, writer) = std::io::pipe()?;
    let mut child = Command::new(binary()?)
        .args(["run", "-f", "json", "--every", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(writer)
        .spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    pause_until("the command is there", || Ok(up.path().exists()))?;
    kill(pid, Signal::SIGHUP)?;
    std::thread::sleep(Duration::from_millis(300));
    fs::write(go.path(), [])?;
    until_it_cannot_write(pid)?;
    // Longer than it waits when it is to end: of a write that has begun, and of the next.
    std::thread::sleep(Duration::from_millis(2500));
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    assert_eq!(child.wait()?.code(), Some(0));
    let end = lines(&text)?.pop().context("no line")?;
    assert_eq!((&end["type"], &end["lost"]), (&Value::from("end"), &serde_json::json!({})), "{end}");
    Ok(())
}

#[test]
fn the_status_is_the_commands_though_children_are_ignored() -> Result<()> {
    let script = format!("trap '' CHLD; exec {} run -o /dev/null -- sh -c 'exit 7'", binary()?.display());
    let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output()?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    Ok(())
}

#[test]
fn it_ends_when_told_although_its_terminal_is_stopped() -> Result<()> {
    // Both of its outputs are stuck.
    let pty = nix::pty::openpty(None, None)?;
    let mut command = Command::new(binary()?);
    command.args(["trace", "--every"]).stdin(Stdio::null());
    let mut child = command.stdout(pty.slave.try_clone()?).stderr(pty.slave).spawn()?;
    drop(command);
    let pid = Pid::from_raw(child.id() as i32);
    let mut floods = Vec::new();
    let stuck = pause_until("it sleeps in a write", || {
        floods.push(Command::new("sh").args(["-c", FLOOD]).spawn()?);
        std::thread::sleep(Duration::from_millis(500));
        Ok(fs::read_to_string(format!("/proc/{pid}/syscall"))?.starts_with(&format!("{} ", libc::SYS_write)))
    });
    kill(pid, Signal::SIGTERM)?;
    let ended = stuck.and_then(|()| pause_until("it ends", || Ok(child.try_wait()?.is_some())));
    if ended.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    for mut flood in floods {
        flood.wait()?;
    }
    ended?;
    assert_eq!(status.code(), Some(3));
    Ok(())
}

#[test]
fn a_fifo_that_nobody_reads_can_be_given_up() -> Result<()> {
    let fifo = Scratch::new(".fifo");
    nix::unistd::mkfifo(fifo.path(), nix::sys::stat::Mode::S_IRWXU)?;
    let mut child = Command::new(binary()?)
        .args(["trace", "-f", "json", "-o"])
        .arg(fifo.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Where open(2) sleeps, in one function or in that which has taken it in: fs/pipe.c.
    let place = format!("/proc/{}/wchan", child.id());
    let waits = pause_until("it waits for a reader", || {
        Ok(["wait_for_partner", "fifo_open"].contains(&fs::read_to_string(&place)?.as_str()))
    });
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
    let status = child.wait()?;
    waits?;
    assert_eq!(status.signal(), Some(15));
    Ok(())
}

#[test]
fn what_is_to_outlive_its_terminal_does() -> Result<()> {
    // As nohup has it.
    let script = format!(
        "trap '' HUP; exec {} run -o /dev/null -- sh -c 'kill -HUP $$ $PPID; echo on'",
        binary()?.display()
    );
    let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output()?;
    assert_eq!((output.status.code(), said_out(&output).as_str()), (Some(0), "on"), "{}", said(&output));
    Ok(())
}

#[test]
fn duration_and_count_end_it() -> Result<()> {
    let output = run(&["trace", "-f", "json", "-d", "0.3"])?;
    assert!(output.status.success());
    lines(&String::from_utf8(output.stdout)?)?;
    let output = run(&[
        "run",
        "-f",
        "json",
        "-c",
        "3",
        "--",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6; do echo $i | cat > /dev/null; done",
    ])?;
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let events = lines
        .iter()
        .filter(|line| !["hello", "flow", "lost", "end"].iter().any(|kind| line["type"] == *kind));
    assert_eq!(events.count(), 3);
    Ok(())
}

#[test]
fn what_was_queued_before_the_start_is_credited_to_nobody_exactly() -> Result<()> {
    // 12,345 bytes wait in a pipe; the reader sleeps in the read of another one. Then tracing begins.
    let script = "head -c 12345 /dev/zero; read line < \"$0\"; head -c 1000 /dev/zero";
    let gate = Scratch::new(".gate");
    nix::unistd::mkfifo(gate.path(), nix::sys::stat::Mode::S_IRWXU)?;
    let mut writer =
        Command::new("sh").args(["-c", script]).arg(gate.path()).stdout(Stdio::piped()).spawn()?;
    let mut pipe = writer.stdout.take().context("a pipe")?;
    let inode = nix::sys::stat::fstat(&pipe)?.st_ino;
    pause_until("the writer waits at the gate", || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", writer.id()))?;
        Ok(call.starts_with(&format!("{} ", libc::SYS_openat)))
    })?;
    let trace = Trace::start(&[])?;
    fs::write(gate.path(), "go\n")?;
    let mut taken = Vec::new();
    pipe.read_to_end(&mut taken)?;
    writer.wait()?;
    let lines = trace.stop()?;
    assert_eq!(taken.len(), 13_345);
    let id = format!("pipe:[{inode}]");
    let sum = |before: bool| -> u64 {
        of_type(&lines, "transfer")
            .iter()
            .filter(|line| line["channel"]["id"] == id.as_str())
            .filter(|line| (line["sender_why"] == "before-start") == before)
            .inspect(|line| assert!(line["receiver"]["pid"] == std::process::id()))
            .filter_map(|line| line["bytes"].as_u64())
            .sum()
    };
    assert_eq!((sum(true), sum(false)), (12_345, 1000));
    Ok(())
}

#[test]
fn datagrams_queued_before_the_start_are_credited_to_nobody_exactly() -> Result<()> {
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    for len in [100, 200, 300] {
        sender.send(&vec![b'x'; len])?;
    }
    let trace = Trace::start(&["-m", "udp"])?;
    sender.send(&[b'y'; 50])?;
    for len in [100, 200, 300, 50] {
        ensure!(
            receiver.recv(&mut [0; 1000])? == len,
            "the datagrams come in the order in which they were sent"
        );
    }
    let lines = trace.stop()?;
    let own = std::process::id();
    let told: Vec<(u64, &str, bool)> = of_type(&lines, "transfer")
        .into_iter()
        .filter(|line| line["receiver"]["pid"] == own)
        .map(|line| {
            let known = line["sender"]["pid"] == own;
            let why = if known { "known" } else { line["sender_why"].as_str().unwrap_or_default() };
            (line["bytes"].as_u64().unwrap_or(0), why, line["exact"] == true)
        })
        .collect();
    let before = |len| (len, "before-start", true);
    assert_eq!(told, [before(100), before(200), before(300), (50, "known", true)]);
    Ok(())
}

#[test]
fn a_writer_blocked_since_before_the_start_is_credited_for_the_rest() -> Result<()> {
    // The writer's one call of 200,000 bytes has put 65,536 into the pipe and waits when tracing begins.
    let mut writer = Command::new("dd")
        .args(["if=/dev/zero", "bs=200000", "count=1", "status=none"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = writer.stdout.take().context("a pipe")?;
    let inode = nix::sys::stat::fstat(&pipe)?.st_ino;
    pause_until("the writer waits for room", || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", writer.id()))?;
        Ok(call.starts_with(&format!("{} 0x1 ", libc::SYS_write)))
    })?;
    std::thread::sleep(Duration::from_millis(50));
    let trace = Trace::start(&[])?;
    let mut taken = Vec::new();
    pipe.read_to_end(&mut taken)?;
    writer.wait()?;
    let lines = trace.stop()?;
    assert_eq!(taken.len(), 200_000);
    let id = format!("pipe:[{inode}]");
    let sum = |sender: Option<&str>| -> u64 {
        of_type(&lines, "transfer")
            .iter()
            .filter(|line| line["channel"]["id"] == id.as_str() && line["sender"]["comm"].as_str() == sender)
            .filter_map(|line| line["bytes"].as_u64())
            .sum()
    };
    assert_eq!((sum(None), sum(Some("dd"))), (65_536, 134_464), "{lines:?}");
    Ok(())
}

#[test]
fn a_tcp_connection_with_bytes_under_way_is_split_at_the_start() -> Result<()> {
    // 5000 bytes wait in each direction when tracing begins. Forth, the sender goes on first; back, the receiver.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(&[1; 5000])?;
    server.write_all(&[1; 5000])?;
    let forth = format!("tcp:{}->{}", client.local_addr()?, client.peer_addr()?);
    let back = format!("tcp:{}->{}", client.peer_addr()?, client.local_addr()?);
    let trace = Trace::start(&["-m", "tcp"])?;
    let mut taken = [0; 6000];
    client.write_all(&[2; 1000])?;
    server.read_exact(&mut taken)?;
    client.read_exact(&mut taken[..2000])?;
    server.write_all(&[2; 1000])?;
    client.read_exact(&mut taken[2000..])?;
    let lines = trace.stop()?;
    for id in [forth, back] {
        let sum = |before: bool| -> u64 {
            of_type(&lines, "transfer")
                .iter()
                .filter(|line| line["channel"]["id"] == id.as_str())
                .filter(|line| (line["sender_why"] == "before-start") == before)
                .inspect(|line| assert!(line["receiver"]["pid"] == std::process::id()))
                .filter_map(|line| line["bytes"].as_u64())
                .sum()
        };
        assert_eq!((sum(true), sum(false)), (5000, 1000), "{id}");
    }
    Ok(())
}

#[test]
fn hostile_names_and_payload_cannot_reach_the_terminal() -> Result<()> {
    let script = "printf '\\033[2J\\033]0;x\\007\\n' > /proc/self/comm; printf '\\033[31mred\\n\\377' | cat > /dev/null";
    let output = run(&["run", "-x", "100", "--", "bash", "-c", script])?;
    ensure!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("\\x1b") || text.contains("\\u{1b}") || text.contains("\\033"), "{text}");
    let bad = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(bad, None, "{text:?}");
    Ok(())
}

#[test]
fn the_payload_is_the_start_of_what_was_sent() -> Result<()> {
    let output =
        run(&["run", "-f", "json", "-x", "5", "--", "sh", "-c", "printf 'hello world' | cat > /dev/null"])?;
    let lines = lines(&String::from_utf8(output.stdout)?)?;
    let transfers = of_type(&lines, "transfer");
    let hello = transfers.iter().find(|line| line["bytes"] == 11).context("the transfer")?;
    assert_eq!((&hello["payload"], &hello["payload_total"]), (&"hello".into(), &11.into()));
    Ok(())
}

#[test]
fn nothing_stays_attached_after_kill_9() -> Result<()> {
    ensure!(geteuid().is_root());
    let trace = Trace::start(&[])?;
    let loaded = || -> Result<usize> { Ok(said_out(&run(&["doctor", "--leftovers"])?).lines().count()) };
    ensure!(loaded()? > 0, "a running tracer has programs loaded");
    kill(trace.pid(), Signal::SIGKILL)?;
    pause_until("the kernel unloads the programs", || Ok(loaded()? == 0))
}

fn said_out(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn other_signals_end_it_like_ctrl_c() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let trace = Trace::start(&["-s"])?;
        kill(trace.pid(), signal)?;
        // The second signal finds it ending, or gone.
        let lines = trace
            .stop()
            .or_else(|error| if error.to_string().contains("ESRCH") { Ok(Vec::new()) } else { Err(error) })?;
        assert!(lines.is_empty() || lines.last().is_some_and(|line| line["type"] == "end"));
    }
    Ok(())
}

#[test]
fn its_own_output_makes_no_events() -> Result<()> {
    // The trace goes through two pipes to a file. Were its own lines traced, each would make others without end.
    let file = Scratch::new(".json");
    // `cat` by a name that nothing else on the host has.
    let name = format!("relay-{}", std::process::id());
    let relay = std::env::temp_dir().join(&name);
    symlink("/bin/cat", &relay)?;
    let tracer = binary()?;
    let (tracer, relayed, to) = (tracer.display(), relay.display(), file.path().display());
    let command = format!("'{tracer}' trace -f json -d 1 | '{relayed}' | '{relayed}' > '{to}'");
    let status = Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status();
    fs::remove_file(&relay)?;
    assert!(status?.success());
    let lines = lines(&fs::read_to_string(file.path())?)?;
    let own = of_type(&lines, "transfer").iter().filter(|line| line["sender"]["comm"] == *name).count();
    assert_eq!(own, 0, "{lines:?}");
    Ok(())
}

#[test]
fn filters_name_the_other_end_too() -> Result<()> {
    let trace = Trace::start(&["-n", "sort", "-m", "pipe"])?;
    Command::new("sh")
        .args(["-c", "seq 1 1000 | sort | cat > /dev/null; seq 1 10 | cat > /dev/null"])
        .status()?;
    let lines = trace.stop()?;
    let transfers = of_type(&lines, "transfer");
    assert!(bytes(&lines, "seq", "sort") > 0 && bytes(&lines, "sort", "cat") > 0);
    assert!(
        transfers.iter().all(|line| line["sender"]["comm"] == "sort" || line["receiver"]["comm"] == "sort")
    );
    assert!(of_type(&lines, "signal").is_empty());
    Ok(())
}

#[test]
fn every_demo_agrees_with_its_trace() -> Result<()> {
    let output = run(&["demo", "all"])?;
    let text = said_out(&output);
    assert!(output.status.success(), "{text}\n{}", said(&output));
    assert!(text.contains("signals") && !text.contains(" NO "), "{text}");
    Ok(())
}

#[test]
fn a_demo_is_shown_in_what_the_locale_has() -> Result<()> {
    for (locale, ascii) in [("C", true), ("C.UTF-8", false)] {
        let output = Command::new(binary()?)
            .args(["demo", "pipe"])
            .env("LC_ALL", locale)
            .stdin(Stdio::null())
            .output()?;
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(output.stdout.is_ascii(), ascii, "{locale}: {}", said_out(&output));
    }
    Ok(())
}

#[test]
fn doctor_tells_each_mechanism_and_each_hook() -> Result<()> {
    let output = run(&["doctor"])?;
    let text = said_out(&output);
    assert!(output.status.success(), "{text}");
    for word in ["pipe", "unix_seqpacket", "process_vm", "io_uring", "sys_enter", "signal_deliver"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    Ok(())
}

#[test]
fn a_signal_that_ends_the_command_is_its_status() -> Result<()> {
    let status = run(&["run", "--", "sh", "-c", "kill -KILL $$"])?.status;
    assert_eq!((status.code(), status.signal()), (Some(137), None));
    Ok(())
}

#[test]
fn a_signal_that_is_passed_on_has_us_for_its_sender() -> Result<()> {
    let file = Scratch::new(".json");
    let mut child = Command::new(binary()?)
        .args(["run", "-f", "json", "-o"])
        .arg(file.path())
        .args(["--", "sh", "-c", "echo ready; exec sleep 100"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut String::new())?;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
    assert_eq!(child.wait()?.code(), Some(128 + 15));
    let lines = lines(&fs::read_to_string(file.path())?)?;
    let told: Vec<_> = of_type(&lines, "signal").into_iter().filter(|line| line["number"] == 15).collect();
    let [signal] = told[..] else { anyhow::bail!("not one SIGTERM: {told:?}") };
    assert_eq!((&signal["sender"]["pid"], &signal["outcome"]), (&child.id().into(), &"delivered".into()));
    assert!(signal["latency_ns"].is_u64(), "{signal}");
    Ok(())
}

#[test]
fn a_signal_that_ends_the_trace_is_delivered() -> Result<()> {
    let trace = Trace::start(&["-m", "signal"])?;
    let tracer = trace.pid().as_raw();
    let lines = trace.stop()?;
    let told: Vec<_> =
        of_type(&lines, "signal").into_iter().filter(|line| line["receiver"]["pid"] == tracer).collect();
    let [signal] = told[..] else { anyhow::bail!("not one signal: {told:?}") };
    assert_eq!((&signal["signal"], &signal["outcome"]), (&"SIGINT".into(), &"delivered".into()));
    assert_eq!(signal["sender"]["pid"], std::process::id());
    Ok(())
}

#[test]
fn ctrl_c_and_ctrl_backslash_leave_the_command_its_say() -> Result<()> {
    // As a terminal does: the signal goes to the whole group. The command handles it and ends with 5.
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let script = "trap 'exit 5' INT QUIT; echo ready >&2; while :; do sleep 0.05; done";
        let mut child = Command::new(binary()?)
            .args(["run", "--", "sh", "-c", script])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stderr = BufReader::new(child.stderr.take().context("a pipe")?);
        let mut line = String::new();
        stderr.read_line(&mut line)?;
        assert_eq!(line, "ready\n");
        kill(Pid::from_raw(-(child.id() as i32)), signal)?;
        let mut rest = String::new();
        stderr.read_to_string(&mut rest)?;
        assert_eq!(child.wait()?.code(), Some(5), "{signal}: {rest}");
        assert!(rest.contains("lost"), "it reports: {rest}");
    }
    Ok(())
}

#[test]
fn reports_end_quietly_with_their_reader_and_say_when_the_disk_is_full() -> Result<()> {
    for arguments in [["doctor"].as_slice(), &["demo", "--list"], &["demo", "pipe"], &["--help"]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = Command::new(binary()?);
        let output =
            command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn()?;
        let output = output.wait_with_output()?;
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
    for arguments in [["doctor"].as_slice(), &["demo", "--list"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full")?;
        let output = Command::new(binary()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert_eq!(
            said(&output),
            "ipctrace: writing to standard output: No space left on device (os error 28)"
        );
    }
    Ok(())
}

#[test]
fn without_btf_it_says_what_to_do() -> Result<()> {
    // In a mount namespace of its own, where the folder is empty.
    let script = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    let run = |arguments: &[&str]| -> Result<std::process::Output> {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(binary()?).args(arguments);
        Ok(command.stdin(Stdio::null()).output()?)
    };
    if Command::new("unshare").args(["-m", "true"]).status().is_err() {
        return skip("without_btf_it_says_what_to_do", "the command unshare (util-linux) is not installed");
    }
    let output = run(&["trace", "-d", "1"])?;
    let message = said(&output);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("CONFIG_DEBUG_INFO_BTF") && message.lines().count() == 1, "{message}");
    let doctor = run(&["doctor"])?;
    assert_eq!(doctor.status.code(), Some(3), "{}", said(&doctor));
    Ok(())
}

#[test]
fn capabilities_do_in_place_of_root() -> Result<()> {
    const NAME: &str = "capabilities_do_in_place_of_root";
    const NOBODY: &str = "65534";
    let nobody_with = |capabilities: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        command.args(["--bounding-set", &format!("-all,{capabilities}")]).stdin(Stdio::null());
        command
    };
    // As README.md has them.
    let enough = "+bpf,+perfmon,+sys_ptrace,+dac_read_search";
    if !nobody_with(enough).arg("true").output().is_ok_and(|output| output.status.success()) {
        return skip(NAME, "there is no setpriv (util-linux) that knows CAP_BPF and CAP_PERFMON");
    }
    let arguments = ["run", "-f", "json", "--", "sh", "-c", "echo hi | cat"];
    let output = nobody_with(enough).arg(binary()?).args(arguments).output()?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let all = lines(&String::from_utf8_lossy(&output.stdout))?;
    let is_it = |line: &Value| {
        let comm = |end: &str| line[end]["comm"].as_str().map(str::to_owned);
        line["mechanism"] == "pipe"
            && line["bytes"] == 3
            && line["sender"]["uid"] == 65534
            && (comm("sender"), comm("receiver")) == (Some("sh".to_owned()), Some("cat".to_owned()))
    };
    assert!(all.iter().any(is_it), "{all:?}");
    let output = nobody_with("+bpf").arg(binary()?).args(arguments).output()?;
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("CAP_PERFMON"), "{}", said(&output));
    // With less than all of them it says what it does without.
    for (less, lack) in [
        ("+bpf,+perfmon,+dac_read_search", "CAP_SYS_PTRACE"),
        ("+bpf,+perfmon,+sys_ptrace", "CAP_DAC_READ_SEARCH"),
    ] {
        let output = nobody_with(less).arg(binary()?).args(arguments).output()?;
        assert!(output.status.success() && said(&output).contains(lack), "{less}: {}", said(&output));
        let doctor = nobody_with(less).arg(binary()?).arg("doctor").output()?;
        assert!(said_out(&doctor).contains(lack), "{less}: {}", said_out(&doctor));
    }
    assert!(!said(&nobody_with(enough).arg(binary()?).args(arguments).output()?).contains("without"));
    Ok(())
}

#[test]
fn in_a_container_it_says_what_to_do() -> Result<()> {
    const NAME: &str = "in_a_container_it_says_what_to_do";
    let cases: [(&[&str], &str); 3] = [
        (&["unshare", "--user", "--map-root-user"], "a user namespace of its own"),
        (&["unshare", "--pid", "--fork", "--mount-proc"], "--pid=host"),
        // Root without capabilities.
        (
            &["setpriv", "--inh-caps", "-all", "--ambient-caps", "-all", "--bounding-set", "-all"],
            "give them to the container",
        ),
    ];
    for (within, remedy) in cases {
        let words = |rest: &[&str]| {
            Command::new(within[0]).args(&within[1..]).args(rest).stdin(Stdio::null()).output()
        };
        if !words(&["true"]).is_ok_and(|output| output.status.success()) {
            return skip(
                NAME,
                &format!("{} (util-linux) is not there, or the kernel refuses it", within.join(" ")),
            );
        }
        let binary = binary()?;
        let binary = binary.to_str().context("a path of text")?;
        let trace = words(&[binary, "run", "--", "true"])?;
        assert_eq!(trace.status.code(), Some(3), "{within:?}: {}", said(&trace));
        assert!(said(&trace).contains(remedy) && said(&trace).lines().count() == 1, "{}", said(&trace));
        let doctor = words(&[binary, "doctor"])?;
        assert_eq!(doctor.status.code(), Some(3), "{within:?}");
        assert!(said_out(&doctor).contains(remedy), "{}", said_out(&doctor));
    }
    Ok(())
}

#[test]
fn times_are_right_in_a_time_namespace() -> Result<()> {
    const NAME: &str = "times_are_right_in_a_time_namespace";
    const SHIFTED: [&str; 5] = ["unshare", "--fork", "--time", "--boottime", "1000000"];
    if !Command::new(SHIFTED[0]).args(&SHIFTED[1..]).arg("true").status().is_ok_and(|status| status.success())
    {
        return skip(NAME, "there is no unshare (util-linux) or no kernel that knows time namespaces");
    }
    let time_of_transfer = |within: &[&str]| -> Result<String> {
        let binary = binary()?;
        let words = [within, &[binary.to_str().context("a path of text")?]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["run", "-f", "json", "--", "sh", "-c", "echo hi | cat"]);
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", said(&output));
        let all = lines(&String::from_utf8_lossy(&output.stdout))?;
        let transfer = all.iter().find(|line| line["type"] == "transfer" && line["mechanism"] == "pipe");
        Ok(transfer.and_then(|line| line["time"].as_str()).context("no transfer")?.to_owned())
    };
    // All of one length, in UTC: they sort as they are.
    let times = [time_of_transfer(&[])?, time_of_transfer(&SHIFTED)?, time_of_transfer(&[])?];
    assert!(times.is_sorted(), "{times:?}");
    Ok(())
}
