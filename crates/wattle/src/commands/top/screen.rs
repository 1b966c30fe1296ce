//! The terminal while `wattle top` has it.

use std::{
    io::{self, Stdout, Write},
    thread,
    time::Duration,
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use tokio::sync::mpsc;

/// How long the thread that reads keys may take to notice that nobody wants them any more.
const NOTICE: Duration = Duration::from_millis(100);

/// What a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    Sort,
    Pause,
    /// The screen has another size.
    Redraw,
}

/// A screen of our own; the shell's comes back when this is dropped.
pub(super) struct Screen {
    out: Stdout,
    pub(super) wishes: mpsc::Receiver<Wish>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        let (sender, wishes) = mpsc::channel(16);
        // Made before anything else can fail, so that the terminal is given back.
        let mut screen = Screen { out: io::stdout(), wishes };
        execute!(screen.out, EnterAlternateScreen, Hide)?;
        thread::spawn(move || read_keys(&sender));
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size() -> (usize, usize) {
        let (columns, lines) = terminal::size().unwrap_or((80, 24));
        (usize::from(columns), usize::from(lines))
    }

    /// Draws lines from the top, one of them as a table's head, and one at the bottom.
    pub(super) fn draw(&mut self, lines: &[String], head: usize, bottom: &str) -> io::Result<()> {
        let (_, height) = Screen::size();
        for row in 0..height.saturating_sub(1) {
            queue!(self.out, MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX)))?;
            if let Some(line) = lines.get(row) {
                if row == head {
                    queue!(self.out, SetAttribute(Attribute::Bold), Print(line), SetAttribute(Attribute::Reset))?;
                } else {
                    queue!(self.out, Print(line))?;
                }
            }
            queue!(self.out, Clear(ClearType::UntilNewLine))?;
        }
        let last = u16::try_from(height.saturating_sub(1)).unwrap_or(u16::MAX);
        queue!(self.out, MoveTo(0, last), SetAttribute(Attribute::Dim), Print(bottom), SetAttribute(Attribute::Reset))?;
        queue!(self.out, Clear(ClearType::UntilNewLine))?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nothing to be done about a terminal that has gone.
        let _ = execute!(self.out, Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Reads keys until nobody listens.
fn read_keys(wishes: &mpsc::Sender<Wish>) {
    while !wishes.is_closed() {
        match event::poll(NOTICE) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        let wish = match event::read() {
            Ok(Event::Key(key)) => wish(&key),
            Ok(Event::Resize(..)) => Some(Wish::Redraw),
            Ok(_) => None,
            Err(_) => return,
        };
        if wish.is_some_and(|wish| wishes.blocking_send(wish).is_err()) {
            return;
        }
    }
}

fn wish(key: &KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        // In raw mode the terminal makes no signal of it.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char('s') => Some(Wish::Sort),
        KeyCode::Char('p' | ' ') => Some(Wish::Pause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_bottom_line_says() {
        let press = |code, modifiers| wish(&KeyEvent::new(code, modifiers));
        let plain = |key| press(KeyCode::Char(key), KeyModifiers::NONE);
        assert_eq!([plain('q'), plain('s'), plain('p')], [Some(Wish::Quit), Some(Wish::Sort), Some(Wish::Pause)]);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!((plain('c'), plain('x')), (None, None));
    }
}
