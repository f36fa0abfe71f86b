//! Names of signals and of what caused them, as sigaction(2) and signal(7) have them.

use std::borrow::Cow;

use libc::c_int;

/// glibc keeps the first two real-time signals of the kernel to itself: what programs call SIGRTMIN is 34.
const SIGRTMIN: u32 = 34;
/// The last signal there is.
const SIGRTMAX: u32 = 64;

macro_rules! names {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name))),*] };
}

const SIGNALS: &[(c_int, &str)] = names!(
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM
    SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO
    SIGPWR SIGSYS
);

/// Codes that any signal may carry (`include/uapi/asm-generic/siginfo.h`; libc has not all of them).
const COMMON_CODES: &[(i32, &str)] = &[
    (0, "SI_USER"),
    (0x80, "SI_KERNEL"),
    (-1, "SI_QUEUE"),
    (-2, "SI_TIMER"),
    (-3, "SI_MESGQ"),
    (-4, "SI_ASYNCIO"),
    (-5, "SI_SIGIO"),
    (-6, "SI_TKILL"),
    (-7, "SI_DETHREAD"),
    (-60, "SI_ASYNCNL"),
];

/// Codes that mean something for one signal only, numbered from 1.
const OWN_CODES: &[(c_int, &[&str])] = &[
    (
        libc::SIGILL,
        &[
            "ILL_ILLOPC",
            "ILL_ILLOPN",
            "ILL_ILLADR",
            "ILL_ILLTRP",
            "ILL_PRVOPC",
            "ILL_PRVREG",
            "ILL_COPROC",
            "ILL_BADSTK",
            "ILL_BADIADDR",
        ],
    ),
    (
        libc::SIGFPE,
        &[
            "FPE_INTDIV",
            "FPE_INTOVF",
            "FPE_FLTDIV",
            "FPE_FLTOVF",
            "FPE_FLTUND",
            "FPE_FLTRES",
            "FPE_FLTINV",
            "FPE_FLTSUB",
            "FPE_DECOVF",
            "FPE_DECDIV",
            "FPE_DECERR",
            "FPE_INVASC",
            "FPE_INVDEC",
            "FPE_FLTUNK",
            "FPE_CONDTRAP",
        ],
    ),
    (
        libc::SIGSEGV,
        &[
            "SEGV_MAPERR",
            "SEGV_ACCERR",
            "SEGV_BNDERR",
            "SEGV_PKUERR",
            "SEGV_ACCADI",
            "SEGV_ADIDERR",
            "SEGV_ADIPERR",
            "SEGV_MTEAERR",
            "SEGV_MTESERR",
            "SEGV_CPERR",
        ],
    ),
    (libc::SIGBUS, &["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR", "BUS_MCEERR_AO"]),
    (libc::SIGTRAP, &["TRAP_BRKPT", "TRAP_TRACE", "TRAP_BRANCH", "TRAP_HWBKPT", "TRAP_UNK", "TRAP_PERF"]),
    (
        libc::SIGCHLD,
        &["CLD_EXITED", "CLD_KILLED", "CLD_DUMPED", "CLD_TRAPPED", "CLD_STOPPED", "CLD_CONTINUED"],
    ),
    (libc::SIGIO, &["POLL_IN", "POLL_OUT", "POLL_MSG", "POLL_ERR", "POLL_PRI", "POLL_HUP"]),
    (libc::SIGSYS, &["SYS_SECCOMP", "SYS_USER_DISPATCH"]),
];

/// The name of a signal: `SIGUSR1`, `SIGRTMIN+3`; `SIG32` where it has none.
pub fn signal_name(number: u32) -> Cow<'static, str> {
    let known = |entry: &&(c_int, &'static str)| u32::try_from(entry.0) == Ok(number);
    match SIGNALS.iter().find(known) {
        Some((_, name)) => Cow::Borrowed(name),
        None if number == SIGRTMIN => Cow::Borrowed("SIGRTMIN"),
        None if (SIGRTMIN..=SIGRTMAX).contains(&number) => {
            Cow::Owned(format!("SIGRTMIN+{}", number - SIGRTMIN))
        }
        None => Cow::Owned(format!("SIG{number}")),
    }
}

/// The name of an `si_code` of that signal: `SI_USER`, `CLD_EXITED`; the number where it has none.
pub fn code_name(signal: u32, code: i32) -> Cow<'static, str> {
    if let Some((_, name)) = COMMON_CODES.iter().find(|(number, _)| *number == code) {
        return Cow::Borrowed(name);
    }
    let own = OWN_CODES.iter().find(|(number, _)| u32::try_from(*number) == Ok(signal));
    let index = usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
    match own.zip(index).and_then(|((_, names), index)| names.get(index)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(code.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = (1..=64).map(signal_name).collect();
        assert_eq!(names.len(), 64);
        for (number, name) in [
            (1, "SIGHUP"),
            (9, "SIGKILL"),
            (32, "SIG32"),
            (33, "SIG33"),
            (34, "SIGRTMIN"),
            (37, "SIGRTMIN+3"),
            (64, "SIGRTMIN+30"),
            (65, "SIG65"),
            (0, "SIG0"),
        ] {
            assert_eq!(signal_name(number), name);
        }
        assert_eq!(u32::try_from(libc::SIGRTMIN()), Ok(SIGRTMIN));
        assert_eq!(u32::try_from(libc::SIGRTMAX()), Ok(SIGRTMAX));
    }

    #[test]
    fn a_code_is_read_by_its_signal() {
        let chld = libc::SIGCHLD as u32;
        let segv = libc::SIGSEGV as u32;
        assert_eq!(code_name(chld, libc::CLD_EXITED), "CLD_EXITED");
        assert_eq!(code_name(chld, libc::CLD_CONTINUED), "CLD_CONTINUED");
        assert_eq!(code_name(segv, 1), "SEGV_MAPERR");
        assert_eq!(code_name(libc::SIGTRAP as u32, libc::TRAP_HWBKPT), "TRAP_HWBKPT");
        assert_eq!(code_name(libc::SIGBUS as u32, libc::BUS_MCEERR_AO), "BUS_MCEERR_AO");
        assert_eq!(code_name(libc::SIGTERM as u32, 1), "1");
        assert_eq!(code_name(chld, 7), "7");
        assert_eq!(code_name(chld, libc::SI_TKILL), "SI_TKILL");
        assert_eq!(code_name(chld, libc::SI_KERNEL), "SI_KERNEL");
        assert_eq!(code_name(37, libc::SI_QUEUE), "SI_QUEUE");
        assert_eq!(code_name(0, i32::MIN), "-2147483648");
        assert_eq!(code_name(chld, i32::MAX), "2147483647");
    }
}
