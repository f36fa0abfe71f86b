//! What is timed: processes that do one thing many times.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipctrace::demo::stage::{self, PosixQueue, SysvQueue};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, pipe, read, write};

macro_rules! workloads {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $operations:literal, $transfers:literal;)*) => {
        /// A workload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Workload { $($(#[$doc])* $variant,)* }

        impl Workload {
            /// All of them.
            pub const ALL: &'static [Workload] = &[$(Workload::$variant,)*];
            /// The name in reports and on the command line of the process that runs it.
            pub fn name(self) -> &'static str {
                match self { $(Workload::$variant => $name,)* }
            }
            /// Operations of one run.
            fn usual(self) -> u64 {
                match self { $(Workload::$variant => $operations,)* }
            }
            /// Transfers that each of them is.
            pub fn transfers(self) -> f64 {
                match self { $(Workload::$variant => $transfers,)* }
            }
        }
    };
}

workloads! {
    /// Writes of 64 bytes through a pipe to a process that reads them.
    PipeSmall, "pipe, 64 B", 400_000, 1.0;
    /// The same with 64 KiB.
    PipeLarge, "pipe, 64 KiB", 20_000, 1.0;
    /// One byte to and fro between two processes over two pipes.
    PipePingPong, "pipe ping-pong", 60_000, 2.0;
    /// The same over a unix stream socket.
    UnixPingPong, "unix stream ping-pong", 60_000, 2.0;
    /// The same over a unix datagram socket.
    DatagramPingPong, "unix datagram ping-pong", 60_000, 2.0;
    /// The same over TCP on loopback.
    TcpPingPong, "TCP ping-pong", 25_000, 2.0;
    /// The same over UDP on loopback.
    UdpPingPong, "UDP ping-pong", 25_000, 2.0;
    /// Messages of 64 bytes through a POSIX queue.
    PosixQueue, "POSIX queue, 64 B", 200_000, 1.0;
    /// The same through a System V queue.
    SysvQueue, "System V queue, 64 B", 200_000, 1.0;
    /// Numbers to and fro over two eventfds.
    EventfdPingPong, "eventfd ping-pong", 60_000, 2.0;
    /// The same by futexes in shared memory.
    FutexPingPong, "futex ping-pong", 60_000, 2.0;
    /// Many to many, as hackbench does: twenty processes that send 100 bytes each time to each of twenty others.
    ManyToMany, "many to many, unix stream", 200_000, 1.0;
    /// As many pipes as there are operations, each of them used once.
    ManyFlows, "10,000 pipes, once each", 10_000, 1.0;
    /// A system call that does next to nothing and is no IPC.
    Getpid, "getpid", 3_000_000, 1.0;
    /// Reads of one byte from /dev/zero: the call is traced, its object is no channel.
    DevZero, "/dev/zero, 1 B", 1_500_000, 1.0;
    /// Wake-ups at a futex that is private to the process, and at which nobody waits: the call is no IPC.
    FutexPrivate, "private futex", 3_000_000, 1.0;
    /// Nothing, for so many milliseconds.
    Idle, "idle host, 1 ms", 2_000, 1.0;
}

impl Workload {
    /// Operations of one run at that scale.
    pub fn operations(self, scale: f64) -> u64 {
        // Of flows the number is the point.
        if self == Workload::ManyFlows && scale >= 0.1 {
            return self.usual();
        }
        ((self.usual() as f64 * scale) as u64).max(20)
    }

    /// Runs it in a process of its own (and children of that), behind the command `wrapper` if that is not empty, and gives
    /// how long its work took, and how much CPU time all of it took.
    ///
    /// # Errors
    /// If the process fails.
    pub fn run(self, operations: u64, wrapper: &[String]) -> Result<(Duration, Duration)> {
        let before = cpu_of_children()?;
        let this = std::env::current_exe()?.into_os_string();
        let words = [this, "__workload".into(), self.name().into(), operations.to_string().into()];
        let mut words = wrapper.iter().map(Into::into).chain(words);
        let output = Command::new(words.next().context("at least four")?)
            .args(words)
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("the workload {} ended with {}", self.name(), output.status);
        }
        let nanoseconds = String::from_utf8(output.stdout)?.trim().parse().context("a workload's time")?;
        Ok((Duration::from_nanos(nanoseconds), cpu_of_children()?.saturating_sub(before)))
    }

    /// Does the work, in the process that was made for it.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn work(self, operations: u64) -> Result<Duration> {
        let datagrams = || socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty());
        match self {
            Workload::PipeSmall => stream(operations, 64),
            Workload::PipeLarge => stream(operations, 64 << 10),
            Workload::PipePingPong => {
                let (there, put_there) = pipe()?;
                let (back, put_back) = pipe()?;
                ping_pong(operations, &[1], (back, put_there), (there, put_back))
            }
            Workload::UnixPingPong => {
                let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
                both_ways(operations, pair)
            }
            Workload::DatagramPingPong => both_ways(operations, datagrams()?),
            Workload::TcpPingPong => both_ways(operations, tcp_pair()?),
            Workload::UdpPingPong => both_ways(operations, udp_pair()?),
            Workload::PosixQueue => {
                let queue = PosixQueue::new("bench", 10, 64, 0)?;
                let receive = || {
                    queue.receive()?;
                    Ok(())
                };
                through(operations, || Ok(queue.send(&[1; 64], 0)?), receive)
            }
            Workload::SysvQueue => {
                let queue = SysvQueue::new()?;
                let receive = || {
                    queue.receive(0, 64, 0)?;
                    Ok(())
                };
                through(operations, || Ok(queue.send(1, &[1; 64], 0)?), receive)
            }
            Workload::EventfdPingPong => {
                let counter = || -> Result<(OwnedFd, OwnedFd)> {
                    let counter = OwnedFd::from(EventFd::new()?);
                    Ok((counter.try_clone()?, counter))
                };
                let (there, put_there) = counter()?;
                let (back, put_back) = counter()?;
                ping_pong(operations, &1_u64.to_ne_bytes(), (back, put_there), (there, put_back))
            }
            Workload::FutexPingPong => futex_ping_pong(operations),
            Workload::ManyToMany => many_to_many(operations),
            Workload::ManyFlows => many_flows(operations),
            Workload::FutexPrivate => {
                let futex = AtomicU32::new(0);
                timed(operations, || {
                    stage::futex_wake(&futex, 1, libc::FUTEX_PRIVATE_FLAG)?;
                    Ok(())
                })
            }
            Workload::Getpid => timed(operations, || {
                // SAFETY: a system call without arguments. The C library may keep its own getpid, hence syscall(2).
                unsafe { libc::syscall(libc::SYS_getpid) };
                Ok(())
            }),
            Workload::DevZero => {
                let mut zero = std::fs::File::open("/dev/zero")?;
                timed(operations, || Ok(zero.read_exact(&mut [0])?))
            }
            Workload::Idle => {
                let time = Duration::from_millis(operations);
                std::thread::sleep(time);
                Ok(time)
            }
        }
    }
}

/// CPU time of all children that have been waited for, and theirs.
fn cpu_of_children() -> Result<Duration> {
    // SAFETY: zeros are a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a structure that lives until the call returns.
    let status = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    ensure!(status == 0, "getrusage: {}", std::io::Error::last_os_error());
    let time =
        |time: libc::timeval| Duration::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// The same call again and again.
fn timed(operations: u64, mut call: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..operations {
        call()?;
    }
    Ok(start.elapsed())
}

/// Writes `size` bytes `operations` times to a child that reads them all. Until the child has.
fn stream(operations: u64, size: usize) -> Result<Duration> {
    let (reader, writer) = pipe()?;
    let start = Instant::now();
    let child = fork(|| {
        // The write end is the parent's; with it open here there would be no end.
        nix::unistd::close(writer.as_raw_fd())?;
        let mut buffer = vec![0; 64 << 10];
        while read(&reader, &mut buffer)? > 0 {}
        Ok(())
    })?;
    drop(reader);
    let mut writer = std::fs::File::from(writer);
    let data = vec![1; size];
    for _ in 0..operations {
        writer.write_all(&data)?;
    }
    drop(writer);
    reap(child)?;
    Ok(start.elapsed())
}

/// Something to and fro; each side has one end to read and one to write.
fn ping_pong(
    operations: u64,
    ball: &[u8],
    ours: (OwnedFd, OwnedFd),
    theirs: (OwnedFd, OwnedFd),
) -> Result<Duration> {
    on_one_processor()?;
    let mut room = [0; 8];
    let child = fork(|| {
        for _ in 0..operations {
            read(&theirs.0, &mut room)?;
            write(&theirs.1, ball)?;
        }
        Ok(())
    })?;
    let start = Instant::now();
    for _ in 0..operations {
        write(&ours.1, ball)?;
        read(&ours.0, &mut room)?;
    }
    let elapsed = start.elapsed();
    reap(child)?;
    Ok(elapsed)
}

/// Keeps this process and its children on one processor, of those that it may use the last.
///
/// A ping-pong takes ten times as long where each side has a processor of its own, because waking one up takes so long, and
/// which it is depends on what else the scheduler sees, the tracer included.
fn on_one_processor() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no processor at all")?)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// The same over something that goes both ways.
fn both_ways(operations: u64, (ours, theirs): (impl Into<OwnedFd>, impl Into<OwnedFd>)) -> Result<Duration> {
    let (ours, theirs): (OwnedFd, OwnedFd) = (ours.into(), theirs.into());
    ping_pong(operations, &[1], (ours.try_clone()?, ours), (theirs.try_clone()?, theirs))
}

/// The ends of a connection on loopback.
fn tcp_pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    for end in [&ours, &theirs] {
        end.set_nodelay(true)?;
    }
    Ok((ours, theirs))
}

/// Two sockets on loopback that are connected to each other.
fn udp_pair() -> Result<(UdpSocket, UdpSocket)> {
    let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    ours.connect(theirs.local_addr()?)?;
    theirs.connect(ours.local_addr()?)?;
    Ok((ours, theirs))
}

/// Messages from this process to a child. Until the child has them all.
fn through(
    operations: u64,
    mut send: impl FnMut() -> Result<()>,
    mut receive: impl FnMut() -> Result<()>,
) -> Result<Duration> {
    let start = Instant::now();
    let child = fork(|| (0..operations).try_for_each(|_| receive()))?;
    (0..operations).try_for_each(|_| send())?;
    reap(child)?;
    Ok(start.elapsed())
}

/// Twenty senders and twenty receivers, each of the former with a socket to each of the latter.
fn many_to_many(operations: u64) -> Result<Duration> {
    const PEERS: usize = 20;
    const SIZE: usize = 100;
    let turns = (operations as usize).div_ceil(PEERS * PEERS);
    let (ready, tell_ready) = pipe()?;
    let (go, tell_go) = pipe()?;
    let mut children = Vec::new();
    let mut outlets: Vec<Vec<OwnedFd>> = (0..PEERS).map(|_| Vec::new()).collect();
    // A child waits for the start with everything that it needs at hand.
    let wait = |go: &OwnedFd| -> Result<()> {
        write(&tell_ready, &[1])?;
        read(go, &mut [0])?;
        Ok(())
    };
    for _ in 0..PEERS {
        let mut inlets = Vec::new();
        for outlets in &mut outlets {
            let (inlet, outlet) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
            inlets.push(inlet);
            outlets.push(outlet);
        }
        children.push(fork(|| {
            wait(&go)?;
            for _ in 0..turns {
                for inlet in &inlets {
                    let mut missing = SIZE;
                    while missing > 0 {
                        missing -= read(inlet, &mut [0; SIZE][..missing])?;
                    }
                }
            }
            Ok(())
        })?);
    }
    for outlets in &outlets {
        children.push(fork(|| {
            wait(&go)?;
            for _ in 0..turns {
                for outlet in outlets {
                    ensure!(write(outlet, &[1; SIZE])? == SIZE, "a socket takes so little whole");
                }
            }
            Ok(())
        })?);
    }
    for _ in &children {
        read(&ready, &mut [0])?;
    }
    let start = Instant::now();
    write(&tell_go, &vec![1; children.len()])?;
    children.into_iter().try_for_each(reap)?;
    Ok(start.elapsed())
}

/// A pipe for each operation, with a message through it.
fn many_flows(operations: u64) -> Result<Duration> {
    timed(operations, || {
        let (reader, writer) = pipe()?;
        write(&writer, &[1; 64])?;
        read(&reader, &mut [0; 64])?;
        Ok(())
    })
}

/// Two processes that let each other go on in turn.
fn futex_ping_pong(operations: u64) -> Result<Duration> {
    // SAFETY: zeroed memory that is never unmapped; shared between processes as atomics may be.
    let [there, back] = unsafe { stage::shared::<[AtomicU32; 2]>()?.as_ref() };
    let wait_for = |futex: &AtomicU32, turn: u32| loop {
        match futex.load(Ordering::SeqCst) {
            now if now == turn => break,
            // That it is no longer so is what is waited for.
            now => drop(stage::futex_wait(futex, now, 0)),
        }
    };
    let pass = |futex: &AtomicU32, turn: u32| {
        futex.store(turn, Ordering::SeqCst);
        stage::futex_wake(futex, 1, 0)
    };
    let turns = 1..=operations as u32;
    on_one_processor()?;
    let child = fork(|| {
        for turn in turns.clone() {
            wait_for(there, turn);
            pass(back, turn)?;
        }
        Ok(())
    })?;
    let start = Instant::now();
    for turn in turns.clone() {
        pass(there, turn)?;
        wait_for(back, turn);
    }
    let elapsed = start.elapsed();
    reap(child)?;
    Ok(elapsed)
}

/// A child that does `work` and ends.
fn fork(work: impl FnOnce() -> Result<()>) -> Result<nix::unistd::Pid> {
    // SAFETY: the process has one thread, so the child finds no lock held.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let status = i32::from(work().is_err());
            std::process::exit(status);
        }
    }
}

fn reap(child: nix::unistd::Pid) -> Result<()> {
    let status = nix::sys::wait::waitpid(child, None)?;
    ensure!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "the child ended with {status:?}");
    Ok(())
}
