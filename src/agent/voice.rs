//! What the agent says: plain lines with the time in UTC, for people who read `kubectl logs`.

use std::io::{self, Write};

use jiff::Timestamp;

/// Where the lines go.
pub struct Voice {
    out: Box<dyn Write + Send>,
    /// Who speaks, where others do too.
    name: &'static str,
}

impl Voice {
    /// Standard output, which is the container's log.
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }

    /// Standard error of a container whose own words go there too.
    pub fn beside_others() -> Self {
        Self { name: "konductor: ", ..Self::new(io::stderr()) }
    }

    /// Somewhere else.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), name: "" }
    }

    /// One line. A log that cannot be written is no reason to stop.
    pub fn say(&mut self, text: &str) {
        // Words from the server could otherwise look like lines of ours.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(self.out, "{:.0} {}{text}", Timestamp::now(), self.name);
        let _ = self.out.flush();
    }
}
