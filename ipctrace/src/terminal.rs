//! What the place that output goes to can show.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::render::Charset;

/// What the reader of the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// A person is watching: output is a terminal.
    pub interactive: bool,
    /// Colours are understood and wanted.
    pub colour: bool,
    /// Columns, where known.
    pub width: Option<usize>,
    /// Characters beyond ASCII.
    pub charset: Charset,
}

impl Terminal {
    /// Looks at an open descriptor and at the environment.
    ///
    /// Colour needs a terminal, `TERM` other than `dumb`, and no `NO_COLOR` (<https://no-color.org>). The character set
    /// is that of the locale: `LC_ALL`, `LC_CTYPE` or `LANG`, the first of them that is set.
    pub fn of(output: &impl AsFd) -> Terminal {
        let interactive = output.as_fd().is_terminal();
        let size = interactive.then(|| terminal_size::terminal_size_of(output.as_fd())).flatten();
        // A terminal that does not know its size says 0.
        let width = size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0);
        Terminal::decide(interactive, width, |name| env::var_os(name))
    }

    /// The rule, apart from where its facts come from.
    fn decide(
        interactive: bool,
        width: Option<usize>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Terminal {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let able = set("TERM").is_some_and(|term| term != "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        Terminal {
            interactive,
            colour: interactive && able && set("NO_COLOR").is_none(),
            width,
            charset: if locale.is_some_and(|locale| is_utf8(&locale)) {
                Charset::Utf8
            } else {
                Charset::Ascii
            },
        }
    }
}

/// Whether nobody has the other end any more: a window that was closed, a line that was dropped. Then tty(4) reads as an end of file, and
/// writing is EIO, an error that a descriptor can have for other reasons as well. SIGHUP need not come of it, or be heeded.
pub fn has_hung_up(descriptor: impl AsFd) -> bool {
    let mut fds = [PollFd::new(descriptor.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO) == Ok(1) && hung_up(&fds[0])
}

/// Waits until one of them has hung up.
///
/// # Errors
/// Those of poll(2).
pub fn wait_for_hang_up(descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let mut fds: Vec<_> =
        descriptors.iter().map(|descriptor| PollFd::new(*descriptor, PollFlags::empty())).collect();
    while !fds.iter().any(hung_up) {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn hung_up(fd: &PollFd<'_>) -> bool {
    fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Whether a locale's name, `de_DE.UTF-8@euro`, says UTF-8.
fn is_utf8(locale: &OsStr) -> bool {
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    let codeset = locale.split('@').next().and_then(|rest| rest.split_once('.'));
    codeset.is_some_and(|(_, codeset)| matches!(codeset, "utf-8" | "utf8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(interactive: bool, variables: &[(&str, &str)]) -> Terminal {
        let variables = variables.to_vec();
        Terminal::decide(interactive, None, move |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        assert!(decide(true, &[("TERM", "xterm")]).colour);
        assert!(decide(true, &[("TERM", "xterm"), ("NO_COLOR", "")]).colour);
        assert!(!decide(true, &[("TERM", "xterm"), ("NO_COLOR", "1")]).colour);
        assert!(!decide(true, &[("TERM", "dumb")]).colour);
        assert!(!decide(true, &[]).colour);
        assert!(!decide(false, &[("TERM", "xterm")]).colour);
    }

    #[test]
    fn the_first_locale_variable_that_is_set_names_the_charset() {
        assert_eq!(decide(true, &[("LANG", "C.UTF-8")]).charset, Charset::Utf8);
        assert_eq!(decide(true, &[("LC_CTYPE", "de_DE.utf8@euro")]).charset, Charset::Utf8);
        assert_eq!(decide(true, &[("LC_ALL", "C"), ("LANG", "C.UTF-8")]).charset, Charset::Ascii);
        assert_eq!(decide(true, &[("LC_ALL", ""), ("LANG", "C.UTF-8")]).charset, Charset::Utf8);
        assert_eq!(decide(true, &[("LANG", "de_DE.ISO-8859-1")]).charset, Charset::Ascii);
        assert_eq!(decide(true, &[]).charset, Charset::Ascii);
    }

    #[test]
    fn a_terminal_without_its_other_end_has_hung_up() {
        let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
        assert!(!has_hung_up(&slave));
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(master);
        });
        assert_eq!(wait_for_hang_up(&[slave.as_fd()]), Ok(()));
        other.join().unwrap();
        assert!(has_hung_up(&slave));
        assert!(!has_hung_up(std::fs::File::open("/dev/null").unwrap()));
    }

    #[test]
    fn a_file_is_no_terminal() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let terminal = Terminal::of(&file);
        assert!(!terminal.interactive && !terminal.colour && terminal.width.is_none());
    }
}
