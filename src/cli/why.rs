//! `koncli why POD|JOB`: what it waits for, and behind whom. Worked out from the API with the controller's own rules and words.

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::{Job, JobCondition},
        core::v1::Pod,
    },
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    kinds,
    output::{Code, Failure},
    picture,
    session::Session,
};
use crate::{
    agent::Outcome,
    api::{Claim, ClaimPhase, names},
    client::{Error, word},
    controller::{
        object::Key,
        outlook::{Picture, Standing},
    },
    rules::evidence::{self, AcquireStep},
};

/// Whom it is about.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  koncli why job/migrate\n  koncli why migrate-x7k2p")]
pub struct WhyArgs {
    /// pod/NAME, job/NAME, claim/NAME, or the NAME of a Pod or Job.
    #[arg(value_name = "POD|JOB")]
    what: String,
}

/// Says it.
///
/// # Errors
/// [`Code::NotFound`] if there is no such object.
pub async fn why(session: &Session, args: &WhyArgs) -> Result<(), Failure> {
    let (kind, name) = args.what.split_once('/').map_or((None, args.what.as_str()), |(kind, name)| (Some(kind.to_lowercase()), name));
    if let Some(kind) = kind.as_deref().and_then(kinds::named) {
        let kind = word(kind);
        return Err(Failure::new(
            Code::Usage,
            format!("it is about a Pod, a Job or a Claim; `koncli {kind} status {name}` shows who holds, and `koncli top` who waits"),
        ));
    }
    let wanted = |word: &str| kind.as_deref().is_none_or(|kind| kind.trim_end_matches('s') == word || kind == word);
    if let Some(pod) = only(wanted("pod"), one::<Pod>(session, name)).await? {
        return of_pod(session, &pod).await;
    }
    if let Some(job) = only(wanted("job"), one::<Job>(session, name)).await? {
        return of_job(session, &job).await;
    }
    if let Some(claim) = only(wanted("claim"), one::<Claim>(session, name)).await? {
        return of_claim(session, &claim).await;
    }
    Err(Failure::new(
        Code::NotFound,
        format!(
            "there is no {} in namespace {}",
            kind.map_or(format!("Pod, Job or Claim {name}"), |kind| format!("{kind}/{name}")),
            session.namespace
        ),
    ))
}

async fn of_pod(session: &Session, pod: &Pod) -> Result<(), Failure> {
    let mut subject = Subject::of_pod(&mut picture::read(session).await?.0, pod);
    if subject.standings.is_empty() {
        subject.state = "has no annotations of konductor's that it would wait for".to_owned();
    }
    report(session, &[subject])
}

async fn of_job(session: &Session, job: &Job) -> Result<(), Failure> {
    let mut picture = picture::read(session).await?.0;
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default();
    let (state, standings, pods) = if let Some(condition) = fate(job) {
        let why = [condition.reason.clone(), condition.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        (format!("is {} ({why})", condition.type_), Vec::new(), Vec::new())
    } else if suspended && job.annotations().get(names::SUSPENDED).is_some_and(|value| value == "true") {
        let standings = picture.standings(&job.uid().unwrap_or_default(), Timestamp::now());
        ("is suspended by konductor until it is its turn".to_owned(), standings, Vec::new())
    } else if suspended {
        ("is suspended, and not by konductor: somebody else must resume it".to_owned(), Vec::new(), Vec::new())
    } else {
        let (over, left): (Vec<Pod>, Vec<Pod>) = pods_of(session, job).await?.into_iter().partition(evidence::pod_ended);
        let last = over.into_iter().max_by_key(Pod::creation_timestamp);
        let state = match (left.is_empty(), &last) {
            (false, _) if left.iter().any(|pod| evidence::acquire_step(pod) == AcquireStep::Passed) => "runs",
            (false, _) => "has started, and none of its Pods has been let in",
            (true, None) => "has no Pod; `kubectl describe job` says why",
            (true, Some(_)) => "has no Pod now: its last one has ended",
        };
        // Those that have ended matter only if no other came after them.
        (state.to_owned(), Vec::new(), if left.is_empty() { last.into_iter().collect() } else { left })
    };
    let job = Subject { what: format!("job/{}", job.name_any()), state, standings };
    let pods = pods.iter().map(|pod| Subject::of_pod(&mut picture, pod));
    report(session, &[job].into_iter().chain(pods).collect::<Vec<_>>())
}

async fn pods_of(session: &Session, job: &Job) -> Result<Vec<Pod>, Failure> {
    let api = Api::<Pod>::namespaced(session.kube.clone(), &session.namespace);
    let selector = ListParams::default().labels(&format!("{}={}", names::JOB_UID_LABEL, job.uid().unwrap_or_default()));
    Ok(api.list(&selector).await.map_err(|error| Error::of(&error, "listing its Pods"))?.items)
}

/// What became of a Job, or is about to.
fn fate(job: &Job) -> Option<&JobCondition> {
    let conditions = || job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let so = |kind: &&str| conditions().find(|condition| condition.type_ == *kind && condition.status == "True");
    ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].iter().find_map(so)
}

/// How a Pod ended, as far as that is konductor's business.
fn ended(pod: &Pod) -> String {
    let steps = || pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let step = steps().find(|step| step.name == names::ACQUIRE_CONTAINER);
    let code = step.and_then(|step| step.state.as_ref()?.terminated.as_ref().map(|end| end.exit_code)).unwrap_or_default();
    let how = match u8::try_from(code).unwrap_or(u8::MAX) {
        0 => return "has ended".to_owned(),
        code if code == Outcome::TimedOut.code() => "gave up waiting".to_owned(),
        code if code == Outcome::Denied.code() => "was refused".to_owned(),
        code => format!("failed with exit code {code}"),
    };
    let name = pod.name_any();
    format!("has ended: it {how}; see `kubectl logs {name} -c {}`", names::ACQUIRE_CONTAINER)
}

async fn of_claim(session: &Session, claim: &Claim) -> Result<(), Failure> {
    let status = claim.status.clone().unwrap_or_default();
    let said = status.message.map_or(String::new(), |message| format!(": {message}"));
    let state = match status.phase {
        ClaimPhase::Pending if claim.status.is_none() => "was not answered yet; if that stays so, run `koncli check`".to_owned(),
        ClaimPhase::Pending => "waits".to_owned(),
        ClaimPhase::Granted => "is granted".to_owned(),
        ClaimPhase::Denied => format!("is denied{said}"),
        ClaimPhase::Expired => format!("has expired{said}"),
        ClaimPhase::Released => format!("is released{said}"),
    };
    let standings = picture::read(session).await?.0.standings(&claim.uid().unwrap_or_default(), Timestamp::now());
    report(session, &[Subject { what: format!("claim/{}", claim.name_any()), state, standings }])
}

struct Subject {
    what: String,
    state: String,
    standings: Vec<(Key, Standing)>,
}

impl Subject {
    fn of_pod(picture: &mut Picture, pod: &Pod) -> Self {
        let standings = picture.standings(&pod.uid().unwrap_or_default(), Timestamp::now());
        let state = match evidence::acquire_step(pod) {
            _ if evidence::pod_ended(pod) => ended(pod),
            AcquireStep::Running => "waits".to_owned(),
            AcquireStep::Passed => "has been let in".to_owned(),
            _ => format!("has not begun to ask: {}", before_it_asks(pod)),
        };
        Self { what: format!("pod/{}", pod.name_any()), state, standings }
    }
}

fn report(session: &Session, subjects: &[Subject]) -> Result<(), Failure> {
    let line = |(key, standing): &(Key, Standing)| {
        let target = key.seen_from(&session.namespace);
        match standing {
            Standing::Waits(message) => Some(message.clone()),
            Standing::Refused(message) => Some(message.clone()),
            Standing::ItsTurn => {
                Some(format!("it is its turn for {target}: konductor grants it now; if that does not happen, run `koncli check`"))
            }
            Standing::Holds { token, deleting: false } => Some(format!("holds {target} with token {token}")),
            Standing::Holds { token, deleting: true } => {
                Some(format!("holds {target} with token {token}; {target} is being deleted, and goes when its last holder has ended"))
            }
            Standing::NotNow => None,
        }
    };
    let word = |standing: &Standing| match standing {
        Standing::Waits(_) => "Waiting",
        Standing::Refused(_) => "Refused",
        Standing::ItsTurn => "Next",
        Standing::Holds { .. } => "Holding",
        Standing::NotNow => "None",
    };
    let mut text = String::new();
    let mut items = Vec::new();
    for subject in subjects {
        let Subject { what, state, standings } = subject;
        text.push_str(&format!("{what} {state}\n"));
        standings.iter().filter_map(line).for_each(|line| text.push_str(&format!("  {line}\n")));
        let steps: Vec<Value> = standings
            .iter()
            .map(|step| json!({ "target": step.0.seen_from(&session.namespace), "state": word(&step.1), "message": line(step) }))
            .collect();
        items.push(json!({ "object": what, "state": state, "steps": steps }));
    }
    session.format.print(&text, &json!({ "namespace": session.namespace, "items": items }))
}

/// What keeps a Pod from starting its acquire step: nothing of konductor's, as a rule.
fn before_it_asks(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let waiting = status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().flatten())
        .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone().map(|reason| (container.name.clone(), reason)));
    if let Some((container, reason)) = waiting.filter(|(_, reason)| reason != "PodInitializing") {
        return format!("its container {container} waits: {reason}");
    }
    let unscheduled = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "PodScheduled" && condition.status != "True");
    match unscheduled {
        Some(condition) if condition.reason.as_deref() == Some("SchedulingGated") => "it waits behind a scheduling gate".to_owned(),
        Some(condition) => format!("it has no node: {}", condition.message.clone().unwrap_or_default()),
        None => format!("its phase is {}", status.and_then(|status| status.phase.as_deref()).unwrap_or("unknown")),
    }
}

async fn one<K>(session: &Session, name: &str) -> Result<Option<K>, Failure>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(session.kube.clone(), &session.namespace);
    Ok(api.get_opt(name).await.map_err(|error| Error::of(&error, &format!("reading {name}")))?)
}

/// What is not wanted is not asked for.
async fn only<T>(wanted: bool, found: impl Future<Output = Result<Option<T>, Failure>>) -> Result<Option<T>, Failure> {
    if wanted { found.await } else { Ok(None) }
}
