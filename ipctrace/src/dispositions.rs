//! What signals do, as we were started with it, and as what we start is to have it.
//!
//! Before `main` the runtime of the standard library has SIGPIPE ignored, and a child it starts has the default action whatever we were
//! started with, and no signal blocked. A command that is traced is to behave as it does untraced: env(1), nice(1) and strace(1)
//! leave all that alone. So it is looked up before the runtime comes to it, and given to the child.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;

/// The signals of Linux: signal(7).
const ALL: std::ops::RangeInclusive<c_int> = 1..=64;

/// The signals that were ignored at the start.
static IGNORED: AtomicU64 = AtomicU64::new(0);
/// Those that were blocked.
static BLOCKED: AtomicU64 = AtomicU64::new(0);

/// The functions here are called by the C library before `main`, and so before the runtime of the standard library has a say.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = look;

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

extern "C" fn look() {
    let ignored = ALL.filter(|signal| ignores(*signal)).fold(0, |set, signal| set | bit(signal));
    IGNORED.store(ignored, Ordering::Relaxed);
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: with no new mask sigprocmask(2) only writes the one there is.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr()) } == 0 {
        // SAFETY: written, as the call succeeded.
        let mask = unsafe { mask.assume_init() };
        // SAFETY: reads a set that lives.
        let is_blocked = |signal: &c_int| unsafe { libc::sigismember(&raw const mask, *signal) } == 1;
        BLOCKED.store(ALL.filter(is_blocked).fold(0, |set, signal| set | bit(signal)), Ordering::Relaxed);
    }
}

/// Whether nothing happens at that signal as things are.
pub fn ignores(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action sigaction(2) only writes the one there is.
    let status = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written, if it succeeded.
    status == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Whether we were started with that signal ignored: nohup(1) has it so for SIGHUP, and a shell without job control for Ctrl-C of what
/// it runs in the background.
pub fn was_ignored(signal: c_int) -> bool {
    IGNORED.load(Ordering::Relaxed) & bit(signal) != 0
}

/// From here on that signal does what it does by default, although we were started with it ignored.
pub fn heed(signal: c_int) {
    // SAFETY: SIG_DFL is no function that could be called.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// From here on a file that is as large as files may be (RLIMIT_FSIZE, setrlimit(2)) is an error of writing to it, as a full disk is, and
/// not our death.
pub fn survive_limits() {
    // SAFETY: SIG_IGN is no function that could be called.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Makes everything as it was at the start. For a child, between fork and exec: only calls that signal-safety(7) lists are made.
pub fn hand_on() {
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: calls that take numbers, no function that could be called, and a set that lives. The set is written before it is read.
    unsafe {
        for signal in ALL {
            // Fails for the two that cannot be handled and the two that the C library keeps for itself; these are as they were.
            libc::signal(signal, if was_ignored(signal) { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        libc::sigemptyset(mask.as_mut_ptr());
        for signal in ALL.filter(|signal| BLOCKED.load(Ordering::Relaxed) & bit(*signal) != 0) {
            libc::sigaddset(mask.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, mask.as_ptr(), ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_at_the_start_is_known_although_the_runtime_changed_it() {
        // The runtime ignores it; whoever started the tests does not, or this tells nothing.
        assert!(ignores(libc::SIGPIPE));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
        let now = u64::from_str_radix(field, 16).unwrap();
        // Two of those beyond are the C library's own.
        let others = ((1 << 31) - 1) & !bit(libc::SIGPIPE) & !bit(libc::SIGXFSZ);
        assert_eq!(IGNORED.load(Ordering::Relaxed) & others, now & others);
        assert!(!was_ignored(libc::SIGSEGV));
    }
}
