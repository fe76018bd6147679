//! What holds for every Pod, Job and CronJob: a second pass changes nothing, and nothing of anybody else's is lost, moved or let in front.
//! Long because the properties are read beside the generators that they quantify over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test asserts by failing")]

use std::collections::BTreeMap;

use konductor::{
    inject::{Outcome, Request, Settings, inject, validate},
    plan::{Plan, Release, Subject, parse},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn admitted(object: &Value, old: Option<&Value>) -> Outcome {
    let request = Request { namespace: "shop", object, old };
    let outcome = inject(&Settings::anywhere(), &request).unwrap_or_else(|refusal| panic!("{refusal}"));
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
                fields.insert("command".to_owned(), json!(["run", name]));
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
    let gates = maybe(entries(&["example.com/quota", "konductor.io/wait"], |name| json!({ "name": name })));
    (
        unknown(),
        containers(&["app", "other", "istio-proxy"], 1, false),
        init,
        volumes,
        maybe(security()),
        maybe(resources()),
        gates,
        any::<bool>(),
    )
        .prop_map(|(mut fields, containers, init, volumes, security, resources, gates, host_network)| {
            fields.insert("containers".to_owned(), containers);
            fields.insert("restartPolicy".to_owned(), "Never".into());
            for (field, value) in [
                ("initContainers", init),
                ("volumes", volumes),
                ("securityContext", security),
                ("resources", resources),
                ("schedulingGates", gates),
            ] {
                value.into_iter().for_each(|value| _ = fields.insert(field.to_owned(), value));
            }
            fields.insert("hostNetwork".to_owned(), host_network.into());
            Value::Object(fields)
        })
}

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(words.to_vec(), 0..=words.len()).prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

/// Annotations with any role and key; a Job may have more.
fn annotations(of_job: bool) -> impl Strategy<Value = Value> {
    let items = (
        some(&["gate/g;timeout=5m;on-timeout=proceed", "once/h", "waitgroup/i;timeout=0s", "barrier/j"]),
        some(&[
            "mutex/a;create=true",
            "semaphore/b;permits=3",
            "mutex/bank/c;priority=7",
            "semaphore/shop/d.e",
            "rwmutex/e;mode=read",
            "lease/f",
        ]),
        some(&["barrier/k", "barrier/j;on=start", "barrier/bank/l;on=start"]),
        some(&["waitgroup/m"]),
        some(&["n;priority=2"]),
    );
    let lasting = some(&["on-lost=ignore", "max-hold=1h", "start-timeout=5m"]);
    let release = some(&["release=controller"]);
    let strategy = proptest::sample::select(vec![None, Some("init"), Some("gate"), Some("suspend"), Some("wrap")]);
    (items, lasting, release, strategy, any::<bool>(), any::<bool>()).prop_map(
        move |((wait, mut acquire, arrive, done, once), lasting, release, strategy, fencing, skip)| {
            let wrap = !of_job && strategy == Some("wrap");
            let once = if of_job || wrap { once } else { Vec::new() };
            if [&wait, &acquire, &arrive, &done, &once].into_iter().all(Vec::is_empty) {
                acquire.push("mutex/a".to_owned());
            }
            let token = !acquire.is_empty() || !once.is_empty();
            let skip = of_job && skip && token;
            let early = token || !wait.is_empty() || !done.is_empty();
            let mut keys = String::new();
            if token || !done.is_empty() {
                let release = release.into_iter().filter(|_| !wrap);
                lasting.into_iter().chain(release).for_each(|key| keys.push_str(&format!(";{key}")));
            }
            keys.push_str(if fencing && token { ";fencing=true" } else { "" });
            keys.push_str(if skip { ";on-conflict=skip" } else { "" });
            let implied = of_job && (skip || !once.is_empty());
            let fits = |strategy: &str| if ["suspend", "wrap"].contains(&strategy) { of_job == (strategy == "suspend") } else { !implied };
            if let Some(strategy) = strategy.filter(|strategy| early && fits(strategy)) {
                keys.push_str(&format!(";strategy={strategy}"));
            }
            let mut written = Map::new();
            for (word, mut items) in [("wait", wait), ("acquire", acquire), ("arrive", arrive), ("done", done), ("once", once)] {
                if let Some(first) = items.first_mut() {
                    first.push_str(&std::mem::take(&mut keys));
                    written.insert(format!("konductor.io/{word}"), items.join(", ").into());
                }
            }
            Value::Object(written)
        },
    )
}

fn plan_of(object: &Value, subject: Subject) -> Plan {
    let annotations: BTreeMap<String, String> = serde_json::from_value(object["metadata"]["annotations"].clone()).unwrap();
    parse(&annotations, subject).unwrap_or_else(|mistakes| panic!("{mistakes}")).expect("a plan")
}

fn job(annotations: &Value) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "nightly", "annotations": annotations },
        "spec": { "template": { "metadata": { "annotations": { "team": "data" } }, "spec": { "containers": [] } } },
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let finalizers = maybe(some(&["konductor.io/outcome", "example.com/backup"]).prop_map(Value::from));
    (unknown(), unknown(), annotations(false), spec(), maybe(Just(json!({ "app": "shop" }))), finalizers).prop_map(
        |(mut top, mut metadata, mut annotations, mut spec, labels, finalizers)| {
            // The container that is wrapped must be there.
            let ends = |container: &&Value| container["restartPolicy"] != "Always" && container["name"] != "istio-init";
            let init = spec["initContainers"].as_array().and_then(|list| list.iter().find(ends));
            let wrapped = init.map_or("main".to_owned(), |init| init["name"].as_str().unwrap().to_owned());
            spec["containers"][0]["name"] = "main".into();
            for value in annotations.as_object_mut().unwrap().values_mut() {
                *value = value.as_str().unwrap().replace(";strategy=wrap", &format!(";strategy=wrap;container={wrapped}")).into();
            }
            metadata.insert("annotations".to_owned(), annotations);
            finalizers.into_iter().for_each(|finalizers| _ = metadata.insert("finalizers".to_owned(), finalizers));
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

const WRAPPER: &str = "/konductor.io/konductor";

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
            if let Some(command) = container["command"].as_array_mut().filter(|command| command[0] == WRAPPER) {
                command.drain(..4);
            }
            drop_empty(container, &["env", "volumeMounts"]);
        }
    }
    if let Some(gates) = pod["spec"]["schedulingGates"].as_array_mut() {
        gates.retain(|gate| gate["name"] != "konductor.io/wait");
    }
    if let Some(finalizers) = pod["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != "konductor.io/outcome");
    }
    drop_empty(&mut pod["spec"], &["initContainers", "volumes", "schedulingGates"]);
    drop_empty(&mut pod["metadata"], &["labels", "finalizers"]);
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
        let plan = plan_of(&pod, Subject::Pod);
        if plan.steps().count() == 0 {
            prop_assert!(init.iter().all(|name| !name.starts_with("konductor-")), "{:?}", init);
            return Ok(());
        }
        let first = if plan.wraps() { "konductor-install" } else { "konductor-acquire" };
        let at = init.iter().position(|name| *name == first).expect("it is injected");
        prop_assert!(init[..at].iter().all(|name| name.starts_with("istio-") || name.starts_with("linkerd-")), "{:?}", init);
        // What prepares the traffic of a proxy that does not run yet would cut the acquire step off.
        prop_assert!(at == 0 || result["spec"]["initContainers"][at - 1]["restartPolicy"] == "Always", "{:?}", init);
        let second = match plan.release {
            _ if plan.holds().count() == 0 || plan.wraps() => None,
            Some(Release::Controller) => plan.fencing.then_some("konductor-verify"),
            Some(Release::Hook) | None => Some("konductor-hold"),
        };
        let ours: Vec<&str> = [Some(first), second].into_iter().flatten().collect();
        prop_assert_eq!(init[at..].iter().take(ours.len()).copied().collect::<Vec<_>>(), ours.clone());
        prop_assert_eq!(init.iter().filter(|name| name.starts_with("konductor-")).count(), ours.len());
    }

    /// A gate that nobody lifts, or a finalizer that nobody removes, would keep the Pod for ever.
    #[test]
    fn gates_and_finalizers_are_there_for_a_reason(pod in pod()) {
        let plan = plan_of(&pod, Subject::Pod);
        let result = admitted(&pod, None).object;
        let gated = names(&result["spec"]["schedulingGates"]).contains(&"konductor.io/wait");
        prop_assert_eq!(gated, plan.strategy.is_some_and(|strategy| strategy.word() == "gate"));
        let kept = result["metadata"]["finalizers"].as_array().is_some_and(|all| all.contains(&"konductor.io/outcome".into()));
        prop_assert_eq!(kept, plan.owes_outcome());
    }

    #[test]
    fn ours_are_restricted_and_alone_with_their_token(pod in pod()) {
        let result = admitted(&pod, None).object;
        for container in ["initContainers", "containers"].into_iter().flat_map(|field| result["spec"][field].as_array().into_iter().flatten()) {
            let name = container["name"].as_str().unwrap();
            let (ours, wrapped) = (name.starts_with("konductor-"), container["command"][0] == WRAPPER);
            prop_assert_eq!(names(&container["volumeMounts"]).contains(&"konductor-token"), ours && name != "konductor-install" || wrapped);
            prop_assert_eq!(wrapped, plan_of(&pod, Subject::Pod).container.as_deref() == Some(name));
            prop_assert!(!ours || is_restricted(container), "{}", container);
            prop_assert!(!ours || container["resources"]["requests"] == container["resources"]["limits"]);
        }
    }

    /// Other webhooks add containers, variables and defaults between two passes.
    #[test]
    fn passes_settle_whatever_others_add(pod in pod(), front in any::<bool>()) {
        let mut between = admitted(&pod, None).object;
        let sidecar = json!({ "name": "istio-proxy-2", "restartPolicy": "Always" });
        for field in ["initContainers", "volumes"] {
            if !between["spec"][field].is_array() {
                between["spec"][field] = json!([]);
            }
        }
        let init = between["spec"]["initContainers"].as_array_mut().unwrap();
        if front { init.insert(0, sidecar) } else { init.push(sidecar) }
        for container in between["spec"]["initContainers"].as_array_mut().unwrap() {
            container["image"] = "mirror.example/image".into();
        }
        between["spec"]["volumes"].as_array_mut().unwrap().push(json!({ "name": "late", "emptyDir": {} }));
        let second = admitted(&between, None);
        prop_assert_eq!(admitted(&second.object, None).patch.0, vec![]);
        let init = names(&second.object["spec"]["initContainers"]);
        let steps = plan_of(&pod, Subject::Pod).steps().count();
        let first = if plan_of(&pod, Subject::Pod).wraps() { "konductor-install" } else { "konductor-acquire" };
        prop_assert_eq!(init.iter().filter(|name| **name == first).count(), usize::from(steps > 0));
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
    fn nonsense_is_refused_and_not_a_panic(pod in pod(), junk in json_value(), path in 0usize..16) {
        let pointer = [
            "/metadata", "/metadata/annotations", "/metadata/labels", "/metadata/ownerReferences", "/spec", "/spec/containers", "/spec/containers/0",
            "/spec/containers/0/env", "/spec/containers/0/volumeMounts", "/spec/initContainers", "/spec/volumes", "/spec/resources",
            "/spec/securityContext", "/spec/nodeSelector", "/spec/schedulingGates", "/metadata/finalizers",
        ][path];
        for mut object in [pod.clone(), json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": pod["metadata"], "spec": { "template": pod } })] {
            if let Some(value) = object.pointer_mut(pointer) {
                *value = junk.clone();
            }
            let request = Request { namespace: "shop", object: &object, old: None };
            if let Ok(outcome) = inject(&Settings::anywhere(), &request) {
                prop_assert_eq!(admitted(&outcome.object, None).patch.0, vec![]);
            }
            let _ = validate(&request);
        }
    }

    /// However the annotations of a CronJob change, its jobTemplate carries those of the last change, and the user's others.
    #[test]
    fn copies_follow_the_cron_job(steps in proptest::collection::vec(proptest::option::of(annotations(true)), 1..5), replaced in any::<bool>()) {
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

    #[test]
    fn a_second_pass_over_a_job_changes_nothing(annotations in annotations(true)) {
        let first = admitted(&job(&annotations), None).object;
        prop_assert_eq!(admitted(&first, None).patch.0, vec![]);
        prop_assert_eq!(admitted(&first, Some(&first)).patch.0, vec![]);
        let plan = plan_of(&first, Subject::Job);
        prop_assert_eq!(first["spec"]["suspend"] == true, plan.strategy.is_some_and(|strategy| strategy.word() == "suspend"));
        prop_assert_eq!(first["metadata"]["finalizers"].is_array(), plan.owes_outcome());
        // Its Pods act on the same plan.
        let mut pod = first["spec"]["template"].clone();
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove("team");
        prop_assert_eq!(plan_of(&pod, Subject::PodOfJob), plan);
    }

    /// Whatever a Job asks for, it can be resumed, and its finalizer removed; konductor does not take either back.
    #[test]
    fn a_job_can_be_resumed_and_let_go(annotations in annotations(true)) {
        let made = admitted(&job(&annotations), None).object;
        let mut resumed = made.clone();
        resumed["spec"]["suspend"] = false.into();
        let resumed = admitted(&resumed, Some(&made)).object;
        prop_assert_eq!(&resumed["spec"]["suspend"], &json!(false));
        prop_assert_eq!(&resumed["metadata"]["annotations"]["status.konductor.io/suspended"], &Value::Null);
        prop_assert_eq!(&resumed["metadata"]["finalizers"], &made["metadata"]["finalizers"]);
        let mut free = resumed.clone();
        free["metadata"].as_object_mut().unwrap().remove("finalizers");
        prop_assert_eq!(admitted(&free, Some(&resumed)).patch.0, vec![]);
    }

    /// Once a Job has started, no update that is let in changes what it holds or its template.
    #[test]
    fn a_started_job_keeps_what_it_holds(before in proptest::option::of(annotations(true)), after in proptest::option::of(annotations(true)), keep_template in any::<bool>()) {
        let job = |annotations: &Option<Value>| job(&annotations.clone().unwrap_or(json!({})));
        let mut old = admitted(&job(&before), None).object;
        old["spec"]["suspend"] = false.into();
        old["status"] = json!({ "startTime": "2026-01-01T00:00:00Z" });
        let mut next = job(&after);
        next["spec"]["suspend"] = false.into();
        if keep_template {
            next["spec"] = old["spec"].clone();
        }
        match inject(&Settings::anywhere(), &Request { namespace: "shop", object: &next, old: Some(&old) }) {
            Ok(outcome) => {
                prop_assert_eq!(&before, &after);
                prop_assert_eq!(&outcome.object["spec"], &old["spec"]);
                prop_assert_eq!(&outcome.object["metadata"]["finalizers"], &old["metadata"]["finalizers"]);
                prop_assert_eq!(&outcome.object["metadata"]["labels"].as_object().map_or(0, Map::len), &old["metadata"]["labels"].as_object().map_or(0, Map::len));
            }
            Err(refusal) => prop_assert!(before != after && refusal.code == 403, "{}", refusal),
        }
    }
}
