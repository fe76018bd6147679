//! What follows from Claims in the picture: when a hold may be taken from one, and what each is told.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    ClaimFacts,
    answer::{Answer, Answers, holds_no_more, status},
    expiring, give_up, prove,
};
use crate::{
    api::{Barrier, ClaimPhase, Holder, Mutex, Once},
    controller::{
        ask::At,
        examine::Suspect,
        gather::{Gathered, gather},
        object::{NextStatus, Object},
        world::State,
    },
    rules::{self, ClaimEnd, Decision, Evidence, Primitive, Refused, Settlement},
};

const TTL: Duration = Duration::from_secs(60);

fn start() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().unwrap()
}

/// A Claim at this revision, which asks for `mutex/db` unless `spec` says otherwise.
fn claim(name: &str, revision: u32, spec: Value, status: Value) -> ClaimFacts {
    let mut object = json!({
        "apiVersion": "konductor.io/v1", "kind": "Claim",
        "metadata": { "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": revision.to_string(),
            "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "kind": "Mutex", "name": "db" },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    if !status.is_null() {
        object["status"] = status;
    }
    ClaimFacts::of(serde_json::from_value(object).unwrap())
}

fn waiting(name: &str) -> ClaimFacts {
    claim(name, 1, json!({}), Value::Null)
}

fn mutex() -> Object {
    let mutex = json!({ "apiVersion": "konductor.io/v1", "kind": "Mutex", "spec": { "ttl": "60s" },
        "metadata": { "name": "db", "namespace": "ns", "uid": "db", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1" } });
    serde_json::from_value::<Mutex>(mutex).unwrap().into()
}

fn barrier() -> Object {
    let barrier = json!({ "apiVersion": "konductor.io/v1", "kind": "Barrier", "spec": { "expected": 2 },
        "metadata": { "name": "x", "namespace": "ns", "uid": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1" } });
    serde_json::from_value::<Barrier>(barrier).unwrap().into()
}

/// The picture, and one primitive in it.
struct Scene {
    state: State,
    object: Object,
    time: Timestamp,
}

impl Scene {
    fn of(object: Object, claims: &[ClaimFacts]) -> Self {
        let mut scene = Self { state: State::default(), object: object.clone(), time: start() };
        scene.state.put_object(object);
        claims.iter().for_each(|claim| scene.state.put_claim(claim.clone()));
        scene
    }

    /// One turn: what was gathered and decided; the object is as it was written.
    fn turn(&mut self) -> (Gathered, Decision) {
        let gathered = self.look();
        let mut decision = rules::decide(&self.object.primitive(), &gathered.facts, self.time);
        give_up(&mut decision, &gathered, self.time);
        expiring(&mut decision, &gathered, &self.object, self.time);
        self.object = self.object.with(NextStatus::from(&decision), self.time);
        (gathered, decision)
    }

    fn look(&mut self) -> Gathered {
        gather(&mut self.state, &self.object.key(), Some(&self.object), At { now: Instant::now(), time: self.time })
    }

    async fn pass(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.time = self.time.checked_add(time).unwrap();
    }

    fn answer(&self, claim: &ClaimFacts, decision: &Decision) -> Option<Answer> {
        Answers::of(&self.object.key(), Some(&self.object), decision).to(claim, None)
    }
}

/// A Claim that holds the Mutex, and was told so.
fn held() -> (Scene, ClaimFacts) {
    let mut scene = Scene::of(mutex(), &[waiting("a")]);
    let (_, decision) = scene.turn();
    let answer = scene.answer(&waiting("a"), &decision).unwrap();
    let told = serde_json::to_value(status(&waiting("a"), &answer, start())).unwrap();
    let told = claim("a", 2, json!({}), told);
    scene.state.put_claim(told.clone());
    (scene, told)
}

fn renewed(name: &str, revision: u32, renewals: i64, told: &ClaimFacts) -> ClaimFacts {
    claim(name, revision, json!({ "renewals": renewals }), serde_json::to_value(&told.claim.status).unwrap())
}

/// For which renewals the time has passed, of those holders that are to be looked at.
fn suspects(gathered: &Gathered) -> Vec<Option<i64>> {
    gathered
        .suspects
        .iter()
        .map(|suspect| if let Suspect::Claim { unrenewed, .. } = suspect { *unrenewed } else { panic!("{suspect:?}") })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_not_renewed_is_looked_at_when_its_ttl_is_over_and_not_before() {
    let (mut scene, told) = held();
    let gathered = scene.look();
    assert_eq!((suspects(&gathered), gathered.again), (vec![], Some(Instant::now() + TTL)));
    scene.pass(TTL - Duration::from_millis(1)).await;
    assert!(suspects(&scene.look()).is_empty());
    scene.pass(Duration::from_millis(1)).await;
    assert_eq!(suspects(&scene.look()), [Some(0)]);
    scene.state.put_claim(renewed("a", 3, 1, &told));
    let gathered = scene.look();
    assert_eq!((suspects(&gathered), gathered.again), (vec![], Some(Instant::now() + TTL)), "it was renewed after all");
    let expires_at = scene.time.checked_add(TTL).unwrap();
    assert_eq!(gathered.facts.evidence, [Evidence::Renewed { uid: "uid-a".into(), renewals: 1, expires_at }]);
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_a_pause_or_a_takeover_a_hold_has_its_whole_time_again() {
    let (mut scene, told) = held();
    for forget in [State::forget_renewals, State::forget_how_long] {
        scene.look();
        scene.pass(TTL).await;
        scene.state.dirty.clear();
        forget(&mut scene.state);
        assert!(scene.state.dirty.contains(&scene.object.key()), "it is counted from now on");
        assert!(suspects(&scene.look()).is_empty());
    }
    scene.pass(TTL).await;
    let mut successor = Scene::of(scene.object.clone(), &[told]);
    successor.time = scene.time;
    assert!(suspects(&successor.look()).is_empty(), "it has not seen for how long");
    successor.pass(TTL).await;
    assert_eq!(suspects(&successor.look()), [Some(0)]);
}

#[tokio::test(start_paused = true)]
async fn the_ttl_of_the_claim_goes_before_that_of_the_primitive() {
    let (spec, waiting) = (json!({ "ttl": "5s" }), Value::Null);
    let mut scene = Scene::of(mutex(), &[claim("a", 1, spec.clone(), waiting)]);
    scene.turn();
    let holder = &scene.object.holders()[0];
    assert_eq!(holder.expires_at.as_ref().unwrap().0, start().checked_add(Duration::from_secs(5)).unwrap());
    scene.state.put_claim(claim("a", 2, spec, json!({ "phase": "Granted", "token": holder.token })));
    assert_eq!(scene.look().again, Some(Instant::now() + Duration::from_secs(5)));
}

/// A leader may die between the grant and its telling: what nobody knows of cannot be renewed, and its holder counts from what it is told.
#[tokio::test(start_paused = true)]
async fn a_hold_has_its_whole_time_from_when_it_is_told() {
    let mut scene = Scene::of(mutex(), &[waiting("a")]);
    scene.turn();
    scene.pass(TTL * 2).await;
    assert!(suspects(&scene.look()).is_empty(), "it was not told yet");
    let (_, decision) = scene.turn();
    let expires_at = scene.time.checked_add(TTL).ok();
    let answer = Answers::of(&scene.object.key(), Some(&scene.object), &decision).to(&waiting("a"), expires_at).unwrap();
    let told = status(&waiting("a"), &answer, scene.time);
    assert_eq!(
        (told.granted_at.as_ref().unwrap().0, told.expires_at.as_ref().map(|end| end.0)),
        (scene.time, expires_at),
        "the SDK works out the ttl from these"
    );
    let told = claim("a", 2, json!({}), serde_json::to_value(told).unwrap());
    let after_a_jump = scene.time.checked_add(TTL * 2).unwrap();
    let again = status(&told, &Answer::Holds { token: 1, expires_at: after_a_jump.checked_add(TTL).ok() }, after_a_jump);
    assert_eq!(again.expires_at.map(|end| end.0), expires_at, "also when the API server's clock was set");
    scene.state.put_claim(told);
    assert!(suspects(&scene.look()).is_empty());
    scene.pass(TTL).await;
    assert_eq!(suspects(&scene.look()), [Some(0)]);
}

#[test]
fn a_hold_is_taken_for_what_a_live_look_shows_and_nothing_else() {
    let holder = |token| -> Holder {
        let holder =
            json!({ "uid": "uid-a", "kind": "Claim", "namespace": "ns", "name": "a", "token": token, "since": "2026-01-01T00:00:00Z" });
        serde_json::from_value(holder).unwrap()
    };
    let how = |live: Option<&ClaimFacts>| match prove(&holder(7), live).first() {
        Some(Evidence::ClaimOver { how, .. }) => Some(*how),
        _ => None,
    };
    let granted = |spec| claim("a", 3, spec, json!({ "phase": "Granted", "token": 7 }));
    assert_eq!(how(None), Some(ClaimEnd::Gone));
    assert_eq!(how(Some(&granted(json!({ "renewals": 4 })))), None, "however long ago");
    let expired = claim("a", 3, json!({}), json!({ "phase": "Expired", "token": 7 }));
    assert_eq!(how(Some(&expired)), Some(ClaimEnd::Expired), "told before it is taken");
    assert_eq!(how(Some(&waiting("a"))), None, "granted, but not told yet");
    assert_eq!(how(Some(&claim("a", 3, json!({}), json!({ "phase": "Granted", "token": 6 })))), Some(ClaimEnd::Released), "another hold");
    assert_eq!(how(Some(&claim("a", 3, json!({}), json!({ "phase": "Denied" })))), Some(ClaimEnd::Released));
    let mut deleting = granted(json!({}));
    deleting.claim.metadata.deletion_timestamp = deleting.claim.metadata.creation_timestamp.clone();
    assert_eq!(how(Some(&deleting)), Some(ClaimEnd::Released));
    let said = claim("a", 3, json!({ "kind": "Once", "succeeded": true }), json!({ "phase": "Granted", "token": 7 }));
    let outcome = Evidence::Outcome { uid: "uid-a".into(), succeeded: Some(true) };
    assert_eq!(prove(&holder(7), Some(&said)), [Evidence::ClaimOver { uid: "uid-a".into(), how: ClaimEnd::Released }, outcome]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_seen_any_more_is_looked_at() {
    let (mut scene, _) = held();
    scene.state.remove_claim("uid-a");
    assert_eq!(suspects(&scene.look()), [None]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_deleted_is_out_without_a_look() {
    let (mut scene, told) = held();
    scene.state.objects.insert(scene.object.key(), scene.object.clone());
    scene.state.deleted_claim(&told.key, "uid-other");
    assert!(scene.state.gone.is_empty(), "only of those that hold it is remembered");
    scene.state.deleted_claim(&told.key, "uid-a");
    let gathered = scene.look();
    assert!(gathered.suspects.is_empty());
    let over = Evidence::ClaimOver { uid: "uid-a".into(), how: ClaimEnd::Gone };
    assert_eq!(gathered.facts.evidence.first(), Some(&over));
    scene.turn();
    assert!(scene.object.holders().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_told_with_its_token_and_is_not_given_twice() {
    let (mut scene, told) = held();
    let status = told.claim.status.as_ref().unwrap();
    assert_eq!((status.phase, status.token, status.message.as_deref()), (ClaimPhase::Granted, Some(scene.object.holders()[0].token), None));
    let (gathered, decision) = scene.turn();
    assert!(gathered.facts.requests.is_empty() && decision.granted.is_empty(), "one that was told asks no more");
    assert!(matches!(scene.answer(&told, &decision), Some(Answer::Holds { .. })));
    // Somebody took the holder away: it is never let in again with another token.
    let mut free = Scene::of(mutex(), std::slice::from_ref(&told));
    let (_, decision) = free.turn();
    assert!(free.object.holders().is_empty());
    assert_eq!(free.answer(&told, &decision), None, "it is looked up first");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_not_told_is_told_by_the_next_turn() {
    let mut scene = Scene::of(mutex(), &[waiting("a")]);
    let (_, first) = scene.turn();
    let (_, second) = scene.turn();
    assert!(first.granted[0].new && !second.granted[0].new);
    assert_eq!(scene.answer(&waiting("a"), &first), scene.answer(&waiting("a"), &second));
}

#[tokio::test(start_paused = true)]
async fn only_the_next_in_line_is_told_who_holds() {
    let mut scene = Scene::of(mutex(), &["a", "b", "c"].map(waiting));
    let (_, decision) = scene.turn();
    let text = |name: &str| match scene.answer(&waiting(name), &decision) {
        Some(Answer::Waits(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!((text("b"), text("c")), ("next in line for mutex/db, held by claim/a".into(), "in line for mutex/db".into()));
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_holds_is_taken_from_it_in_words() {
    let (mut scene, told) = held();
    let primitive = scene.object.primitive();
    let mut ends = |how| {
        let facts = rules::Facts { evidence: vec![Evidence::ClaimOver { uid: "uid-a".into(), how }], ..Default::default() };
        let decision = rules::decide(&primitive, &facts, start());
        scene.object = scene.object.with(NextStatus::from(&decision), start());
        scene.answer(&told, &decision).unwrap()
    };
    let expired = ends(ClaimEnd::Expired);
    assert_eq!(expired, Answer::Expired("mutex/db was taken from it: it was not renewed for longer than its ttl".into()));
    let status = status(&told, &expired, start());
    assert_eq!((status.phase, status.token), (ClaimPhase::Expired, told.token()));
    assert_eq!((status.conditions[0].status.as_str(), status.conditions[0].reason.as_str()), ("False", "Expired"));
}

#[tokio::test(start_paused = true)]
async fn a_step_by_hand_waits_no_longer_than_it_says() {
    let arrive = |name: &str, timeout: Option<&str>| {
        claim(name, 1, json!({ "kind": "Barrier", "name": "x", "operation": "Arrive", "timeout": timeout }), Value::Null)
    };
    let claims = [arrive("now", Some("0s")), arrive("soon", Some("1m")), arrive("later", Some("2m")), arrive("patient", None)];
    let mut scene = Scene::of(barrier(), &claims);
    let gathered = scene.look();
    let mut decision = rules::decide(&Primitive::missing("ns"), &gathered.facts, scene.time);
    give_up(&mut decision, &gathered, scene.time);
    let refused: Vec<_> = decision.refused.iter().map(|refusal| (refusal.asker.as_str(), refusal.why)).collect();
    assert_eq!(refused, [("uid-now", Refused::NotFree), ("uid-soon", Refused::TimedOut)]);
    assert_eq!(decision.again_at, Some("2026-01-01T00:02:00Z".parse().unwrap()));
    let missing = |claim: &ClaimFacts| Answers::of(&scene.object.key(), None, &decision).to(claim, None);
    assert_eq!(missing(&claims[3]), Some(Answer::Waits("waiting for barrier/x, which does not exist yet".into())));
    let text = "barrier/x does not exist, and this one does not wait".to_owned();
    assert_eq!(missing(&claims[0]), Some(Answer::Denied { reason: "NotFree", text }));
}

#[test]
fn participants_are_told_apart_by_their_holder_and_holders_by_their_claim() {
    let arrive = claim("x-1", 1, json!({ "kind": "Barrier", "name": "x", "operation": "Arrive", "holder": "ann" }), Value::Null);
    assert_eq!((arrive.participant().who.name.as_str(), arrive.who.name.as_str()), ("ann", "x-1"));
    let close = claim("x-2", 1, json!({ "kind": "Gate", "name": "x", "operation": "Close" }), Value::Null);
    assert_eq!(close.adjustment().unwrap().by, "claim/x-2");
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_is_remembered_until_its_claim_is_over() {
    let open = |status| claim("open", 2, json!({ "kind": "Gate", "name": "x", "operation": "Open" }), status);
    let gate = json!({ "apiVersion": "konductor.io/v1", "kind": "Gate", "spec": {}, "status": { "applied": ["uid-open", "uid-other"] },
        "metadata": { "name": "x", "namespace": "ns", "uid": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1" } });
    let gate = || Object::from(serde_json::from_value::<crate::api::Gate>(gate.clone()).unwrap());
    let gathered = Scene::of(gate(), &[open(Value::Null)]).look();
    assert_eq!((gathered.facts.evidence.len(), gathered.unknown_claims), (0, vec!["uid-other".to_owned()]));
    let gathered = Scene::of(gate(), &[open(json!({ "phase": "Granted" }))]).look();
    assert_eq!(gathered.facts.evidence, [Evidence::ClaimOver { uid: "uid-open".into(), how: ClaimEnd::Released }]);
}

#[test]
fn what_is_not_done_is_denied_in_words() {
    let done = claim("done", 1, json!({ "kind": "WaitGroup", "name": "wg", "operation": "Done" }), Value::Null);
    let settled = |how| Decision { settled: vec![rules::Settled { uid: "uid-done".into(), how }], ..Decision::default() };
    let told = |how| Answers::of(&done.key, None, &settled(how)).to(&done, None);
    assert_eq!(told(Settlement::Counted), Some(Answer::Done));
    let Some(Answer::Denied { reason: "Denied", text }) = told(Settlement::BelowZero) else { panic!() };
    assert!(text.contains("waitgroup/wg would fall below zero"), "{text}");
}

/// The leader that counted it was lost before it could say so.
#[test]
fn who_has_executed_is_told_so_by_the_next_leader() {
    let once = |executed_by: &str| -> Object {
        let by = json!({ "uid": format!("uid-{executed_by}"), "kind": "Claim", "namespace": "ns", "name": executed_by });
        let once = json!({ "apiVersion": "konductor.io/v1", "kind": "Once", "spec": {},
            "metadata": { "name": "db", "namespace": "ns", "uid": "db", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "9" },
            "status": { "executed": true, "executedAt": "2026-01-01T00:00:30Z", "executedBy": by } });
        serde_json::from_value::<Once>(once).unwrap().into()
    };
    let granted = json!({ "phase": "Granted", "token": 7, "grantedAt": "2026-01-01T00:00:20Z" });
    let told = |executed_by: &str, succeeded: Value| {
        let claim = claim("a", 3, json!({ "kind": "Once", "succeeded": succeeded }), granted.clone());
        holds_no_more(&claim.key, Some(&once(executed_by)), &claim)
    };
    assert_eq!(told("a", json!(true)), Answer::Released("has executed once/db".into()));
    assert_eq!(told("b", json!(false)), Answer::Released("failed to execute once/db: the turn passes to the next".into()));
    assert_eq!(told("b", json!(true)), Answer::Expired("no longer holds once/db".into()));
    assert_eq!(told("b", Value::Null), Answer::Expired("no longer holds once/db".into()));
}
