//! Who put bytes into a stream, and who took them.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Result, ensure};
use ipctrace::demo::{Stage, stage};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee, vmsplice};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socketpair};
use nix::unistd::{pipe, read, write};

use super::Scenario;
use crate::scenarios::ends::{connect_to, listen_at};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "two_readers_share_an_end", play: two_readers },
    Scenario { name: "only_what_calls_returned_counts", play: only_returned },
    Scenario { name: "large_blocking_writes", play: large_writes },
    Scenario { name: "every_call_that_moves_bytes", play: every_call },
    Scenario { name: "socketpair_of_the_parent", play: socketpair_of_parent },
    Scenario { name: "many_connections_of_one_pair", play: many_connections },
    Scenario { name: "sockets_by_read_and_write", play: sockets_by_read_and_write },
];

/// Each takes what it gets; the parts of one write can go to both.
fn two_readers(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut children = Vec::new();
    for name in ["reader-a", "reader-b"] {
        children.push(stage.child(name, |stage| {
            stage::close(&writer)?;
            stage.raise(0);
            let bytes = stage::read_to_end(&reader, 97)?;
            stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
        })?);
    }
    children.push(stage.child("writer", |stage| {
        stage::close(&reader)?;
        stage.wait_for(0, 2)?;
        for _ in 0..500 {
            stage::write_all(&writer, &stage.marked(150))?;
        }
        Ok(())
    })?);
    drop((reader, writer));
    stage.reap(&children)
}

/// A full pipe, a pipe without readers, and a write that waits for room: nothing is sent that no call reports.
fn only_returned(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let filler = stage.child("filler", |stage| {
        let mut sent = 0;
        loop {
            match write(&writer, &stage.marked(10_000)) {
                Ok(count) => sent += count,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(sent > 0, "nothing fit");
        stage.raise(0);
        Ok(())
    })?;
    stage.reap(&[filler])?;
    let refused = stage.child("refused", |stage| {
        ensure!(write(&writer, &stage.marked(1)) == Err(Errno::EAGAIN));
        Ok(())
    })?;
    stage.reap(&[refused])?;
    let reader_child = stage.child("reader", |stage| {
        stage::close(&writer)?;
        let bytes = stage::read_to_end(&reader, 8192)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    drop(reader);
    // Only the reader has it now. Once it is gone, there is nobody to write to.
    let (gone, orphan) = pipe()?;
    drop(gone);
    let broken = stage.child("broken", |stage| {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { nix::sys::signal::signal(nix::sys::signal::SIGPIPE, nix::sys::signal::SigHandler::SigIgn) }?;
        ensure!(write(&orphan, &stage.marked(5)) == Err(Errno::EPIPE));
        stage.tell(&ipctrace::demo::truth::Truth::Signal {
            signal: "SIGPIPE".to_owned(),
            from: ipctrace::demo::truth::Party::None("kernel".to_owned()),
            to: stage.me(),
            outcome: "ignored".to_owned(),
            value: None,
        })
    })?;
    drop(writer);
    stage.reap(&[reader_child, broken])
}

/// Writes larger than the pipe wait in it; one writer at a time, so every byte's place is known.
fn large_writes(stage: &Stage) -> Result<()> {
    let (reader, writer) = pipe()?;
    let child = stage.child("reader", |stage| {
        stage::close(&writer)?;
        let bytes = stage::read_to_end(&reader, 30_000)?;
        stage.heard("pipe", Some(stage::pipe_id(&reader)?), &bytes)
    })?;
    for name in ["big-a", "big-b", "big-c"] {
        let big = stage.child(name, |stage| {
            stage::close(&reader)?;
            stage::write_all(&writer, &stage.marked(300_001))
        })?;
        stage.reap(&[big])?;
    }
    drop((reader, writer));
    stage.reap(&[child])
}

/// writev, readv, splice, tee, vmsplice, sendfile, pwritev2, preadv2.
fn every_call(stage: &Stage) -> Result<()> {
    let (first, into_first) = pipe()?;
    let (second, into_second) = pipe()?;
    let (third, into_third) = pipe()?;
    let source = stage.child("source", |stage| {
        let data = stage.marked(1000);
        let vector = [libc::iovec { iov_base: data.as_ptr() as *mut libc::c_void, iov_len: 500 }; 2];
        // SAFETY: the vector names valid memory; an offset of -1 means none.
        let sent = unsafe { libc::pwritev2(into_first.as_raw_fd(), vector.as_ptr(), 2, -1, 0) };
        ensure!(sent == 1000, "pwritev2 gave {sent}");
        ensure!(vmsplice(&into_first, &[std::io::IoSlice::new(&data)], SpliceFFlags::empty())? == 1000);
        let file = memory_file(&data)?;
        ensure!(nix::sys::sendfile::sendfile(&into_first, &file, None, 1000)? == 1000);
        // The pages given by vmsplice are ours until they are read.
        stage.wait_for(1, 1)
    })?;
    let copier = stage.child("copier", |stage| {
        let mut seen = 0;
        while seen < 1000 {
            // A copy for the third pipe, without taking; then the original is moved on.
            seen += tee(&first, &into_third, 1000 - seen, SpliceFFlags::empty())?;
            ensure!(seen == 1000, "tee copied {seen} bytes at once");
        }
        let mut moved = 0;
        while moved < 3000 {
            moved += splice(&first, None, &into_second, None, 3000 - moved, SpliceFFlags::empty())?;
        }
        stage::close(&into_second)?;
        // What it moved on it took: all of it from the source.
        stage.tell(&transfer("pipe", &first, party_of(1), stage.me(), 3000)?)
    })?;
    let sink = stage.child("sink", |stage| {
        let mut buffer = vec![0; 4000];
        let mut done = 0;
        while done < 3000 {
            let vector = [libc::iovec { iov_base: buffer[done..].as_mut_ptr().cast(), iov_len: 3000 - done }];
            // SAFETY: the vector names valid memory that is ours to write.
            let got = unsafe { libc::preadv2(second.as_raw_fd(), vector.as_ptr(), 1, -1, 0) };
            ensure!(got > 0, "preadv2 gave {got}");
            done += got as usize;
        }
        stage.tell(&transfer("pipe", &second, party_of(2), stage.me(), 3000)?)?;
        let mut copy = [0; 1000];
        ensure!(read(&third, &mut copy)? == 1000);
        stage.tell(&transfer("pipe", &third, party_of(2), stage.me(), 1000)?)?;
        stage.raise(1);
        Ok(())
    })?;
    stage.reap(&[source, copier, sink])
}

/// The child that was made first, second, …: marks are given in that order.
fn party_of(mark: u8) -> ipctrace::demo::truth::Party {
    ipctrace::demo::truth::Party::Mark(mark)
}

fn transfer(
    mechanism: &str,
    channel: &OwnedFd,
    from: ipctrace::demo::truth::Party,
    to: ipctrace::demo::truth::Party,
    bytes: u64,
) -> Result<ipctrace::demo::truth::Truth> {
    Ok(ipctrace::demo::truth::Truth::Transfer {
        mechanism: mechanism.to_owned(),
        channel: Some(stage::pipe_id(channel)?),
        from,
        to,
        bytes,
        messages: None,
    })
}

fn memory_file(content: &[u8]) -> Result<OwnedFd> {
    let file = nix::sys::memfd::memfd_create(c"content", nix::sys::memfd::MFdFlags::empty())?;
    stage::write_all(&file, content)?;
    nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekSet)?;
    Ok(file)
}

/// What `SO_PEERCRED` and `sk_peer_pid` would say: the parent, twice.
fn socketpair_of_parent(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let writer = stage.child("left", |stage| stage::write_all(&left, &stage.marked(4000)));
    let reader = stage.child("right", |stage| {
        let bytes = stage::read_exactly(&right, 4000)?;
        stage.heard("unix_stream", None, &bytes)
    });
    stage.reap(&[writer?, reader?])
}

/// Ten connections between two processes: ten channels, each with its own bytes.
fn many_connections(stage: &Stage) -> Result<()> {
    let address = UnixAddr::new_abstract(format!("ipctrace-many-{}", std::process::id()).as_bytes())?;
    let server = stage.child("server", |stage| {
        let listener = listen_at(&address)?;
        stage.raise(0);
        for index in 0..10 {
            let connection = stage::accept_one(&listener)?;
            let bytes = stage::read_exactly(&connection, 10 + index)?;
            let ours = nix::sys::stat::fstat(&connection)?.st_ino;
            // The client says in its first bytes which socket of its own it is.
            stage.wait_for(1, index as u32 + 1)?;
            let theirs = stage.get(index);
            let id = format!("socket:[{theirs}]->socket:[{ours}]");
            stage.heard("unix_stream", Some(id), &bytes)?;
        }
        Ok(())
    })?;
    let client = stage.child("client", |stage| {
        stage.wait_for(0, 1)?;
        let mut connections = Vec::new();
        for index in 0..10 {
            let connection = connect_to(&address)?;
            stage.put(index, nix::sys::stat::fstat(&connection)?.st_ino);
            stage.raise(1);
            connections.push(connection);
        }
        for (index, connection) in connections.iter().enumerate().rev() {
            stage::write_all(connection, &stage.marked(10 + index))?;
        }
        // Closed when all was read.
        stage.wait_for(1, 10)?;
        stage.wait_until(|| stage::sleeps(nix::unistd::getppid()))
    })?;
    stage.reap(&[server, client])
}

/// read, write, readv, writev, sendfile and splice on sockets are sends and receives like others.
fn sockets_by_read_and_write(stage: &Stage) -> Result<()> {
    let (left, right) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let writer = stage.child("writer", |stage| {
        let data = stage.marked(600);
        stage::write_all(&left, &data)?;
        ensure!(
            nix::sys::uio::writev(&left, &[std::io::IoSlice::new(&data), std::io::IoSlice::new(&data)])?
                == 1200
        );
        let file = memory_file(&data)?;
        ensure!(nix::sys::sendfile::sendfile(&left, &file, None, 600)? == 600);
        Ok(())
    })?;
    let reader = stage.child("reader", |stage| {
        let mut all = stage::read_exactly(&right, 700)?;
        let mut rest = vec![0; 1000];
        let got = nix::sys::uio::readv(&right, &mut [std::io::IoSliceMut::new(&mut rest)])?;
        all.extend_from_slice(&rest[..got]);
        // The last of it into a pipe of its own, and from there to itself.
        let (out, into) = pipe()?;
        let mut spliced = 0;
        while all.len() + spliced < 2400 {
            spliced += splice(&right, None, &into, None, 2400 - all.len() - spliced, SpliceFFlags::empty())?;
        }
        let own = stage::read_exactly(&out, spliced)?;
        stage.tell(&transfer("pipe", &out, stage.me(), stage.me(), own.len() as u64)?)?;
        all.extend_from_slice(&own);
        stage.heard("unix_stream", None, &all)
    })?;
    stage.reap(&[writer, reader])
}
