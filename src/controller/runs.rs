//! The runs of a wrapped command. Its container may run again, so a hold is that of one run, known by its token; what wraps the command says when that run is
//! over, being its parent. Such a word is the Pod's own, and believed about nothing but its own hold. Synchronous.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    ask::At,
    facts::PodFacts,
    gather::{Gathered, sooner},
    object::{Key, Object},
    roll::{Names, Roll},
    world::State,
};
use crate::{
    api::Admitted,
    coordinator::protocol::{Ended, Token},
    plan::{Kind, OnConflict},
    planted,
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
                let name = (pod.uid().to_owned(), key.clone());
                let known = self.reports.get(&name).filter(|known| known.token == *token);
                // The next run knows less than the one that failed, and asks more than once.
                let settled = known.is_some_and(|known| known.succeeded == *succeeded || known.succeeded == Some(false));
                if !settled {
                    self.reports.insert(name, Report { token: *token, succeeded: *succeeded, since: Instant::now() });
                }
            }
        }
        self.dirty.extend(pod.keys().iter().cloned());
    }
}

/// Whether a wrapped Pod without a session asks for nothing: its command runs, or has ended, or it only waits, which needs no place in line. The roll is
/// that of the primitive `here`.
pub fn is_silent(state: &State, here: &Key, roll: &Roll<'_>, pod: &PodFacts) -> bool {
    let holds = |key: &Key| {
        let token =
            if key == here { roll.token_of(pod.uid()) } else { state.objects.get(key).and_then(|object| object.token_of(pod.uid())) };
        token.is_some()
    };
    pod.wrapped.is_some() && (state.between_runs.contains(pod.uid()) || pod.holds().all(|(key, _)| holds(key)))
}

/// Whether a Pod leaves its command out rather than waits. Its container ends well then, so that it cannot be told otherwise later.
pub fn skips(pod: &PodFacts) -> bool {
    pod.wrapped.is_some() && pod.plan().is_some_and(|plan| plan.on_conflict == OnConflict::Skip)
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
    let of_it = |report: &&Report| report.token == pod.token || planted::bug("report-ends-any-hold");
    let report = state.reports.get(&(pod.uid.clone(), key)).filter(of_it);
    match report {
        None => Said::Nothing,
        Some(Report { succeeded: Some(true), .. }) if once && !planted::bug("once-believes-the-report") => Said::Nothing,
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{
        api::{Holder, Mutex, Once, names},
        controller::{examine::Suspect, gather::gather},
        coordinator::session::Session,
        rules::{Evidence, Out, Presence},
    };

    /// A Pod that takes `mutex/db` and executes `once/x` with its only container, which has this state.
    fn pod(state: &serde_json::Value) -> PodFacts {
        let pod = json!({
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "p", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": { names::INJECTED_LABEL: "true" },
                "annotations": { "konductor.io/mutex": "db;strategy=wrap", "konductor.io/once": "x" },
            },
            "spec": { "restartPolicy": "Always", "containers": [{ "name": "app", "command": [names::WRAPPER, "agent", "wrap", "--", "work"] }] },
            "status": { "containerStatuses": [{
                "name": "app", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            }] },
        });
        PodFacts::of(&serde_json::from_value(pod).unwrap())
    }

    fn running() -> PodFacts {
        pod(&json!({ "running": {} }))
    }

    /// The two primitives, each held by the Pod with token 7, or by nobody.
    fn objects(held: bool) -> [Object; 2] {
        let holder: Vec<Holder> = serde_json::from_value(json!([{
            "uid": "p", "kind": "Pod", "namespace": "ns", "name": "p", "token": 7, "since": "2026-01-01T00:00:00Z",
        }]))
        .unwrap();
        let holders = if held { holder } else { Vec::new() };
        let (mut mutex, mut once) = (Mutex::new("db", Default::default()), Once::new("x", Default::default()));
        for meta in [&mut mutex.metadata, &mut once.metadata] {
            meta.namespace = Some("ns".to_owned());
        }
        mutex.status.get_or_insert_default().common.holders.clone_from(&holders);
        once.status.get_or_insert_default().common.holders = holders;
        [mutex.into(), once.into()]
    }

    fn picture(pod: &PodFacts, held: bool) -> (State, [Object; 2]) {
        let (mut state, objects) = (State::default(), objects(held));
        objects.iter().for_each(|object| state.put_object(object.clone()));
        state.put_pod(pod.clone());
        (state, objects)
    }

    fn ended(target: &str, token: i64, succeeded: Option<bool>) -> Ended {
        Ended { holds: vec![Token { target: target.to_owned(), token }], succeeded }
    }

    fn seen(state: &mut State, object: &Object) -> Gathered {
        gather(state, &object.key(), Some(object), At { now: Instant::now(), time: Timestamp::UNIX_EPOCH })
    }

    /// What the evidence says of the hold: whether it has ended, and how.
    fn proven(gathered: &Gathered) -> Option<Option<bool>> {
        match gathered.facts.evidence.as_slice() {
            [] => None,
            [Evidence::PodOut { how: Out::Ended, .. }, Evidence::Outcome { succeeded, .. }] => Some(*succeeded),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_ends_the_hold_of_its_token_and_no_other() {
        let pod = running();
        let (mut state, [mutex, _]) = picture(&pod, true);
        assert_eq!(proven(&seen(&mut state, &mutex)), None);
        state.run_ended(&pod, &ended("mutex/db", 6, Some(true)));
        assert_eq!(proven(&seen(&mut state, &mutex)), None, "that was an earlier run");
        state.run_ended(&pod, &ended("mutex/other", 7, Some(true)));
        assert_eq!(proven(&seen(&mut state, &mutex)), None);
        state.run_ended(&pod, &ended("mutex/db", 7, Some(true)));
        assert_eq!(proven(&seen(&mut state, &mutex)), Some(Some(true)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_whose_command_is_not_wrapped_cannot_report() {
        let (mut state, [mutex, _]) = picture(&running(), true);
        let plain = PodFacts { wrapped: None, ..running() };
        state.put_pod(plain.clone());
        state.run_ended(&plain, &ended("mutex/db", 7, Some(true)));
        assert_eq!(proven(&seen(&mut state, &mutex)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_once_is_executed_is_believed_when_the_kubelet_says_it_too() {
        let pod_that_runs = running();
        let (mut state, [_, once]) = picture(&pod_that_runs, true);
        state.run_ended(&pod_that_runs, &ended("once/x", 7, Some(true)));
        assert_eq!(proven(&seen(&mut state, &once)), None);
        state.put_pod(pod(&json!({ "terminated": { "exitCode": 0, "message": "konductor: ended once/x=6" } })));
        assert_eq!(proven(&seen(&mut state, &once)), None, "that was an earlier run");
        state.put_pod(pod(&json!({ "terminated": { "exitCode": 0, "message": "konductor: ended once/x=7" } })));
        assert_eq!(proven(&seen(&mut state, &once)), Some(Some(true)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_passes_the_turn_at_once() {
        let pod = running();
        let (mut state, [_, once]) = picture(&pod, true);
        state.run_ended(&pod, &ended("once/x", 7, Some(false)));
        assert_eq!(proven(&seen(&mut state, &once)), Some(Some(false)));
        // The next run does not know.
        state.run_ended(&pod, &ended("once/x", 7, None));
        assert_eq!(proven(&seen(&mut state, &once)), Some(Some(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_run_that_nobody_reported_the_kubelet_has_time_to_say_how_it_came_out() {
        let pod = running();
        let (mut state, [mutex, once]) = picture(&pod, true);
        state.run_ended(&pod, &ended("once/x", 7, None));
        let at_first = seen(&mut state, &once);
        assert_eq!((proven(&at_first), at_first.suspects.len()), (None, 0));
        assert_eq!(at_first.again, Some(Instant::now() + STATUS_WITHIN));
        tokio::time::advance(STATUS_WITHIN / 2).await;
        state.run_ended(&pod, &ended("once/x", 7, None));
        tokio::time::advance(STATUS_WITHIN / 2).await;
        let then = seen(&mut state, &once);
        assert!(matches!(then.suspects.as_slice(), [Suspect::Pod { over: true, token: 7, .. }]), "asking again gives it no more time");
        // Of what is merely held nobody asks how it came out.
        state.run_ended(&pod, &ended("mutex/db", 7, None));
        assert_eq!(proven(&seen(&mut state, &mutex)), Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_runs_or_has_ended_is_not_taken_for_one_that_waits() {
        let pod_that_runs = running();
        let presence = |state: &mut State, object: &Object| {
            seen(state, object).facts.requests.iter().map(|request| request.presence).collect::<Vec<_>>()
        };
        let (mut state, [mutex, once]) = picture(&pod_that_runs, true);
        assert!(presence(&mut state, &mutex).is_empty() && presence(&mut state, &once).is_empty(), "it holds all, and runs");
        let (mut state, [mutex, _]) = picture(&pod_that_runs, false);
        assert_eq!(presence(&mut state, &mutex), [Presence::Expected], "it waits, and comes back");
        state.run_ended(&pod_that_runs, &Ended { holds: Vec::new(), succeeded: Some(false) });
        assert!(presence(&mut state, &mutex).is_empty(), "its container is about to end");
        state.open_session(&pod_that_runs, Session::open().0);
        assert_eq!(presence(&mut state, &mutex), [Presence::Here], "it was started again");
        state.run_ended(&pod_that_runs, &Ended { holds: Vec::new(), succeeded: Some(false) });
        state.put_pod(pod(&json!({ "waiting": {} })));
        state.sessions.clear();
        state.put_pod(pod_that_runs);
        assert_eq!(presence(&mut state, &mutex), [Presence::Expected], "a new run was seen");
    }
}
