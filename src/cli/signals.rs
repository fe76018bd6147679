//! The signals that end a command, or are passed on to the command that it runs. Heard from the first time that something is waited for, so that none is
//! lost between two waits.

use std::{fs, future::pending};

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

use super::output::{Code, Failure};

/// SIGINT, SIGTERM, and SIGHUP where it is not ignored: `nohup` wants what it starts to go on.
pub struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: Option<unix::Signal>,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system has no more room.
    pub fn new() -> Result<Self, Failure> {
        let ignored = fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, Signal::HUP));
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: if ignored { None } else { Some(unix::signal(SignalKind::hangup())?) },
        })
    }

    /// The next one since the last that was taken.
    pub async fn next(&mut self) -> Signal {
        let Self { interrupt, terminate, hang_up } = self;
        let hung_up = async {
            match hang_up {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hung_up => Signal::HUP,
        }
    }
}

/// How a command ends at this signal.
pub fn interrupted(signal: Signal) -> Failure {
    let code = match signal {
        Signal::INT => Code::Interrupted,
        Signal::HUP => Code::HungUp,
        _ => Code::Terminated,
    };
    Failure::new(code, "interrupted")
}

/// Whether a process of this status, as Linux shows it, ignores a signal.
fn ignores(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_starts_ignores_to_be_hung_up() {
        let status = |mask: &str| format!("Name:\tkoncli\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\tffffffffffffffff\n");
        assert!(ignores(&status("0000000000000001"), Signal::HUP));
        assert!(ignores(&status("0000000000001003"), Signal::INT));
        assert!(!ignores(&status("0000000000001000"), Signal::HUP));
        assert!(!ignores("", Signal::HUP));
    }
}
