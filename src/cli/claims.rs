//! The verbs that are Claims: lock and unlock, acquire, renew and release, wait, arrive, add, done, open, close, reset.

use std::{io::IsTerminal, time::Duration};

use serde_json::{Value, json};

use super::{
    kinds::{Does, KindCommand},
    output::{Code, Failure, tell},
    session::{Session, this_machine},
};
use crate::{
    api::{Claim, ClaimPhase, Mode, Operation},
    client::{Ask, Claimed, Error, Options, word},
};

/// If nothing was heard by then, the person is told what to look at.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a verb that is a Claim.
///
/// # Errors
/// As documented for the exit codes.
pub async fn run(session: &Session, command: &KindCommand) -> Result<(), Failure> {
    match command.verb.does {
        Does::Hold(mode) => hold(session, command, mode).await,
        Does::Release => release(session, command).await,
        Does::Renew => renew(session, command).await,
        Does::Step(operation) => step(session, &ask(command, operation)).await,
        Does::Create | Does::Delete | Does::List | Does::Status | Does::Check | Does::Execute => Ok(()),
    }
}

/// What the command line asks for.
pub fn ask(command: &KindCommand, operation: Operation) -> Ask {
    let holder = command.text("who").or_else(|| command.text("holder")).map_or_else(this_machine, str::to_owned);
    let mut ask = Ask::new(command.kind, command.name(), operation);
    ask.holder = Some(holder);
    ask.permits = command.one::<i32>("permits").copied();
    ask.delta = command.one::<i64>("delta").copied();
    ask.options = options(command.duration("timeout"), command.duration("ttl"), command.one::<i32>("priority").copied());
    ask
}

/// Options whose news go to the standard error.
pub fn options(timeout: Option<Duration>, ttl: Option<Duration>, priority: Option<i32>) -> Options {
    let mut options = Options::default().on_wait(|message| tell(message));
    if let Some(timeout) = timeout {
        options = options.timeout(timeout);
    }
    if let Some(ttl) = ttl {
        options = options.ttl(ttl);
    }
    if let Some(priority) = priority {
        options = options.priority(priority);
    }
    options
}

/// Asks, and says so if there is no answer at all.
pub async fn granted(session: &Session, ask: &Ask) -> Result<Claimed, Failure> {
    let asking = async {
        let mut asked = std::pin::pin!(session.claims.ask(ask));
        tokio::select! {
            outcome = &mut asked => return outcome,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        if std::io::stderr().is_terminal() {
            tell(format!(
                "still waiting for {}; `koncli status {} {}` shows it, `koncli check` whether konductor is well",
                ask.target(),
                word(ask.kind),
                ask.name
            ));
        }
        asked.await
    };
    Ok(session.unless_interrupted(asking).await??)
}

async fn hold(session: &Session, command: &KindCommand, mode: Option<Mode>) -> Result<(), Failure> {
    let ask = Ask { lasting: true, mode, ..ask(command, Operation::Acquire) };
    let mut claimed = granted(session, &ask).await?;
    let already = claimed.resumed();
    if claimed.joined() {
        // It is to hold for a whole ttl from now on, and if it does not hold any more we learn it here.
        session.unless_interrupted(claimed.renew()).await??;
    }
    let claim = claimed.leave();
    let how = if already { "was held already by" } else { "is held by" };
    let until = expiry(&claim).map(|at| format!(", until {at} unless it is renewed")).unwrap_or_default();
    let text = format!("{} {how} {} with token {}{until}", ask.target(), holder(&ask), token(&claim).unwrap_or_default());
    session.format.print(&text, &value(session, &claim, Some(already)))
}

async fn release(session: &Session, command: &KindCommand) -> Result<(), Failure> {
    let ask = Ask { lasting: true, ..ask(command, Operation::Acquire) };
    let (target, holder) = (ask.target(), holder(&ask));
    let claimed = found(session, &ask).await?;
    let phase = claimed.phase();
    let claim = claimed.claim().clone();
    match phase {
        ClaimPhase::Pending => return Err(Failure::new(Code::NotFound, format!("{holder} does not hold {target}: it still waits for it"))),
        ClaimPhase::Granted => session.unless_interrupted(claimed.end()).await??,
        ClaimPhase::Denied | ClaimPhase::Expired | ClaimPhase::Released => {
            session.unless_interrupted(claimed.end()).await??;
            return Err(Failure::new(Code::Error, format!("{holder} did not hold {target} any more: {}", ended(&claim))));
        }
    }
    session.format.print(&format!("{target} is released by {holder}"), &value(session, &claim, None))
}

async fn renew(session: &Session, command: &KindCommand) -> Result<(), Failure> {
    let ask = Ask { lasting: true, ..ask(command, Operation::Acquire) };
    let mut claimed = found(session, &ask).await?;
    session.unless_interrupted(claimed.renew()).await??;
    let claim = claimed.claim();
    let text = format!("{} is renewed by {} ({} times)", ask.target(), holder(&ask), claim.spec.renewals);
    session.format.print(&text, &value(session, claim, None))
}

/// Does one thing that is over then.
///
/// # Errors
/// As documented for the exit codes.
pub async fn step(session: &Session, ask: &Ask) -> Result<(), Failure> {
    let claimed = granted(session, ask).await?;
    let claim = claimed.claim().clone();
    session.unless_interrupted(claimed.end()).await??;
    let target = ask.target();
    let done = match ask.operation {
        Operation::Wait => match ask.kind {
            crate::api::ClaimKind::Once => format!("{target} has been executed"),
            crate::api::ClaimKind::WaitGroup => format!("{target} is done"),
            _ => format!("{target} is open"),
        },
        Operation::Arrive => format!("{} has arrived at {target}", holder(ask)),
        Operation::Add => format!("{target} is counted up by {}", ask.delta.unwrap_or(1)),
        Operation::Done => format!("{target} is counted down"),
        Operation::Open => format!("{target} is opened by {}", holder(ask)),
        Operation::Close => format!("{target} is closed by {}", holder(ask)),
        Operation::Reset => format!("{target} has begun a new round"),
        Operation::Acquire => format!("{target} was held"),
    };
    session.format.print(&done, &value(session, &claim, None))
}

async fn found(session: &Session, ask: &Ask) -> Result<Claimed, Failure> {
    let found = session.unless_interrupted(session.claims.find(ask)).await??;
    found
        .ok_or_else(|| Error::NotFound(format!("{} does not hold {} in namespace {}", holder(ask), ask.target(), session.namespace)).into())
}

fn holder(ask: &Ask) -> &str {
    ask.holder.as_deref().unwrap_or_default()
}

fn token(claim: &Claim) -> Option<i64> {
    claim.status.as_ref()?.token
}

fn expiry(claim: &Claim) -> Option<String> {
    Some(claim.status.as_ref()?.expires_at.as_ref()?.0.to_string())
}

fn ended(claim: &Claim) -> String {
    let status = claim.status.clone().unwrap_or_default();
    status.message.unwrap_or_else(|| format!("{:?}", status.phase).to_lowercase())
}

/// What scripts read of a Claim.
fn value(session: &Session, claim: &Claim, already: Option<bool>) -> Value {
    let status = claim.status.clone().unwrap_or_default();
    json!({
        "kind": claim.spec.kind,
        "namespace": session.namespace,
        "name": claim.spec.name,
        "operation": claim.spec.operation,
        "holder": claim.spec.holder,
        "claim": claim.metadata.name,
        "phase": status.phase,
        "token": status.token,
        "grantedAt": status.granted_at,
        "expiresAt": status.expires_at,
        "renewals": claim.spec.renewals,
        "already": already,
        "message": status.message,
    })
}
