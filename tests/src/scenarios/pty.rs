//! Terminals: the side that shows and the side that runs in it.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "terminal_both_ways_raw", play: raw },
    Scenario { name: "terminal_with_two_programs", play: two_programs },
    Scenario { name: "terminal_read_before_all_arrived", play: before_all_arrived },
    Scenario { name: "terminal_of_a_real_program", play: real_program },
    Scenario { name: "terminal_numbers_are_used_again", play: used_again },
    Scenario { name: "terminal_that_echoes_is_used_again", play: echoes_again },
];

fn terminal(raw: bool) -> Result<(OwnedFd, OwnedFd, Option<String>)> {
    let OpenptyResult { master, slave } = openpty(None, None)?;
    if raw {
        let mut settings = tcgetattr(&slave)?;
        cfmakeraw(&mut settings);
        tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
    }
    let id = format!("pty:{}", nix::unistd::ttyname(&slave)?.display());
    Ok((master, slave, Some(id)))
}

/// Bytes come through as they are: each side tells whose they were.
fn raw(stage: &Stage) -> Result<()> {
    let (master, slave, id) = terminal(true)?;
    let program = stage.child("program", |stage| {
        let bytes = stage::read_exactly(&slave, 3000)?;
        stage.heard("pty", id.clone(), &bytes)?;
        for _ in 0..50 {
            stage::write_all(&slave, &stage.marked(61))?;
        }
        Ok(())
    })?;
    let emulator = stage.child("emulator", |stage| {
        for _ in 0..30 {
            stage::write_all(&master, &stage.marked(100))?;
        }
        let bytes = stage::read_exactly(&master, 50 * 61)?;
        stage.heard("pty", id.clone(), &bytes)
    })?;
    stage.reap(&[program, emulator])
}

/// Lines of two programs, one after the other, read together: each newline has become two bytes.
fn two_programs(stage: &Stage) -> Result<()> {
    let (master, slave, id) = terminal(false)?;
    for (index, text) in ["first\nprogram\n", "the second\n"].into_iter().enumerate() {
        let program = stage.child(&format!("program-{index}"), |stage| {
            stage.put(index, u64::from(stage.mark()));
            stage::write_all(&slave, text.as_bytes())
        })?;
        stage.reap(&[program])?;
    }
    let bytes = stage::read_exactly(&master, 28)?;
    ensure!(bytes == b"first\r\nprogram\r\nthe second\r\n");
    for (index, bytes) in [16, 12].into_iter().enumerate() {
        let from = Party::Mark(u8::try_from(stage.get(index))?);
        let (mechanism, channel, to) = ("pty".to_owned(), id.clone(), stage.me());
        stage.tell(&Truth::Transfer { mechanism, channel, from, to, bytes, messages: None })?;
    }
    Ok(())
}

/// What a process wrote is brought to the other side by a worker of the kernel, so a read may find nothing more although
/// the write of another is over.
fn before_all_arrived(stage: &Stage) -> Result<()> {
    const ROUNDS: u32 = 100;
    let (master, slave, id) = terminal(true)?;
    let program = stage.child("program", |stage| {
        for round in 0..ROUNDS {
            stage::write_all(&slave, &stage.marked(10))?;
            stage.raise(0);
            stage.wait_for(1, round + 1)?;
        }
        Ok(())
    })?;
    let emulator = stage.child("emulator", |stage| {
        for round in 0..ROUNDS {
            stage.wait_for(0, round + 1)?;
            stage::write_all(&slave, &stage.marked(10))?;
            let bytes = stage::read_exactly(&master, 20)?;
            stage.heard("pty", id.clone(), &bytes)?;
            stage.raise(1);
        }
        Ok(())
    })?;
    stage.reap(&[program, emulator])
}

/// A program that knows nothing of tests.
fn real_program(stage: &Stage) -> Result<()> {
    let (master, slave, id) = terminal(false)?;
    let mut program = Command::new("seq")
        .arg("500")
        .stdin(Stdio::null())
        .stdout(Stdio::from(slave.try_clone()?))
        .spawn()?;
    let expected: usize = (1..=500).map(|number: u32| number.to_string().len() + 2).sum();
    stage::read_exactly(&master, expected)?;
    ensure!(program.wait()?.success());
    stage.bereaved()?;
    let (from, to) = (Party::Pid(program.id()), stage.me());
    let (mechanism, bytes) = ("pty".to_owned(), expected as u64);
    stage.tell(&Truth::Transfer { mechanism, channel: id, from, to, bytes, messages: None })
}

/// A new terminal has the number, and often the place in memory, of one that is gone, with what nobody read in it.
fn used_again(stage: &Stage) -> Result<()> {
    for round in 0..10u64 {
        let (master, slave, id) = terminal(true)?;
        let program = stage.child(&format!("program-{round}"), |stage| {
            stage.put(0, u64::from(stage.mark()));
            stage::write_all(&slave, &stage.marked(20))
        })?;
        stage.reap(&[program])?;
        let from = Party::Mark(u8::try_from(stage.get(0))?);
        let to = if round % 2 == 0 {
            Party::None("unread".to_owned())
        } else {
            stage::read_exactly(&master, 20)?;
            stage.me()
        };
        let (mechanism, channel) = ("pty".to_owned(), id);
        stage.tell(&Truth::Transfer { mechanism, channel, from, to, bytes: 20, messages: None })?;
    }
    Ok(())
}

/// In new pairs, which stand where one was before, the first that is used is what is typed; of some the echo is never read.
fn echoes_again(stage: &Stage) -> Result<()> {
    const TYPED: &[u8] = b"line\n";
    for round in 0..12 {
        let (master, slave, id) = terminal(false)?;
        let tell = |from, bytes: usize| {
            let (mechanism, channel, bytes) = ("pty".to_owned(), id.clone(), bytes as u64);
            stage.tell(&Truth::Transfer { mechanism, channel, from, to: stage.me(), bytes, messages: None })
        };
        stage::write_all(&master, TYPED)?;
        if round % 3 != 0 {
            stage::read_exactly(&master, TYPED.len() + 1)?;
            tell(Party::None("kernel".to_owned()), TYPED.len() + 1)?;
        }
        stage::read_exactly(&slave, TYPED.len())?;
        tell(stage.me(), TYPED.len())?;
    }
    Ok(())
}
