//! `ipctrace top`.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event::Event;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::trace::elapsed;
use super::{View, Wish, begin, status};
use crate::args::{self, Format};
use crate::options::Reporting;
use crate::screen::{self, Input, Screen};
use crate::session::{Ended, Session};
use crate::top::{Then, Top};
use crate::{boot, options, render, stderr, terminal};

mod happenings;

use happenings::{Happening, Signals};

/// The first interval on a screen, at most: an empty table tells little.
const FIRST: Duration = Duration::from_millis(500);

/// Shows flows in a table until it is told to stop.
///
/// # Errors
/// Wrong usage, or what makes tracing impossible.
pub async fn top(arguments: args::Top) -> Result<ExitCode> {
    super::signals::heed_interrupts();
    let (reporting, interval) = options::refreshing(&arguments)?;
    let selection = options::selection(arguments.show)?;
    let on_screen = reporting.format == Format::Text && reporting.output.is_none() && Screen::is_possible();
    let Reporting { count, duration, .. } = reporting;
    let view = if on_screen { View::Screen } else { View::Flows };
    let wish = Wish { selection, reporting, children_only: false, keep: false, at_objects: None, view };
    let (session, signals) = begin(wish, || Signals::new(on_screen))?;
    let host = nix::unistd::gethostname().unwrap_or_default();
    let table = Top::new(host.into_encoded_bytes(), boot::now(), interval);
    let first = if on_screen { interval.min(FIRST) } else { interval };
    // It comes early, and is none of those that were asked for.
    let left = count.map(|count| count.saturating_add(u64::from(first < interval)));
    let mut ticks = tokio::time::interval_at(Instant::now() + first, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let keys = on_screen.then(screen::input);
    Live { session, table, screen: None, ticks, keys, signals, resuming: false, left }.run(duration).await
}

/// A table that is being shown.
struct Live {
    session: Session,
    table: Top,
    /// Held for as long as the terminal is ours.
    screen: Option<Screen>,
    ticks: Interval,
    keys: Option<mpsc::UnboundedReceiver<Input>>,
    signals: Signals,
    /// We stopped ourselves, and have taken the screen again: the signal by which we go on tells nothing new.
    resuming: bool,
    /// Refreshes to come, if they are counted.
    left: Option<u64>,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    On,
    /// As was asked for: what is not yet shown is.
    Over,
    /// That many refreshes were asked for.
    Counted,
    /// There is nobody left to show anything to.
    ReaderGone,
}

impl Live {
    async fn run(mut self, duration: Option<Duration>) -> Result<ExitCode> {
        let over = elapsed(duration);
        tokio::pin!(over);
        let mut state = if self.keys.is_some() { self.take_screen()? } else { State::On };
        while state == State::On {
            let ended = {
                let happening =
                    happenings::next(&mut self.ticks, &mut self.keys, &mut self.signals, over.as_mut());
                self.session.follow(happening).await?
            };
            state = match ended {
                Ended::Done(happening) => self.react(happening)?,
                Ended::Limit => State::Over,
                Ended::ReaderGone => State::ReaderGone,
            };
        }
        self.end(state)
    }

    fn react(&mut self, happening: Happening) -> Result<State> {
        match happening {
            Happening::Tick => self.tick(),
            Happening::Over => Ok(State::Over),
            Happening::Resumed => {
                if std::mem::take(&mut self.resuming) {
                    return Ok(State::On);
                }
                // Whoever stopped us may have left the terminal otherwise.
                self.screen = None;
                self.take_screen()
            }
            Happening::Suspended => self.suspend(),
            Happening::Terminal(Input::Gone) => Ok(State::ReaderGone),
            Happening::Terminal(Input::Event(Event::Key(key))) => match self.table.press(key) {
                Then::Draw => self.draw(),
                Then::Quit => Ok(State::Over),
                // To the whole group, as the terminal would: a shell, or sudo, wants to know. It reaches us, too.
                Then::Suspend => {
                    signal::kill(Pid::from_raw(0), Signal::SIGTSTP).context("stopping as Ctrl-Z does")?;
                    Ok(State::On)
                }
            },
            Happening::Terminal(Input::Event(
                Event::Resize(..) | Event::FocusGained | Event::FocusLost | Event::Mouse(_),
            )) => self.draw(),
        }
    }

    fn tick(&mut self) -> Result<State> {
        if !self.table.is_paused() {
            self.session.refresh(&mut self.table)?;
        }
        let state = self.draw()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(if state == State::On && self.left == Some(0) { State::Counted } else { state })
    }

    fn draw(&mut self) -> Result<State> {
        if self.screen.is_some() {
            self.table.resize(render::Screen::page(Screen::size().0));
            self.table.message = stderr::last_held();
        }
        Ok(if self.session.draw(&self.table)? { State::On } else { State::ReaderGone })
    }

    fn suspend(&mut self) -> Result<State> {
        self.screen = None;
        self.resuming = true;
        // Returns when we are told to go on.
        signal::raise(Signal::SIGSTOP).context("stopping")?;
        self.take_screen()
    }

    fn take_screen(&mut self) -> Result<State> {
        if self.keys.is_none() {
            return self.draw();
        }
        match Screen::take() {
            Ok(screen) => self.screen = Some(screen),
            // SIGCONT comes with SIGHUP, which may be ignored.
            Err(_) if terminal::has_hung_up(io::stdout()) => return Ok(State::ReaderGone),
            Err(error) => return Err(error).context("taking the terminal over"),
        }
        self.draw()
    }

    /// Shows what came since the last refresh (on a screen nobody would see it), and says goodbye.
    fn end(mut self, state: State) -> Result<ExitCode> {
        let on_screen = self.screen.take().is_some();
        if state == State::Over {
            self.session.settle()?;
            if !on_screen {
                self.session.refresh(&mut self.table)?;
                if self.table.flows().1 > 0 {
                    self.session.draw(&self.table)?;
                }
            }
        }
        let (totals, _) = self.session.end(true, false)?;
        if state != State::ReaderGone {
            log::warn!("{totals}");
        }
        Ok(status(&totals))
    }
}
