//! What the status of each kind looks like, step by step, and that it carries all that the rules recorded.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::{
    api::{Barrier, Gate, GateType, HolderKind, Lease, Mode, Mutex, Once, RWMutex, Semaphore, WaitGroup},
    controller::object::{NextStatus, Object, each},
    rules::{
        Adjustment, ClaimEnd, Evidence, Facts, Observed, Out, Participant, Patience, Presence, Request, Seen, Sight, Step, Who, decide,
    },
};

const CREATED: i64 = 1_767_225_600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(CREATED + second).unwrap()
}

fn object<K>(spec: Value) -> Object
where
    K: serde::de::DeserializeOwned + kube::Resource<DynamicType = ()> + Into<Object>,
{
    let mut object: K = serde_json::from_value(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": "x", "namespace": "ns", "uid": "x"}, "spec": spec,
    }))
    .unwrap();
    let meta = ObjectMeta { creation_timestamp: Some(Time(at(0))), generation: Some(1), ..object.meta().clone() };
    *object.meta_mut() = meta;
    object.into()
}

/// What an API server gives back after the decision was written a little later than the second, and what it shows as status.
fn write(before: &Object, facts: &Facts, second: i64) -> (Object, Value) {
    fn reread<K: serde::Serialize + serde::de::DeserializeOwned + Into<Object>>(object: &K) -> (Object, Value) {
        let text = serde_json::to_value(object).unwrap();
        (serde_json::from_value::<K>(text.clone()).unwrap().into(), text["status"].clone())
    }
    let now = at(second) + jiff::SignedDuration::from_millis(345);
    let decision = decide(&before.primitive(), facts, now);
    let written = before.with(NextStatus::from(&decision), now);
    let (read, status) = each!(&written, object => reread(&**object));
    let again = decide(&read.primitive(), facts, now);
    assert!(!again.changed && !again.drifted, "what is written is what was decided: {again:?}");
    assert!(read.observed());
    (read, status)
}

fn who(kind: HolderKind, name: &str) -> Who {
    Who { kind, namespace: "ns".into(), name: name.into(), uid: name.into() }
}

fn asks(name: &str) -> Request {
    Request {
        who: who(HolderKind::Pod, name).into(),
        pod: None,
        permits: 1,
        mode: None,
        priority: 0,
        created: at(0),
        presence: Presence::Here,
        patience: Patience::Forever,
        shared: false,
    }
}

fn requests(requests: &[Request]) -> Facts {
    Facts { requests: requests.to_vec(), ..Facts::default() }
}

fn evidence(evidence: &[Evidence]) -> Facts {
    Facts { evidence: evidence.to_vec(), ..Facts::default() }
}

fn ended(name: &str) -> Evidence {
    Evidence::PodOut { uid: name.into(), how: Out::Ended }
}

fn by_hand(uid: &str, step: Step) -> Facts {
    Facts { steps: vec![Adjustment { uid: uid.into(), namespace: "ns".into(), by: "ann".into(), at: at(4), step }], ..Facts::default() }
}

/// `Type=Status Reason: message` of one condition.
fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().unwrap();
    let found: Vec<&Value> = all.iter().filter(|condition| condition["type"] == kind).collect();
    assert_eq!(found.len(), 1, "{status}");
    let text = |field: &str| found[0][field].as_str().unwrap().to_owned();
    format!("{} {}: {}", text("status"), text("reason"), text("message"))
}

#[test]
fn a_mutex_names_its_holder() {
    let (locked, status) = write(&object::<Mutex>(json!({})), &requests(&[asks("a"), asks("b")]), 5);
    assert_eq!(
        (&status["phase"], &status["holder"], &status["lockedAt"], &status["waiting"]),
        (&json!("Locked"), &json!("pod/a"), &json!("2026-01-01T00:00:05Z"), &json!(1))
    );
    assert_eq!(condition(&status, "Held"), "True Locked: pod/a");
    assert_eq!(condition(&status, "Ready"), "True Served: konductor serves this Mutex");
    let (_, status) = write(&locked, &evidence(&[ended("a")]), 9);
    assert_eq!((&status["phase"], &status["holder"]), (&json!("Unlocked"), &Value::Null));
    assert_eq!(condition(&status, "Held"), "False Unlocked: nobody holds it");
}

#[test]
fn a_semaphore_counts_its_permits() {
    let (_, status) = write(&object::<Semaphore>(json!({"permits": 2})), &requests(&[asks("a"), asks("b")]), 5);
    assert_eq!((&status["phase"], &status["inUse"], &status["available"]), (&json!("Full"), &json!(2), &json!(0)));
    assert_eq!(
        (&status["heldBy"], condition(&status, "Full").as_str()),
        (&json!("pod/a, pod/b"), "True NoPermitFree: 2 of 2 permits are held")
    );
}

#[test]
fn an_rwmutex_tells_readers_from_writers() {
    let mode = |name: &str, mode| Request { mode: Some(mode), ..asks(name) };
    let mutex = object::<RWMutex>(json!({}));
    let (read, status) = write(&mutex, &requests(&[mode("a", Mode::Read), mode("b", Mode::Read)]), 5);
    assert_eq!(
        (&status["phase"], &status["readers"], &status["readBy"], &status["readHolders"], &status["writeHolder"]),
        (&json!("ReadLocked"), &json!(2), &json!("pod/a, pod/b"), &json!(["pod/a", "pod/b"]), &Value::Null)
    );
    assert_eq!((&status["holders"][0]["mode"], &status["holders"][0]["permits"]), (&json!("Read"), &json!(1)));
    let next = Facts { evidence: vec![ended("a"), ended("b")], ..requests(&[mode("c", Mode::Write)]) };
    let (_, status) = write(&read, &next, 6);
    assert_eq!((&status["phase"], &status["readers"], &status["writeHolder"]), (&json!("WriteLocked"), &json!(0), &json!("pod/c")));
    assert_eq!(condition(&status, "Held"), "True WriteLocked: pod/c");
}

#[test]
fn a_lease_shows_renewals_and_expiry() {
    let claim = Request { who: who(HolderKind::Claim, "ann").into(), ..asks("ann") };
    let renewed = Evidence::Renewed { uid: "ann".into(), renewals: 3, expires_at: at(60) + jiff::SignedDuration::from_millis(7) };
    let (held, _) = write(&object::<Lease>(json!({"priority": 7})), &requests(&[claim]), 5);
    assert_eq!(held.default_priority(), 7);
    let (held, status) = write(&held, &evidence(&[renewed]), 6);
    assert_eq!(
        (&status["phase"], &status["holder"], &status["renewCount"], &status["expiresAt"]),
        (&json!("Held"), &json!("claim/ann"), &json!(3), &json!("2026-01-01T00:01:00Z"))
    );
    let (expired, status) = write(&held, &evidence(&[Evidence::ClaimOver { uid: "ann".into(), how: ClaimEnd::Expired }]), 70);
    assert_eq!((&status["phase"], condition(&status, "Held").as_str()), (&json!("Expired"), "False Expired: nobody holds it"));
    let (still, status) = write(&expired, &Facts::default(), 80);
    assert_eq!(status["phase"], "Expired");
    let (next, _) = write(&still, &requests(&[asks("b")]), 90);
    assert_eq!(write(&next, &evidence(&[ended("b")]), 95).1["phase"], "Available");
}

#[test]
fn a_once_is_pending_then_running_then_executed() {
    let once = object::<Once>(json!({"ttl": "1h"}));
    let (_, status) = write(&once, &Facts::default(), 1);
    assert_eq!((&status["phase"], condition(&status, "Executed").as_str()), (&json!("Pending"), "False Pending: nobody has executed it"));
    let (running, status) = write(&once, &requests(&[asks("a")]), 5);
    assert_eq!((&status["phase"], &status["executor"], &status["executed"]), (&json!("Running"), &json!("pod/a"), &json!(false)));
    let success = evidence(&[ended("a"), Evidence::Outcome { uid: "a".into(), succeeded: Some(true) }]);
    let (executed, status) = write(&running, &success, 9);
    assert_eq!(
        (&status["phase"], &status["executor"], &status["executed"], &status["executedAt"]),
        (&json!("Executed"), &json!("pod/a"), &json!(true), &json!("2026-01-01T00:00:09Z"))
    );
    assert_eq!(condition(&status, "Executed"), "True Executed: pod/a has executed it");
    assert_eq!(executed.spent_at(), Some(at(9 + 3600)));
    assert_eq!(executed.ttl().as_secs(), 300, "its ttl is not the patience with nodes");
    let (_, status) = write(&executed, &by_hand("r", Step::Reset), 20);
    assert_eq!(
        (&status["phase"], &status["round"], &status["roundBegan"], &status["applied"]),
        (&json!("Pending"), &json!(1), &json!("2026-01-01T00:00:20Z"), &json!(["r"]))
    );
}

#[test]
fn a_wait_group_counts_members_and_what_was_added() {
    let group = object::<WaitGroup>(json!({}));
    let (_, status) = write(&group, &Facts::default(), 1);
    assert_eq!(condition(&status, "Done"), "False Waiting: there has been no member yet");
    let (two, _) = write(&group, &requests(&[asks("a")]), 5);
    let (two, status) = write(&two, &by_hand("c", Step::Add(2)), 6);
    assert_eq!((&status["counter"], &status["added"], &status["members"]), (&json!(3), &json!(2), &json!("pod/a")));
    assert_eq!(condition(&status, "Done"), "False Waiting: pod/a, 2 added by hand");
    let (none, _) = write(&two, &by_hand("d", Step::Add(-2)), 7);
    let (done, status) = write(&none, &evidence(&[ended("a")]), 8);
    assert_eq!((&status["phase"], &status["counter"], &status["doneAt"]), (&json!("Done"), &json!(0), &json!("2026-01-01T00:00:08Z")));
    assert_eq!(condition(&status, "Done"), "True CounterZero: all members were done");
    assert_eq!(done.spent_at(), None);
}

#[test]
fn a_barrier_shows_who_has_arrived() {
    let arrive = |name: &str| Participant { who: who(HolderKind::Job, name), at: at(2) };
    let barrier = object::<Barrier>(json!({"expected": 3, "quorum": 2, "timeout": "1m"}));
    let (one, status) = write(&barrier, &Facts { arrivals: vec![arrive("a")], ..Facts::default() }, 5);
    assert_eq!((&status["phase"], &status["arrived"], &status["arrivals"][0]["name"]), (&json!("Waiting"), &json!(1), &json!("a")));
    assert_eq!(condition(&status, "Open"), "False Waiting: 1 of 2 have arrived");
    let (_, status) = write(&one, &Facts { arrivals: vec![arrive("a"), arrive("b")], ..Facts::default() }, 6);
    assert_eq!((&status["phase"], &status["arrived"], &status["openedAt"]), (&json!("Open"), &json!(2), &json!("2026-01-01T00:00:06Z")));
    let (_, status) = write(&one, &Facts::default(), 60);
    assert_eq!(
        (&status["phase"], &status["failedAt"], &status["openedAt"]),
        (&json!("Failed"), &json!("2026-01-01T00:01:00Z"), &Value::Null)
    );
    assert_eq!(condition(&status, "Open"), "False TimedOut: 1 of 2 have arrived");
}

#[test]
fn a_gate_shows_how_each_condition_stands() {
    let gate =
        object::<Gate>(json!({"conditions": [{"type": "Job", "name": "a"}, {"type": "Barrier", "name": "b", "namespace": "other"}]}));
    let job = Seen::Job { complete: true, failed: false, active: 0, succeeded: 1 };
    let sees = |on, namespace: &str, name: &str, seen| Observed {
        on,
        namespace: namespace.into(),
        name: name.into(),
        sight: Sight::There { uid: format!("{name}-1"), seen },
    };
    let job = sees(GateType::Job, "ns", "a", job);
    let (one, status) = write(&gate, &Facts { conditions: vec![job], ..Facts::default() }, 5);
    assert_eq!((&status["phase"], &status["met"], &status["waitsFor"]), (&json!("Waiting"), &json!("1 of 2"), &json!("barrier/other/b")));
    assert_eq!(
        status["conditionStatuses"],
        json!([
            {"type": "Job", "name": "a", "met": true, "uid": "a-1", "since": "2026-01-01T00:00:05Z", "message": "job/a is complete"},
            {"type": "Barrier", "name": "b", "namespace": "other", "met": false, "message": "there is no barrier/other/b"},
        ])
    );
    let barrier = sees(GateType::Barrier, "other", "b", Seen::Barrier { state: crate::rules::Latch::Open, arrived: 3 });
    let (open, status) = write(&one, &Facts { conditions: vec![barrier], ..Facts::default() }, 8);
    assert_eq!((&status["phase"], &status["met"], &status["openedAt"]), (&json!("Open"), &json!("2 of 2"), &json!("2026-01-01T00:00:08Z")));
    assert_eq!(status["conditionStatuses"][0]["message"], "met by a job/a that is gone");
    assert_eq!(condition(&status, "Open"), "True ConditionsMet: all conditions were met");
    let (_, status) = write(&open, &by_hand("c", Step::Close), 9);
    assert_eq!((&status["phase"], &status["round"], &status["byHand"]["by"]), (&json!("Closed"), &json!(1), &json!("ann")));
    assert_eq!(condition(&status, "Open"), "False ByHand: closed by ann");
}

#[test]
fn a_circle_of_gates_is_said_as_long_as_it_is_one() {
    let gate = object::<Gate>(json!({"conditions": [{"type": "Gate", "name": "y"}]}));
    let facts = Facts { cycle: vec!["gate/x".into(), "gate/y".into()], ..Facts::default() };
    let (round, status) = write(&gate, &facts, 5);
    let words = "False WaitsForItself: can never open by its conditions: gate/x waits for gate/y waits for gate/x";
    assert_eq!(condition(&status, "Ready"), words);
    let (round, later) = write(&round, &facts, 50);
    assert_eq!(later["conditions"], status["conditions"], "its time does not move");
    let (_, status) = write(&round, &Facts::default(), 60);
    assert_eq!(condition(&status, "Ready"), "True Served: konductor serves this Gate");
}
