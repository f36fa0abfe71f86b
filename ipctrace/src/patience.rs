//! Writing to a place that may take nothing more: a pipe whose reader sleeps, a terminal that was stopped by Ctrl-S.
//!
//! A write waits for as long as it takes, as that of every other program does, until we are told to end. From then on it waits for no
//! more than a second in which nothing is taken, and only for a moment once that has happened or we were told again: what
//! is left then is given up. Descriptors stay as they are: to make them non-blocking would make those of the shell so, too.
//!
//! What ends the wait is a timer's signal, which is handled without `SA_RESTART` (signal(7)), so that write(2) gives EINTR. It is armed
//! while a write is under way only: by the handler of the signal that tells us to end, or by the write, if that was before. It comes
//! again and again, for the first may come just before the call.

use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// We have been told to end.
static TOLD: AtomicBool = AtomicBool::new(false);
/// A write is under way.
static WRITING: AtomicBool = AtomicBool::new(false);
/// The timer has come since then.
static RUNG: AtomicBool = AtomicBool::new(false);
/// A write waited in vain.
static OVER: AtomicBool = AtomicBool::new(false);

/// Makes ready for [`told_to_end`].
///
/// # Errors
/// If the handler cannot be set.
pub fn begin() -> io::Result<()> {
    extern "C" fn ring(_: libc::c_int) {
        RUNG.store(true, Ordering::SeqCst);
    }
    let handler: extern "C" fn(libc::c_int) = ring;
    // SAFETY: all fields of the structure may be 0; the handler stores to an atomic and does nothing else.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        let mut alarm: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut alarm);
        libc::sigaddset(&raw mut alarm, libc::SIGALRM);
        if libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) != 0
            || libc::sigprocmask(libc::SIG_UNBLOCK, &raw const alarm, ptr::null_mut()) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// We have been told to end. May be called by handlers of signals.
pub fn told_to_end() {
    let again = TOLD.swap(true, Ordering::SeqCst);
    // Else the next write sees that it was so.
    if WRITING.load(Ordering::SeqCst) {
        arm(if again { MOMENT } else { PATIENCE });
    }
}

/// Lets the timer come after that time, and then again and again; never, if it is none.
fn arm(first: Duration) {
    let time = |time: Duration| libc::timeval {
        tv_sec: time.as_secs() as libc::time_t,
        tv_usec: time.subsec_micros() as libc::suseconds_t,
    };
    let interval = if first.is_zero() { first } else { MOMENT };
    let timer = libc::itimerval { it_interval: time(interval), it_value: time(first) };
    // SAFETY: reads a structure that lives until it returns.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
}

/// A call that may wait; [`GIVEN_UP`] if it waited in vain.
fn wait<T>(call: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        RUNG.store(false, Ordering::SeqCst);
        WRITING.store(true, Ordering::SeqCst);
        if TOLD.load(Ordering::SeqCst) {
            arm(if OVER.load(Ordering::SeqCst) { MOMENT } else { PATIENCE });
        }
        let result = call();
        WRITING.store(false, Ordering::SeqCst);
        if TOLD.load(Ordering::SeqCst) {
            arm(Duration::ZERO);
        }
        match result {
            Err(Errno::EINTR) if RUNG.load(Ordering::SeqCst) => {
                OVER.store(true, Ordering::SeqCst);
                return Err(GIVEN_UP);
            }
            Err(Errno::EINTR) => {}
            result => return result,
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
        if OVER.load(Ordering::SeqCst) && !is_ready(to) {
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
