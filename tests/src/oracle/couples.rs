//! A workload of couples that make channels, use them for a moment and close them: what the kernel makes next stands where the
//! one before stood, under its address, its number or its name.
//!
//! One of a couple makes the channels and hands them to the other; then both send and receive and close as they like, and what is
//! left in a channel goes with it.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};

use super::account::{Account, Line, write};
use super::channels::{Kind, Lane, lanes_of, make};
use super::player::{child, wait_for_all};
use super::receive::receive;
use super::send::{Source, send};

/// Most descriptors of the channels that are handed over at once.
const DESCRIPTORS: usize = 4;
/// Most a member does on them before it closes them.
const MOST: usize = 12;
/// So many names are used, again and again.
const NAMES: usize = 3;

/// Channels that one of a couple hands to the other.
#[derive(Serialize, Deserialize)]
struct Round {
    lanes: Vec<Lane>,
    /// Whether the one who made them waits until the other has closed them.
    waits: bool,
}

/// Makes the couples and waits for all.
///
/// # Errors
/// If something fails that must not.
pub(super) fn begin(seed: u64, operations: u64, mechanisms: &str, report: &Path) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    prctl::set_name(c"couples-root")?;
    let couples = rng.u64(2..5);
    let mechanisms: Vec<String> = mechanisms.split(',').map(str::to_owned).collect();
    for couple in 0..couples {
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())?;
        for (number, control) in [here, there].iter().enumerate() {
            let member = Member::new(couple as u8 * 2 + number as u8 + 1, rng.fork(), report);
            child(|| {
                if number == 0 {
                    member()?.makes(control, operations / couples + 1, &mechanisms)
                } else {
                    member()?.follows(control)
                }
            })?;
        }
    }
    wait_for_all()
}

/// One of a couple.
struct Member {
    mark: u8,
    rng: Rng,
    source: Source,
    report: PathBuf,
    /// All lanes of the couple so far.
    lanes: Vec<Lane>,
    account: Account,
}

impl Member {
    /// What makes one, in its own process.
    fn new(mark: u8, rng: Rng, report: &Path) -> impl FnOnce() -> Result<Member> + use<> {
        let report = report.to_owned();
        move || {
            let name = format!("couple-{mark}");
            prctl::set_name(&std::ffi::CString::new(name.as_str())?)?;
            write(&report, &[Line::Member { mark, pid: std::process::id(), name }])?;
            // SAFETY: no handler. What is written to nobody fails.
            unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
            let source = Source::new(mark)?;
            Ok(Member { mark, rng, source, report, lanes: Vec::new(), account: Account::default() })
        }
    }

    /// Makes channels and hands them over, until so many operations are done.
    fn makes(mut self, control: &OwnedFd, operations: u64, mechanisms: &[String]) -> Result<()> {
        let folder = std::env::temp_dir();
        let mut number = 0;
        while self.account.operations < operations && (number as u64) < operations {
            let mechanism = &mechanisms[self.rng.usize(0..mechanisms.len())];
            let lanes = match kind_of_connection(mechanism) {
                Some(kind) if self.rng.bool() => self.by_name(mechanism, kind, number % NAMES)?,
                _ => make(mechanism, &folder, number % NAMES, &mut self.rng)
                    .with_context(|| mechanism.clone())?,
            };
            number += 1;
            let descriptors = descriptors(&lanes);
            let waits = self.rng.bool();
            let round = Round { lanes: lanes.clone(), waits };
            let text = serde_json::to_vec(&round)?;
            let along = [ControlMessage::ScmRights(&descriptors)];
            let along: &[_] = if descriptors.is_empty() { &[] } else { &along };
            let address: Option<&UnixAddr> = None;
            sendmsg(control.as_raw_fd(), &[IoSlice::new(&text)], along, MsgFlags::empty(), address)?;
            // A queue goes while the other is at it, perhaps; a name before.
            let (queues, others): (Vec<_>, Vec<_>) =
                lanes.iter().partition(|lane| lane.kind == Kind::SysvQueue);
            others.into_iter().try_for_each(Lane::remove)?;
            self.play(&lanes, descriptors)?;
            queues.into_iter().try_for_each(Lane::remove)?;
            if waits {
                nix::unistd::read(control, &mut [0])?;
            }
        }
        sendmsg::<UnixAddr>(control.as_raw_fd(), &[IoSlice::new(b"null")], &[], MsgFlags::empty(), None)?;
        let told: Vec<Line> = self.lanes.iter().map(Lane::line).collect();
        write(&self.report, &told)?;
        self.tell()
    }

    /// Uses what it is handed.
    fn follows(mut self, control: &OwnedFd) -> Result<()> {
        loop {
            let mut text = vec![0; 16_384];
            let mut along = nix::cmsg_space!([RawFd; DESCRIPTORS]);
            let mut parts = [IoSliceMut::new(&mut text)];
            let message =
                recvmsg::<()>(control.as_raw_fd(), &mut parts, Some(&mut along), MsgFlags::empty())?;
            let mut handed = Vec::new();
            for one in message.cmsgs()? {
                let ControlMessageOwned::ScmRights(descriptors) = one else { bail!("{one:?}") };
                handed.extend(descriptors);
            }
            let len = message.bytes;
            let Some(round) = serde_json::from_slice::<Option<Round>>(&text[..len])? else { break };
            let mut lanes = round.lanes;
            let there = descriptors(&lanes);
            ensure!(handed.len() == there.len(), "descriptors were lost on the way");
            for lane in lanes.iter_mut().filter(|lane| lane.kind != Kind::SysvQueue) {
                for fd in [&mut lane.send, &mut lane.receive] {
                    let index = there.iter().position(|there| there == fd);
                    *fd = handed[index.context("a descriptor that did not go along")?];
                }
            }
            self.play(&lanes, handed)?;
            if round.waits {
                nix::unistd::write(control, &[0])?;
            }
        }
        self.tell()
    }

    fn tell(self) -> Result<()> {
        write(&self.report, &self.account.lines(self.mark, &self.lanes))
    }

    /// A connection by a name. Whoever connects may send before it is accepted; there may have been others whom nobody accepted.
    fn by_name(&mut self, mechanism: &str, kind: SockType, number: usize) -> Result<Vec<Lane>> {
        let address =
            UnixAddr::new_abstract(format!("ipctrace-couple-{}-{number}", std::process::id()).as_bytes())?;
        let connected = || -> Result<(OwnedFd, OwnedFd)> {
            let listener = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
            bind(listener.as_raw_fd(), &address)?;
            listen(&listener, Backlog::new(4)?)?;
            let client = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
            connect(client.as_raw_fd(), &address)?;
            Ok((listener, client))
        };
        for _ in 0..self.rng.usize(0..3) {
            let (_listener, client) = connected()?;
            nix::unistd::write(&client, &[self.mark; 7][..self.rng.usize(1..=7)])?;
        }
        let (listener, client) = connected()?;
        let early = self.rng.usize(0..100);
        if early > 0 {
            ensure!(nix::unistd::write(&client, &vec![self.mark; early])? == early);
        }
        // SAFETY: a new descriptor.
        let server = unsafe { OwnedFd::from_raw_fd(accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?) };
        let used = if kind == SockType::Stream { Kind::Stream } else { Kind::Datagram };
        let lanes = lanes_of(mechanism, used, client, server)?;
        if early > 0 {
            // The first of them will be the next of the couple's.
            self.account.sent(self.lanes.len(), early as u64, 1);
        }
        Ok(lanes)
    }

    /// Sends and receives and closes.
    fn play(&mut self, lanes: &[Lane], mut open: Vec<RawFd>) -> Result<()> {
        for fd in &open {
            // SAFETY: open.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            // Nobody waits for anybody.
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?) | OFlag::O_NONBLOCK;
            fcntl(fd, FcntlArg::F_SETFL(flags))?;
            let _ = setsockopt(&fd, sockopt::RcvBuf, &200_000);
        }
        let first = self.lanes.len();
        self.lanes.extend_from_slice(lanes);
        // Part of the couple's lanes, by what each may do here.
        let may: Vec<(bool, bool)> =
            lanes.iter().map(|_| (self.rng.u8(0..4) > 0, self.rng.u8(0..4) > 0)).collect();
        for _ in 0..self.rng.usize(0..MOST) {
            let index = self.rng.usize(0..lanes.len());
            let lane = &lanes[index];
            let is_open = |fd: RawFd| lane.kind == Kind::SysvQueue || open.contains(&fd);
            match self.rng.u8(0..10) {
                0 => {
                    if let Some(fd) = open.pop() {
                        close(fd)?;
                    }
                }
                1..5 if may[index].1 && is_open(lane.receive) => {
                    let (source, rng, account) = (&self.source, &mut self.rng, &mut self.account);
                    let got = receive(&self.lanes, first + index, source, rng, account);
                    self.account.operations += u64::from(got.unwrap_or(false));
                }
                5.. if may[index].0 && is_open(lane.send) => {
                    if let Ok((bytes, messages)) = send(lane, &self.source, &mut self.rng)
                        && bytes > 0
                    {
                        self.account.sent(first + index, bytes, messages);
                        self.account.operations += 1;
                    }
                }
                _ => {}
            }
        }
        self.rng.shuffle(&mut open);
        open.into_iter().try_for_each(close)
    }
}

/// The descriptors of channels, each once, in the order in which they are handed over.
fn descriptors(lanes: &[Lane]) -> Vec<RawFd> {
    let mut descriptors = Vec::new();
    for fd in
        lanes.iter().filter(|lane| lane.kind != Kind::SysvQueue).flat_map(|lane| [lane.send, lane.receive])
    {
        if !descriptors.contains(&fd) {
            descriptors.push(fd);
        }
    }
    descriptors
}

fn close(fd: RawFd) -> Result<()> {
    match nix::unistd::close(fd) {
        Ok(()) | Err(Errno::ECONNRESET) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Of those that have a name to connect to.
fn kind_of_connection(mechanism: &str) -> Option<SockType> {
    match mechanism {
        "unix_stream" => Some(SockType::Stream),
        "unix_seqpacket" => Some(SockType::SeqPacket),
        _ => None,
    }
}
