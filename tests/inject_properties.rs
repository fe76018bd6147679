//! What holds for every Pod, Job and CronJob: a second pass changes nothing, and nothing of anybody else's is lost, moved or let in front.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test asserts by failing")]

use konductor::{
    inject::{Outcome, Request, Resources, Settings, inject, validate},
    plan::Release,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn settings() -> Settings {
    Settings {
        image: "konductor:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        server_name: "konductor-coordinator.konductor-system.svc".to_owned(),
        server_address: "10.96.0.7:443".to_owned(),
        ca_pem: "pem".to_owned(),
        default_release: Release::Hook,
        resources: Resources::default(),
    }
}

fn admitted(object: &Value, old: Option<&Value>) -> Outcome {
    let request = Request { namespace: "shop", object, old };
    let outcome = inject(&settings(), &request).unwrap_or_else(|refusal| panic!("{refusal}"));
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &outcome.patch).unwrap();
    assert_eq!(patched, outcome.object, "the patch leads to the result");
    outcome
}

fn json_leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,6}".prop_map(Value::from)
    ]
}

fn json_value() -> impl Strategy<Value = Value> {
    json_leaf().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z/~]{1,5}", inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Unknown fields, securityContext, resources, env, volumeMounts, and whether it is a sidecar.
type Parts = (Map<String, Value>, Option<Value>, Option<Value>, Option<Value>, Option<Value>, bool);

/// Fields that no version of Kubernetes has.
fn unknown() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map("x[a-z/~]{1,5}", json_value(), 0..3).prop_map(|map| map.into_iter().collect())
}

fn maybe(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Option<Value>> {
    proptest::option::of(prop_oneof![4 => value, 1 => Just(Value::Null)])
}

fn security() -> impl Strategy<Value = Value> {
    (proptest::option::of(prop_oneof![Just(0), Just(1000), Just(1001), Just(65532)]), proptest::option::of(any::<bool>())).prop_map(
        |(user, non_root)| {
            let mut context = Map::new();
            user.into_iter().for_each(|user| _ = context.insert("runAsUser".to_owned(), user.into()));
            non_root.into_iter().for_each(|flag| _ = context.insert("runAsNonRoot".to_owned(), flag.into()));
            Value::Object(context)
        },
    )
}

fn resources() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({ "requests": { "cpu": "1" } })),
        Just(json!({ "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi" } })),
    ]
}

fn entries(names: &'static [&'static str], more: fn(&str) -> Value) -> impl Strategy<Value = Value> {
    proptest::sample::subsequence(names.to_vec(), 0..=names.len())
        .prop_shuffle()
        .prop_map(move |names| names.into_iter().map(more).collect())
}

fn containers(names: &'static [&'static str], least: usize, init: bool) -> impl Strategy<Value = Value> {
    let env = maybe(entries(&["A", "B", "KONDUCTOR_NAMESPACE"], |name| json!({ "name": name, "value": "1" })));
    let mounts = maybe(entries(&["scratch", "data"], |name| json!({ "name": name, "mountPath": format!("/{name}") })));
    let one = (unknown(), maybe(security()), maybe(resources()), env, mounts, any::<bool>());
    (proptest::sample::subsequence(names.to_vec(), least..=names.len()).prop_shuffle(), proptest::collection::vec(one, names.len()))
        .prop_map(move |(names, parts)| {
            let container = |(name, (mut fields, security, resources, env, mounts, sidecar)): (&str, Parts)| {
                fields.insert("name".to_owned(), name.into());
                for (field, value) in [("securityContext", security), ("resources", resources), ("env", env), ("volumeMounts", mounts)] {
                    value.into_iter().for_each(|value| _ = fields.insert(field.to_owned(), value));
                }
                if init && sidecar {
                    fields.insert("restartPolicy".to_owned(), "Always".into());
                }
                Value::Object(fields)
            };
            names.into_iter().zip(parts).map(container).collect()
        })
}

fn spec() -> impl Strategy<Value = Value> {
    let init = maybe(containers(&["istio-init", "istio-proxy", "linkerd-proxy", "fetch", "migrate", "logs"], 0, true));
    let volumes = maybe(entries(&["scratch", "data", "kube-api-access-1"], |name| json!({ "name": name, "emptyDir": {} })));
    (unknown(), containers(&["app", "other", "istio-proxy"], 1, false), init, volumes, maybe(security()), maybe(resources()), any::<bool>())
        .prop_map(|(mut fields, containers, init, volumes, security, resources, host_network)| {
            fields.insert("containers".to_owned(), containers);
            for (field, value) in [("initContainers", init), ("volumes", volumes), ("securityContext", security), ("resources", resources)]
            {
                value.into_iter().for_each(|value| _ = fields.insert(field.to_owned(), value));
            }
            fields.insert("hostNetwork".to_owned(), host_network.into());
            Value::Object(fields)
        })
}

fn plan() -> impl Strategy<Value = Value> {
    let item = (proptest::sample::select(vec!["mutex/a", "semaphore/b;permits=3", "mutex/bank/c", "semaphore/shop/d.e"]), any::<bool>());
    (proptest::collection::vec(item, 1..3), any::<bool>(), proptest::option::of(proptest::sample::select(vec!["hook", "controller"])))
        .prop_map(|(items, fencing, release)| {
            let mut words: Vec<String> =
                items.into_iter().map(|(item, urgent)| format!("{item}{}", if urgent { ";priority=7" } else { "" })).collect();
            words.sort();
            words.dedup_by_key(|item| item.split(';').next().unwrap_or_default().to_owned());
            if let Some(first) = words.first_mut() {
                first.push_str(if fencing { ";fencing=true" } else { "" });
                release.into_iter().for_each(|release| first.push_str(&format!(";release={release}")));
            }
            json!({ "konductor.io/acquire": words.join(", ") })
        })
}

fn pod() -> impl Strategy<Value = Value> {
    (unknown(), unknown(), plan(), spec(), maybe(Just(json!({ "app": "shop" })))).prop_map(
        |(mut top, mut metadata, annotations, spec, labels)| {
            metadata.insert("annotations".to_owned(), annotations);
            labels.into_iter().for_each(|labels| _ = metadata.insert("labels".to_owned(), labels));
            top.insert("apiVersion".to_owned(), "v1".into());
            top.insert("kind".to_owned(), "Pod".into());
            top.insert("metadata".to_owned(), metadata.into());
            top.insert("spec".to_owned(), spec);
            Value::Object(top)
        },
    )
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|entry| entry["name"].as_str().unwrap_or_default()).collect()
}

/// The object without everything that konductor puts into a Pod, and without fields that are empty: absent, null and empty mean the same.
fn without_ours(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(labels) = pod["metadata"]["labels"].as_object_mut() {
        labels.remove("konductor.io/injected");
    }
    let keep = |list: &mut Value| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|entry| {
                let name = entry["name"].as_str().unwrap_or_default();
                !name.starts_with("konductor-") && !name.starts_with("KONDUCTOR_FENCING_TOKEN")
            });
        }
    };
    for field in ["initContainers", "containers", "volumes"] {
        keep(&mut pod["spec"][field]);
        for container in pod["spec"][field].as_array_mut().into_iter().flatten() {
            keep(&mut container["env"]);
            keep(&mut container["volumeMounts"]);
            drop_empty(container, &["env", "volumeMounts"]);
        }
    }
    drop_empty(&mut pod["spec"], &["initContainers", "volumes"]);
    drop_empty(&mut pod["metadata"], &["labels"]);
    pod
}

fn drop_empty(value: &mut Value, fields: &[&str]) {
    for field in fields {
        let empty = match &value[*field] {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if empty && let Some(map) = value.as_object_mut() {
            map.remove(*field);
        }
    }
}

/// What Pod Security `restricted` asks of a container.
fn is_restricted(container: &Value) -> bool {
    let context = &container["securityContext"];
    context["allowPrivilegeEscalation"] == false
        && context["capabilities"] == json!({ "drop": ["ALL"] })
        && context["runAsNonRoot"] == true
        && context["runAsUser"].as_i64().is_some_and(|user| user > 0)
        && context["seccompProfile"]["type"] == "RuntimeDefault"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_second_pass_changes_nothing(pod in pod()) {
        let first = admitted(&pod, None);
        prop_assert!(!first.patch.0.is_empty());
        prop_assert_eq!(admitted(&first.object, None).patch.0, vec![]);
    }

    #[test]
    fn nothing_of_others_is_lost_or_moved(pod in pod()) {
        let result = admitted(&pod, None).object;
        prop_assert_eq!(without_ours(&result), without_ours(&pod));
    }

    #[test]
    fn ours_come_first_and_together(pod in pod()) {
        let result = admitted(&pod, None).object;
        let init = names(&result["spec"]["initContainers"]);
        let at = init.iter().position(|name| *name == "konductor-acquire").expect("it acquires");
        prop_assert!(init[..at].iter().all(|name| name.starts_with("istio-") || name.starts_with("linkerd-")), "{:?}", init);
        // What prepares the traffic of a proxy that does not run yet would cut the acquire step off.
        prop_assert!(at == 0 || result["spec"]["initContainers"][at - 1]["restartPolicy"] == "Always", "{:?}", init);
        let controller = pod["metadata"]["annotations"]["konductor.io/acquire"].as_str().unwrap().contains("release=controller");
        prop_assert_eq!(init.get(at + 1) == Some(&"konductor-hold"), !controller);
        prop_assert_eq!(init.iter().filter(|name| name.starts_with("konductor-")).count(), if controller { 1 } else { 2 });
    }

    #[test]
    fn ours_are_restricted_and_alone_with_their_token(pod in pod()) {
        let result = admitted(&pod, None).object;
        for container in ["initContainers", "containers"].into_iter().flat_map(|field| result["spec"][field].as_array().into_iter().flatten()) {
            let ours = container["name"].as_str().unwrap().starts_with("konductor-");
            prop_assert_eq!(names(&container["volumeMounts"]).contains(&"konductor-token"), ours);
            prop_assert!(!ours || is_restricted(container), "{}", container);
            prop_assert!(!ours || container["resources"]["requests"] == container["resources"]["limits"]);
        }
    }

    /// Other webhooks add containers, variables and defaults between two passes.
    #[test]
    fn passes_settle_whatever_others_add(pod in pod(), front in any::<bool>()) {
        let mut between = admitted(&pod, None).object;
        let sidecar = json!({ "name": "istio-proxy-2", "restartPolicy": "Always" });
        let init = between["spec"]["initContainers"].as_array_mut().unwrap();
        if front { init.insert(0, sidecar) } else { init.push(sidecar) }
        for container in between["spec"]["initContainers"].as_array_mut().unwrap() {
            container["image"] = "mirror.example/image".into();
        }
        between["spec"]["volumes"].as_array_mut().unwrap().push(json!({ "name": "late", "emptyDir": {} }));
        let second = admitted(&between, None);
        prop_assert_eq!(admitted(&second.object, None).patch.0, vec![]);
        let init = names(&second.object["spec"]["initContainers"]);
        prop_assert_eq!(init.iter().filter(|name| **name == "konductor-acquire").count(), 1);
        prop_assert_eq!(without_ours(&second.object), without_ours(&between));
    }

    /// Switched off, an injected Pod becomes what it was.
    #[test]
    fn an_injection_can_be_taken_out(pod in pod()) {
        let mut injected = admitted(&pod, None).object;
        injected["metadata"]["annotations"]["konductor.io/inject"] = "false".into();
        let mut out = admitted(&injected, None).object;
        prop_assert!(!out.to_string().contains("konductor-"), "{}", out);
        out["metadata"]["annotations"].as_object_mut().unwrap().remove("konductor.io/inject");
        prop_assert_eq!(without_ours(&out), without_ours(&pod));
    }

    /// The API server sends only what fits the schema, a file may be anything.
    #[test]
    fn nonsense_is_refused_and_not_a_panic(pod in pod(), junk in json_value(), path in 0usize..14) {
        let pointer = [
            "/metadata", "/metadata/annotations", "/metadata/labels", "/metadata/ownerReferences", "/spec", "/spec/containers", "/spec/containers/0",
            "/spec/containers/0/env", "/spec/containers/0/volumeMounts", "/spec/initContainers", "/spec/volumes", "/spec/resources",
            "/spec/securityContext", "/spec/nodeSelector",
        ][path];
        for mut object in [pod.clone(), json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": pod["metadata"], "spec": { "template": pod } })] {
            if let Some(value) = object.pointer_mut(pointer) {
                *value = junk.clone();
            }
            let request = Request { namespace: "shop", object: &object, old: None };
            if let Ok(outcome) = inject(&settings(), &request) {
                prop_assert_eq!(admitted(&outcome.object, None).patch.0, vec![]);
            }
            let _ = validate(&request);
        }
    }

    /// However the annotations of a CronJob change, its jobTemplate carries those of the last change, and the user's others.
    #[test]
    fn copies_follow_the_cron_job(steps in proptest::collection::vec(proptest::option::of(plan()), 1..5), replaced in any::<bool>()) {
        let made = |annotations: &Option<Value>| json!({
            "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": { "name": "report", "annotations": annotations.clone().unwrap_or(json!({})) },
            "spec": { "jobTemplate": { "metadata": { "annotations": { "team": "data" } }, "spec": { "template": { "spec": { "containers": [] } } } } },
        });
        let mut current: Option<Value> = None;
        for annotations in &steps {
            let mut next = made(annotations);
            // An edit keeps what admission wrote on the template, a replace does not.
            if let Some(current) = current.as_ref().filter(|_| !replaced) {
                next["spec"] = current["spec"].clone();
            }
            let result = admitted(&next, current.as_ref()).object;
            let mut expected = annotations.clone().unwrap_or(json!({}));
            expected["team"] = "data".into();
            if annotations.is_some() {
                expected["status.konductor.io/copied-from"] = "CronJob".into();
            }
            prop_assert_eq!(&result["spec"]["jobTemplate"]["metadata"]["annotations"], &expected);
            prop_assert_eq!(admitted(&result, Some(&result)).patch.0, vec![]);
            current = Some(result);
        }
    }

    /// Once a Job has started, no update that is let in changes what it holds or its template.
    #[test]
    fn a_started_job_keeps_what_it_holds(before in proptest::option::of(plan()), after in proptest::option::of(plan()), keep_template in any::<bool>()) {
        let job = |annotations: &Option<Value>| json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": "nightly", "annotations": annotations.clone().unwrap_or(json!({})) },
            "spec": { "template": { "metadata": { "annotations": { "team": "data" } }, "spec": { "containers": [] } } },
        });
        let mut old = admitted(&job(&before), None).object;
        old["status"] = json!({ "startTime": "2026-01-01T00:00:00Z" });
        let mut next = job(&after);
        if keep_template {
            next["spec"] = old["spec"].clone();
        }
        match inject(&settings(), &Request { namespace: "shop", object: &next, old: Some(&old) }) {
            Ok(outcome) => {
                prop_assert_eq!(&before, &after);
                prop_assert_eq!(&outcome.object["spec"], &old["spec"]);
                prop_assert_eq!(&outcome.object["metadata"]["labels"].as_object().map_or(0, Map::len), &old["metadata"]["labels"].as_object().map_or(0, Map::len));
            }
            Err(refusal) => prop_assert!(before != after && refusal.code == 403, "{}", refusal),
        }
    }
}
