//! `konductor agent acquire`: waits until the Pod holds all that its annotations say, and tells people what it waits for. What wraps a command waits in
//! the same way.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Outcome,
    backoff::Backoff,
    coordinator::{Coordinator, Event, Failure},
    settings::Settings,
    voice::Voice,
};
use crate::coordinator::protocol::{Ended, Progress, Reason, Token};

/// A token that was just made, or is just being replaced, is recognized after a few tries; a wrong one never.
const NOT_RECOGNIZED_LIMIT: u32 = 8;
/// A session that lasted this long was a good one: the next failure is a new situation.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// The same outage with a new face is worth a line only so often.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Local files, not the API.
const LOOK_AT_FILES: Duration = Duration::from_millis(50);
/// Then ask again: the tokens may have changed, or the kubelet has missed that they are there, and is told anew. By itself it looks again every minute or two.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Runs until granted or refused. A server that is away is waited for, however long: waiting inside the init container is gentler than a crash loop.
pub async fn run(coordinator: &Coordinator, settings: &Settings, voice: &mut Voice) -> Outcome {
    let mut acquiring = Acquiring::begin(coordinator, settings, voice);
    loop {
        let tokens = match acquiring.granted().await {
            Ok(tokens) => tokens,
            Err(outcome) => return outcome,
        };
        if let Some(outcome) = acquiring.fencing(&tokens).await {
            return outcome;
        }
    }
}

/// The same for a command that is wrapped. Each run of it holds anew, with new tokens: what an earlier one left is given back first.
pub async fn anew(coordinator: &Coordinator, settings: &Settings, voice: &mut Voice) -> Result<Vec<Token>, Outcome> {
    let mut acquiring = Acquiring::begin(coordinator, settings, voice);
    acquiring.give_back(None).await?;
    let tokens = match acquiring.granted().await {
        Ok(tokens) => tokens,
        Err(outcome) => {
            if outcome == Outcome::Skipped {
                // Its container ends well, and no other run of it follows that would give back what this one has got so far.
                acquiring.give_back(Some(false)).await?;
            }
            return Err(outcome);
        }
    };
    acquiring.say_tokens(&tokens);
    Ok(tokens)
}

struct Acquiring<'a> {
    coordinator: &'a Coordinator,
    settings: &'a Settings,
    voice: &'a mut Voice,
    started: Instant,
    last_waiting: String,
    /// What was last said about the server's absence, and when.
    outage: Option<(String, Instant)>,
    backoff: Backoff,
    not_recognized: u32,
}

impl<'a> Acquiring<'a> {
    fn begin(coordinator: &'a Coordinator, settings: &'a Settings, voice: &'a mut Voice) -> Self {
        voice.say(&format!("{}: asking for what its annotations say", settings.pod));
        Self {
            coordinator,
            settings,
            voice,
            started: Instant::now(),
            last_waiting: String::new(),
            outage: None,
            backoff: Backoff::default(),
            not_recognized: 0,
        }
    }

    /// Waits until nothing is left that an earlier run of this container held, which has ended, or this one would not run; or that this one holds, which
    /// will not run its command.
    async fn give_back(&mut self, succeeded: Option<bool>) -> Result<(), Outcome> {
        loop {
            let left = self.coordinator.held().await;
            let given = match left {
                Ok(holds) if holds.is_empty() => {
                    self.heard();
                    return Ok(());
                }
                Ok(holds) => self.coordinator.ended(&Ended { holds, succeeded }).await,
                Err(failure) => Err(failure),
            };
            match given {
                Ok(()) => self.heard(),
                Err(failure) => self.failed(failure)?,
            }
            sleep(self.backoff.pause()).await;
        }
    }

    /// Asks, over as many connections as it takes.
    async fn granted(&mut self) -> Result<Vec<Token>, Outcome> {
        loop {
            let begun = Instant::now();
            let failure = match self.session().await {
                Ok(Progress::Granted { tokens }) => return Ok(tokens),
                Ok(Progress::Skipped { message }) => return Err(self.end(Outcome::Skipped, "skipped", &message)),
                Ok(Progress::Refused { reason: Reason::TimedOut, message }) => {
                    return Err(self.end(Outcome::TimedOut, "gave up", &message));
                }
                Ok(Progress::Refused { reason: Reason::Denied, message }) => return Err(self.end(Outcome::Denied, "refused", &message)),
                // `session` returns only last lines; a new kind of last line would be another attempt.
                Ok(Progress::Waiting { .. } | Progress::Heartbeat) => continue,
                Err(failure) => failure,
            };
            if begun.elapsed() >= GOOD_SESSION {
                self.backoff.reset();
            }
            self.failed(failure)?;
            sleep(self.backoff.pause()).await;
        }
    }

    /// What a failure means: another attempt, or the end.
    fn failed(&mut self, failure: Failure) -> Result<(), Outcome> {
        match failure {
            Failure::Denied(words) => return Err(self.end(Outcome::Denied, "refused", &words)),
            Failure::NotRecognized(words) => {
                self.not_recognized += 1;
                if self.not_recognized >= NOT_RECOGNIZED_LIMIT {
                    return Err(self.end(Outcome::Denied, "refused", &words));
                }
                self.complain(&words);
            }
            Failure::Unavailable(words) => self.complain(&words),
        }
        Ok(())
    }

    /// One connection, to its last line.
    async fn session(&mut self) -> Result<Progress, Failure> {
        let mut session = self.coordinator.acquire().await?;
        loop {
            let event = session.next().await?;
            self.heard();
            match event {
                Event::Progress(Progress::Waiting { message }) => {
                    if message != self.last_waiting {
                        self.voice.say(&message);
                        self.last_waiting = message;
                    }
                }
                Event::Progress(Progress::Heartbeat) | Event::Unknown => {}
                Event::Progress(last @ (Progress::Granted { .. } | Progress::Skipped { .. } | Progress::Refused { .. })) => {
                    return Ok(last);
                }
            }
        }
    }

    fn heard(&mut self) {
        self.not_recognized = 0;
        if self.outage.take().is_some() {
            self.voice.say("connected again");
        }
    }

    fn complain(&mut self, words: &str) {
        let news = self.outage.as_ref().is_none_or(|(said, at)| said != words && at.elapsed() >= SAY_AGAIN);
        if news {
            self.voice.say(&format!("{words}; trying again"));
            self.outage = Some((words.to_owned(), Instant::now()));
        }
    }

    /// Says which tokens were granted and, with fencing, waits until the files show them: then the kubelet knows them too, and the app's
    /// environment will have them. `None`: they have not come, ask again.
    async fn fencing(&mut self, tokens: &[Token]) -> Option<Outcome> {
        self.say_tokens(tokens);
        let holds = self.settings.fencing_holds;
        if holds == 0 {
            return Some(Outcome::Granted);
        }
        if tokens.len() != holds {
            let words = format!("{holds} fencing tokens are expected and {} were granted", tokens.len());
            return Some(self.end(Outcome::Denied, "stopped", &words));
        }
        self.voice.say("waiting until the kubelet has written the fencing tokens");
        let since = Instant::now();
        while since.elapsed() < ASK_AGAIN {
            if self.files_show(tokens) {
                self.voice.say("the fencing tokens are there");
                return Some(Outcome::Granted);
            }
            sleep(LOOK_AT_FILES).await;
        }
        None
    }

    fn say_tokens(&mut self, tokens: &[Token]) {
        let waited = self.started.elapsed().as_secs();
        for Token { target, token } in tokens {
            self.voice.say(&format!("holds {target}, token {token}, after {waited} s"));
        }
    }

    fn files_show(&self, tokens: &[Token]) -> bool {
        tokens.iter().enumerate().all(|(index, token)| {
            let file = self.settings.fencing_directory.join(index.to_string());
            std::fs::read_to_string(file).is_ok_and(|text| text.trim() == token.token.to_string())
        })
    }

    /// Not how long it took: a `timeout` counts from the holder's creation, so the time since this step began would only confuse.
    fn end(&mut self, outcome: Outcome, what: &str, words: &str) -> Outcome {
        self.voice.say(&format!("{what}: {words}"));
        outcome
    }
}
