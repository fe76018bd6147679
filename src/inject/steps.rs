//! The containers and volumes that are put into a Pod. Fields that the API server would fill in are written out, so that a second pass finds
//! exactly what it would write.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Resources, Settings, shape, wrap};
use crate::{
    api::names::{
        ACQUIRE_CONTAINER, FENCING_DIRECTORY, FENCING_VOLUME, HOLD_CONTAINER, INSTALL_CONTAINER, TOKEN_ANNOTATION_PREFIX, TOKEN_AUDIENCE,
        TOKEN_DIRECTORY, TOKEN_VOLUME, VERIFY_CONTAINER, WRAP_DIRECTORY, WRAP_VOLUME,
    },
    plan::{Plan, Release},
};

/// User and group of the injected containers.
const USER: i64 = 65532;
/// Room for the log of a container that waits for days; asked for only where the Pod's own containers ask for some.
const EPHEMERAL_STORAGE: &str = "64Mi";
/// How long a token is valid; the kubelet renews it.
const TOKEN_SECONDS: u32 = 3600;
/// Every environment variable with a fencing token begins so.
pub(super) const FENCING_ENV: &str = "KONDUCTOR_FENCING_TOKEN";

/// Containers of service meshes that prepare or carry all traffic of a Pod.
const MESH: &[&str] = &[
    "istio-init",
    "istio-validation",
    "istio-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "linkerd-proxy",
    "kuma-init",
    "kuma-validation",
    "kuma-sidecar",
    "consul-connect-inject-init",
    "consul-dataplane",
];

/// The init containers, in order. Without anything that lasts there is nothing to verify, and no end to report.
pub(super) fn containers(settings: &Settings, plan: &Plan, spec: &Value) -> Vec<Value> {
    let mut containers = vec![container(settings, plan, spec, ACQUIRE_CONTAINER)];
    if plan.holds().next().is_some() && plan.release.unwrap_or(settings.default_release) == Release::Hook {
        containers.push(container(settings, plan, spec, HOLD_CONTAINER));
    } else if plan.fencing {
        containers.push(container(settings, plan, spec, VERIFY_CONTAINER));
    }
    containers
}

/// The init container that puts what wraps the command of `wrapped` beside it, and all that this one has to know.
pub(super) fn install(settings: &Settings, plan: &Plan, spec: &Value, wrapped: &Value, namespace: &str) -> Value {
    let mut install = container(settings, plan, spec, INSTALL_CONTAINER);
    let mut env = vec![json!({ "name": "KONDUCTOR_TERMINATION_LOG", "value": wrap::termination_log(wrapped) })];
    if plan.fencing {
        let names: Vec<String> = fencing_names(plan, namespace).into_iter().map(|(name, index)| format!("{name}={index}")).collect();
        env.push(json!({ "name": "KONDUCTOR_FENCING_ENV", "value": names.join(" ") }));
    }
    if let Some(all) = install.get_mut("env").and_then(Value::as_array_mut) {
        all.extend(env);
    }
    install
}

/// The names of the injected containers, and the step that each of them runs.
const STEPS: [(&str, &str); 4] =
    [(ACQUIRE_CONTAINER, "acquire"), (HOLD_CONTAINER, "hold"), (VERIFY_CONTAINER, "verify"), (INSTALL_CONTAINER, "install")];

/// Whether a container is one of those that are injected, by its name and arguments.
pub(super) fn is_injected(container: &Value) -> bool {
    STEPS.iter().any(|(name, step)| shape::name(container) == *name && container.get("args") == Some(&json!(["agent", step])))
}

fn args(name: &str) -> Value {
    STEPS.iter().find(|(injected, _)| *injected == name).map_or(Value::Null, |(_, step)| json!(["agent", step]))
}

fn container(settings: &Settings, plan: &Plan, spec: &Value, name: &str) -> Value {
    let Settings { image, image_pull_policy, server_name, server_address, ca_pem, default_release: _, resources } = settings;
    let field = |path: &str| json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": path } });
    let mut env = vec![
        json!({ "name": "KONDUCTOR_SERVER_NAME", "value": server_name }),
        json!({ "name": "KONDUCTOR_SERVER_ADDRESS", "value": server_address }),
        json!({ "name": "KONDUCTOR_CA", "value": ca_pem }),
        json!({ "name": "KONDUCTOR_TOKEN_FILE", "value": format!("{TOKEN_DIRECTORY}/token") }),
        json!({ "name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace") }),
        json!({ "name": "POD_NAME", "valueFrom": field("metadata.name") }),
    ];
    let mut mounts = vec![json!({ "name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": true })];
    // It asks for nothing itself: it hands on what it is told to what wraps the command.
    if name == INSTALL_CONTAINER {
        mounts = vec![json!({ "name": WRAP_VOLUME, "mountPath": WRAP_DIRECTORY })];
    }
    // The acquire step waits until the files show the tokens: then the kubelet has the annotations, and the app's variables resolve.
    if plan.fencing && name == ACQUIRE_CONTAINER {
        env.push(json!({ "name": "KONDUCTOR_FENCING_HOLDS", "value": plan.tokens().count().to_string() }));
        mounts.push(fencing_mount());
    }
    let user = common_user(spec).unwrap_or(USER);
    let mut container = json!({
        "name": name,
        "image": image,
        "imagePullPolicy": image_pull_policy,
        "args": args(name),
        "env": env,
        "volumeMounts": mounts,
        "resources": quantities(resources, spec),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": user,
            "runAsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    if let Some(fields) = container.as_object_mut()
        && name == HOLD_CONTAINER
    {
        fields.insert("restartPolicy".to_owned(), "Always".into());
    }
    container
}

/// The user as which every one of the Pod's own containers runs, if it is one and not root.
///
/// The kubelet gives projected tokens to that user and to nobody else. Another user beside it would take that from the Pod's own token
/// volumes with a narrow mode, so the injected containers then run as the same.
fn common_user(spec: &Value) -> Option<i64> {
    let user = |value: &Value| shape::at(value, &["securityContext", "runAsUser"]).and_then(Value::as_i64);
    let pod = user(spec);
    let mut users = own_containers(spec).map(|container| user(container).or(pod));
    let first = users.next()??;
    (first > 0 && users.all(|user| user == Some(first))).then_some(first)
}

/// The Pod's own containers, init containers first.
fn own_containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let own = |container: &&Value| !STEPS.iter().any(|(name, _)| shape::name(container) == *name);
    ["initContainers", "containers"].into_iter().flat_map(|field| shape::list(spec, &[field])).filter(own)
}

/// Requests and limits. None where the Pod as a whole has some: there the sum of the containers' must stay below it.
fn quantities(resources: &Resources, spec: &Value) -> Value {
    let Resources { cpu, memory } = resources;
    let some = |part| shape::at(spec, &["resources", part]).and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    if some("requests") || some("limits") {
        return json!({});
    }
    let mut amounts = json!({ "cpu": cpu, "memory": memory });
    // A quota on it counts only Pods all of whose containers name it.
    let named = |container: &Value| {
        ["requests", "limits"].into_iter().any(|part| shape::at(container, &["resources", part, "ephemeral-storage"]).is_some())
    };
    if let Some(amounts) = amounts.as_object_mut()
        && own_containers(spec).any(named)
    {
        amounts.insert("ephemeral-storage".to_owned(), EPHEMERAL_STORAGE.into());
    }
    json!({ "requests": amounts, "limits": amounts })
}

/// How many of the Pod's init containers go before ours: up to the last mesh proxy of those at the front. Without a proxy that runs by then
/// ours come first of all: what only prepares the traffic would cut them off.
pub(super) fn behind_mesh(others: &[&Value]) -> usize {
    let front = others.iter().take_while(|container| is_mesh(container));
    let runs = |container: &&Value| shape::text(container, &["restartPolicy"]) == Some("Always");
    front.enumerate().filter(|(_, container)| runs(container)).map(|(index, _)| index + 1).last().unwrap_or(0)
}

/// Whether a container belongs to a service mesh.
pub(super) fn is_mesh(container: &Value) -> bool {
    MESH.contains(&shape::name(container))
}

/// The volumes.
pub(super) fn volumes(plan: &Plan) -> Vec<Value> {
    // Readable by whoever runs: the kubelet narrows it to one user or to fsGroup where the Pod has one, and ours is or has that one.
    let token = json!({ "serviceAccountToken": { "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token" } });
    let mut volumes = vec![json!({ "name": TOKEN_VOLUME, "projected": { "defaultMode": 0o444, "sources": [token] } })];
    if plan.wraps() {
        // On the node's disk: in memory it would count against the limits of the Pod's own containers.
        volumes.push(json!({ "name": WRAP_VOLUME, "emptyDir": { "sizeLimit": "64Mi" } }));
    }
    if plan.fencing && plan.wraps() {
        volumes.push(json!({ "name": FENCING_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }));
    } else if plan.fencing {
        let items: Vec<Value> = (0..plan.tokens().count())
            .map(|index| json!({ "path": index.to_string(), "fieldRef": { "apiVersion": "v1", "fieldPath": token_field(index) } }))
            .collect();
        volumes.push(json!({ "name": FENCING_VOLUME, "downwardAPI": { "defaultMode": 0o444, "items": items } }));
    }
    volumes
}

/// The mount of the volume with the fencing tokens.
pub(super) fn fencing_mount() -> Value {
    json!({ "name": FENCING_VOLUME, "mountPath": FENCING_DIRECTORY, "readOnly": true })
}

/// The environment variables with the fencing tokens, for the app's containers. The plan's namespaces are filled in.
pub(super) fn fencing_env(plan: &Plan, namespace: &str) -> Vec<Value> {
    let variable =
        |(name, index)| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": token_field(index) } } });
    fencing_names(plan, namespace).into_iter().map(variable).collect()
}

/// The names of these variables, each with the number of its token.
pub(super) fn fencing_names(plan: &Plan, namespace: &str) -> Vec<(String, usize)> {
    let mut names: Vec<(String, usize)> = Vec::new();
    if plan.tokens().count() == 1 {
        names.push((FENCING_ENV.to_owned(), 0));
    }
    let mut taken = BTreeSet::new();
    for (index, item) in plan.tokens().enumerate() {
        let target = &item.target;
        let foreign = target.namespace.as_deref().filter(|other| *other != namespace).map(|other| format!("{other}_")).unwrap_or_default();
        let shout = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let mut name: String = format!("{FENCING_ENV}_{}_{foreign}{}", target.kind, target.name).chars().map(shout).collect();
        // `a-b` and `a.b` are two names, but one variable.
        while !taken.insert(name.clone()) {
            name = format!("{name}_{index}");
        }
        names.push((name, index));
    }
    names
}

/// Whether an environment variable is one that konductor put there for a fencing token.
pub(super) fn is_fencing_env(variable: &Value) -> bool {
    let field = shape::text(variable, &["valueFrom", "fieldRef", "fieldPath"]).unwrap_or_default();
    shape::name(variable).starts_with(FENCING_ENV) && field.starts_with(&format!("metadata.annotations['{TOKEN_ANNOTATION_PREFIX}"))
}

fn token_field(index: usize) -> String {
    format!("metadata.annotations['{TOKEN_ANNOTATION_PREFIX}{index}']")
}
