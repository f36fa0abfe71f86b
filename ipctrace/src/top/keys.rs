//! What keys do.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "keys that mean nothing here are many, and not our table"
)]

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{Order, Top};

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Show the table again.
    Draw,
    /// Give the screen back and stop, as Ctrl-Z does.
    Suspend,
    /// End.
    Quit,
}

/// Longest filter. None that is longer can be meant.
const FILTER_MAX: usize = 64;

impl Top {
    /// A key was pressed.
    pub fn press(&mut self, key: KeyEvent) -> Then {
        if key.kind == KeyEventKind::Release {
            return Then::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c' | 'C') => return Then::Quit,
                KeyCode::Char('z' | 'Z') => return Then::Suspend,
                KeyCode::Char('u' | 'U') if self.is_typing() => self.filter.clear(),
                // Ctrl-L draws the screen, which any key does; others mean nothing.
                _ => {}
            }
            self.settle();
            return Then::Draw;
        }
        let then = if self.is_typing() { self.type_filter(key.code) } else { self.command(key.code) };
        self.settle();
        then
    }

    fn type_filter(&mut self, key: KeyCode) -> Then {
        match key {
            KeyCode::Enter => self.typing = None,
            KeyCode::Esc => self.filter = self.typing.take().unwrap_or_default(),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.len() < FILTER_MAX && !character.is_control() => {
                self.filter.push(character);
            }
            _ => self.move_by(key),
        }
        Then::Draw
    }

    fn command(&mut self, key: KeyCode) -> Then {
        match key {
            KeyCode::Char('q' | 'Q') => return Then::Quit,
            // What Esc leaves first is the filter.
            KeyCode::Esc if self.filter.is_empty() => return Then::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('r') => self.order_by(Order::Rate),
            KeyCode::Char('b') => self.order_by(Order::Bytes),
            KeyCode::Char('m') => self.order_by(Order::Messages),
            KeyCode::Char('l') => self.order_by(Order::Latency),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => {
                // A new filter takes the place of the old one, which Esc brings back.
                self.typing = Some(std::mem::take(&mut self.filter));
                self.scroll = 0;
            }
            KeyCode::Char('k') => self.move_by(KeyCode::Up),
            KeyCode::Char('j') => self.move_by(KeyCode::Down),
            KeyCode::Char('g') => self.move_by(KeyCode::Home),
            KeyCode::Char('G') => self.move_by(KeyCode::End),
            _ => self.move_by(key),
        }
        Then::Draw
    }

    fn move_by(&mut self, key: KeyCode) {
        self.scroll = match key {
            KeyCode::Up => self.scroll.saturating_sub(1),
            KeyCode::Down => self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll.saturating_sub(self.page),
            KeyCode::PageDown => self.scroll.saturating_add(self.page),
            KeyCode::Home => 0,
            KeyCode::End => usize::MAX,
            _ => self.scroll,
        };
    }
}
