//! The first moments of a trace: calls that are under way when it begins.

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipctrace_tests::pause_until;
use ipctrace_tests::trace::Trace;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde_json::Value;

/// Transfers through what `id` is part of the name of.
fn transfers<'a>(lines: &'a [Value], id: &str) -> Vec<&'a Value> {
    let through = |line: &&Value| line["channel"]["id"].as_str().is_some_and(|channel| channel.contains(id));
    lines.iter().filter(|line| line["type"] == "transfer").filter(through).collect()
}

#[test]
fn a_reader_that_waits_while_tracing_begins_gets_what_is_written_meanwhile() -> Result<()> {
    // Whenever tracing begins, a read is under way, and within half a millisecond a write ends it.
    let (mut reader, mut writer) = std::io::pipe()?;
    let id = format!("pipe:[{}]", nix::sys::stat::fstat(&reader)?.st_ino);
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let reads = thread::spawn(move || while reader.read(&mut [0; 16]).is_ok_and(|count| count != 0) {});
    let writes = thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) && writer.write(&[0]).is_ok() {
            thread::sleep(Duration::from_micros(500));
        }
    });
    let mut traces = Vec::new();
    for _ in 0..3 {
        let trace = Trace::start(&["-m", "pipe", "--every"])?;
        thread::sleep(Duration::from_millis(300));
        traces.push(trace.stop()?);
    }
    over.store(true, Ordering::Relaxed);
    ensure!(writes.join().is_ok() && reads.join().is_ok(), "no thread panics");
    let own = std::process::id();
    for lines in &traces {
        ensure!(lines.last().context("an end")?["lost"] == serde_json::json!({}), "something was lost");
        let told = transfers(lines, &id);
        assert!(told.len() > 100, "{told:?}");
        for transfer in told {
            // A write that is on a processor at that moment may stay without a name; nothing that is seen may.
            assert_ne!(transfer["receiver_why"], "lost", "{transfer}");
            let right = |end: &Value| end.is_null() || end["pid"] == own;
            assert!(right(&transfer["sender"]) && right(&transfer["receiver"]), "{transfer}");
        }
    }
    Ok(())
}

#[test]
fn a_look_that_began_before_tracing_takes_nothing() -> Result<()> {
    let (mut sender, mut receiver) = UnixStream::pair()?;
    let id = format!("socket:[{}]", nix::sys::stat::fstat(&receiver)?.st_ino);
    let (tell, told) = std::sync::mpsc::channel();
    let looks = thread::spawn(move || -> Result<(usize, usize)> {
        tell.send(nix::unistd::gettid().as_raw())?;
        let seen = recv(receiver.as_raw_fd(), &mut [0; 100], MsgFlags::MSG_PEEK)?;
        Ok((seen, receiver.read(&mut [0; 100])?))
    });
    let thread = told.recv()?;
    pause_until("the receiver looks", || {
        let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall"))?;
        Ok(call.starts_with(&format!("{} ", libc::SYS_recvfrom)))
    })?;
    let trace = Trace::start(&["-m", "unix_stream"])?;
    sender.write_all(&[0; 10])?;
    assert_eq!(looks.join().ok().context("no panic")??, (10, 10));
    let lines = trace.stop()?;
    let told: Vec<_> = transfers(&lines, &id)
        .iter()
        .map(|line| (line["bytes"].as_u64(), line["receiver"]["pid"].as_u64(), line["exact"].as_bool()))
        .collect();
    assert_eq!(told, [(Some(10), Some(u64::from(std::process::id())), Some(true))], "{lines:?}");
    Ok(())
}

/// A transfer: how many bytes, who sent and who received them: us, another, or why that is not known.
type Short = (u64, String, String);

/// What a call that was under way when tracing began is checked by.
struct UnderWay<T> {
    calls: thread::JoinHandle<Result<T>>,
    trace: Trace,
}

/// Begins a trace while a thread waits in system call `number`.
fn begin_in<T: Send + 'static>(
    number: libc::c_long,
    mechanism: &str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<UnderWay<T>> {
    let (tell, told) = std::sync::mpsc::channel();
    let calls = thread::spawn(move || {
        tell.send(nix::unistd::gettid().as_raw())?;
        call()
    });
    let thread = told.recv()?;
    pause_until("the thread waits", || {
        let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall"))?;
        Ok(call.starts_with(&format!("{number} ")))
    })?;
    Ok(UnderWay { calls, trace: Trace::start(&["-m", mechanism, "--every"])? })
}

impl<T> UnderWay<T> {
    /// Ends the trace when the call is over; gives what it gave, and the transfers through `id`.
    fn end(self, id: &str) -> Result<(T, Vec<Short>)> {
        let value = self.calls.join().ok().context("no panic")??;
        let lines = self.trace.stop()?;
        let own = u64::from(std::process::id());
        let end = |line: &Value, end: &str| match line[end]["pid"].as_u64() {
            Some(pid) if pid == own => "us".to_owned(),
            Some(pid) => format!("another, {pid}"),
            None => line[format!("{end}_why")].as_str().unwrap_or("no reason").to_owned(),
        };
        let mut told = Vec::new();
        for line in transfers(&lines, id) {
            ensure!(line["exact"] == true, "{line}");
            told.push((line["bytes"].as_u64().context("bytes")?, end(line, "sender"), end(line, "receiver")));
        }
        Ok((value, told))
    }
}

/// Transfers as they should be.
fn told(transfers: &[(u64, &str, &str)]) -> Vec<Short> {
    transfers.iter().map(|(bytes, from, to)| (*bytes, (*from).to_owned(), (*to).to_owned())).collect()
}

/// A unix socket of each end.
fn pair(kind: SockType) -> Result<(OwnedFd, OwnedFd, String)> {
    let (sender, receiver) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    let id = format!("->socket:[{}]", nix::sys::stat::fstat(&receiver)?.st_ino);
    Ok((sender, receiver, id))
}

/// recvmmsg(2) or sendmmsg(2) of buffers of these lengths; how many messages went, and how long each was.
fn several(socket: &OwnedFd, lengths: &[usize], receive: bool, flags: MsgFlags) -> Result<Vec<u32>> {
    let mut buffers: Vec<Vec<u8>> = lengths.iter().map(|len| vec![0; *len]).collect();
    let mut vectors: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = Vec::new();
    for vector in &mut vectors {
        // SAFETY: all zeros is a header of no buffers.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        messages.push(message);
    }
    let (count, flags) = (messages.len() as libc::c_uint, flags.bits() as _);
    // SAFETY: the headers name valid memory that is ours.
    let done = unsafe {
        if receive {
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags, std::ptr::null_mut())
        } else {
            libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags)
        }
    };
    let done = Errno::result(done)? as usize;
    Ok(messages[..done].iter().map(|message| message.msg_len).collect())
}

#[test]
fn a_recvmmsg_of_a_stream_that_began_before_takes_bytes_not_messages() -> Result<()> {
    let (sender, receiver, id) = pair(SockType::Stream)?;
    let taking = receiver.try_clone()?;
    let wait = MsgFlags::from_bits_retain(libc::MSG_WAITFORONE);
    let call = begin_in(libc::SYS_recvmmsg, "unix_stream", move || several(&taking, &[100; 3], true, wait))?;
    nix::unistd::write(&sender, &[0; 150])?;
    pause_until("it has been received", || Ok(call.calls.is_finished()))?;
    nix::unistd::write(&sender, &[0; 7])?;
    assert_eq!(nix::unistd::read(&receiver, &mut [0; 100])?, 7);
    let (lengths, transfers) = call.end(&id)?;
    assert_eq!(lengths, [100, 50]);
    assert_eq!(transfers, told(&[(150, "us", "us"), (7, "us", "us")]));
    Ok(())
}

#[test]
fn a_sendmmsg_into_a_stream_that_began_before_puts_in_bytes_not_messages() -> Result<()> {
    let (sender, receiver, id) = pair(SockType::Stream)?;
    // The third does not fit.
    const PARTS: [usize; 4] = [70_000, 80_000, 200_000, 9];
    let call = begin_in(libc::SYS_sendmmsg, "unix_stream", move || {
        let sent = several(&sender, &PARTS, false, MsgFlags::empty())?;
        nix::unistd::write(&sender, &[0; 7])?;
        Ok(sent)
    })?;
    let all = PARTS.iter().sum::<usize>() + 7;
    let mut taken = 0;
    while taken < all {
        taken += nix::unistd::read(&receiver, &mut vec![0; all])?;
    }
    let (lengths, transfers) = call.end(&id)?;
    assert_eq!(lengths, PARTS.map(|part| part as u32));
    let sum = |from: &str| -> u64 {
        let from = transfers.iter().filter(|(_, sender, to)| sender == from && to == "us");
        from.map(|(bytes, ..)| bytes).sum()
    };
    let (before, ours) = (sum("before-start"), sum("us"));
    assert_eq!(before + ours, all as u64, "{transfers:?}");
    // What was in the socket when it was first seen, it had before: both of the first, and what else there was room for.
    assert!(before >= 150_000 && ours >= 16, "{transfers:?}");
    Ok(())
}

#[test]
fn a_recvmmsg_of_datagrams_that_began_before_takes_each() -> Result<()> {
    let (sender, receiver, id) = pair(SockType::Datagram)?;
    let call = begin_in(libc::SYS_recvmmsg, "unix_dgram", move || {
        several(&receiver, &[100; 3], true, MsgFlags::empty())
    })?;
    for len in [10, 0, 30] {
        nix::unistd::write(&sender, &vec![0; len])?;
    }
    let (lengths, transfers) = call.end(&id)?;
    assert_eq!(lengths, [10, 0, 30]);
    assert_eq!(transfers, told(&[(10, "us", "us"), (0, "us", "us"), (30, "us", "us")]));
    Ok(())
}

/// How many datagrams a unix socket holds.
fn room_for_datagrams() -> Result<usize> {
    let (sender, _receiver, _) = pair(SockType::Datagram)?;
    let mut count = 0;
    loop {
        match send(sender.as_raw_fd(), &[0; 5], MsgFlags::MSG_DONTWAIT) {
            Ok(_) => count += 1,
            Err(Errno::EAGAIN) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn a_recvmmsg_of_datagrams_that_had_some_takes_the_others() -> Result<()> {
    let (sender, receiver, id) = pair(SockType::Datagram)?;
    let send = |len: usize| nix::unistd::write(&sender, &vec![0; len]);
    for len in [11, 12] {
        send(len)?;
    }
    let taking = receiver.try_clone()?;
    let call = begin_in(libc::SYS_recvmmsg, "unix_dgram", move || {
        several(&taking, &[100; 4], true, MsgFlags::empty())
    })?;
    for len in [13, 14] {
        send(len)?;
    }
    pause_until("all have been received", || Ok(call.calls.is_finished()))?;
    send(16)?;
    assert_eq!(nix::unistd::read(&receiver, &mut [0; 100])?, 16);
    let (lengths, transfers) = call.end(&id)?;
    assert_eq!(lengths, [11, 12, 13, 14]);
    assert_eq!(transfers, told(&[(13, "us", "us"), (14, "us", "us"), (16, "us", "us")]));
    Ok(())
}

#[test]
fn a_sendmmsg_of_datagrams_that_began_before_puts_in_those_there_was_no_room_for() -> Result<()> {
    let (sender, receiver, id) = pair(SockType::Datagram)?;
    // Room for two is left.
    let early = room_for_datagrams()? - 2;
    (0..early).try_for_each(|_| nix::unistd::write(&sender, &[0; 5]).map(|_| ()))?;
    let call = begin_in(libc::SYS_sendmmsg, "unix_dgram", move || {
        several(&sender, &[1, 2, 3, 4], false, MsgFlags::empty())
    })?;
    let mut expected = vec![(5, "before-start", "us"); early];
    expected.extend([(1, "before-start", "us"), (2, "before-start", "us")]);
    for _ in 0..expected.len() {
        nix::unistd::read(&receiver, &mut [0; 10])?;
    }
    pause_until("all have been sent", || Ok(call.calls.is_finished()))?;
    expected.extend([(3, "us", "us"), (4, "us", "us")]);
    for _ in 0..2 {
        nix::unistd::read(&receiver, &mut [0; 10])?;
    }
    let (lengths, transfers) = call.end(&id)?;
    assert_eq!(lengths, [1, 2, 3, 4]);
    assert_eq!(transfers, told(&expected));
    Ok(())
}

#[test]
fn a_receive_that_waits_for_all_and_began_before_takes_what_was_missing() -> Result<()> {
    for low_water in [false, true] {
        let (sender, receiver, id) = pair(SockType::Stream)?;
        nix::unistd::write(&sender, &[0; 4])?;
        let taking = receiver.try_clone()?;
        let flags = if low_water {
            let lowest: libc::c_int = 10;
            // SAFETY: the option is an int.
            let set = unsafe {
                libc::setsockopt(
                    receiver.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVLOWAT,
                    (&raw const lowest).cast(),
                    size_of_val(&lowest) as libc::socklen_t,
                )
            };
            Errno::result(set)?;
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_WAITALL
        };
        let call = begin_in(libc::SYS_recvfrom, "unix_stream", move || {
            Ok(recv(taking.as_raw_fd(), &mut [0; 10], flags)?)
        })?;
        nix::unistd::write(&sender, &[0; 2])?;
        nix::unistd::write(&sender, &[0; 9])?;
        pause_until("it has been received", || Ok(call.calls.is_finished()))?;
        assert_eq!(recv(receiver.as_raw_fd(), &mut [0; 5], MsgFlags::MSG_WAITALL)?, 5);
        let (bytes, transfers) = call.end(&id)?;
        assert_eq!(bytes, 10);
        // What the first write put in and four bytes of the second, and the rest of that.
        assert_eq!(transfers, told(&[(6, "us", "us"), (5, "us", "us")]));
    }
    Ok(())
}

#[test]
fn an_empty_datagram_ends_a_receive_that_began_before() -> Result<()> {
    let (sender, receiver, id) = pair(SockType::Datagram)?;
    let call = begin_in(libc::SYS_recvfrom, "unix_dgram", move || {
        Ok(recv(receiver.as_raw_fd(), &mut [0; 10], MsgFlags::empty())?)
    })?;
    nix::unistd::write(&sender, &[])?;
    let (bytes, transfers) = call.end(&id)?;
    assert_eq!((bytes, transfers), (0, told(&[(0, "us", "us")])));
    // The end of a connection is none.
    let (sender, receiver, id) = pair(SockType::SeqPacket)?;
    let call = begin_in(libc::SYS_recvfrom, "unix_seqpacket", move || {
        Ok(recv(receiver.as_raw_fd(), &mut [0; 10], MsgFlags::empty())?)
    })?;
    drop(sender);
    let (bytes, transfers) = call.end(&id)?;
    assert_eq!((bytes, transfers), (0, Vec::new()));
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    let id = format!("->{}", receiver.local_addr()?);
    let call = begin_in(libc::SYS_recvfrom, "udp", move || Ok(receiver.recv(&mut [0; 10])?))?;
    sender.send(&[])?;
    let (bytes, transfers) = call.end(&id)?;
    assert_eq!((bytes, transfers), (0, told(&[(0, "us", "us")])));
    Ok(())
}
