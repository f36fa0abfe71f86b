//! `unix_seqpacket`: a connection that keeps messages apart.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use ipctrace_common::Mechanism;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::Demo;
use super::stage::{self, Stage};

pub(super) const DEMO: Demo = Demo {
    name: "unix_seqpacket",
    summary: "two processes exchange records over a connection that keeps them apart",
    story: "Each record that is asked for is answered by one twice as long. Look for equal numbers of messages both ways.",
    mechanisms: &[Mechanism::UnixSeqpacket],
    play,
};

const SIZES: [usize; 4] = [1, 70, 700, 7000];

fn play(stage: &Stage) -> Result<()> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())?;
    let (near, far) = (stage::inode(&ours)?, stage::inode(&theirs)?);
    let asker = stage.child("asker", |stage| {
        let mut buffer = [0; 16_384];
        for size in SIZES {
            send(ours.as_raw_fd(), &stage.marked(size), MsgFlags::empty())?;
            let len = recv(ours.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            ensure!(len == 2 * size, "asked with {size} bytes and answered with {len}");
            stage.heard_message_on("unix_seqpacket", Some(stage::socket_id(far, near)), &buffer[..len])?;
        }
        stage.sent("unix_seqpacket", SIZES.iter().sum(), Some(SIZES.len()))
    })?;
    let answerer = stage.child("answerer", |stage| {
        let mut buffer = [0; 16_384];
        let mut answered = 0;
        for _ in SIZES {
            let len = recv(theirs.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            stage.heard_message_on("unix_seqpacket", Some(stage::socket_id(near, far)), &buffer[..len])?;
            answered += send(theirs.as_raw_fd(), &stage.marked(len * 2), MsgFlags::empty())?;
        }
        stage.sent("unix_seqpacket", answered, Some(SIZES.len()))
    })?;
    stage.reap(&[asker, answerer])
}
