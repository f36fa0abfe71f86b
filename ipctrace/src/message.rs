//! Messages to the user: one line each on stderr, beginning with the name of the program, harmless on a terminal.

use std::error::Error;
use std::io::{self, Write};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::render::Charset;
use crate::render::escape::push_plain;

/// Writes messages.
#[derive(Debug)]
pub struct Messages<W> {
    out: W,
    charset: Charset,
}

impl<W: Write> Messages<W> {
    /// Messages that go to `out`.
    pub fn new(out: W, charset: Charset) -> Messages<W> {
        Messages { out, charset }
    }

    /// Something the user should know: `ipctrace: tracing pipe, fifo`.
    pub fn note(&mut self, text: &str) {
        self.line(text);
    }

    fn line(&mut self, text: &str) {
        let mut line = String::from("ipctrace: ");
        push_plain(&mut line, text.trim_end().as_bytes(), self.charset);
        line.push('\n');
        // In one write, so that lines of other programs do not get in between. Nobody is left to be told of an error.
        let _: io::Result<()> = self.out.write_all(line.as_bytes());
    }
}

/// An error and its causes, each once: some errors tell their cause themselves.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

/// What to do about an error that says what happened and no more.
fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let causes = || anyhow::Chain::new(error);
    let numbers = || causes().filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    if numbers().any(|number| number == libc::EMFILE) {
        return Some("it wants some two hundred open files: allow them with `ulimit -n 1024`");
    }
    // Maps are locked memory before Linux 5.11.
    let of_map = || causes().any(|cause| cause.is::<aya::maps::MapError>());
    if numbers().any(|number| number == libc::EPERM) && of_map() && locked_memory() != RLIM_INFINITY {
        return Some("allow it more locked memory, with `ulimit -l unlimited` or CAP_SYS_RESOURCE");
    }
    None
}

/// How much memory this process may lock, bytes.
fn locked_memory() -> u64 {
    getrlimit(Resource::RLIMIT_MEMLOCK).map_or(RLIM_INFINITY, |(soft, _)| soft)
}

/// Something that failed, what caused it and what to do about it:
/// `cannot load the programs: Operation not permitted; run it as root`.
pub fn failure(error: &(dyn Error + 'static)) -> String {
    match remedy(error) {
        Some(remedy) => format!("{}; {remedy}", chain(error)),
        None => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(say: impl FnOnce(&mut Messages<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        say(&mut Messages::new(&mut out, Charset::Utf8));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_is_one_line_with_causes_and_remedy() {
        let error = |number| anyhow::Error::from(io::Error::from_raw_os_error(number)).context("loading");
        assert_eq!(failure(error(libc::EPERM).as_ref()), "loading: Operation not permitted (os error 1)");
        assert_eq!(
            failure(error(libc::EMFILE).as_ref()),
            "loading: Too many open files (os error 24); it wants some two hundred open files: allow them with `ulimit -n 1024`"
        );
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let cause = io::Error::other("no such table");
        let error = anyhow::Error::from(cause).context("reading BTF: no such table");
        assert_eq!(failure(error.as_ref()), "reading BTF: no such table");
    }

    #[test]
    fn a_message_is_one_harmless_line() {
        let text = "process \x1b[2J\u{202e} said\nso\n";
        assert_eq!(said(|messages| messages.note(text)), "ipctrace: process \\x1b[2J\\u{202e} said\\nso\n");
    }
}
