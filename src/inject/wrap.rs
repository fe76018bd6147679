//! `strategy=wrap`: the command of one container runs behind konductor's own binary, which an init container puts beside it. Nothing else in the Pod waits.
//!
//! ```text
//! [mesh proxies] konductor-install [the user's init containers] [the app]     one of the user's: /konductor.io/konductor agent wrap -- its command
//! ```

use serde_json::{Value, json};

use super::{
    edit::{Edit, Place},
    pod::never_ends,
    refusal::Reasons,
    shape::{Path, at, list, name, text},
    steps,
};
use crate::{
    api::names::{FENCING_DIRECTORY, FENCING_VOLUME, TOKEN_DIRECTORY, TOKEN_VOLUME, WRAP_DIRECTORY, WRAP_VOLUME, WRAPPER},
    plan::{Plan, Role, nearest},
};

/// Where the kubelet looks for a container's last words unless the container says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What stands before the command of a wrapped container.
const PREFIX: [&str; 4] = [WRAPPER, "agent", "wrap", "--"];

/// A container that is wrapped, or will be.
#[derive(Clone, Copy)]
pub(super) struct Wrapped<'a> {
    /// The list that it is in: `containers` or `initContainers`.
    pub(super) field: &'static str,
    /// The container.
    pub(super) container: &'a Value,
}

/// Where the words of a container's own end belong.
pub(super) fn termination_log(container: &Value) -> &str {
    text(container, &["terminationMessagePath"]).filter(|path| !path.is_empty()).unwrap_or(TERMINATION_LOG)
}

/// Whether a container's command is wrapped.
pub(super) fn is_wrapped(container: &Value) -> bool {
    list(container, &["command"]).iter().take(PREFIX.len()).map(|word| word.as_str().unwrap_or_default()).eq(PREFIX)
}

/// The command as the user wrote it.
fn own_command(container: &Value) -> &[Value] {
    let command = list(container, &["command"]);
    if is_wrapped(container) { command.get(PREFIX.len()..).unwrap_or_default() } else { command }
}

/// The Pod's own containers, with the list that each is in.
fn own(pod: &Value) -> impl Iterator<Item = Wrapped<'_>> {
    ["initContainers", "containers"].into_iter().flat_map(move |field| {
        let own = list(pod, &["spec", field]).iter().filter(|container| !steps::is_injected(container));
        own.map(move |container| Wrapped { field, container })
    })
}

/// The container that the plan means.
///
/// # Errors
/// The words to put it right.
pub(super) fn chosen<'a>(pod: &'a Value, plan: &Plan) -> Result<Wrapped<'a>, String> {
    if let Some(wanted) = &plan.container {
        return own(pod).find(|found| name(found.container) == wanted).ok_or_else(|| {
            let names: Vec<&str> = own(pod).map(|found| name(found.container)).collect();
            let near = nearest(wanted, names.iter().copied()).map_or(String::new(), |near| format!("; did you mean `container={near}`?"));
            format!("spec.containers: there is no container `{wanted}` to wrap; there are {}{near}", names.join(", "))
        });
    }
    // Others may have added containers since the first pass.
    let mut apps: Vec<Wrapped<'a>> = own(pod).filter(|found| is_wrapped(found.container)).collect();
    if apps.is_empty() {
        apps = own(pod).filter(|found| found.field == "containers" && !steps::is_mesh(found.container)).collect();
    }
    match apps.as_slice() {
        [one] => Ok(*one),
        all => {
            let names: Vec<&str> = all.iter().map(|found| name(found.container)).collect();
            Err(format!(
                "spec.containers: strategy=wrap wraps one container, and there are {}; add `;container=NAME` to say which",
                names.join(", ")
            ))
        }
    }
}

/// What keeps the container from being wrapped.
pub(super) fn obstacles(pod: &Value, plan: &Plan, reasons: &mut Reasons) {
    let Wrapped { field, container } = match chosen(pod, plan) {
        Ok(found) => found,
        Err(words) => return reasons.mistake(words),
    };
    let called = name(container);
    if field == "initContainers" && text(container, &["restartPolicy"]) == Some("Always") {
        reasons.mistake(format!(
            "spec.initContainers: `{called}` is a sidecar, which runs on when the Pod's app has ended; strategy=wrap wraps an app container or an init container that ends"
        ));
    }
    if own_command(container).is_empty() {
        reasons.mistake(format!(
            "spec.{field}: container `{called}` has no command of its own, and what its image runs is not known here; write it out as `command`"
        ));
    }
    for mount in list(container, &["volumeMounts"]).iter().filter(|mount| !is_mount(mount)) {
        let path = text(mount, &["mountPath"]).unwrap_or_default().trim_end_matches('/');
        if [WRAP_DIRECTORY, TOKEN_DIRECTORY].contains(&path) {
            reasons.mistake(format!("spec.{field}: container `{called}` mounts something at {path}, where strategy=wrap puts its own"));
        }
    }
}

/// Wraps the container that the plan means, and no other.
pub(super) fn write(edit: &mut Edit, plan: Option<&Plan>) {
    let pod = edit.object().clone();
    let wanted = plan.filter(|plan| plan.wraps()).and_then(|plan| Some((plan, name(chosen(&pod, plan).ok()?.container))));
    for field in ["initContainers", "containers"] {
        for (index, container) in list(&pod, &["spec", field]).iter().enumerate().filter(|(_, container)| !steps::is_injected(container)) {
            let plan = wanted.filter(|(_, wanted)| *wanted == name(container)).map(|(plan, _)| plan);
            if plan.is_none() && !is_wrapped(container) {
                continue;
            }
            let index = index.to_string();
            let place: &Path<'_> = &["spec", field, &index];
            let own = own_command(container).iter().cloned();
            let command = if plan.is_some() { PREFIX.into_iter().map(Value::from).chain(own).collect() } else { own.collect() };
            edit.set(&[place, &["command"]].concat(), Value::Array(command));
            edit.place(&[place, &["volumeMounts"]].concat(), is_mount, plan.map(mounts).unwrap_or_default(), Place::Anywhere);
        }
    }
}

/// Whether a mount is one of those that a wrapped container has.
pub(super) fn is_mount(mount: &Value) -> bool {
    [TOKEN_VOLUME, WRAP_VOLUME, FENCING_VOLUME].contains(&name(mount))
}

fn mounts(plan: &Plan) -> Vec<Value> {
    let read_only = |volume: &str, path: &str| json!({ "name": volume, "mountPath": path, "readOnly": true });
    let mut mounts = vec![read_only(TOKEN_VOLUME, TOKEN_DIRECTORY), read_only(WRAP_VOLUME, WRAP_DIRECTORY)];
    if plan.fencing {
        mounts.push(json!({ "name": FENCING_VOLUME, "mountPath": FENCING_DIRECTORY }));
    }
    mounts
}

/// What will hurt.
pub(super) fn warnings(pod: &Value, plan: &Plan) -> Vec<String> {
    let Ok(Wrapped { field, container }) = chosen(pod, plan) else { return Vec::new() };
    let called = name(container);
    let mut warnings: Vec<String> = ["livenessProbe", "startupProbe"]
        .into_iter()
        .filter(|probe| at(container, &[probe]).is_some())
        .map(|probe| {
            format!(
                "konductor: {probe} of container {called} also runs while its command waits, fails, and has the container started again and again; \
                 wrap an init container instead, or let the Pod wait without strategy=wrap"
            )
        })
        .collect();
    if at(container, &["lifecycle", "postStart"]).is_some() {
        warnings
            .push(format!("konductor: lifecycle.postStart of container {called} runs when its command begins to wait, not when it starts"));
    }
    let ends_again = field == "containers" && at(pod, &["spec"]).is_some_and(never_ends);
    let once = plan.items.iter().find(|item| matches!(item.role, Role::Execute { .. }));
    if let Some(item) = once.filter(|_| ends_again) {
        warnings.push(format!(
            "konductor: container {called} is always started again, and leaves its command out each time that {} has been executed; wrap an init container instead",
            item.target
        ));
    }
    warnings
}

/// Whether what the plan holds alone is given back before the Pod's app runs: an init container is wrapped.
pub(super) fn ends_before_the_app(template: &Value, plan: &Plan) -> bool {
    plan.wraps() && chosen(template, plan).is_ok_and(|found| found.field == "initContainers")
}
