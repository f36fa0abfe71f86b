//! Signals between the members of a workload: who sent which, and what the handlers saw.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::account::Line;
use super::shared::Shared;

/// What members send each other: two that merge while pending, two that queue up.
fn used() -> [i32; 4] {
    [libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN() + 1, libc::SIGRTMIN() + 2]
}

/// What handlers have seen: sender and signal, and how often. Filled in by handlers, so it does not allocate or lock.
static SEEN: [Seen; 256] =
    [const { Seen { sender: AtomicI32::new(0), signal: AtomicI32::new(0), count: AtomicU32::new(0) } }; 256];

struct Seen {
    sender: AtomicI32,
    signal: AtomicI32,
    count: AtomicU32,
}

extern "C" fn note(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes it, and these signals carry a process id.
    let sender = unsafe { (*info).si_pid() };
    for place in &SEEN {
        // Handlers run with all signals blocked, but several threads may be here: a place is taken by its sender once.
        let taken = place.sender.compare_exchange(0, sender, Ordering::SeqCst, Ordering::SeqCst);
        if taken.is_ok() {
            place.signal.store(signal, Ordering::SeqCst);
        }
        if place.sender.load(Ordering::SeqCst) == sender && place.signal.load(Ordering::SeqCst) == signal {
            place.count.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

extern "C" fn nothing(_signal: i32) {}

/// The set of signals that members send each other.
fn set() -> libc::sigset_t {
    // SAFETY: a set made empty, then filled.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        used().iter().for_each(|signal| {
            libc::sigaddset(&mut set, *signal);
        });
        set
    }
}

/// Blocks, or lets through, what members send each other.
///
/// # Errors
/// None that are known.
pub(super) fn block(block: bool) -> Result<()> {
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: a valid set.
    ensure!(unsafe { libc::pthread_sigmask(how, &set(), std::ptr::null_mut()) } == 0, "sigmask");
    Ok(())
}

/// Handles what members send each other, and SIGALRM, which interrupts calls that wait.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn handle() -> Result<()> {
    // SAFETY: handlers that only touch atomics; a mask of everything keeps them from each other.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigfillset(&mut action.sa_mask);
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = note as *const () as usize;
        for signal in used() {
            ensure!(libc::sigaction(signal, &action, std::ptr::null_mut()) == 0, "sigaction");
        }
        action.sa_flags = 0;
        action.sa_sigaction = nothing as *const () as usize;
        ensure!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) == 0, "sigaction");
        action.sa_sigaction = libc::SIG_IGN;
        ensure!(libc::sigaction(libc::SIGPIPE, &action, std::ptr::null_mut()) == 0, "sigaction");
    }
    Ok(())
}

/// Interrupts what this thread waits in every few milliseconds, so that no call waits for ever.
///
/// # Errors
/// If the kernel has no timer left.
pub(super) fn interrupt_this_thread() -> Result<()> {
    // SAFETY: an event for this very thread, and a timer that lives until the process ends.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = std::mem::zeroed();
        ensure!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) == 0, "timer_create");
        let each = libc::timespec { tv_sec: 0, tv_nsec: 4_000_000 };
        let times = libc::itimerspec { it_interval: each, it_value: each };
        ensure!(libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) == 0, "timer_settime");
    }
    Ok(())
}

/// Signals that a thread has sent, by receiving process and number.
#[derive(Debug, Default)]
pub(super) struct Sent(BTreeMap<(u32, i32), u64>);

impl Sent {
    /// Sends one to some member that takes signals now.
    ///
    /// # Errors
    /// None: a member that is gone gets none.
    pub(super) fn send(&mut self, shared: &Shared, rng: &mut Rng) {
        let mark = rng.u8(1..=shared.latest().max(1));
        let Some(pid) = shared.pid(mark) else { return };
        let signal = used()[rng.usize(0..4)];
        // SAFETY: numbers. The descriptor holds on to the very process, whoever has its id later.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if process < 0 || shared.pid(mark) != Some(pid) {
            return;
        }
        // SAFETY: a new descriptor.
        let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
        // SAFETY: numbers, and for sigqueue a value.
        let status = unsafe {
            match rng.u32(0..3) {
                0 => libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, 0, 0),
                1 => i64::from(libc::kill(pid as i32, signal)),
                _ => {
                    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(7) };
                    i64::from(libc::sigqueue(pid as i32, signal, value))
                }
            }
        };
        if status == 0 {
            *self.0.entry((pid, signal)).or_default() += 1;
        }
    }

    /// As lines of the report.
    pub(super) fn lines(&self) -> Vec<Line> {
        let from = std::process::id();
        let line = |((to, signal), count): (&(u32, i32), &u64)| Line::Signalled {
            from,
            to: *to,
            signal: *signal,
            count: *count,
        };
        self.0.iter().map(line).collect()
    }
}

/// What this process's handlers saw since the last call, as lines of the report.
pub(super) fn handled() -> Vec<Line> {
    let by = std::process::id();
    let mut lines = Vec::new();
    for place in &SEEN {
        let count = place.count.swap(0, Ordering::SeqCst);
        if count > 0 {
            lines.push(Line::Handled {
                from: place.sender.load(Ordering::SeqCst) as u32,
                by,
                signal: place.signal.load(Ordering::SeqCst),
                count: u64::from(count),
            });
        }
    }
    lines
}

/// Forgets what the parent's handlers saw: for a child.
pub(super) fn forget() {
    for place in &SEEN {
        place.count.store(0, Ordering::SeqCst);
        place.sender.store(0, Ordering::SeqCst);
        place.signal.store(0, Ordering::SeqCst);
    }
}
