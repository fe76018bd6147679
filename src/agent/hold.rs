//! `konductor agent hold`: the sidecar; and its first half alone, `konductor agent verify`, where there is none but fencing tokens are wanted.
//!
//! The sidecar verifies the hold whenever it starts (after a reboot of the node the acquire step may have been
//! skipped), then sleeps until SIGTERM, which comes after the last app container has ended, and tells the coordinator to look.
//!
//! It never ends the Pod itself: a sidecar's exit would only be restarted. A Pod that runs without its hold is deleted by the controller.

use std::{future::pending, pin::pin, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Outcome,
    backoff::{Backoff, random_within},
    coordinator::{Coordinator, Failure},
    settings::Settings,
    voice::Voice,
};
use crate::coordinator::protocol::{Token, Verified};

/// All that the report at the end may take. The kubelet waits for this process with the Pod's end, so it leaves within a second.
pub const RELEASE_BUDGET: Duration = Duration::from_millis(800);

/// Runs until `terminated`, and a little longer to report.
pub async fn run(coordinator: &Coordinator, settings: &Settings, voice: &mut Voice, terminated: impl Future<Output = ()>) -> Outcome {
    let mut terminated = pin!(terminated);
    tokio::select! {
        biased;
        () = &mut terminated => {}
        () = async { verify(coordinator, settings, voice).await; pending().await } => {}
    }
    match timeout(RELEASE_BUDGET, report(coordinator)).await {
        Ok(Ok(())) => voice.say("reported that the app has ended"),
        Ok(Err(failure)) => voice.say(&format!("the app has ended; konductor will see it by itself ({failure})")),
        Err(_) => voice.say("the app has ended; konductor will see it by itself (no answer in time)"),
    }
    Outcome::Granted
}

/// Verifies until the answer is yes. Nothing is asked after that: the hold is ours until the controller finds evidence of the end.
pub async fn verify(coordinator: &Coordinator, settings: &Settings, voice: &mut Voice) {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        let (situation, line, pause) = match coordinator.verify().await {
            Ok(Verified { held: true, tokens, message: _ }) => {
                voice.say(&held(&settings.pod, &tokens));
                return;
            }
            // Rare, and soon over: the Pod is about to be deleted. Asking on costs little and corrects the log if it was an error.
            Ok(Verified { held: false, tokens: _, message }) => {
                let message = message.unwrap_or_default();
                let line = format!("WARNING: {} runs WITHOUT its hold and will be deleted: {message}", settings.pod);
                (line.clone(), line, slowly())
            }
            // An outage with changing words is still one situation.
            Err(Failure::Unavailable(words)) => {
                (String::from("unavailable"), format!("the hold cannot be verified yet: {words}"), backoff.pause())
            }
            Err(Failure::NotRecognized(words) | Failure::Denied(words)) => {
                let line = format!("WARNING: whether {} holds could not be verified: {words}", settings.pod);
                (line.clone(), line, slowly())
            }
        };
        if said != situation {
            voice.say(&line);
            said = situation;
        }
        sleep(pause).await;
    }
}

/// The server may be changing its leader at this very moment, so a quick failure is tried again.
async fn report(coordinator: &Coordinator) -> Result<(), Failure> {
    let mut left = 3;
    loop {
        left -= 1;
        match coordinator.release().await {
            Err(Failure::Unavailable(_)) if left > 0 => sleep(random_within(Duration::from_millis(50), Duration::from_millis(200))).await,
            result => return result,
        }
    }
}

fn slowly() -> Duration {
    random_within(Duration::from_secs(30), Duration::from_secs(60))
}

fn held(pod: &str, tokens: &[Token]) -> String {
    let tokens: Vec<_> = tokens.iter().map(|Token { target, token }| format!("{target} (token {token})")).collect();
    format!("{pod} holds {}", tokens.join(", "))
}
