//! What the API server refuses by itself, whoever writes it: the rules in the CRDs. They are installed here a second time under another group, which nobody
//! serves, so that nobody answers what is written.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use konductor::api::crds;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::{Value, json};

use crate::scene::Scene;

const GROUP: &str = "rules.konductor.example";
const NOON: &str = "2026-01-01T12:00:00Z";

/// The kinds without anybody who serves them.
struct Rules<'a> {
    scene: &'a Scene,
    crds: Api<CustomResourceDefinition>,
}

impl<'a> Rules<'a> {
    async fn install(scene: &'a Scene) -> Self {
        let rules = Self { scene, crds: Api::all(scene.client.clone()) };
        for mut crd in crds() {
            crd.metadata.name = Some(format!("{}.{GROUP}", crd.spec.names.plural));
            crd.spec.group = GROUP.to_owned();
            (crd.spec.names.short_names, crd.spec.names.categories) = (None, None);
            rules.crds.create(&PostParams::default(), &crd).await.unwrap();
        }
        for crd in crds() {
            let name = format!("{}.{GROUP}", crd.spec.names.plural);
            let established = |crd: CustomResourceDefinition| {
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
            };
            scene.until(&format!("{name} is served"), async || established(rules.crds.get(&name).await.unwrap())).await;
        }
        rules
    }

    async fn remove(self) {
        for crd in crds() {
            self.crds.delete(&format!("{}.{GROUP}", crd.spec.names.plural), &DeleteParams::default()).await.unwrap();
        }
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let plural = crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap().spec.names.plural;
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", kind), &plural);
        Api::namespaced_with(self.scene.client.clone(), &self.scene.namespace, &resource)
    }

    /// Makes an object; `refused` are words of the reason why that must not work.
    async fn make(&self, kind: &str, name: &str, spec: Value, refused: Option<&str>) {
        let api = self.api(kind);
        let object = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": { "name": name }, "spec": spec });
        let made = api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await;
        judge(&format!("{kind} {spec}"), made, refused);
    }

    /// Writes a status over the present one.
    async fn status(&self, kind: &str, name: &str, status: Value, refused: Option<&str>) {
        let api = self.api(kind);
        let mut object = api.get(name).await.unwrap();
        object.data["status"] = status.clone();
        judge(
            &format!("{kind} {name} {:.200}", status.to_string()),
            api.replace_status(name, &PostParams::default(), &object).await,
            refused,
        );
    }

    /// Changes the spec.
    async fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value), refused: Option<&str>) {
        let api = self.api(kind);
        let mut object = api.get(name).await.unwrap();
        change(&mut object.data["spec"]);
        let what = format!("{kind} {name} {}", object.data["spec"]);
        judge(&what, api.replace(name, &PostParams::default(), &object).await, refused);
    }
}

fn judge(what: &str, result: kube::Result<DynamicObject>, refused: Option<&str>) {
    match (result, refused) {
        (Ok(_), None) => {}
        (Ok(object), Some(words)) => panic!("{what}: {} was taken, but {words:?} forbids it", object.name_any()),
        (Err(kube::Error::Api(status)), Some(words)) => {
            assert!(
                status.code == 422 && status.message.contains(words),
                "{what}: {words:?} is not in {}: {}",
                status.code,
                status.message
            );
        }
        (Err(error), _) => panic!("{what}: {error}"),
    }
}

fn holder(number: usize) -> Value {
    json!({ "uid": format!("uid-{number}"), "kind": "Pod", "namespace": "shop", "name": format!("pod-{number}"), "token": number, "permits": 1, "since": NOON })
}

fn with_mode(number: usize, mode: &str) -> Value {
    let mut holder = holder(number);
    holder["mode"] = mode.into();
    holder
}

fn arrivals(count: usize) -> Vec<Value> {
    (0..count)
        .map(|number| json!({ "uid": format!("uid-{number}"), "kind": "Job", "namespace": "shop", "name": format!("job-{number}"), "at": NOON }))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_itself_refuses_what_the_promises_forbid() {
    let scene = Scene::open("schema").await;
    let rules = Rules::install(&scene).await;
    one_holder(&rules).await;
    what_all_specs_have(&rules).await;
    readers_and_writers(&rules).await;
    permits(&rules).await;
    once(&rules).await;
    wait_group(&rules).await;
    barrier(&rules).await;
    gate(&rules).await;
    claim(&rules).await;
    rules.remove().await;
}

async fn one_holder(rules: &Rules<'_>) {
    for kind in ["Mutex", "Lease", "Once"] {
        rules.make(kind, "one", json!({}), None).await;
        rules.status(kind, "one", json!({ "holders": [holder(1)], "lastToken": 1 }), None).await;
        rules.status(kind, "one", json!({ "holders": [holder(1), holder(2)], "lastToken": 2 }), Some("one")).await;
        rules.status(kind, "one", json!({ "holders": [holder(1)], "lastToken": 0 }), Some("lastToken never goes back")).await;
        rules.status(kind, "one", json!({ "holders": [] }), Some("lastToken never goes back")).await;
    }
}

async fn what_all_specs_have(rules: &Rules<'_>) {
    for kind in ["Mutex", "RWMutex", "Lease"] {
        rules.make(kind, "short", json!({ "ttl": "0s" }), Some("ttl is at least 1s")).await;
        rules.make(kind, "wrong", json!({ "ttl": "5 minutes" }), Some("spec.ttl")).await;
        rules.make(kind, "long", json!({ "ttl": "1h30m" }), None).await;
    }
    for (names, refused) in
        [(json!(["*", "team-a"]), None), (json!(["team-*"]), Some("allowedNamespaces")), (json!([""]), Some("allowedNamespaces"))]
    {
        let name = if refused.is_some() { "wrong" } else { "shared" };
        rules.make("Gate", name, json!({ "allowedNamespaces": names }), refused).await;
    }
}

async fn readers_and_writers(rules: &Rules<'_>) {
    rules.make("RWMutex", "one", json!({}), None).await;
    let status = |holders: Vec<Value>| json!({ "lastToken": 1025, "holders": holders });
    rules.status("RWMutex", "one", status(vec![with_mode(1, "Write")]), None).await;
    rules.status("RWMutex", "one", status(vec![with_mode(1, "Write"), with_mode(2, "Read")]), Some("alone")).await;
    rules.status("RWMutex", "one", status(vec![with_mode(1, "Read"), holder(2)]), Some("alone")).await;
    let readers = |count| status((1..=count).map(|number| with_mode(number, "Read")).collect());
    rules.status("RWMutex", "one", readers(1024), None).await;
    rules.status("RWMutex", "one", readers(1025), Some("must have at most 1024 items")).await;
}

async fn permits(rules: &Rules<'_>) {
    rules.make("Semaphore", "negative", json!({ "permits": -1 }), Some("spec.permits")).await;
    rules.make("Semaphore", "many", json!({ "permits": 1000 }), None).await;
    let held = |count| json!({ "lastToken": count, "holders": (1..=count).map(holder).collect::<Vec<_>>() });
    rules.status("Semaphore", "many", held(1000), None).await;
    rules.status("Semaphore", "many", held(1001), Some("permits")).await;
    rules.edit("Semaphore", "many", |spec| spec["permits"] = 10.into(), None).await;
    rules.status("Semaphore", "many", held(999), Some("lastToken never goes back")).await;
    let fewer = json!({ "lastToken": 1000, "holders": (1..=999).map(holder).collect::<Vec<_>>() });
    rules.status("Semaphore", "many", fewer, None).await;
    rules.status("Semaphore", "many", held(1001), Some("permits")).await;
}

async fn once(rules: &Rules<'_>) {
    rules.make("Once", "work", json!({}), None).await;
    let status = |round: i64, executed: bool| json!({ "round": round, "executed": executed, "lastToken": 1 });
    let mut both = status(0, true);
    both["holders"] = json!([holder(1)]);
    rules.status("Once", "work", both, Some("nobody executes what is executed")).await;
    rules.status("Once", "work", status(0, true), None).await;
    rules.status("Once", "work", status(0, false), Some("stays so")).await;
    rules.status("Once", "work", status(1, false), None).await;
    rules.status("Once", "work", status(0, true), Some("status.round never goes back")).await;
}

async fn wait_group(rules: &Rules<'_>) {
    rules.make("WaitGroup", "one", json!({}), None).await;
    let status = |round: i64, counter: i64, added: i64, members: usize| json!({ "round": round, "counter": counter, "added": added, "lastToken": 3, "holders": (1..=members).map(holder).collect::<Vec<_>>() });
    let done = |mut status: Value| {
        (status["doneAt"], status["phase"]) = (NOON.into(), "Done".into());
        status
    };
    rules.status("WaitGroup", "one", status(0, 5, 2, 3), None).await;
    rules.status("WaitGroup", "one", status(0, 4, 2, 3), Some("number of members")).await;
    rules.status("WaitGroup", "one", status(0, -1, -1, 0), Some("greater than or equal to 0")).await;
    rules.status("WaitGroup", "one", done(status(0, 2, 2, 0)), Some("zero")).await;
    rules.status("WaitGroup", "one", done(status(0, 0, 0, 0)), None).await;
    rules.status("WaitGroup", "one", status(0, 1, 1, 0), Some("stays so")).await;
    rules.status("WaitGroup", "one", status(1, 1, 1, 0), None).await;
    let mut twice = status(1, 1, 1, 0);
    twice["applied"] = json!(["same", "same"]);
    rules.status("WaitGroup", "one", twice, Some("Duplicate")).await;
}

async fn barrier(rules: &Rules<'_>) {
    rules.make("Barrier", "nobody", json!({ "expected": 0 }), Some("spec.expected")).await;
    rules.make("Barrier", "more", json!({ "expected": 2, "quorum": 3 }), Some("not larger")).await;
    rules.make("Barrier", "one", json!({ "expected": 5, "quorum": 4 }), None).await;
    let status =
        |round: i64, count: usize, phase: &str| json!({ "round": round, "arrived": count, "arrivals": arrivals(count), "phase": phase });
    rules.status("Barrier", "one", status(0, 3, "Waiting"), None).await;
    rules.status("Barrier", "one", status(0, 3, "Open"), Some("spec.quorum participants")).await;
    rules.status("Barrier", "one", status(0, 2, "Waiting"), Some("stays counted")).await;
    let mut wrong = status(0, 3, "Waiting");
    wrong["arrived"] = 4.into();
    rules.status("Barrier", "one", wrong, Some("number of arrivals")).await;
    let mut twice = status(0, 4, "Open");
    twice["arrivals"] = [arrivals(3), arrivals(1)].concat().into();
    rules.status("Barrier", "one", twice, Some("Duplicate")).await;
    rules.status("Barrier", "one", status(0, 4, "Open"), None).await;
    rules.status("Barrier", "one", status(0, 4, "Waiting"), Some("stays so")).await;
    rules.status("Barrier", "one", status(0, 5, "Open"), None).await;
    rules.status("Barrier", "one", status(1, 0, "Waiting"), None).await;
    rules.status("Barrier", "one", status(1, 0, "Failed"), None).await;
    rules.status("Barrier", "one", status(1, 5, "Open"), Some("stays so")).await;
    rules.status("Barrier", "one", Value::Null, Some("status.round never goes back")).await;
}

async fn gate(rules: &Rules<'_>) {
    rules.make("Gate", "hand", json!({}), None).await;
    let by_hand = |round: i64, open: bool| {
        let phase = if open { "Open" } else { "Closed" };
        json!({ "round": round, "phase": phase, "byHand": { "open": open, "by": "ann", "at": NOON } })
    };
    rules.status("Gate", "hand", json!({ "round": 0, "phase": "Open" }), Some("by hand")).await;
    rules.status("Gate", "hand", by_hand(0, true), None).await;
    rules.status("Gate", "hand", by_hand(0, false), Some("stays so")).await;
    rules.status("Gate", "hand", by_hand(1, false), None).await;

    let conditions: Vec<Value> =
        (0..3).map(|number| json!({ "type": "Job", "name": format!("job-{number}"), "state": "Complete" })).collect();
    rules.make("Gate", "jobs", json!({ "conditions": conditions }), None).await;
    let met = |count: usize| {
        let standing = |(number, condition): (usize, &Value)| {
            let mut standing = condition.clone();
            (standing["met"], standing["message"]) = ((number < count).into(), "so".into());
            standing
        };
        json!({ "round": 0, "phase": "Open", "conditionStatuses": conditions.iter().enumerate().map(standing).collect::<Vec<_>>() })
    };
    rules.status("Gate", "jobs", met(2), Some("by hand")).await;
    rules.status("Gate", "jobs", met(3), None).await;

    for (condition, refused) in [
        (json!({ "type": "Job", "name": "j", "state": "Open" }), "state Open does not go with Job; it has Complete, Failed, Active"),
        (json!({ "type": "Mutex", "name": "m", "value": 2 }), "nothing to count"),
        (json!({ "type": "Cron", "name": "c" }), "supported values"),
        (json!({ "type": "WaitGroup", "name": "w", "value": -1 }), "greater than or equal to 0"),
    ] {
        rules.make("Gate", "wrong", json!({ "conditions": [condition] }), Some(refused)).await;
    }
}

async fn claim(rules: &Rules<'_>) {
    let table =
        [("Mutex", "Acquire"), ("Once", "Acquire Wait Reset"), ("WaitGroup", "Wait Add Done Reset"), ("Gate", "Wait Open Close Reset")];
    for (kind, operations) in table {
        for operation in ["Acquire", "Wait", "Arrive", "Add", "Done", "Open", "Close", "Reset"] {
            let name = format!("{kind}-{operation}").to_lowercase();
            let goes = operations.split(' ').any(|word| word == operation);
            let refused = format!("operation {operation} does not go with {kind}");
            rules.make("Claim", &name, json!({ "kind": kind, "name": "x", "operation": operation }), (!goes).then_some(&refused)).await;
        }
    }
    for (spec, refused) in [
        (json!({ "kind": "WaitGroup", "operation": "Done", "delta": 5, "name": "x" }), "delta goes with the operation Add"),
        (json!({ "kind": "Mutex", "permits": 2, "name": "x" }), "permits are those of a Semaphore"),
        (json!({ "kind": "Lease", "mode": "Read", "name": "x" }), "mode is how an RWMutex is held"),
        (json!({ "kind": "Lease", "succeeded": true, "name": "x" }), "succeeded is how the execution of a Once came out"),
    ] {
        rules.make("Claim", "wrong", spec, Some(refused)).await;
    }

    rules.make("Claim", "ann", json!({ "kind": "Once", "name": "x", "holder": "ann", "ttl": "10s", "priority": 3 }), None).await;
    rules.edit("Claim", "ann", |spec| spec["renewals"] = 3.into(), None).await;
    rules.edit("Claim", "ann", |spec| spec["renewals"] = 2.into(), Some("renewals only grow")).await;
    for (field, value) in
        [("name", json!("y")), ("holder", json!("bob")), ("ttl", json!("11s")), ("timeout", json!("1s")), ("priority", Value::Null)]
    {
        rules.edit("Claim", "ann", |spec| spec[field] = value, Some("what a Claim asks for does not change")).await;
    }
    rules.edit("Claim", "ann", |spec| spec["succeeded"] = true.into(), None).await;
    rules.edit("Claim", "ann", |spec| spec["succeeded"] = false.into(), Some("succeeded is said once")).await;
    let status = |phase: &str, token: i64| json!({ "phase": phase, "token": token });
    rules.status("Claim", "ann", status("Granted", 5), None).await;
    rules.status("Claim", "ann", status("Granted", 6), Some("token of a Claim does not change")).await;
    rules.status("Claim", "ann", status("Released", 5), None).await;
    rules.status("Claim", "ann", status("Granted", 5), Some("a Claim that is over stays so")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_has_a_name() {
    let scene = Scene::open("names").await;
    for name in ["a b", "m/status", "m?", "../m", "-m", "M"] {
        for (kind, spec) in [
            ("Claim", format!("{{kind: Mutex, name: '{name}'}}")),
            ("Gate", format!("{{conditions: [{{type: Job, name: '{name}'}}]}}")),
            ("Gate", format!("{{conditions: [{{type: Mutex, namespace: '{name}', name: m}}]}}")),
        ] {
            let said = scene.refused(&format!("apiVersion: konductor.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"));
            assert!(said.contains("should match"), "{kind} {spec}: {said}");
        }
    }
}
