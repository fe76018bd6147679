//! The terminal as one page that is drawn again and again: a screen of its own, keys as they are pressed, nothing of them shown. It is given back as it was,
//! however the command ends.

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    thread,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// A terminal that does not say how large it is: rows and columns.
const SIZE: (usize, usize) = (24, 80);

/// The terminal.
pub struct Screen {
    /// How the keyboard was before; `None` if the standard input is no terminal.
    keyboard: Option<Termios>,
    keys: mpsc::UnboundedReceiver<u8>,
}

/// Whether the standard output is a terminal that can be drawn on.
pub fn is_there() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If it cannot be set up or written to.
    pub fn open() -> io::Result<Self> {
        let (pressed, keys) = mpsc::unbounded_channel();
        let mut screen = Self { keyboard: None, keys };
        if io::stdin().is_terminal() {
            let before = tcgetattr(io::stdin())?;
            let mut modes = before.clone();
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            // Ctrl-C goes on to be a signal. Ctrl-Z would leave the shell with our screen.
            modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
            screen.keyboard = Some(before);
            tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
            // A thread that nobody waits for: reading a terminal cannot be interrupted, and ends with the process.
            thread::spawn(move || io::stdin().lock().bytes().map_while(Result::ok).all(|key| pressed.send(key).is_ok()));
        }
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => SIZE,
        }
    }

    /// Draws a page over the one before; nothing of it may be wider or longer than the terminal.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        // Each line is overwritten and its rest cleared, so that nothing flickers.
        let page: Vec<String> = lines.iter().map(|line| format!("{line}\x1b[K")).collect();
        write(&format!("\x1b[H{}\x1b[J", page.join("\r\n")))
    }

    /// The next key.
    pub async fn key(&mut self) -> u8 {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.keyboard {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
