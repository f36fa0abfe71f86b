//! `pty`: a terminal, and programs that run in it.

use anyhow::{Context, Result, ensure};
use ipctrace_common::Mechanism;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::Demo;
use super::stage::{self, Stage};
use super::truth::{Party, Truth};

pub(super) const DEMO: Demo = Demo {
    name: "pty",
    summary: "a terminal shows what two programs print, and one of them what is typed",
    story: "The terminal types a line, which the kernel echoes; the program answers with lines whose newlines become two bytes.\n\
            Then both programs print at once, raw. Look for the two directions, and for the kernel as the sender of the echo.",
    mechanisms: &[Mechanism::Pty],
    play,
};

/// What is typed.
const LINE: &[u8] = b"hello, terminal\n";
/// What is answered.
const ANSWER: &[u8] = b"one line\nand another\n";
/// What each program prints raw, in portions of so many bytes.
const RAW: [(&str, usize, usize); 2] = [("program", 40, 70), ("other", 30, 51)];

fn play(stage: &Stage) -> Result<()> {
    let OpenptyResult { master, slave } = openpty(None, None)?;
    let path = nix::unistd::ttyname(&slave)?;
    let channel = format!("pty:{}", path.display());
    let id = || Some(channel.clone());
    let lines = ANSWER.iter().filter(|byte| **byte == b'\n').count();
    let raw: usize = RAW.iter().map(|(_, count, size)| count * size).sum();
    let program = stage.child("program", |stage| {
        let typed = stage::read_exactly(&slave, LINE.len())?;
        ensure!(typed == LINE, "{typed:?} was typed");
        tell(stage, id(), Party::Mark(u8::try_from(stage.get(1))?), stage.me(), LINE.len())?;
        stage.put(0, u64::from(stage.mark()));
        stage.wait_for(0, 1)?;
        stage::write_all(&slave, ANSWER)?;
        stage.sent("pty", ANSWER.len() + lines, None)?;
        stage.wait_for(0, 2)?;
        print(stage, &slave, RAW[0])
    })?;
    let other = stage.child("other", |stage| {
        stage.wait_for(0, 2)?;
        print(stage, &slave, RAW[1])
    })?;
    let terminal = stage.child("terminal", |stage| {
        stage.put(1, u64::from(stage.mark()));
        stage::write_all(&master, LINE)?;
        stage.sent("pty", LINE.len(), None)?;
        let echo = stage::read_exactly(&master, LINE.len() + 1)?;
        ensure!(echo.ends_with(b"\r\n"), "{echo:?} was echoed");
        tell(stage, id(), Party::None("kernel".to_owned()), stage.me(), echo.len())?;
        stage.wait_until(|| stage.get(0) != 0)?;
        stage.raise(0);
        let answer = stage::read_exactly(&master, ANSWER.len() + lines)?;
        tell(stage, id(), Party::Mark(u8::try_from(stage.get(0))?), stage.me(), answer.len())?;
        let mut settings = tcgetattr(&slave).context("the terminal's settings")?;
        cfmakeraw(&mut settings);
        tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
        stage.raise(0);
        let bytes = stage::read_exactly(&master, raw)?;
        stage.heard("pty", id(), &bytes)
    })?;
    stage.reap(&[program, other, terminal])
}

fn print(stage: &Stage, slave: &std::os::fd::OwnedFd, (_, count, size): (&str, usize, usize)) -> Result<()> {
    for _ in 0..count {
        stage::write_all(slave, &stage.marked(size))?;
    }
    stage.sent("pty", count * size, None)
}

fn tell(stage: &Stage, channel: Option<String>, from: Party, to: Party, bytes: usize) -> Result<()> {
    if from == Party::None("kernel".to_owned()) {
        // For the balance: the kernel reports nothing itself.
        let (mechanism, by, bytes) = ("pty".to_owned(), from.clone(), bytes as u64);
        stage.tell(&Truth::Sent { mechanism, by, bytes, messages: None })?;
    }
    let (mechanism, bytes) = ("pty".to_owned(), bytes as u64);
    stage.tell(&Truth::Transfer { mechanism, channel, from, to, bytes, messages: None })
}
