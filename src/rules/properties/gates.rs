//! Gate: opens when all its conditions are met, or by hand; what was met by an object that is gone stays met.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::api::{GateState, GateType};

#[derive(Clone, Debug)]
enum Happening {
    /// The Job of this number is there, in a life of its own; or not.
    Job {
        which: usize,
        life: Option<u8>,
        complete: bool,
    },
    Mutex {
        held: bool,
    },
    By {
        claim: usize,
        step: Step,
    },
    Waits {
        which: usize,
        patience: u8,
    },
    Decide {
        seconds: i64,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let steps = prop_oneof![Just(Step::Open), Just(Step::Close), Just(Step::Reset), Just(Step::Add(1))];
    prop_oneof![
        5 => (0usize..2, prop::option::of(0u8..2), any::<bool>())
            .prop_map(|(which, life, complete)| Happening::Job { which, life, complete }),
        2 => any::<bool>().prop_map(|held| Happening::Mutex { held }),
        1 => (0usize..9, steps).prop_map(|(claim, step)| Happening::By { claim, step }),
        2 => (0usize..3, 0u8..6).prop_map(|(which, patience)| Happening::Waits { which, patience }),
        6 => (0i64..3).prop_map(|seconds| Happening::Decide { seconds }),
    ]
}

fn condition(on: GateType, name: &str, state: GateState) -> Condition {
    Condition { on, namespace: "ns".into(), name: name.into(), state: Some(state), value: None }
}

fn observed(on: GateType, name: &str, uid: &str, seen: Seen) -> Observed {
    Observed { on, namespace: "ns".into(), name: name.into(), sight: Sight::There { uid: uid.into(), seen } }
}

fn job(complete: bool) -> Seen {
    Seen::Job { complete, failed: false, active: i64::from(!complete), succeeded: 0 }
}

fn held(held: i64) -> Seen {
    Seen::Grants { held, free: 1 - held }
}

fn gate(conditions: Vec<Condition>, timeout: Option<u64>) -> Primitive {
    primitive(0, Record::Gate(Gate { conditions, timeout: timeout.map(Duration::from_secs), ..Gate::default() }))
}

fn record(primitive: &Primitive) -> &Gate {
    match &primitive.record {
        Record::Gate(gate) => gate,
        other => panic!("{other:?}"),
    }
}

struct World {
    primitive: Primitive,
    facts: Facts,
    now: i64,
}

impl World {
    fn see(&mut self, name: &str, sight: Option<Observed>) {
        self.facts.conditions.retain(|seen| seen.name != name);
        self.facts.conditions.extend(sight);
    }

    fn happen(&mut self, happening: &Happening) {
        match happening.clone() {
            Happening::Job { which, life, complete } => {
                let name = format!("job-{which}");
                let uid = life.map(|life| format!("{name}-{life}"));
                // What is complete stays so.
                let was = |uid: &str| self.facts.conditions.contains(&observed(GateType::Job, &name, uid, job(true)));
                let seen = uid.map(|uid| observed(GateType::Job, &name, &uid, job(complete || was(&uid))));
                self.see(&name, seen);
            }
            Happening::Mutex { held: is } => self.see("m", Some(observed(GateType::Mutex, "m", "m", held(i64::from(is))))),
            Happening::By { claim, step: what } => {
                let uid = format!("claim-{claim}");
                if !self.facts.steps.iter().any(|known| known.uid == uid) {
                    self.facts.steps.push(step(&uid, self.now, what));
                }
            }
            Happening::Waits { which, patience } => {
                let asker = format!("w{which}");
                self.facts.waiters.retain(|waiter| waiter.asker != asker);
                self.facts.waiters.push(waiter(&asker, patience));
            }
            Happening::Decide { seconds } => {
                self.now += seconds;
                self.decide();
            }
        }
    }

    fn decide(&mut self) {
        let decision = decided(&self.primitive, &self.facts, at(self.now));
        let next = after(&self.primitive, &decision);
        let (before, gate) = (record(&self.primitive), record(&next));
        let same_round = decision.round.number == self.primitive.round.number;
        if gate.state == Latch::Open && !(same_round && before.state == Latch::Open) {
            let by_hand = gate.by_hand.as_ref().is_some_and(|hand| hand.open);
            assert!(by_hand || gate.standings.iter().all(|standing| standing.met), "{gate:?}");
        }
        if gate.by_hand.as_ref().is_some_and(|hand| !hand.open) {
            assert_eq!(gate.state, Latch::Shut, "closed by hand");
        }
        if same_round && before.state == Latch::Shut {
            for ((condition, was), is) in gate.conditions.iter().zip(&before.standings).zip(&gate.standings) {
                let there = self.facts.conditions.iter().any(|object| object.name == condition.name);
                assert!(there || !was.met || !condition.stays() || is.met, "met by what is gone: {was:?} became {is:?}");
            }
        }
        if !decision.changed {
            assert_eq!((before.state, &before.by_hand), (gate.state, &gate.by_hand));
        }
        for passed in &decision.passed {
            assert!(gate.state == Latch::Open || passed.how == Pass::Proceeded);
        }
        let waits = |asker: &str| decision.queue.iter().any(|queued| queued.asker == asker);
        self.facts.waiters.retain(|waiter| waits(&waiter.asker));
        self.primitive = next;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_gate_opens_for_a_reason_and_stays_open(timeout in prop::option::of(1u64..20), happenings in prop::collection::vec(happening(), 1..60)) {
        let conditions = vec![
            condition(GateType::Job, "job-0", GateState::Complete),
            condition(GateType::Job, "job-1", GateState::Complete),
            condition(GateType::Mutex, "m", GateState::Unlocked),
        ];
        let mut world = World { primitive: gate(conditions, timeout), facts: Facts::default(), now: 0 };
        for happening in &happenings {
            world.happen(happening);
        }
    }
}

fn on_two_jobs() -> Primitive {
    gate(vec![condition(GateType::Job, "a", GateState::Complete), condition(GateType::Job, "b", GateState::Complete)], None)
}

#[test]
fn a_condition_met_by_a_job_that_is_collected_stays_met_and_a_new_job_counts_anew() {
    let sees = |objects: &[Observed]| Facts { conditions: objects.to_vec(), ..Facts::default() };
    let met = decided(&on_two_jobs(), &sees(&[observed(GateType::Job, "a", "a1", job(true))]), at(5));
    assert!(met.changed, "it must be written before the Job is collected");
    let met = after(&on_two_jobs(), &met);
    let collected = decided(&met, &sees(&[observed(GateType::Job, "b", "b1", job(true))]), at(6));
    assert_eq!(record(&after(&met, &collected)).state, Latch::Open);
    let again = [observed(GateType::Job, "a", "a2", job(false)), observed(GateType::Job, "b", "b1", job(true))];
    let anew = after(&met, &decided(&met, &sees(&again), at(6)));
    assert_eq!((record(&anew).state, record(&anew).standings[0].met), (Latch::Shut, false));
    let open = after(&met, &collected);
    assert_eq!(record(&after(&open, &decided(&open, &sees(&again), at(7)))).state, Latch::Open, "open stays open");
}

/// A new leader, or one whose watch lags, may look at a Job as it was before it finished.
#[test]
fn an_older_picture_of_a_finished_job_takes_nothing_back() {
    let sees = |complete| Facts { conditions: vec![observed(GateType::Job, "a", "a1", job(complete))], ..Facts::default() };
    let met = after(&on_two_jobs(), &decided(&on_two_jobs(), &sees(true), at(5)));
    let older = decided(&met, &sees(false), at(6));
    assert!(record(&after(&met, &older)).standings[0].met);
}

#[test]
fn what_an_object_can_leave_again_is_shown_but_not_worth_a_write() {
    let gate = gate(vec![condition(GateType::Mutex, "m", GateState::Unlocked), condition(GateType::Job, "a", GateState::Complete)], None);
    let facts = Facts { conditions: vec![observed(GateType::Mutex, "m", "m", held(0))], ..Facts::default() };
    let free = decided(&gate, &facts, at(5));
    assert_eq!((free.changed, free.drifted), (false, true));
    let gone = decided(&after(&gate, &free), &Facts::default(), at(6));
    assert!(!record(&after(&gate, &gone)).standings[0].met);
}

#[test]
fn without_conditions_it_opens_by_hand_alone() {
    let by = |uid: &str, second, what| Facts { steps: vec![step(uid, second, what)], ..Facts::default() };
    let gate = gate(vec![], None);
    assert_eq!(record(&after(&gate, &decided(&gate, &Facts::default(), at(5)))).state, Latch::Shut);
    let open = after(&gate, &decided(&gate, &by("1", 5, Step::Open), at(6)));
    assert_eq!((record(&open).state, open.round.number), (Latch::Open, 0));
    let closed = after(&open, &decided(&open, &by("2", 7, Step::Close), at(8)));
    assert_eq!((record(&closed).state, closed.round.number), (Latch::Shut, 1), "visibly a new round");
    assert!(!record(&closed).by_hand.as_ref().unwrap().open);
}

#[test]
fn closed_by_hand_it_neither_opens_nor_fails_until_it_is_reset() {
    let gate = gate(vec![condition(GateType::Job, "a", GateState::Complete)], Some(10));
    let close = Facts { steps: vec![step("1", 1, Step::Close)], ..Facts::default() };
    let closed = after(&gate, &decided(&gate, &close, at(2)));
    let met = Facts { conditions: vec![observed(GateType::Job, "a", "a1", job(true))], ..Facts::default() };
    let later = after(&closed, &decided(&closed, &met, at(60)));
    assert_eq!(record(&later).state, Latch::Shut);
    let reset = Facts { steps: vec![step("2", 61, Step::Reset)], ..met };
    assert_eq!(record(&after(&later, &decided(&later, &reset, at(62)))).state, Latch::Open);
}

#[test]
fn a_gate_fails_at_its_timeout_and_can_still_be_opened_by_hand() {
    let gate = gate(vec![condition(GateType::Job, "a", GateState::Complete)], Some(10));
    let facts = Facts { waiters: vec![waiter("w", 2)], ..Facts::default() };
    let failed = decided(&gate, &facts, at(10));
    assert_eq!(failed.refused[0].why, Refused::Failed);
    let failed = after(&gate, &failed);
    let open = decided(&failed, &Facts { steps: vec![step("1", 11, Step::Open)], ..facts }, at(12));
    assert_eq!((passed(&open), open.round.number), (vec!["w"], 1));
}
