//! A Pod as it really is on its node, and the status that its kubelet would report.

use konductor::{api::names, coordinator::protocol::Token};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::{people::Want, truth::NAMESPACE, wrapped::Wrap};

/// How far a Pod really is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// It has no node yet.
    Unbound,
    /// Its acquire step starts at this time.
    Starting(Instant),
    /// The acquire step runs, for the so-manieth time; or what wraps a command waits.
    Acquiring(u64),
    /// The acquire step passed; the app starts at this time.
    Passed(Instant),
    /// The app runs until then.
    Running(Instant),
    /// The app failed and is started again at this time.
    Restarting(Instant),
    /// The wrapped command has ended, and what wraps it says so until it ends too.
    Leaving { until: Instant, code: i32 },
    /// What was wrapped has ended well; the app runs until then, and holds nothing.
    After(Instant),
    /// All is over.
    Over { code: i32, acquired: bool },
}

/// An open session as the agent sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub process: usize,
    pub since: Instant,
}

/// Step, exit code, whether the phase is late, and which run of a wrapped command it is.
pub type Face = (u8, i32, bool, u64);

/// A Pod on its node.
#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: String,
    pub name: String,
    pub node: usize,
    /// An injected container that should run beside the app is in its way.
    pub blocked: bool,
    /// UID of the Job under whose hold it acts.
    pub job: Option<String>,
    /// Its Job was deleted without it. What it held under the Job's hold it still does; what it has yet to ask for it asks for itself.
    pub orphaned: bool,
    /// UID of the Job that made it, whoever holds.
    pub owner: Option<String>,
    /// Its wrapped command, which then is all of it that holds.
    pub wrap: Option<Wrap>,
    pub shared: bool,
    pub restarts: bool,
    pub hook: bool,
    /// It has an acquire step.
    pub asks: bool,
    pub wants: Vec<Want>,
    /// Creation of the one that holds, in whole seconds.
    pub created: String,
    pub step: Step,
    /// Tokens it was told.
    pub told: Vec<Token>,
    /// Since when its hold has been rightly taken from it.
    pub excused: Option<Instant>,
    /// When one was last taken from it, whatever it has got since.
    pub taken: Option<Instant>,
    /// Its kubelet has seen the deletion and ends it at this time.
    pub ending: Option<Instant>,
    pub session: Option<Connected>,
    /// Since when it has been over in the API's eyes or truly, whichever was later.
    pub over_since: Option<Instant>,
    /// The object is gone from the API. While the app runs that is an act of force, against which only fencing protects.
    pub removed: bool,
    pub runs: u64,
    pub agent: CancellationToken,
    pub report_at: Option<Instant>,
    pub reported: Face,
    pub phase_at: Option<Instant>,
    /// When it ended, as its kubelet says.
    pub finished: Option<String>,
}

impl Pod {
    /// Whether its app runs or will without asking anybody; of a wrapped command: whether it does.
    pub fn alive(&self) -> bool {
        matches!(self.step, Step::Passed(_) | Step::Running(_)) || matches!(self.step, Step::Restarting(_)) && self.wrap.is_none()
    }

    pub fn over(&self) -> bool {
        matches!(self.step, Step::Over { .. })
    }

    /// Whether it has been over for so long that everybody has noticed.
    pub fn has_ended(&self) -> bool {
        self.over_since.is_some_and(|since| since.elapsed() > Duration::from_secs(3))
    }

    /// What is done before its first container starts.
    pub fn steps(&self) -> impl Iterator<Item = &Want> {
        self.wants.iter().filter(|want| want.role.is_step())
    }

    /// What lasts while it runs.
    pub fn holds(&self) -> impl Iterator<Item = &Want> {
        self.wants.iter().filter(|want| want.role.lasts())
    }

    pub fn holder_uid(&self) -> &str {
        self.job.as_deref().filter(|_| !self.orphaned).unwrap_or(&self.uid)
    }

    /// Its object is gone, or as good as gone.
    pub fn remove(&mut self) {
        self.removed = true;
        if self.step == Step::Unbound {
            self.step = Step::Over { code: 137, acquired: false };
        }
    }

    /// The token that its agent shows.
    pub fn bearer(&self) -> String {
        format!("Bearer {NAMESPACE}/{}/{}", self.name, self.uid)
    }

    /// All that its status depends on.
    pub fn face(&self) -> Face {
        let (step, code) = match self.step {
            Step::Unbound => (0, 0),
            Step::Starting(_) if self.runs == 0 => (0, 0),
            Step::Starting(_) => (1, 0),
            Step::Acquiring(_) => (2, 0),
            Step::Passed(_) => (3, 0),
            Step::Running(_) => (4, 0),
            Step::Restarting(_) => (5, 0),
            Step::Leaving { .. } => (4, 0),
            Step::After(_) => (8, 0),
            Step::Over { code, acquired } => (if acquired { 6 } else { 7 }, code),
        };
        let run = if self.wrap.is_some() { self.runs } else { 0 };
        (step, code, self.phase_at.is_some_and(|at| at > Instant::now()), run)
    }

    /// What its kubelet would report.
    pub fn status(&self) -> Value {
        let state = |name: &str, state: Value| json!({"name": name, "state": state, "image": "i", "imageID": "i", "ready": false, "restartCount": 0});
        let (acquire, app) = match self.step {
            Step::Unbound => return Value::Null,
            Step::Starting(_) if self.runs == 0 => return Value::Null,
            Step::Starting(_) => (json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"waiting": {}})),
            Step::Acquiring(_) => (json!({"running": {}}), json!({"waiting": {}})),
            Step::Passed(_) => (json!({"terminated": {"exitCode": 0}}), json!({"waiting": {}})),
            Step::Running(_) => (json!({"terminated": {"exitCode": 0}}), json!({"running": {}})),
            Step::Restarting(_) => (json!({"terminated": {"exitCode": 0}}), json!({"terminated": {"exitCode": 1}})),
            Step::Leaving { .. } | Step::After(_) => (Value::Null, Value::Null),
            Step::Over { code, acquired: true } => {
                (json!({"terminated": {"exitCode": 0}}), json!({"terminated": {"exitCode": code, "finishedAt": self.finished}}))
            }
            Step::Over { code, acquired: false } => (json!({"terminated": {"exitCode": code}}), json!({"waiting": {}})),
        };
        let mut status = json!({"phase": if self.alive() { "Running" } else { "Pending" }, "containerStatuses": [state("app", app)]});
        if let Some(wrap) = &self.wrap {
            let (app, first) = self.wrapped_states(wrap);
            status["containerStatuses"] = json!([app]);
            let installed = state(names::INSTALL_CONTAINER, json!({"terminated": {"exitCode": 0}}));
            status["initContainerStatuses"] = std::iter::once(installed).chain(first).collect();
        } else if self.asks {
            status["initContainerStatuses"] = json!([state(names::ACQUIRE_CONTAINER, acquire)]);
        }
        // The phase comes later than the containers' end.
        if let Step::Over { code, .. } = self.step {
            let late = self.phase_at.is_some_and(|at| at > Instant::now());
            status["phase"] = if late {
                "Running".into()
            } else if code == 0 {
                "Succeeded".into()
            } else {
                "Failed".into()
            };
        }
        status
    }
}

pub fn step_name(step: Step) -> String {
    match step {
        Step::Unbound => "without a node".to_owned(),
        Step::Starting(_) => "starting".to_owned(),
        Step::Acquiring(run) => format!("acquire step runs ({run})"),
        Step::Passed(_) => "acquire step passed".to_owned(),
        Step::Running(_) => "app runs".to_owned(),
        Step::Restarting(_) => "app failed, will be restarted".to_owned(),
        Step::Leaving { code, .. } => format!("wrapped command has ended with {code}"),
        Step::After(_) => "app runs after what was wrapped".to_owned(),
        Step::Over { code, .. } => format!("over, exit code {code}"),
    }
}
