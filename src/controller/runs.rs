//! The runs of a wrapped command. Its container may run again, so a hold is that of one run, known by its token; what wraps the command says when that run is
//! over, being its parent. Such a word is the Pod's own, and believed about nothing but its own hold. Synchronous.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    ask::At,
    facts::PodFacts,
    gather::{Gathered, sooner, token_of},
    object::{Key, Object},
    world::State,
};
use crate::{
    api::Admitted,
    coordinator::protocol::{Ended, Token},
    plan::Kind,
};

/// How long the status of a Pod may be behind what its kubelet knows, while the API server can be reached: longer than a kubelet takes to write it again.
const STATUS_WITHIN: Duration = Duration::from_secs(20);

/// What a wrapped command's parent said about one of its holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    token: i64,
    succeeded: Option<bool>,
    since: Instant,
}

impl State {
    /// A wrapped command has ended: its Pod waits for nothing until its container asks again.
    pub fn run_ended(&mut self, pod: &PodFacts, ended: &Ended) {
        if pod.wrapped.is_none() || !self.pods.contains_key(pod.uid()) {
            return;
        }
        self.between_runs.insert(pod.uid().to_owned());
        let Ended { holds, succeeded } = ended;
        for (key, _) in pod.holds() {
            let target = key.seen_from(&pod.who.namespace);
            if let Some(Token { token, .. }) = holds.iter().find(|held| held.target == target) {
                let name = (pod.uid().to_owned(), key);
                let known = self.reports.get(&name).filter(|known| known.token == *token);
                // The next run knows less than the one that failed, and asks more than once.
                let settled = known.is_some_and(|known| known.succeeded == *succeeded || known.succeeded == Some(false));
                if !settled {
                    self.reports.insert(name, Report { token: *token, succeeded: *succeeded, since: Instant::now() });
                }
            }
        }
        self.dirty.extend(pod.items().map(|(key, _)| key));
    }
}

/// Whether a wrapped Pod without a session asks for nothing: its command runs, or has ended, or it only waits, which needs no place in line.
pub fn is_silent(state: &State, pod: &PodFacts) -> bool {
    let holds = |key: Key| state.objects.get(&key).is_some_and(|object| token_of(object, pod).is_some());
    pod.wrapped.is_some() && (state.between_runs.contains(pod.uid()) || pod.holds().all(|(key, _)| holds(key)))
}

/// What was said about the hold that this Pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing, or nothing yet that is believed.
    Nothing,
    /// Its run is over, and came out like this.
    Over(Option<bool>),
    /// Its run is over, and by now the kubelet has said how it came out, if it ever will.
    Look,
}

/// What was said about the hold that this Pod has. That a Once is executed is not believed before the kubelet says it too; and where nobody said how it came
/// out, the kubelet is given time to.
pub fn said(state: &State, object: &Object, pod: &Admitted, at: At, gathered: &mut Gathered) -> Said {
    let key = object.key();
    let once = key.kind == Kind::Once;
    let report = state.reports.get(&(pod.uid.clone(), key)).filter(|report| report.token == pod.token);
    match report {
        None => Said::Nothing,
        Some(Report { succeeded: Some(true), .. }) if once => Said::Nothing,
        Some(Report { succeeded: None, since, .. }) if once => {
            let until = *since + STATUS_WITHIN;
            if at.now >= until {
                return Said::Look;
            }
            sooner(&mut gathered.again, until);
            Said::Nothing
        }
        Some(Report { succeeded, .. }) => Said::Over(*succeeded),
    }
}

/// Forgets what was said about a hold that is no more.
pub fn forget(state: &mut State, key: &Key, uid: &str) {
    state.reports.remove(&(uid.to_owned(), key.clone()));
}
