//! A wrapped command on its node: its container waits with what wraps it, runs the command, says that it has ended, and may be started again; each run holds
//! for itself. Of an init container, the app comes after it, and holds nothing.

use konductor::{
    controller::object::Key,
    coordinator::protocol::{Ended, Token},
    rules::wrapped::last_words,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    core::Core,
    pod::{Pod, Step},
    truth::{Errand, NAMESPACE},
};

/// All that what wraps a command takes for its report.
pub const REPORTS_WITHIN: Duration = Duration::from_millis(800);
/// So many ends of a container its status shows: the state and the last state.
const SHOWN: usize = 2;

/// The wrapped command of a Pod.
#[derive(Clone, Debug)]
pub struct Wrap {
    /// An init container has it.
    pub init: bool,
    /// When the present run began.
    pub began: Instant,
    /// The ends of its runs that are still shown, the last one last.
    pub ends: Vec<End>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct End {
    pub code: i32,
    /// What its command held that has ended well.
    pub well: Option<Vec<Token>>,
}

impl Wrap {
    /// What of this Pod is wrapped, as it was let into the cluster.
    pub fn of(pod: &Value) -> Option<Self> {
        let has = |field: &str| {
            let containers = pod["spec"][field].as_array().into_iter().flatten();
            containers.flat_map(|container| container["command"].as_array()).any(|command| command.iter().any(|word| word == "wrap"))
        };
        let init = has("initContainers");
        (init || has("containers")).then(|| Self { init, began: Instant::now(), ends: Vec::new() })
    }

    fn put(&mut self, end: End) {
        self.ends.push(end);
        let spare = self.ends.len().saturating_sub(SHOWN);
        self.ends.drain(..spare);
    }
}

impl End {
    fn shown(&self, finished: Option<&String>) -> Value {
        let words = self.well.as_ref().map(|holds| last_words(holds.iter().map(|held| (held.target.as_str(), held.token))));
        json!({"terminated": {"exitCode": self.code, "message": words, "finishedAt": finished}})
    }
}

impl Pod {
    /// The token that the agent was told for this.
    pub fn token_for(&self, key: &Key) -> Option<i64> {
        let target = key.seen_from(NAMESPACE);
        self.told.iter().find(|told| told.target == target).map(|told| told.token)
    }

    /// Whether its present run was told that it has this very hold, and its command has not ended.
    pub fn relies(&self, key: &Key, token: i64) -> bool {
        self.wrap.is_none() || self.alive() && self.token_for(key) == Some(token)
    }

    /// Its container is gone, with all that ran in it.
    fn run_is_over(&mut self, code: i32) -> End {
        self.agent.cancel();
        self.session = None;
        let well = matches!(self.step, Step::Leaving { code: 0, .. }).then(|| std::mem::take(&mut self.told));
        let end = End { code, well };
        if let Some(wrap) = &mut self.wrap {
            wrap.put(end.clone());
        }
        end
    }

    /// Its node loses power. Where nothing may be restarted, the Pod has failed; else all its containers are started again, the init containers first.
    pub fn loses_power(&mut self, back: Instant) {
        let runs = self.run_goes_on();
        if self.wrap.is_some() && runs {
            drop(self.run_is_over(137));
        }
        self.agent.cancel();
        self.session = None;
        let acquired = self.wrap.as_ref().map_or(self.alive(), |wrap| if wrap.init { matches!(self.step, Step::After(_)) } else { true });
        self.step = if self.restarts { Step::Starting(back) } else { Step::Over { code: 137, acquired } };
    }

    /// Whether the wrapped container runs.
    fn run_goes_on(&self) -> bool {
        matches!(self.step, Step::Acquiring(_) | Step::Passed(_) | Step::Running(_) | Step::Leaving { .. })
    }

    /// What its kubelet would report of a Pod with a wrapped command: the containers, the init containers.
    pub fn wrapped_states(&self, wrap: &Wrap) -> (Value, Option<Value>) {
        let waiting = || json!({"waiting": {}});
        let mut ends = wrap.ends.iter().rev().map(|end| end.shown(self.finished.as_ref()));
        let backs_off = matches!(self.step, Step::Restarting(_)) && self.runs.is_multiple_of(2) || matches!(self.step, Step::Starting(_));
        let state = if self.run_goes_on() {
            json!({"running": {}})
        } else if backs_off {
            waiting()
        } else {
            ends.next().unwrap_or_else(waiting)
        };
        let container = |name: &str, state: Value, last: Option<Value>| json!({"name": name, "state": state, "lastState": last, "image": "i", "imageID": "i", "ready": false, "restartCount": 0});
        let last = ends.next();
        if !wrap.init {
            return (container("app", state, last), None);
        }
        let app = match self.step {
            Step::After(_) => json!({"running": {}}),
            Step::Over { code, acquired: true } => json!({"terminated": {"exitCode": code, "finishedAt": self.finished}}),
            _ => waiting(),
        };
        (container("app", app, None), Some(container("first", state, last)))
    }
}

impl Core {
    pub fn advance_wrapped(&mut self, pod: &mut Pod, now: Instant, silent: bool) {
        if pod.ending.is_some_and(|at| now >= at) && !pod.over() && !matches!(pod.step, Step::Leaving { .. }) {
            return self.told_to_end(pod, now);
        }
        let goes_on = pod.ending.is_none();
        match pod.step {
            Step::Starting(at) if now >= at && goes_on && !silent => self.begin_run(pod, now),
            Step::Restarting(at) if now >= at && goes_on => self.begin_run(pod, now),
            // It is killed, by the OOM killer say.
            _ if pod.run_goes_on() && self.strikes(self.faults.agent / 10) => self.end_run(pod, 137, now),
            Step::Passed(at) if now >= at => self.start_app(pod, now),
            Step::Running(until) if now >= until && !self.truth.apps_run_on => {
                let failed = self.chance.permille(if self.chaos { 300 } else { 0 });
                self.end_command(pod, i32::from(failed), now);
            }
            Step::Leaving { until, code } if now >= until => self.end_run(pod, code, now),
            // Its sandbox is made anew: the init containers run again.
            Step::After(_) if pod.restarts && goes_on && self.strikes(self.faults.agent / 10) => {
                pod.step = Step::Starting(now + self.chance.millis(100, 3000));
            }
            Step::After(until) if now >= until && !self.truth.apps_run_on => {
                let failed = self.chance.permille(if self.chaos { 250 } else { 0 });
                if failed && pod.restarts {
                    pod.step = Step::After(now + self.chance.millis(100, 3000));
                } else {
                    self.end_wrapped(pod, i32::from(failed), true, now);
                }
            }
            _ => {}
        }
    }

    fn begin_run(&mut self, pod: &mut Pod, now: Instant) {
        pod.runs += 1;
        pod.told.clear();
        pod.agent = CancellationToken::new();
        pod.step = Step::Acquiring(pod.runs);
        pod.wrap.iter_mut().for_each(|wrap| wrap.began = now);
        self.truth.to_start.push(Errand::Acquire { uid: pod.uid.clone(), run: pod.runs, until: pod.agent.clone() });
    }

    /// The command has ended: what wraps it writes its last words, and says so to the coordinator.
    fn end_command(&mut self, pod: &mut Pod, code: i32, now: Instant) {
        let ended = Ended { holds: pod.told.clone(), succeeded: Some(code == 0) };
        self.truth.to_start.push(Errand::Report { uid: pod.uid.clone(), bearer: pod.bearer(), ended });
        self.leaves_within(pod, code, now);
    }

    fn leaves_within(&mut self, pod: &mut Pod, code: i32, now: Instant) {
        let most = u64::try_from(REPORTS_WITHIN.as_millis()).unwrap_or_default();
        pod.step = Step::Leaving { until: now + self.chance.millis(0, most), code };
    }

    /// The Pod is being deleted. A command may heed that, in whatever way, or be killed at the end of its grace.
    fn told_to_end(&mut self, pod: &mut Pod, now: Instant) {
        let heeds = self.chance.coin();
        match pod.step {
            Step::Passed(_) | Step::Running(_) if heeds => {
                let code = if self.chance.permille(300) { 0 } else { 143 };
                self.end_command(pod, code, now);
            }
            // It gives back what it has got so far.
            Step::Acquiring(_) if heeds => {
                pod.agent.cancel();
                pod.agent = CancellationToken::new();
                pod.session = None;
                self.truth.to_start.push(Errand::GiveBack { uid: pod.uid.clone(), until: pod.agent.clone() });
                self.leaves_within(pod, 143, now);
            }
            _ if pod.run_goes_on() => self.end_run(pod, 137, now),
            _ => {
                let acquired = matches!(pod.step, Step::After(_));
                self.end_wrapped(pod, 137, acquired, now);
            }
        }
    }

    /// The container ends.
    pub fn end_run(&mut self, pod: &mut Pod, code: i32, now: Instant) {
        let End { well, .. } = pod.run_is_over(code);
        for Token { target, token } in well.into_iter().flatten().filter(|_| code == 0) {
            self.truth.well.insert((target, token));
        }
        let init = pod.wrap.as_ref().is_some_and(|wrap| wrap.init);
        if init && code == 0 && pod.ending.is_none() {
            let long = if self.chaos { 20_000 } else { 1500 };
            pod.step = Step::After(now + self.chance.millis(0, long));
        } else if pod.ending.is_none() && pod.restarts && code != 0 {
            pod.step = Step::Restarting(now + self.chance.millis(100, 3000));
        } else {
            self.end_wrapped(pod, code, !init, now);
        }
    }

    fn end_wrapped(&mut self, pod: &mut Pod, code: i32, app: bool, now: Instant) {
        pod.step = Step::Over { code, acquired: app };
        pod.finished = Some(self.date_of(self.server_time()));
        pod.phase_at = Some(now + self.chance.millis(0, 3000));
        if let Some(person) = self.truth.people.get_mut(&pod.uid).filter(|_| app && code == 0) {
            person.succeeds();
        }
    }

    /// What wraps a command has given back what it could, and ends without having run it.
    pub fn leaves_out(&mut self, uid: &str, run: u64, code: i32) {
        let Some(mut pod) = self.truth.pods.remove(uid) else { return };
        if pod.step == Step::Acquiring(run) {
            self.note((15, run), |_| format!("agent  {uid} leaves its command out, and ends with {code}"));
            self.end_run(&mut pod, code, Instant::now());
        }
        self.truth.pods.insert(uid.to_owned(), pod);
    }

    /// The kubelet has written how runs ended: what is shown now, and what no longer is.
    pub fn runs_shown(&mut self, pod: &Pod) {
        let Some(wrap) = &pod.wrap else { return };
        let well = |end: &&End| end.code == 0;
        let shown: Vec<(String, i64)> =
            wrap.ends.iter().filter(well).flat_map(|end| end.well.iter().flatten()).map(|held| (held.target.clone(), held.token)).collect();
        self.truth.well_shown.retain(|name, (uid, _)| *uid != pod.uid || shown.contains(name));
        for name in shown {
            self.truth.well_shown.entry(name).or_insert_with(|| (pod.uid.clone(), Instant::now()));
        }
    }
}
