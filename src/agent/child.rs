//! The wrapped command as a child process: every signal that can be passed on is, the dead are buried as a container's first process must, and when the command
//! has ended nothing that it started is left.

use std::{ffi::OsString, fs, io, process::Command};

use futures::{
    StreamExt,
    stream::{SelectAll, poll_fn, select_all},
};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait},
};
use tokio::signal::unix::{self, SignalKind, signal};

/// Signals that do not end a process that has no handler for them.
const HARMLESS: [Signal; 6] = [Signal::URG, Signal::WINCH, Signal::CONT, Signal::TSTP, Signal::TTIN, Signal::TTOU];
/// A shell's code for a command that is not there, or is no program.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// All signals that come to this process from now on.
pub struct Signals {
    others: SelectAll<futures::stream::BoxStream<'static, Signal>>,
    child: unix::Signal,
}

/// A command that runs.
pub struct Child {
    pid: Pid,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub code: u8,
    /// Whether nothing that it started runs any more.
    pub alone: bool,
}

impl Signals {
    /// Takes every signal over that a process can and may pass on. SIGPIPE is about this process's own pipes. Real-time signals cannot be sent
    /// without unsafe code.
    ///
    /// # Errors
    /// The end of children cannot be noticed.
    pub fn take() -> io::Result<Self> {
        let child = signal(SignalKind::child())?;
        let passed_on = (1..32).filter_map(Signal::from_named_raw).filter(|signal| ![Signal::CHILD, Signal::PIPE].contains(signal));
        // SIGKILL, SIGSTOP and those of broken programs cannot be taken.
        let streams = passed_on.filter_map(|which| {
            let mut received = signal(SignalKind::from_raw(which.as_raw())).ok()?;
            Some(poll_fn(move |context| received.poll_recv(context).map(|event| event.map(|()| which))).boxed())
        });
        Ok(Self { others: select_all(streams), child })
    }

    /// Waits for a signal that would end a process; gives the exit code that says so. A container's first process is ended by no other.
    pub async fn fatal(&mut self) -> u8 {
        loop {
            match self.others.next().await {
                Some(signal) if !HARMLESS.contains(&signal) => return by_signal(signal.as_raw()),
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

impl Child {
    /// Starts the command, found and named as a container runtime does it.
    ///
    /// # Errors
    /// It cannot be started; with the exit code that says so, and words.
    pub fn start(command: &[OsString], variables: Vec<(String, String)>) -> Result<Self, (u8, String)> {
        let (program, arguments) = command.split_first().ok_or_else(|| (NOT_FOUND, "there is no command".to_owned()))?;
        // What outlives its parent then comes to us, even where we are not the first process of a PID namespace.
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            return Err((NOT_EXECUTABLE, format!("becoming the reaper of what it leaves behind failed: {error}")));
        }
        let child = Command::new(program).args(arguments).envs(variables).spawn().map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            (code, format!("`{}` could not be started: {error}", program.display()))
        })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| (NOT_EXECUTABLE, "its PID is none".to_owned()))?;
        Ok(Self { pid })
    }

    /// Passes signals on until the command has ended, then ends what it has left behind: the kernel would do that when this process ends, and until then
    /// it must not be said that nothing runs any more.
    pub async fn end(self, signals: &mut Signals) -> End {
        let code = loop {
            match self.bury() {
                Some(code) => break code,
                None => tokio::select! {
                    _ = signals.child.recv() => {}
                    Some(signal) = signals.others.next() => drop(kill_process(self.pid, signal)),
                },
            }
        };
        End { code, alone: end_the_rest(signals).await }
    }

    /// Buries all who have died; says how the command itself ended, if it is among them.
    fn bury(&self) -> Option<u8> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => return Some(code_of(status)),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Ends every descendant that is left; says whether none is.
async fn end_the_rest(signals: &mut Signals) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(error) => return error == Errno::CHILD,
            Ok(None) => {
                let left = children();
                // One of another user is left to the kernel.
                if left.is_empty() || left.into_iter().any(|pid| kill_process(pid, Signal::KILL) == Err(Errno::PERM)) {
                    return false;
                }
                signals.child.recv().await;
            }
        }
    }
}

/// The children of this process. What their children leave behind becomes ours when they die.
fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get().to_string();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // The name may hold anything; behind its closing bracket stand the state and the parent.
    let is_ours = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split_ascii_whitespace().nth(1) == Some(&own))
    };
    numbers.filter(is_ours).filter_map(Pid::from_raw).collect()
}

fn code_of(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => by_signal(signal),
        (None, None) => u8::MAX,
    }
}

fn by_signal(number: i32) -> u8 {
    u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
}
