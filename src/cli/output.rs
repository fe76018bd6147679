//! What koncli prints, as text for people or as JSON or YAML for scripts, and how it ends.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::client::Error;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; it may change.
    #[default]
    Text,
    /// One JSON document; fields are added, but none changes.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How a command ends. The numbers are documented, and scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An error that none of the others describes: denied, lost, a mistake in the input.
    Error = 1,
    /// There is no such object, or no such hold.
    NotFound = 2,
    /// The timeout was over first, or it is not free and the timeout is 0.
    Timeout = 3,
    /// The user or service account lacks a right.
    Forbidden = 4,
    /// The API server or konductor does not answer.
    Unavailable = 5,
    /// A mistake on the command line.
    Usage = 64,
    /// SIGHUP: the terminal is gone.
    HungUp = 129,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

/// A command that ended otherwise than well.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// Why, for people; nothing if it was said already.
    pub message: String,
}

impl Failure {
    /// A failure with words.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::Timeout(_) => Code::Timeout,
            Error::Forbidden(_) => Code::Forbidden,
            Error::Unavailable(_) => Code::Unavailable,
            Error::Denied(_) | Error::Lost(_) | Error::Executed(_) => Code::Error,
        };
        Self::new(code, error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Error, format!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Code::Error, format!("could not write: {error}"))
    }
}

impl Format {
    /// Prints a result: the text, or the value.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn print(self, text: &str, value: &impl Serialize) -> Result<(), Failure> {
        let whole = match self {
            Self::Text if text.is_empty() => return Ok(()),
            Self::Text => format!("{}\n", text.trim_end()),
            Self::Json => format!("{}\n", serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?),
            Self::Yaml => format!("{}\n", serde_saphyr::to_string(value).map_err(anyhow::Error::from)?.trim_end()),
        };
        match io::stdout().lock().write_all(whole.as_bytes()) {
            // `koncli ... | head` has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

/// Says something to the person, beside the result.
pub fn tell(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "koncli: {message}");
}

/// Rows under headings, each column as wide as it needs to be.
pub fn table(headings: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cell = |row: &Vec<String>| row.get(column).map_or(0, |cell| cell.chars().count());
        rows.iter().map(cell).chain(headings.get(column).map(|heading| heading.chars().count())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    std::iter::once(&headings.to_vec()).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_that_are_documented() {
        let code = |error: Error| Failure::from(error).code as u8;
        let text = String::new;
        assert_eq!(code(Error::NotFound(text())), 2);
        assert_eq!(code(Error::Timeout(text())), 3);
        assert_eq!(code(Error::Forbidden(text())), 4);
        assert_eq!(code(Error::Unavailable(text())), 5);
        for error in [Error::Denied(text()), Error::Lost(text()), Error::Executed(text())] {
            assert_eq!(code(error), 1);
        }
        assert_eq!(Code::Usage as u8, 64);
    }

    #[test]
    fn columns_stand_below_their_headings() {
        let rows = [vec!["db".to_owned(), "Locked".to_owned()], vec!["a-long-name".to_owned(), String::new()]];
        assert_eq!(table(&["NAME".to_owned(), "PHASE".to_owned()], &rows), "NAME          PHASE\ndb            Locked\na-long-name\n");
    }
}
