//! Taking a terminal over, and giving it back whatever happens.
//!
//! While it is taken, lines are not gathered and keys not echoed (raw mode), and what the user sees is the terminal's
//! alternate screen. [`give_back`] undoes both; it is called when a [`Screen`] is dropped and by the panic hook, and does
//! nothing the second time. Only a signal that cannot be handled leaves the terminal as it is (`reset` helps then).

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{self, Event};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use tokio::sync::mpsc;

use crate::patience::Patient;
use crate::{stderr, terminal};

/// Alternate screen, no cursor, lines that are too long end at the border; and all of it back.
const TAKE: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const GIVE_BACK: &str = "\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Standard output as a screen.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    /// Whether standard output is a terminal that can be taken over.
    pub fn is_possible() -> bool {
        let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        able && io::stdout().is_terminal()
    }

    /// Takes the terminal over. Messages wait from here on until it is given back.
    ///
    /// # Errors
    /// If its modes cannot be set, or it cannot be written to.
    pub fn take() -> io::Result<Screen> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                hook(panic);
            }));
        });
        // Before anything is changed, so that a failure in between is undone too.
        let screen = Screen(());
        TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        write(TAKE)?;
        stderr::hold();
        Ok(screen)
    }

    /// Lines and columns.
    pub fn size() -> (usize, usize) {
        match terminal_size::terminal_size_of(io::stdout()) {
            Some((width, height)) if width.0 > 0 && height.0 > 0 => (height.0.into(), width.0.into()),
            // A terminal that does not know its size.
            Some(_) | None => (24, 80),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back as it was, and lets messages through that waited.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // If the terminal is gone, there is nothing left to restore.
        let _ = write(GIVE_BACK);
        let _ = disable_raw_mode();
        stderr::release();
    }
}

fn write(text: &str) -> io::Result<()> {
    Patient(io::stdout()).write_all(text.as_bytes())
}

/// What comes from the terminal.
#[derive(Debug)]
pub enum Input {
    /// A key, or another size.
    Event(Event),
    /// The terminal is gone. Nothing comes after that.
    Gone,
}

/// Keys and changes of size, as they come.
///
/// They are read by a thread of their own, for the terminal is read by blocking; it ends with the process. Another one waits for the
/// terminal to hang up: what reads the keys takes that for a moment without any, and would be at it again for ever.
pub fn input() -> mpsc::UnboundedReceiver<Input> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let gone = sender.clone();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(Input::Event(event)).is_err() {
                return;
            }
        }
        let _ = sender.send(Input::Gone);
    });
    std::thread::spawn(move || {
        let (keys, screen) = (io::stdin(), io::stdout());
        let terminals = [screen.as_fd(), keys.as_fd()];
        // Keys need not come from there: a pipe is none of our concern.
        let count = if keys.is_terminal() { 2 } else { 1 };
        if terminal::wait_for_hang_up(&terminals[..count]).is_ok() {
            // If nobody listens any more, we are ending.
            let _ = gone.send(Input::Gone);
        }
    });
    receiver
}
