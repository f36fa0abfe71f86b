//! The channels of a workload: made by its first process, used by all.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ipctrace::demo::stage;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::account::Line;

/// How a channel is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// A pipe or FIFO.
    Pipe,
    /// A stream socket.
    Stream,
    /// A connected socket that keeps messages apart.
    Datagram,
    /// A POSIX message queue.
    PosixQueue,
    /// A System V message queue: the descriptors are its id.
    SysvQueue,
}

impl Kind {
    /// The largest message, or the largest send that makes sense.
    pub(super) fn largest(self) -> usize {
        match self {
            Kind::Pipe | Kind::Stream => 70_000,
            Kind::Datagram => 50_000,
            Kind::PosixQueue | Kind::SysvQueue => 4000,
        }
    }

    /// Whether messages are kept apart.
    pub(super) fn has_messages(self) -> bool {
        match self {
            Kind::Pipe | Kind::Stream => false,
            Kind::Datagram | Kind::PosixQueue | Kind::SysvQueue => true,
        }
    }
}

/// A channel in one direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lane {
    pub(super) mechanism: String,
    /// As the trace names it.
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) send: RawFd,
    pub(super) receive: RawFd,
}

impl Lane {
    /// As a line of the report.
    pub(super) fn line(&self) -> Line {
        Line::Lane {
            mechanism: self.mechanism.clone(),
            id: self.id.clone(),
            messages: self.kind.has_messages(),
        }
    }

    /// Removes what outlives its descriptors: a name, a queue.
    ///
    /// # Errors
    /// If the name cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        if self.kind == Kind::SysvQueue {
            // SAFETY: numbers. What is left in the queue goes with it, also while others are at it.
            unsafe { libc::msgctl(self.send, libc::IPC_RMID, std::ptr::null_mut()) };
        }
        if self.mechanism == "fifo" {
            std::fs::remove_file(std::fs::read_link(format!("/proc/self/fd/{}", self.send))?)?;
        }
        Ok(())
    }
}

fn lane(mechanism: &str, id: String, kind: Kind, send: RawFd, receive: RawFd) -> Lane {
    Lane { mechanism: mechanism.to_owned(), id, kind, send, receive }
}

/// Keeps a descriptor open for good, here and in all programs that follow.
fn keep(descriptor: impl Into<OwnedFd>) -> Result<RawFd> {
    let descriptor: OwnedFd = descriptor.into();
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(descriptor.into_raw_fd())
}

/// Makes one channel: one lane, or two of a pair of sockets. What has a name gets one from `folder` and `number`.
///
/// # Errors
/// If the kernel does not make it.
pub(super) fn make(mechanism: &str, folder: &Path, number: usize, rng: &mut Rng) -> Result<Vec<Lane>> {
    let unique = format!("ipctrace-oracle-{}-{number}", std::process::id());
    Ok(match mechanism {
        "pipe" => {
            let (reader, writer) = nix::unistd::pipe()?;
            let id = stage::pipe_id(&reader)?;
            if rng.bool() {
                // A small one is full more often.
                fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096 << rng.u32(0..3)))?;
            }
            vec![lane(mechanism, id, Kind::Pipe, keep(writer)?, keep(reader)?)]
        }
        "fifo" => {
            let path = folder.join(&unique);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU)?;
            let writer = nix::fcntl::open(&path, OFlag::O_RDWR, Mode::empty())?;
            let reader = nix::fcntl::open(&path, OFlag::O_RDONLY, Mode::empty())?;
            let id = stage::fifo_id(&reader)?;
            vec![lane(mechanism, id, Kind::Pipe, keep(writer)?, keep(reader)?)]
        }
        "unix_stream" => unix(mechanism, SockType::Stream, Kind::Stream)?,
        "unix_dgram" => unix(mechanism, SockType::Datagram, Kind::Datagram)?,
        "unix_seqpacket" => unix(mechanism, SockType::SeqPacket, Kind::Datagram)?,
        "tcp" => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            if rng.bool() {
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
            }
            inet(mechanism, [near.local_addr()?, far.local_addr()?], Kind::Stream, [keep(near)?, keep(far)?])
        }
        "udp" => {
            let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
            near.connect(far.local_addr()?)?;
            far.connect(near.local_addr()?)?;
            inet(
                mechanism,
                [near.local_addr()?, far.local_addr()?],
                Kind::Datagram,
                [keep(near)?, keep(far)?],
            )
        }
        "posix_mq" => {
            let name = std::ffi::CString::new(format!("/{unique}"))?;
            let limits = nix::mqueue::MqAttr::new(0, 8, 4096, 0);
            let flags = nix::mqueue::MQ_OFlag::O_RDWR | nix::mqueue::MQ_OFlag::O_CREAT;
            let queue = nix::mqueue::mq_open(name.as_c_str(), flags, Mode::S_IRWXU, Some(&limits))
                .context("opening a message queue")?;
            nix::mqueue::mq_unlink(name.as_c_str())?;
            let id = format!("posix_mq:{}", name.to_string_lossy());
            // SAFETY: a message queue's descriptor is a file descriptor here, and is not used as an MqdT any more.
            let queue = unsafe { OwnedFd::from_raw_fd(queue.into_raw_fd()) };
            let queue = keep(queue)?;
            vec![lane(mechanism, id, Kind::PosixQueue, queue, queue)]
        }
        "sysv_msg" => {
            // SAFETY: takes numbers only.
            let queue = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
            ensure!(queue >= 0, "msgget: {}", std::io::Error::last_os_error());
            vec![lane(mechanism, format!("sysv_msg:{queue}"), Kind::SysvQueue, queue, queue)]
        }
        other => anyhow::bail!("the workload does not know {other}"),
    })
}

fn unix(mechanism: &str, kind: SockType, used: Kind) -> Result<Vec<Lane>> {
    let (near, far) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty())?;
    lanes_of(mechanism, used, near, far)
}

/// Both ways between two unix sockets.
///
/// # Errors
/// If they are none.
pub(super) fn lanes_of(mechanism: &str, used: Kind, near: OwnedFd, far: OwnedFd) -> Result<Vec<Lane>> {
    let (here, there) = (stage::inode(&near)?, stage::inode(&far)?);
    let (near, far) = (keep(near)?, keep(far)?);
    Ok(vec![
        lane(mechanism, stage::socket_id(here, there), used, near, far),
        lane(mechanism, stage::socket_id(there, here), used, far, near),
    ])
}

fn inet(mechanism: &str, ends: [SocketAddr; 2], used: Kind, descriptors: [RawFd; 2]) -> Vec<Lane> {
    let [near, far] = ends;
    vec![
        lane(mechanism, format!("{mechanism}:{near}->{far}"), used, descriptors[0], descriptors[1]),
        lane(mechanism, format!("{mechanism}:{far}->{near}"), used, descriptors[1], descriptors[0]),
    ]
}
