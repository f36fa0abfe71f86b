//! Writing to a place that may take nothing more: a pipe whose reader sleeps, a terminal that was stopped by Ctrl-S.
//!
//! A write waits for as long as it takes, as that of every other program does, until we are told to end. From then on it waits for no
//! more than a second in which nothing is taken. Once that has happened, until something is taken again, or once we were told twice, what is not
//! taken in a moment is given up. Descriptors stay as they are: to make them non-blocking would make those of the shell so, too.
//!
//! What ends the wait is a timer's signal, which is handled without `SA_RESTART` (signal(7)), so that write(2) gives EINTR. It is armed
//! while a write is under way only: by the handler of the signal that tells us to end, or by the write, if that was before. It comes
//! again and again, for the first may come just before the call. It is one of the real-time signals: SIGALRM may be somebody else's.

use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long nothing may be taken once we have been told to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where there is no patience left, and until the timer comes again.
const MOMENT: Duration = Duration::from_millis(50);

/// What [`write()`] gives where it waited in vain.
pub const GIVEN_UP: Errno = Errno::ETIMEDOUT;
/// What is to be said of it.
pub const WHY: &str = "nothing more was taken there when it was time to end";

/// The timer, once there is one: a `timer_t`, which is a pointer that may be null.
static TIMER: OnceLock<usize> = OnceLock::new();
/// How often we have been told to end.
static TOLD: AtomicU32 = AtomicU32::new(0);
/// A write is under way.
static WRITING: AtomicBool = AtomicBool::new(false);
/// The timer has come since then.
static RUNG: AtomicBool = AtomicBool::new(false);
/// A write waited in vain, and nothing has been taken since.
static OVER: AtomicBool = AtomicBool::new(false);
/// A write was interrupted, whether it had been taken in part or not, and none has been taken whole since.
static STALLED: AtomicBool = AtomicBool::new(false);
/// We are not to end after all ([`told_in_vain`]), once that is over.
static PARDONED: AtomicBool = AtomicBool::new(false);

/// Makes ready for [`told_to_end`].
///
/// # Errors
/// If the handler cannot be set.
pub fn begin() -> io::Result<()> {
    extern "C" fn ring(_: libc::c_int) {
        RUNG.store(true, Ordering::SeqCst);
    }
    if TIMER.get().is_some() {
        return Ok(());
    }
    let (handler, signal): (extern "C" fn(libc::c_int), _) = (ring, libc::SIGRTMIN());
    // SAFETY: all fields of the structures may be 0; the handler stores to an atomic and does nothing else.
    let timer = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        let mut event: libc::sigevent = mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut timer: libc::timer_t = ptr::null_mut();
        if libc::sigaction(signal, &raw const action, ptr::null_mut()) != 0
            || libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) != 0
            || libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0
        {
            return Err(io::Error::last_os_error());
        }
        timer
    };
    TIMER.get_or_init(|| timer.expose_provenance());
    Ok(())
}

/// We have been told to end. May be called by handlers of signals.
pub fn told_to_end() {
    TOLD.fetch_add(1, Ordering::SeqCst);
    // Else the next write sees that it was so.
    if WRITING.load(Ordering::SeqCst) {
        arm(left());
    }
}

/// We are not to end: who was told was the command beside us, and it goes on. Where the output is stuck just now it still is given up.
pub fn told_in_vain() {
    if STALLED.load(Ordering::SeqCst) {
        PARDONED.store(true, Ordering::SeqCst);
    } else {
        TOLD.store(0, Ordering::SeqCst);
    }
}

/// Whether nothing is waited for any more.
fn is_over() -> bool {
    OVER.load(Ordering::SeqCst) || TOLD.load(Ordering::SeqCst) > 1
}

/// Whether a write waits only so long.
fn is_limited() -> bool {
    OVER.load(Ordering::SeqCst) || TOLD.load(Ordering::SeqCst) > 0
}

/// How long a write waits then.
fn left() -> Duration {
    if is_over() { MOMENT } else { PATIENCE }
}

/// Lets the timer come after that time, and then again and again; never, if it is none.
fn arm(first: Duration) {
    let Some(timer) = TIMER.get() else { return };
    let time = |time: Duration| libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos().into(),
    };
    let interval = if first.is_zero() { first } else { MOMENT };
    let setting = libc::itimerspec { it_interval: time(interval), it_value: time(first) };
    // SAFETY: a timer that there is, and a structure that lives until it returns.
    unsafe {
        libc::timer_settime(ptr::with_exposed_provenance_mut(*timer), 0, &raw const setting, ptr::null_mut())
    };
}

/// A call that may wait; [`GIVEN_UP`] if it waited in vain.
fn wait<T>(call: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        RUNG.store(false, Ordering::SeqCst);
        WRITING.store(true, Ordering::SeqCst);
        if is_limited() {
            arm(left());
        }
        let result = call();
        WRITING.store(false, Ordering::SeqCst);
        if is_limited() {
            arm(Duration::ZERO);
        }
        match result {
            Err(Errno::EINTR) if RUNG.load(Ordering::SeqCst) && is_limited() => {
                STALLED.store(true, Ordering::SeqCst);
                OVER.store(true, Ordering::SeqCst);
                return Err(GIVEN_UP);
            }
            Ok(taken) if RUNG.load(Ordering::SeqCst) && is_limited() => {
                STALLED.store(true, Ordering::SeqCst);
                return Ok(taken);
            }
            Err(Errno::EINTR) => {}
            Ok(taken) => {
                OVER.store(false, Ordering::SeqCst);
                STALLED.store(false, Ordering::SeqCst);
                if PARDONED.swap(false, Ordering::SeqCst) {
                    TOLD.store(0, Ordering::SeqCst);
                }
                return Ok(taken);
            }
            Err(errno) => return Err(errno),
        }
    }
}

fn is_ready(to: BorrowedFd) -> bool {
    let mut fds = [PollFd::new(to, PollFlags::POLLOUT)];
    // Whatever poll(2) cannot tell the write will.
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Writes some of it, as write(2) does.
///
/// # Errors
/// Those of write(2) but EINTR and EAGAIN, and [`GIVEN_UP`].
pub fn write(to: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    let to = to.as_fd();
    loop {
        if is_over() && !is_ready(to) {
            return Err(GIVEN_UP);
        }
        match wait(|| nix::unistd::write(to, bytes)) {
            // Someone who shares the descriptor made it non-blocking.
            Err(Errno::EAGAIN) => {
                wait(|| poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE))?;
            }
            result => return result,
        }
    }
}

/// A descriptor that is written to in this way.
#[derive(Debug)]
pub struct Patient<T>(pub T);

impl<T: AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(&self.0, bytes).map_err(|errno| {
            if errno == GIVEN_UP { io::Error::new(io::ErrorKind::TimedOut, WHY) } else { errno.into() }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
