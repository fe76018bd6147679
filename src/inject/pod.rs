//! Pods: the injected steps themselves.

use serde_json::{Value, json};

use super::{
    Outcome, Refusal, Request, Settings,
    edit::{Edit, Place},
    read,
    refusal::Reasons,
    shape::{self, Path, at, list, name, text, texts},
    steps, warn, wrap,
};
use crate::{
    api::names::{
        ACQUIRE_CONTAINER, COPIED_FROM, COPIED_FROM_JOB, FENCING_DIRECTORY, FENCING_VOLUME, INJECTED_LABEL, OUTCOME_FINALIZER,
        SCHEDULING_GATE, TOKEN_VOLUME, WRAP_VOLUME,
    },
    plan::{On, Plan, Role, Strategy, Subject},
    planted,
};

/// Names of containers and volumes that begin so are konductor's.
const RESERVED: &str = "konductor-";
/// The kubelet's mark on its copies of static Pods.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The volumes that are konductor's.
const VOLUMES: [&str; 3] = [TOKEN_VOLUME, WRAP_VOLUME, FENCING_VOLUME];

const ANNOTATIONS: &Path<'_> = &["metadata", "annotations"];
const INIT_CONTAINERS: &Path<'_> = &["spec", "initContainers"];

/// Injects into a Pod.
pub(super) fn inject(settings: &Settings, request: &Request<'_>) -> Result<Outcome, Refusal> {
    let Request { namespace, object: pod, old } = *request;
    let mut edit = Edit::new(pod);
    let annotations = texts(pod, ANNOTATIONS);
    if old.is_some() {
        return Ok(edit.finish(Vec::new()));
    }
    if annotations.contains_key(MIRROR) {
        return Ok(edit.finish(vec![
            "konductor: this is the copy of a static Pod, which the kubelet runs without asking; its konductor.io annotations do nothing"
                .to_owned(),
        ]));
    }
    let mut reasons = Reasons::default();
    for wrong in shape::wrong_types(pod, &[]) {
        reasons.mistake(wrong);
    }
    reasons.check(pod, namespace)?;

    let mut reasons = Reasons::default();
    let of_job = annotations.get(COPIED_FROM).is_some_and(|from| from == COPIED_FROM_JOB) && shape::controlled_by(pod, "Job");
    let subject = if of_job { Subject::PodOfJob } else { Subject::Pod };
    let plan = read::plan(&annotations, subject, namespace, &mut reasons).map(|plan| plan.in_namespace(namespace));
    if let Some(plan) = &plan {
        reasons.all(obstacles(pod, plan, subject));
    }
    reasons.check(pod, namespace)?;

    for key in shape::status_keys(&annotations).keys().filter(|key| !(of_job && *key == COPIED_FROM)) {
        edit.remove(&["metadata", "annotations", key]);
    }
    let warnings = plan.as_ref().map(|plan| warn::pod(pod, plan, subject)).unwrap_or_default();
    write(&mut edit, settings, plan.as_ref(), namespace);
    // Under a Job's hold it is the Job whose outcome counts.
    let owes = plan.as_ref().is_some_and(|plan| plan.owes_outcome() && !of_job);
    finalizer(&mut edit, owes);
    Ok(edit.finish(warnings))
}

/// What would keep a Pod of this template from being injected, for the objects that make Pods.
pub(super) fn check_template(template: &Value, annotated: &Plan, subject: Subject, namespace: &str) -> Reasons {
    obstacles(template, &annotated.clone().in_namespace(namespace), subject)
}

/// Gives an object the finalizer that keeps it until its outcome is recorded, or takes it away.
pub(super) fn finalizer(edit: &mut Edit, owes: bool) {
    let ours = if owes { vec![OUTCOME_FINALIZER.into()] } else { Vec::new() };
    edit.place(&["metadata", "finalizers"], |finalizer| finalizer == OUTCOME_FINALIZER, ours, Place::Anywhere);
}

/// Whether an object carries that finalizer.
pub(super) fn has_finalizer(object: &Value) -> bool {
    list(object, &["metadata", "finalizers"]).iter().any(|finalizer| finalizer == OUTCOME_FINALIZER)
}

/// Whether a Pod of this spec runs until it is deleted: some container of it is started again however it ends.
pub(super) fn never_ends(spec: &Value) -> bool {
    let policy = text(spec, &["restartPolicy"]).unwrap_or("Always");
    list(spec, &["containers"]).iter().any(|container| text(container, &["restartPolicy"]).unwrap_or(policy) == "Always")
}

/// Brings the Pod to what the plan says; without a plan, takes an earlier injection out.
fn write(edit: &mut Edit, settings: &Settings, plan: Option<&Plan>, namespace: &str) {
    let earlier = injected_before(edit.object());
    let is_ours = |container: &Value| earlier && steps::is_injected(container);
    let is_volume = |volume: &Value| VOLUMES.contains(&name(volume));
    gate(edit, plan.is_some_and(|plan| plan.strategy == Some(Strategy::Gate)));
    match plan {
        Some(plan) => {
            edit.set(&["metadata", "labels", INJECTED_LABEL], "true".into());
            let spec = at(edit.object(), &["spec"]).cloned().unwrap_or_default();
            let others: Vec<&Value> = list(&spec, &["initContainers"]).iter().filter(|container| !is_ours(container)).collect();
            let index = steps::behind_mesh(&others);
            let containers = match wrap::chosen(edit.object(), plan) {
                _ if plan.steps().next().is_none() => Vec::new(),
                Ok(wrapped) if plan.wraps() => vec![steps::install(settings, plan, &spec, wrapped.container, namespace)],
                _ => steps::containers(settings, plan, &spec),
            };
            let volumes = if containers.is_empty() { Vec::new() } else { steps::volumes(plan) };
            edit.place(INIT_CONTAINERS, is_ours, containers, Place::Before(index));
            edit.place(&["spec", "volumes"], is_volume, volumes, Place::Anywhere);
        }
        None => {
            edit.remove(&["metadata", "labels", INJECTED_LABEL]);
            if !earlier {
                return;
            }
            edit.place(INIT_CONTAINERS, is_ours, Vec::new(), Place::Anywhere);
            edit.place(&["spec", "volumes"], is_volume, Vec::new(), Place::Anywhere);
        }
    }
    wrap::write(edit, plan);
    fencing(edit, plan.filter(|plan| plan.fencing && !plan.wraps()), namespace);
    if planted::bug("webhook-drops-restart-policy") {
        for index in 0..list(&edit.object().clone(), INIT_CONTAINERS).len() {
            edit.remove(&["spec", "initContainers", &index.to_string(), "restartPolicy"]);
        }
    }
}

/// Keeps the Pod from being given to a node until konductor lifts the gate, or takes the gate away.
fn gate(edit: &mut Edit, wanted: bool) {
    let ours = if wanted { vec![json!({ "name": SCHEDULING_GATE })] } else { Vec::new() };
    edit.place(&["spec", "schedulingGates"], |gate| name(gate) == SCHEDULING_GATE, ours, Place::Anywhere);
}

/// Shows the tokens to the containers that run under the hold, or takes them away from all.
fn fencing(edit: &mut Edit, plan: Option<&Plan>, namespace: &str) {
    let pod = edit.object().clone();
    let mut held = false;
    for field in ["initContainers", "containers"] {
        for (index, container) in list(&pod, &["spec", field]).iter().enumerate() {
            // What comes before the acquire step runs without a hold.
            if field == "initContainers" && name(container) == ACQUIRE_CONTAINER {
                held = true;
            }
            if field == "containers" {
                held = true;
            }
            if steps::is_injected(container) {
                continue;
            }
            let plan = plan.filter(|_| held && !steps::is_mesh(container));
            let env = plan.map(|plan| steps::fencing_env(plan, namespace)).unwrap_or_default();
            let mounts = plan.map(|_| vec![steps::fencing_mount()]).unwrap_or_default();
            let index = index.to_string();
            // In front, so that the user's own variables can refer to them.
            edit.place(&["spec", field, &index, "env"], steps::is_fencing_env, env, Place::Before(0));
            if !wrap::is_wrapped(container) {
                edit.place(&["spec", field, &index, "volumeMounts"], |mount| name(mount) == FENCING_VOLUME, mounts, Place::Anywhere);
            }
        }
    }
}

/// Whether a pass of konductor's has been here: its label, and its acquire step.
fn injected_before(pod: &Value) -> bool {
    text(pod, &["metadata", "labels", INJECTED_LABEL]) == Some("true") && list(pod, INIT_CONTAINERS).iter().any(steps::is_injected)
}

/// What keeps this Pod (or template) from being injected.
fn obstacles(pod: &Value, plan: &Plan, subject: Subject) -> Reasons {
    let mut reasons = Reasons::default();
    let windows = |path: &Path<'_>| text(pod, path) == Some("windows");
    let injected = plan.steps().next().is_some();
    if injected && (windows(&["spec", "os", "name"]) || windows(&["spec", "nodeSelector", "kubernetes.io/os"])) {
        reasons.mistake("spec.os: this is a Windows Pod; konductor's containers run on Linux only, so it cannot wait or hold anything");
    }
    if plan.strategy == Some(Strategy::Gate) && at(pod, &["spec", "nodeName"]).is_some() {
        reasons.mistake("spec.nodeName: the Pod is on its node already, so that strategy=gate cannot keep it from being scheduled; leave one of them out");
    }
    let each = matches!(subject, Subject::Pod | Subject::PodTemplate);
    let arrives = plan.items.iter().find(|item| matches!(item.role, Role::Arrive { on: On::Success }));
    if let Some(item) = arrives.filter(|_| each && at(pod, &["spec"]).is_some_and(never_ends)) {
        reasons.mistake(format!(
            "spec.restartPolicy: a Pod whose containers are always started again never succeeds, so that it never arrives at {}/{}; \
             set restartPolicy: Never or OnFailure, use a Job, or arrive at start with `;on=start`",
            item.target.kind, item.target.name
        ));
    }
    if plan.wraps() {
        wrap::obstacles(pod, plan, &mut reasons);
    }
    let earlier = injected_before(pod);
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(pod, &["spec", field]) {
            let ours = earlier && field == "initContainers" && steps::is_injected(container);
            if ours {
                continue;
            }
            let name = name(container);
            if name.starts_with(RESERVED) {
                reasons
                    .mistake(format!("spec.{field}: the name `{name}` is reserved; names that begin with {RESERVED} are konductor's own"));
            }
            for mount in list(container, &["volumeMounts"]) {
                let volume = shape::name(mount);
                let by_us = earlier && (volume == FENCING_VOLUME || wrap::is_wrapped(container));
                if VOLUMES.contains(&volume) && !by_us {
                    reasons.mistake(format!("spec.{field}: container `{name}` mounts `{volume}`, which is konductor's own volume"));
                } else if plan.fencing && volume != FENCING_VOLUME && overlaps(text(mount, &["mountPath"]).unwrap_or_default()) {
                    reasons.mistake(format!(
                        "spec.{field}: container `{name}` mounts something at {FENCING_DIRECTORY}, where fencing=true puts the tokens"
                    ));
                }
            }
            for variable in list(container, &["env"]).iter().filter(|variable| plan.fencing && !steps::is_fencing_env(variable)) {
                let variable = shape::name(variable);
                if variable.starts_with(steps::FENCING_ENV) {
                    reasons.mistake(format!("spec.{field}: container `{name}` sets {variable}, which fencing=true sets"));
                }
            }
        }
    }
    for volume in list(pod, &["spec", "volumes"]) {
        let name = name(volume);
        if name.starts_with(RESERVED) && !(earlier && VOLUMES.contains(&name)) {
            reasons.mistake(format!("spec.volumes: the name `{name}` is reserved; names that begin with {RESERVED} are konductor's own"));
        }
    }
    reasons
}

/// Whether a mount would hide the fencing tokens or be hidden by them.
fn overlaps(path: &str) -> bool {
    path.trim_end_matches('/') == FENCING_DIRECTORY
}
