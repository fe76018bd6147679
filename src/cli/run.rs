//! `koncli run` and `koncli once do`: a command that runs while something is held, and is ended when it is lost.
//!
//! What is lost because it could not be renewed is known a fifth of the ttl before anybody else can hold. SIGTERM comes then, and SIGKILL half of that time
//! later: the command is dead before the next one starts.

use std::{ffi::OsString, future::pending, io::IsTerminal, os::unix::process::ExitStatusExt, pin::pin, process::ExitStatus};

use clap::Args;
use futures::{
    FutureExt,
    future::{join_all, select_all},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

use super::{
    claims,
    flags::{ANY, PERMITS, lasting, object_name, whole},
    kinds::KindCommand,
    output::{Code, Failure, tell},
    session::{Session, this_machine},
    signals::{Signals, interrupted},
};
use crate::{
    api::{ClaimKind, Duration, Mode, Operation},
    client::{Ask, Error, Guard, word},
};

/// What is held, and what is run.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exits with the command's own exit code, 128 and the number of the signal that ended it, 126 or 127 if it cannot be run, and with 1 \
                        if a hold was lost.\nThe command finds its fencing token in KONDUCTOR_FENCING_TOKEN, of several holds in KONDUCTOR_FENCING_TOKEN_MUTEX_NAME \
                        and the like.\n\nExample:\n  koncli run --mutex db-migration --timeout 10m -- ./migrate.sh"
)]
pub struct RunArgs {
    /// A Mutex to hold; may be repeated, as the others may.
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    mutex: Vec<String>,
    /// An RWMutex to hold, to write or, with --read, to read.
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    rwmutex: Vec<String>,
    /// The RWMutexes are read.
    #[arg(long, requires = "rwmutex")]
    read: bool,
    /// A Lease to hold.
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    lease: Vec<String>,
    /// A Semaphore to hold permits of.
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    semaphore: Vec<String>,
    /// How many permits of each Semaphore.
    #[arg(long, value_name = "NUMBER", requires = "semaphore", value_parser = whole(PERMITS), allow_negative_numbers = true)]
    permits: Option<i32>,
    /// How long to wait for all of it, such as 30s; 0 tries once; for ever otherwise.
    #[arg(long, value_name = "DURATION", env = "KONDUCTOR_TIMEOUT")]
    timeout: Option<Duration>,
    /// How long it is held after koncli or its machine has vanished; the primitive's ttl otherwise, or 5m.
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    ttl: Option<Duration>,
    /// Larger goes first, then age.
    #[arg(long, value_name = "NUMBER", value_parser = whole(ANY), allow_negative_numbers = true)]
    priority: Option<i32>,
    /// In whose name, for people; every run is a holder of its own. The name of this machine or Pod otherwise.
    #[arg(long, value_name = "HOLDER", env = "KONDUCTOR_HOLDER_ID")]
    holder: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How a command came out: its exit code.
pub type Ended = u8;

/// Holds, runs the command, releases.
///
/// # Errors
/// If it could not be held, or was lost.
pub async fn run(session: &Session, args: &RunArgs) -> Result<Ended, Failure> {
    let asks = args.asks();
    if asks.is_empty() {
        return Err(Failure::new(Code::Usage, "say what to hold: --mutex, --rwmutex, --lease or --semaphore, each with a name"));
    }
    let began = Instant::now();
    let mut guards: Vec<(Ask, Guard)> = Vec::new();
    for mut ask in asks {
        // The time is for all of them.
        ask.options.timeout = ask.options.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        let guard = tokio::select! {
            guard = session.unless_interrupted(session.claims.hold(&ask)) => guard??,
            why = first_lost(guards.iter().map(|(_, guard)| guard)) => return Err(Failure::new(Code::Error, why)),
        };
        guards.push((ask, guard));
    }
    let environment = tokens(guards.iter().map(|(ask, guard)| (ask, guard.token())));
    let holds: Vec<&Guard> = guards.iter().map(|(_, guard)| guard).collect();
    let outcome = supervise(&args.command, &environment, &holds, &mut *session.signals().await?).await;
    let released = guards.into_iter().map(|(ask, guard)| guard.release().map(move |outcome| (ask, outcome)));
    // Whoever interrupts this gets the outcome all the same, which is told when all is given back.
    for (ask, outcome) in session.unless_interrupted(join_all(released)).await.unwrap_or_default() {
        match outcome {
            Ok(()) | Err(Error::Lost(_)) => {}
            Err(error) => tell(format!("{} was not released: {error}", ask.target())),
        }
    }
    outcome
}

/// Runs a command if nobody has executed the Once.
///
/// # Errors
/// If it is neither executed nor could be.
pub async fn once(session: &Session, command: &KindCommand) -> Result<Ended, Failure> {
    let program = command.rest();
    let ask = claims::ask(command, Operation::Acquire);
    let report = |text: &str, ran: bool| {
        let value = json!({ "kind": "Once", "namespace": session.namespace, "name": ask.name, "executed": true, "ran": ran });
        session.format.print(text, &value)
    };
    let execution = match session.unless_interrupted(session.claims.execute(&ask)).await?? {
        Some(execution) => execution,
        None => {
            report(&format!("{} has been executed already", ask.target()), false)?;
            return Ok(0);
        }
    };
    let ended = if program.is_empty() {
        Ok(0)
    } else {
        supervise(&program, &tokens([(&ask, execution.guard().token())]), &[execution.guard()], &mut *session.signals().await?).await
    };
    // Who could not run it, or lost it, has failed: the turn passes to the next.
    let code = ended?;
    let reported = session.unless_interrupted(execution.finish(code == 0)).await.and_then(|outcome| Ok(outcome?));
    if code != 0 {
        reported.unwrap_or_else(|failure| tell(failure.message));
        return Ok(code);
    }
    reported?;
    if program.is_empty() {
        report(&format!("{} is executed", ask.target()), true)?;
    }
    Ok(code)
}

impl RunArgs {
    /// What is to be held, in canonical order: two runs never wait for each other in a circle.
    fn asks(&self) -> Vec<Ask> {
        let Self { mutex, rwmutex, read, lease, semaphore, permits, timeout, ttl, priority, holder, command: _ } = self;
        let named =
            [(ClaimKind::Mutex, mutex), (ClaimKind::RWMutex, rwmutex), (ClaimKind::Lease, lease), (ClaimKind::Semaphore, semaphore)];
        let mut targets: Vec<(ClaimKind, &String)> =
            named.iter().flat_map(|(kind, names)| names.iter().map(move |name| (*kind, name))).collect();
        targets.sort();
        targets.dedup();
        let options = claims::options(timeout.map(Duration::as_std), ttl.map(Duration::as_std), *priority);
        let holder = holder.clone().unwrap_or_else(this_machine);
        let ask = |(kind, name): (ClaimKind, &String)| Ask {
            holder: Some(holder.clone()),
            mode: (kind == ClaimKind::RWMutex).then_some(if *read { Mode::Read } else { Mode::Write }),
            permits: permits.filter(|_| kind == ClaimKind::Semaphore),
            options: options.clone(),
            ..Ask::new(kind, name.as_str(), Operation::Acquire)
        };
        targets.into_iter().map(ask).collect()
    }
}

/// The environment variables with the fencing tokens, called as those of annotated Pods are.
fn tokens<'a>(held: impl IntoIterator<Item = (&'a Ask, i64)>) -> Vec<(String, String)> {
    const VARIABLE: &str = "KONDUCTOR_FENCING_TOKEN";
    let shout = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name = |ask: &Ask| format!("{VARIABLE}_{}_{}", word(ask.kind), ask.name).chars().map(shout).collect::<String>();
    let mut variables: Vec<(String, String)> = held.into_iter().map(|(ask, token)| (name(ask), token.to_string())).collect();
    if let [(_, token)] = variables.as_slice() {
        variables.push((VARIABLE.to_owned(), token.clone()));
    }
    variables
}

/// Runs a command to its end, passes signals on to it, and ends it when a hold is lost.
async fn supervise(
    command: &[OsString],
    environment: &[(String, String)],
    guards: &[&Guard],
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let Some((program, arguments)) = command.split_first() else { return Ok(0) };
    // At a terminal Ctrl-C reaches the whole group, and so the command; elsewhere it gets a group of its own, to be ended with all that it has started.
    let own_group = !std::io::stdin().is_terminal();
    if let Some(signal) = signals.next().now_or_never() {
        return Err(interrupted(signal));
    }
    if let Some(guard) = guards.iter().find(|guard| guard.remaining().is_zero()) {
        let why = guard.lost().now_or_never().unwrap_or_else(|| "a hold could not be renewed in time".to_owned());
        return Err(Failure::new(Code::Error, format!("{why}; the command was not started")));
    }
    let mut starting = Command::new(program);
    starting.args(arguments).envs(environment.iter().cloned()).kill_on_drop(true);
    if own_group {
        starting.process_group(0);
    }
    let mut child = match starting.spawn() {
        Ok(child) => child,
        Err(error) => {
            tell(format!("{} cannot be run: {error}", program.display()));
            return Ok(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    let grace = guards.iter().map(|guard| guard.grace()).min().unwrap_or_default();
    let mut lost = pin!(first_lost(guards.iter().copied()));
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status?)),
            signal = signals.next() => if own_group || signal != Signal::INT { send(&child, signal, own_group) },
            why = &mut lost => {
                tell(format!("{why}; the command is ended"));
                send(&child, Signal::TERM, own_group);
                if timeout(grace / 2, child.wait()).await.is_err() {
                    send(&child, Signal::KILL, own_group);
                    child.wait().await?;
                }
                return Err(Failure::new(Code::Error, why));
            }
        }
    }
}

/// Why the first of these is lost, when it is.
fn first_lost<'a>(guards: impl Iterator<Item = &'a Guard>) -> impl Future<Output = String> {
    let lost: Vec<_> = guards.map(|guard| Box::pin(guard.lost())).collect();
    async {
        // `select_all` takes no empty list.
        if lost.is_empty() { pending().await } else { select_all(lost).await.0 }
    }
}

/// Sends a signal to the command, or its group. One that has ended needs none.
fn send(child: &Child, signal: Signal, group: bool) {
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
    let sent = if group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    if let Err(error) = sent {
        tracing::debug!(%error, "the signal did not arrive");
    }
}

/// The exit code as shells have it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: RunArgs,
    }

    fn asks(line: &str) -> Vec<Ask> {
        Only::parse_from(line.split_whitespace()).args.asks()
    }

    #[test]
    fn holds_are_taken_in_canonical_order_and_once() {
        let asks = asks("koncli --semaphore api --mutex b --mutex a --mutex b --permits 2 --rwmutex c --read -- true");
        let targets: Vec<String> = asks.iter().map(Ask::target).collect();
        assert_eq!(targets, ["mutex/a", "mutex/b", "rwmutex/c", "semaphore/api"]);
        assert_eq!(
            asks.iter().map(|ask| (ask.mode, ask.permits)).collect::<Vec<_>>(),
            [(None, None), (None, None), (Some(Mode::Read), None), (None, Some(2))]
        );
        assert!(asks.iter().all(|ask| !ask.lasting), "two runs on one machine exclude each other");
    }

    #[test]
    fn the_token_is_in_the_environment() {
        let of = |line: &str| {
            tokens(asks(line).iter().zip([7, 8])).into_iter().map(|(name, token)| format!("{name}={token}")).collect::<Vec<_>>()
        };
        assert_eq!(of("koncli --mutex db-main -- true"), ["KONDUCTOR_FENCING_TOKEN_MUTEX_DB_MAIN=7", "KONDUCTOR_FENCING_TOKEN=7"]);
        assert_eq!(of("koncli --mutex a --lease b -- true"), ["KONDUCTOR_FENCING_TOKEN_MUTEX_A=7", "KONDUCTOR_FENCING_TOKEN_LEASE_B=8"]);
    }

    #[tokio::test]
    async fn exit_codes_are_passed_on() {
        let run = async |command: &[&str]| {
            let command: Vec<OsString> = command.iter().map(Into::into).collect();
            supervise(&command, &[("X".into(), "3".into())], &[], &mut Signals::new().unwrap()).await.unwrap()
        };
        assert_eq!(run(&["sh", "-c", "exit 0"]).await, 0);
        assert_eq!(run(&["sh", "-c", "exit $X"]).await, 3);
        assert_eq!(run(&["sh", "-c", "kill -KILL $$"]).await, 137);
        assert_eq!(run(&["there-is-no-such-command"]).await, 127);
        assert_eq!(run(&["/"]).await, 126);
    }
}
