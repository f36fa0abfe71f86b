//! Processes that choose their names and data to harm whoever looks at the trace, at full speed.
//!
//! Nothing but newlines and our own colours may reach a terminal, whatever they choose.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipctrace_tests::binary;
use ipctrace_tests::trace::{Scratch, lines, said};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// Names: escape sequences that clear the screen, set its title and ask it to answer; newlines and carriage returns; C1
/// control characters in UTF-8 and by themselves; a text direction override; bytes that are no UTF-8.
const NAMES: [&[u8]; 5] = [
    b"\x1b[2J\x1b]0;x\x07",
    b"a\nb\r\x08\x7f\x1bc",
    b"\xc2\x9b6n\xc2\x9d0;x\x9c",
    b"\xe2\x80\xae\x9b31m\xff\xfe",
    b"\x0e\x1b(0\x1b[?1049h",
];

/// Bytes that each program writes.
const BYTES: &str = "4000000";

/// A folder of programs with such names, which is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let folder = Folder(Scratch::new(".hostile").path().clone());
        fs::create_dir(&folder.0)?;
        for name in NAMES {
            std::os::unix::fs::symlink("/usr/bin/yes", folder.0.join(OsStr::from_bytes(name)))?;
        }
        Ok(folder)
    }

    /// A shell command: each program writes its name again and again, and its output goes through a pipe and a FIFO of such a
    /// name, in pieces of any size, while other processes of that name come and go.
    fn script(&self) -> Vec<u8> {
        let folder = self.0.as_os_str().as_bytes();
        let mut script = Vec::new();
        for name in NAMES {
            let program = [b"'", folder, b"/", name, b"'"].concat();
            let fifo = [b"'", folder, b"/fifo", name, b"'"].concat();
            script.extend_from_slice(
                &[b"mkfifo ", fifo.as_slice(), b"; cat ", &fifo, b" > /dev/null & "].concat(),
            );
            let words = [b"'", name, name, b"'"].concat();
            script.extend_from_slice(
                &[
                    program.as_slice(),
                    b" ",
                    &words,
                    b" | head -c ",
                    BYTES.as_bytes(),
                    b" | cat > ",
                    &fifo,
                    b" & ",
                ]
                .concat(),
            );
        }
        script.extend_from_slice(b"wait");
        script
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The tracer on that workload, with payload.
fn tracer(folder: &Folder, options: &[&OsStr]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(["run", "-s", "-x", "4096"]).args(options).args(["--", "bash", "-c"]);
    command.arg(OsStr::from_bytes(&folder.script())).stdin(Stdio::null());
    Ok(command)
}

/// Looks for what a terminal would obey: anything but printable characters, newlines and, if `colour`, SGR sequences.
#[derive(Default)]
struct Watch {
    /// Not looked at yet: the rest may still come.
    rest: Vec<u8>,
    seen: u64,
    colours: u64,
}

impl Watch {
    fn look(&mut self, bytes: &[u8], colour: bool) -> Result<()> {
        self.seen += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
        // Lines are whole: no sequence and no character of ours goes over their end.
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let text = std::str::from_utf8(&whole).context("the output is no UTF-8")?;
        let mut parts = text.split('\x1b');
        let check = |part: &str| -> Result<()> {
            let bad = part
                .chars()
                .find(|one| one.is_control() && *one != '\n' || "\u{202e}\u{200b}".contains(*one));
            ensure!(bad.is_none(), "{bad:?} in {:?}", part.chars().take(300).collect::<String>());
            Ok(())
        };
        check(parts.next().unwrap_or_default())?;
        for part in parts {
            let rest = part
                .strip_prefix('[')
                .map(|rest| rest.trim_start_matches(|one: char| one.is_ascii_digit() || one == ';'))
                .and_then(|rest| rest.strip_prefix('m'));
            let rest = rest.filter(|_| colour).with_context(|| {
                format!("an escape sequence: {:?}", part.chars().take(300).collect::<String>())
            })?;
            self.colours += 1;
            check(rest)?;
        }
        Ok(())
    }
}

/// A terminal that passes on what it is sent: the two ends.
fn terminal() -> Result<(File, OwnedFd)> {
    let pty = openpty(None, None)?;
    let mut settings = tcgetattr(&pty.slave)?;
    cfmakeraw(&mut settings);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
    Ok((File::from(pty.master), pty.slave))
}

/// Runs the tracer with both of its outputs to a terminal.
fn on_a_terminal(folder: &Folder, locale: &str) -> Result<(Watch, Duration)> {
    let (mut screen, slave) = terminal()?;
    let begin = Instant::now();
    let mut command = tracer(folder, &[])?;
    command.env("LC_ALL", locale).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let mut child = command.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave)).spawn()?;
    // Its ends of the terminal are those that the command holds.
    drop(command);
    let mut watch = Watch::default();
    let mut buffer = vec![0; 1 << 16];
    let mut result = Ok(());
    // EIO: nobody has the other end any more.
    while let Ok(length @ 1..) = screen.read(&mut buffer) {
        if result.is_ok() {
            result = watch.look(&buffer[..length], true);
        }
    }
    ensure!(child.wait()?.success(), "the tracer failed");
    result.map(|()| (watch, begin.elapsed()))
}

/// What went to the terminal per second.
fn rate(watch: &Watch, time: Duration) -> f64 {
    watch.seen as f64 / time.as_secs_f64() / 1e6
}

#[test]
fn a_flood_of_hostile_names_and_payload_cannot_reach_a_terminal() -> Result<()> {
    for locale in ["C.UTF-8", "C"] {
        let folder = Folder::new()?;
        let (watch, time) = on_a_terminal(&folder, locale)?;
        println!("{locale}: {} bytes, {:.1} MB/s, {} colours", watch.seen, rate(&watch, time), watch.colours);
        ensure!(watch.seen > 5_000_000, "only {} bytes came: this is no flood", watch.seen);
        ensure!(watch.colours > 0, "a terminal has colours");
        ensure!(
            watch.rest.is_empty(),
            "the last line has no end: {:?}",
            String::from_utf8_lossy(&watch.rest)
        );
    }
    Ok(())
}

#[test]
fn nor_a_file_that_is_looked_at_later() -> Result<()> {
    let folder = Folder::new()?;
    let file = Scratch::new(".txt");
    let output = tracer(&folder, &[OsStr::new("-o"), file.path().as_os_str()])?.output()?;
    ensure!(output.status.success(), "{}", said(&output));
    let mut watch = Watch::default();
    look_through(file.path(), &mut watch)?;
    println!("a file: {} bytes", watch.seen);
    ensure!(watch.seen > 5_000_000, "only {} bytes came: this is no flood", watch.seen);
    let mut messages = Watch::default();
    messages.look(&output.stderr, false)
}

#[test]
fn as_json_every_byte_of_it_is_there() -> Result<()> {
    let folder = Folder::new()?;
    let file = Scratch::new(".json");
    // Room for all of it, so that none is lost, however slow the tracer is.
    let options = ["-f", "json", "--buffer", "262144", "-o"].map(OsStr::new);
    let output = tracer(&folder, &[&options[..], &[file.path().as_os_str()]].concat())?.output()?;
    ensure!(output.status.success() && said(&output).contains("nothing lost"), "{}", said(&output));
    let mut watch = Watch::default();
    look_through(file.path(), &mut watch)?;
    let lines = lines(&fs::read_to_string(file.path())?)?;
    // The kernel keeps 15 bytes of a name.
    let names: Vec<String> =
        NAMES.iter().filter_map(|name| str::from_utf8(name).ok().map(str::to_owned)).collect();
    for name in names {
        let found = lines.iter().any(|line| line["sender"]["comm"] == name.as_str());
        ensure!(found, "no sender is called {name:?}");
    }
    Ok(())
}

fn look_through(path: &Path, watch: &mut Watch) -> Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => watch.look(&buffer[..length], false)?,
        }
    }
    ensure!(watch.rest.is_empty(), "the last line has no end");
    Ok(())
}
