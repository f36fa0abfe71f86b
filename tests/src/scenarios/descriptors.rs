//! The object behind a descriptor at the time of the call, whatever the descriptor was before.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use ipctrace::demo::truth::{Party, Truth};
use ipctrace::demo::{Stage, stage};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockType, recvmmsg,
    sendmmsg, socketpair,
};
use nix::sys::stat::Mode;
use nix::unistd::{dup, dup2_stdout, mkdtemp, mkfifo, pipe};

use super::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "descriptors_that_change", play: change },
    Scenario { name: "opened_again_through_proc", play: through_proc },
    Scenario { name: "taken_by_pidfd_getfd", play: by_pidfd },
    Scenario { name: "passed_in_several_messages", play: several },
    Scenario { name: "equal_inodes_on_two_file_systems", play: equal_inodes },
    Scenario { name: "fifo_made_anew", play: made_anew },
    Scenario { name: "a_fifo_that_is_opened_again_and_again", play: opened_again_and_again },
];

/// One number is one pipe first and another then.
fn change(stage: &Stage) -> Result<()> {
    let (first, into_first) = pipe()?;
    let (second, into_second) = pipe()?;
    let writer = stage.child("writer", |stage| {
        let out = dup(&into_first)?;
        stage::write_all(&out, &stage.marked(10))?;
        dup2_stdout(&out)?;
        let data = stage.marked(20);
        ensure!(nix::unistd::write(std::io::stdout(), &data)? == 20);
        dup2_stdout(&into_second)?;
        let data = stage.marked(300);
        ensure!(nix::unistd::write(std::io::stdout(), &data)? == 300);
        Ok(())
    })?;
    let reader = stage.child("reader", |stage| {
        let bytes = stage::read_exactly(&first, 30)?;
        stage.heard("pipe", Some(stage::pipe_id(&first)?), &bytes)?;
        let bytes = stage::read_exactly(&second, 300)?;
        stage.heard("pipe", Some(stage::pipe_id(&second)?), &bytes)
    })?;
    stage.reap(&[writer, reader])
}

/// A pipe opened by /proc/PID/fd is the same pipe.
fn through_proc(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    let sender = stage.child("sender", |stage| {
        stage::close(&writer)?;
        let again = OwnedFd::from(File::options().write(true).open(&path)?);
        stage::write_all(&again, &stage.marked(77))
    })?;
    let receiver = stage.child("receiver", |stage| {
        let bytes = stage::read_exactly(&reader, 77)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    stage.reap(&[sender, receiver])
}

/// A descriptor taken from another process with pidfd_getfd(2): nobody sent it, and yet it changed hands.
fn by_pidfd(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let (owner, number) = (std::process::id(), writer.as_raw_fd());
    let sender = stage.child("taker", |stage| {
        // SAFETY: system calls that take numbers; the descriptors they make belong to nobody else.
        let taken = unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, owner, 0);
            ensure!(process >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
            let taken = libc::syscall(libc::SYS_pidfd_getfd, process, number, 0);
            ensure!(taken >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(taken as i32)
        };
        stage.tell(&Truth::Handoff {
            from: Party::Pid(owner),
            to: stage.me(),
            object: stage::pipe_id(&taken)?,
        })?;
        stage::write_all(&taken, &stage.marked(88))
    })?;
    let receiver = stage.child("receiver", |stage| {
        let bytes = stage::read_exactly(&reader, 88)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    stage.reap(&[sender, receiver])
}

/// Descriptors in each message of sendmmsg(2), some of them more than one.
fn several(stage: &Stage) -> Result<()> {
    let (give, take) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    let pipes = [pipe()?, pipe()?, pipe()?];
    let sender = stage.child("giver", |stage| {
        stage.put(0, u64::from(stage.mark()));
        let [one, two, three] = pipes.each_ref().map(|pipe| pipe.0.as_raw_fd());
        let (first, rest) = ([one], [two, three]);
        let controls = [[ControlMessage::ScmRights(&first)], [ControlMessage::ScmRights(&rest)]];
        let bytes = stage.marked(5);
        let buffers = [[IoSlice::new(&bytes)], [IoSlice::new(&bytes)]];
        let mut headers = MultiHeaders::<()>::preallocate(2, Some(nix::cmsg_space!([i32; 2])));
        let addresses = [None::<()>, None];
        // The control messages of nix's sendmmsg are the same for all messages.
        for (control, buffers) in controls.iter().zip(&buffers) {
            let sent = sendmmsg(
                give.as_raw_fd(),
                &mut headers,
                std::slice::from_ref(buffers),
                &addresses[..1],
                control.as_slice(),
                MsgFlags::empty(),
            )?;
            ensure!(sent.count() == 1, "one message goes");
        }
        Ok(())
    })?;
    stage.reap(&[sender])?;
    let receiver = stage.child("taker", |stage| {
        let mut bytes = [[0u8; 16]; 2];
        let mut buffers: Vec<_> = bytes.iter_mut().map(|bytes| [IoSliceMut::new(bytes)]).collect();
        let mut headers = MultiHeaders::<()>::preallocate(2, Some(nix::cmsg_space!([i32; 2])));
        let from = Party::Mark(u8::try_from(stage.get(0))?);
        let messages = recvmmsg(take.as_raw_fd(), &mut headers, &mut buffers, MsgFlags::MSG_DONTWAIT, None)?;
        let mut passed = Vec::new();
        for message in messages {
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    passed.extend(fds);
                }
            }
            stage.tell(&Truth::Transfer {
                mechanism: "unix_dgram".to_owned(),
                channel: None,
                from: from.clone(),
                to: stage.me(),
                bytes: 5,
                messages: Some(1),
            })?;
        }
        ensure!(passed.len() == 3, "{} descriptors came", passed.len());
        for fd in passed {
            // SAFETY: the kernel has just made it for us.
            let object = stage::pipe_id(unsafe { OwnedFd::from_raw_fd(fd) })?;
            stage.tell(&Truth::Handoff { from: from.clone(), to: stage.me(), object })?;
        }
        Ok(())
    })?;
    stage.reap(&[receiver])
}

/// Two FIFOs with one inode number on two file systems are two channels.
fn equal_inodes(stage: &Stage) -> Result<()> {
    let folders = [(); 2].map(|()| mkdtemp(&std::env::temp_dir().join("ipctrace-inode-XXXXXX")));
    let mut paths = Vec::new();
    for folder in folders {
        let folder = folder?;
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .context("mounting a tmpfs")?;
        let path = folder.join("fifo");
        mkfifo(&path, Mode::S_IRWXU)?;
        paths.push((folder, path));
    }
    let outcome = talk_over(stage, &paths[0].1, &paths[1].1);
    for (folder, _) in &paths {
        umount(folder)?;
        std::fs::remove_dir(folder)?;
    }
    outcome
}

/// A FIFO that is made where another was removed is another, although it may have the inode number: what was left in the one is not in
/// the other, however much is written to that.
fn made_anew(stage: &Stage) -> Result<()> {
    let folder = mkdtemp(&std::env::temp_dir().join("ipctrace-anew-XXXXXX"))?;
    let path = folder.join("fifo");
    for turn in 0..10 {
        mkfifo(&path, Mode::S_IRWXU)?;
        // Opened for both, so that neither waits for the other.
        let fifo = OwnedFd::from(File::options().read(true).write(true).open(&path)?);
        let id = stage::fifo_id(&fifo)?;
        // More each time, of which one byte is left.
        let bytes = 10 + 20 * turn;
        let writer = stage.child(&format!("writer-{turn}"), |stage| {
            stage::write_all(&fifo, &stage.marked(bytes))?;
            stage.tell(&Truth::Transfer {
                mechanism: "fifo".to_owned(),
                channel: Some(id.clone()),
                from: stage.me(),
                to: Party::None("unread".to_owned()),
                bytes: 1,
                messages: None,
            })
        })?;
        stage.reap(&[writer])?;
        let reader = stage.child(&format!("reader-{turn}"), |stage| {
            stage.heard("fifo", Some(id.clone()), &stage::read_exactly(&fifo, bytes - 1)?)
        })?;
        stage.reap(&[reader])?;
        std::fs::remove_file(&path)?;
    }
    std::fs::remove_dir(folder)?;
    Ok(())
}

/// As a shell uses a FIFO: each writer and each reader opens it, and closes it in the end; the pipe behind it is another each time.
fn opened_again_and_again(stage: &Stage) -> Result<()> {
    let folder = mkdtemp(&std::env::temp_dir().join("ipctrace-lives-XXXXXX"))?;
    let path = folder.join("fifo");
    mkfifo(&path, Mode::S_IRWXU)?;
    for turn in 0..8 {
        let writer = stage.child(&format!("writer-{turn}"), |stage| {
            let fifo = OwnedFd::from(File::options().write(true).open(&path)?);
            stage::write_all(&fifo, &stage.marked(10))
        })?;
        let reader = stage.child(&format!("reader-{turn}"), |stage| {
            let fifo = OwnedFd::from(File::open(&path)?);
            let id = stage::fifo_id(&fifo)?;
            stage.heard("fifo", Some(id), &stage::read_to_end(&fifo, 100)?)
        })?;
        stage.reap(&[writer, reader])?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn talk_over(stage: &Stage, first: &std::path::Path, second: &std::path::Path) -> Result<()> {
    let numbers = [first, second].map(|path| nix::sys::stat::stat(path).map(|status| status.st_ino));
    ensure!(numbers[0]? == numbers[1]?, "the inode numbers differ: the case is not made");
    let mut children = Vec::new();
    for (index, path) in [first, second].into_iter().enumerate() {
        // Opened for both, so that neither waits for the other.
        let fifo = OwnedFd::from(File::options().read(true).write(true).open(path)?);
        let size = 50 + index;
        children.push(
            stage.child(&format!("writer-{index}"), |stage| stage::write_all(&fifo, &stage.marked(size)))?,
        );
        children.push(stage.child(&format!("reader-{index}"), |stage| {
            let bytes = stage::read_exactly(&fifo, size)?;
            stage.heard("fifo", Some(stage::fifo_id(&fifo)?), &bytes)
        })?);
    }
    stage.reap(&children)
}
