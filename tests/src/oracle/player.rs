//! The members of a workload: each does what its seed says, on the channels that it has a part in.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde::{Deserialize, Serialize};

use super::account::{Account, Line, write};
use super::channels::{Kind, Lane, make};
use super::receive::receive;
use super::send::{Source, send};
use super::shared::Shared;
use super::signals;

/// After so long a member stops, whatever is left to do.
const PATIENCE: Duration = Duration::from_secs(150);

/// All that a member needs to go on, also as another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    seed: u64,
    operations: u64,
    lanes: Vec<Lane>,
    /// Lanes that this member sends on, and receives from.
    sends: Vec<usize>,
    receives: Vec<usize>,
    shared: i32,
    report: PathBuf,
}

/// Makes the channels and the first members, and waits for all.
///
/// # Errors
/// If something fails that must not.
pub(super) fn begin(seed: u64, operations: u64, mechanisms: &str, report: &Path) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let mechanisms: Vec<&str> = mechanisms.split(',').collect();
    let folder = std::env::temp_dir();
    let mut lanes = Vec::new();
    for number in 0..rng.usize(3..9) {
        let mechanism = mechanisms[rng.usize(0..mechanisms.len())];
        lanes.extend(make(mechanism, &folder, number, &mut rng).with_context(|| mechanism.to_owned())?);
    }
    let told: Vec<Line> = lanes.iter().map(Lane::line).collect();
    write(report, &told)?;
    prctl::set_name(c"oracle-root")?;
    let shared = Shared::create()?;
    let members = rng.usize(3..7);
    let mut parts = vec![(Vec::new(), Vec::new()); members];
    for lane in 0..lanes.len() {
        parts[rng.usize(0..members)].0.push(lane);
        parts[rng.usize(0..members)].1.push(lane);
        for (sends, receives) in &mut parts {
            if rng.u32(0..3) == 0 && !sends.contains(&lane) {
                sends.push(lane);
            }
            if rng.u32(0..4) == 0 && !receives.contains(&lane) {
                receives.push(lane);
            }
        }
    }
    signals::block(true)?;
    for (sends, receives) in parts {
        let state = State {
            seed: rng.u64(..),
            operations: operations / members as u64 + 1,
            lanes: lanes.clone(),
            sends,
            receives,
            shared,
            report: report.to_owned(),
        };
        child(|| member(state))?;
    }
    let outcome = wait_for_all();
    lanes.iter().try_for_each(Lane::remove)?;
    outcome
}

/// A member that has become another program.
///
/// # Errors
/// If something fails that must not.
pub(super) fn go_on(state: &str) -> Result<()> {
    member(serde_json::from_str(state)?)
}

/// Makes a process that plays and ends.
///
/// # Errors
/// If there can be none.
pub(super) fn child(play: impl FnOnce() -> Result<()>) -> Result<()> {
    let parent = nix::unistd::getpid();
    // SAFETY: the process has one thread, so the child finds no lock held by another.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            signals::forget();
            let outcome = prctl::set_pdeathsig(Signal::SIGKILL).map_err(anyhow::Error::from).and_then(|()| {
                ensure!(nix::unistd::getppid() == parent, "the parent has ended");
                play()
            });
            if let Err(error) = &outcome {
                eprintln!("{error:#}");
            }
            // SAFETY: ends the process; nothing has to be cleaned up.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
    }
}

/// Waits for all processes that this one has made.
///
/// # Errors
/// If one has failed.
pub(super) fn wait_for_all() -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(WaitStatus::Exited(_, 0)) | Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECHILD) => return Ok(()),
            other => anyhow::bail!("a member ended with {other:?}"),
        }
    }
}

fn member(state: State) -> Result<()> {
    let shared = Shared::open(state.shared)?;
    let mark = shared.mark()?;
    let name = format!("oracle-{mark}");
    prctl::set_name(&std::ffi::CString::new(name.as_str())?)?;
    write(&state.report, &[Line::Member { mark, pid: std::process::id(), name }])?;
    let source = Source::new(mark)?;
    signals::handle()?;
    signals::block(false)?;
    shared.takes_signals(mark, std::process::id());
    let mut rng = Rng::with_seed(state.seed);
    let threads = if rng.u32(0..10) < 7 { 1 } else { rng.u64(2..4) };
    let lines = if threads == 1 {
        Player::new(&state, shared, &source, rng.fork(), mark, true)?.play(state.operations)?
    } else {
        let told = Mutex::new(Vec::new());
        std::thread::scope(|scope| -> Result<()> {
            let playing: Vec<_> = (0..threads)
                .map(|_| {
                    let (rng, state, source, told) = (rng.fork(), &state, &source, &told);
                    scope.spawn(move || -> Result<()> {
                        // Each with pages and a pipe of its own.
                        let own = Source::new(source.mark())?;
                        let player = Player::new(state, shared, &own, rng, mark, false)?;
                        let lines = player.play(state.operations / threads)?;
                        told.lock().map_err(|_| anyhow::anyhow!("a thread failed"))?.extend(lines);
                        Ok(())
                    })
                })
                .collect();
            playing
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread failed"))?)
        })?;
        told.into_inner().map_err(|_| anyhow::anyhow!("a thread failed"))?
    };
    shared.takes_signals(mark, 0);
    signals::block(true)?;
    write(&state.report, &[lines, signals::handled()].concat())?;
    wait_for_all()
}

/// One thread of a member.
struct Player<'a> {
    state: &'a State,
    shared: &'static Shared,
    source: &'a Source,
    rng: Rng,
    mark: u8,
    /// It is the only thread: it may fork and become another program.
    alone: bool,
    account: Account,
    sent: signals::Sent,
}

impl<'a> Player<'a> {
    fn new(
        state: &'a State,
        shared: &'static Shared,
        source: &'a Source,
        rng: Rng,
        mark: u8,
        alone: bool,
    ) -> Result<Player<'a>> {
        signals::interrupt_this_thread()?;
        Ok(Player {
            state,
            shared,
            source,
            rng,
            mark,
            alone,
            account: Account::default(),
            sent: signals::Sent::default(),
        })
    }

    /// Does so many operations, or fewer if it makes others do them; gives what it counted.
    fn play(mut self, mut operations: u64) -> Result<Vec<Line>> {
        let start = Instant::now();
        let mut idle = 0;
        while self.account.operations < operations && start.elapsed() < PATIENCE && idle < 20_000 {
            match self.rng.u32(0..4000) {
                0 if self.alone && self.shared.room() => {
                    let rest = operations - self.account.operations;
                    operations -= rest / 2;
                    let state = State { seed: self.rng.u64(..), operations: rest / 2, ..self.state.clone() };
                    child(|| member(state))?;
                }
                1 if self.alone && self.shared.room() => {
                    return self.become_another(operations);
                }
                2..40 => self.sent.send(self.shared, &mut self.rng),
                40..60 => std::thread::sleep(Duration::from_micros(self.rng.u64(1..300))),
                60..90 => self.elsewhere()?,
                _ => {
                    let moved = self.move_some();
                    idle = if moved { 0 } else { idle + 1 };
                    self.account.operations += u64::from(moved);
                    if !moved && idle % 16 == 15 {
                        std::thread::yield_now();
                    }
                }
            }
        }
        Ok([self.account.lines(self.mark, &self.state.lanes), self.sent.lines()].concat())
    }

    /// One send or receive. Whether anything went.
    fn move_some(&mut self) -> bool {
        let (sends, receives) = (&self.state.sends, &self.state.receives);
        let all = sends.len() + receives.len();
        if all == 0 {
            return false;
        }
        let choice = self.rng.usize(0..all);
        if let Some(lane) = sends.get(choice) {
            return self.send(*lane, &self.state.lanes[*lane]);
        }
        let lane = receives[choice - sends.len()];
        self.receive(lane, None)
    }

    fn send(&mut self, index: usize, lane: &Lane) -> bool {
        if !self.likely(lane.kind, lane.send, libc::POLLOUT) {
            return false;
        }
        let Ok((bytes, messages)) = send(lane, self.source, &mut self.rng) else { return false };
        if bytes > 0 {
            self.account.sent(index, bytes, messages);
        }
        bytes > 0
    }

    fn receive(&mut self, index: usize, other: Option<&[Lane]>) -> bool {
        let lanes = other.unwrap_or(&self.state.lanes);
        let lane = &lanes[index];
        if !self.likely(lane.kind, lane.receive, libc::POLLIN) {
            return false;
        }
        receive(lanes, index, self.source, &mut self.rng, &mut self.account).unwrap_or(false)
    }

    /// Whether a call will not wait; sometimes without looking, so that some do.
    fn likely(&mut self, kind: Kind, fd: i32, events: i16) -> bool {
        if kind == Kind::SysvQueue || self.rng.u32(0..200) == 0 {
            return true;
        }
        let mut poll = libc::pollfd { fd, events, revents: 0 };
        // SAFETY: one descriptor.
        unsafe { libc::poll(&mut poll, 1, 0) > 0 && poll.revents & events != 0 }
    }

    /// One send or receive through another descriptor of the same object.
    fn elsewhere(&mut self) -> Result<()> {
        let all = self.state.sends.len() + self.state.receives.len();
        if all == 0 {
            return Ok(());
        }
        let choice = self.rng.usize(0..all);
        let sends = choice < self.state.sends.len();
        let index = if sends {
            self.state.sends[choice]
        } else {
            self.state.receives[choice - self.state.sends.len()]
        };
        let lane = &self.state.lanes[index];
        if lane.kind == Kind::SysvQueue {
            return Ok(());
        }
        let own = if sends { lane.send } else { lane.receive };
        let other = if lane.mechanism == "pipe" && self.rng.bool() {
            let flags = if sends { libc::O_WRONLY } else { libc::O_RDONLY };
            let path = std::ffi::CString::new(format!("/proc/self/fd/{own}"))?;
            // SAFETY: a path and flags.
            unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }
        } else {
            // SAFETY: a descriptor.
            unsafe { libc::fcntl(own, libc::F_DUPFD_CLOEXEC, 100) }
        };
        ensure!(other >= 0, "another descriptor: {}", std::io::Error::last_os_error());
        let mut lanes = self.state.lanes.clone();
        if sends {
            lanes[index].send = other;
            self.send(index, &lanes[index]);
        } else {
            lanes[index].receive = other;
            self.receive(index, Some(&lanes));
        }
        // SAFETY: our own descriptor.
        unsafe { libc::close(other) };
        Ok(())
    }

    /// Tells what it has counted and goes on as a new program, under another name.
    fn become_another(self, operations: u64) -> Result<Vec<Line>> {
        signals::block(true)?;
        self.shared.takes_signals(self.mark, 0);
        let told = [self.account.lines(self.mark, &self.state.lanes), self.sent.lines(), signals::handled()];
        write(&self.state.report, &told.concat())?;
        let mut rng = self.rng;
        let state = State {
            seed: rng.u64(..),
            operations: operations - self.account.operations,
            ..self.state.clone()
        };
        let arguments = ["actor".to_owned(), "__oracle".to_owned(), serde_json::to_string(&state)?];
        let arguments: Vec<_> =
            arguments.into_iter().map(std::ffi::CString::new).collect::<Result<_, _>>()?;
        let program = std::ffi::CString::new(std::env::current_exe()?.into_os_string().into_encoded_bytes())?;
        match nix::unistd::execv(&program, &arguments)? {}
    }
}
