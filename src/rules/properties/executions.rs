//! Once: one executes at a time, until one has succeeded.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const PARTICIPANTS: usize = 5;

#[derive(Clone, Debug)]
enum Happening {
    Ask {
        participant: usize,
        patience: u8,
        away: bool,
    },
    /// How it came out becomes known, perhaps before its end, perhaps never.
    Outcome(usize, Option<bool>),
    Ends(usize),
    Reset,
    Decide {
        seconds: i64,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..PARTICIPANTS, 0u8..6, prop::bool::weighted(0.1))
            .prop_map(|(participant, patience, away)| Happening::Ask { participant, patience, away }),
        3 => (0..PARTICIPANTS, prop_oneof![Just(None), Just(Some(false)), Just(Some(false)), Just(Some(true))])
            .prop_map(|(participant, outcome)| Happening::Outcome(participant, outcome)),
        3 => (0..PARTICIPANTS).prop_map(Happening::Ends),
        1 => Just(Happening::Reset),
        6 => (0i64..3).prop_map(|seconds| Happening::Decide { seconds }),
    ]
}

struct World {
    primitive: Primitive,
    asking: BTreeMap<usize, Request>,
    facts: Facts,
    /// How many lives each participant has had.
    lives: [u32; PARTICIPANTS],
    outcomes: BTreeMap<String, Option<bool>>,
    gone: BTreeSet<String>,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self {
            primitive: primitive(1, Record::Once(Once::default())),
            asking: BTreeMap::new(),
            facts: Facts::default(),
            lives: [0; PARTICIPANTS],
            outcomes: BTreeMap::new(),
            gone: BTreeSet::new(),
            now: 0,
        }
    }

    fn uid(&self, participant: usize) -> String {
        format!("p{participant}-{}", self.lives[participant])
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Ask { participant, patience, away } => {
                let mut request = request(who(HolderKind::Pod, &self.uid(participant)), 0);
                request.patience = patience_of(patience);
                request.presence = if away { Presence::Away } else { Presence::Here };
                self.asking.insert(participant, request);
            }
            Happening::Outcome(participant, succeeded) => {
                let uid = self.uid(participant);
                let runs = self.primitive.holders.iter().any(|holder| holder.uid == uid);
                if runs && !self.outcomes.contains_key(&uid) {
                    self.outcomes.insert(uid.clone(), succeeded);
                    self.facts.evidence.push(Evidence::Outcome { uid, succeeded });
                }
            }
            Happening::Ends(participant) => {
                let uid = self.uid(participant);
                self.asking.remove(&participant);
                self.gone.insert(uid.clone());
                self.facts.evidence.push(ended(&uid));
                self.lives[participant] += 1;
            }
            Happening::Reset => {
                let uid = format!("reset-{}", self.facts.steps.len());
                self.facts.steps.push(step(&uid, self.now, Step::Reset));
            }
            Happening::Decide { seconds } => {
                self.now += seconds;
                self.decide();
            }
        }
    }

    fn decide(&mut self) {
        self.facts.requests = self.asking.values().cloned().collect();
        let decision = decided(&self.primitive, &self.facts, at(self.now));
        let (Record::Once(before), Record::Once(once)) = (&self.primitive.record, &decision.record) else { panic!("{decision:?}") };
        assert!(decision.holders.len() <= 1, "one executes: {:?}", decision.holders);
        assert!(once.executed.is_none() || decision.holders.is_empty(), "nobody executes what is executed");
        assert!(once.executed.is_some() || decision.skipped.is_empty(), "nobody is skipped for nothing");
        if let (None, Some(executed)) = (&before.executed, &once.executed) {
            assert_eq!(self.outcomes.get(&executed.by.uid), Some(&Some(true)));
            assert!(self.gone.contains(&executed.by.uid));
        }
        for release in &decision.released {
            assert!(self.gone.contains(&release.holder.uid));
            assert_eq!(release.outcome, self.outcomes.get(&release.holder.uid).copied().flatten());
        }
        let queued = |request: &Request| decision.queue.iter().any(|queued| queued.asker == request.asker());
        self.asking.retain(|_, request| queued(request));
        self.primitive = after(&self.primitive, &decision);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn one_executes_until_one_has_succeeded(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut world = World::new();
        for happening in &happenings {
            world.happen(happening);
        }
    }

    /// Whatever the first ones' fate, everybody either gets a turn or is skipped because another one succeeded.
    #[test]
    fn the_turn_passes_until_a_success(outcomes in prop::collection::vec(prop::option::of(any::<bool>()), PARTICIPANTS)) {
        let mut world = World::new();
        world.now = 2;
        for participant in 0..PARTICIPANTS {
            world.happen(&Happening::Ask { participant, patience: 2, away: false });
        }
        for _ in 0..=PARTICIPANTS {
            world.decide();
            for (participant, outcome) in outcomes.iter().enumerate() {
                if !world.asking.contains_key(&participant) {
                    world.happen(&Happening::Outcome(participant, *outcome));
                    world.happen(&Happening::Ends(participant));
                }
            }
        }
        world.decide();
        prop_assert!(world.asking.is_empty() && world.primitive.holders.is_empty());
        let Record::Once(once) = &world.primitive.record else { panic!() };
        prop_assert_eq!(once.executed.is_some(), outcomes.contains(&Some(true)));
    }
}

fn asks(uids: &[&str]) -> Facts {
    Facts { requests: uids.iter().map(|uid| request(who(HolderKind::Pod, uid), 0)).collect(), ..Facts::default() }
}

fn ends(uid: &str, succeeded: Option<bool>) -> Vec<Evidence> {
    vec![ended(uid), Evidence::Outcome { uid: uid.into(), succeeded }]
}

#[test]
fn a_success_skips_all_others_and_a_failure_passes_the_turn() {
    let once = primitive(1, Record::Once(Once::default()));
    let running = after(&once, &decided(&once, &asks(&["a", "b"]), at(9)));
    let failed = decided(&running, &Facts { evidence: ends("a", Some(false)), ..asks(&["b"]) }, at(10));
    assert_eq!((granted(&failed), failed.released[0].outcome), (vec!["b"], Some(false)));
    let unknown = decided(&running, &Facts { evidence: vec![ended("a")], ..asks(&["b"]) }, at(10));
    assert_eq!((granted(&unknown), unknown.released[0].outcome), (vec!["b"], None));
    let succeeded = decided(&running, &Facts { evidence: ends("a", Some(true)), ..asks(&["b"]) }, at(10));
    assert!(granted(&succeeded).is_empty() && succeeded.skipped == ["b"]);
}

#[test]
fn those_who_wait_for_the_execution_pass_when_it_succeeded() {
    let once = primitive(1, Record::Once(Once::default()));
    let facts = Facts { waiters: vec![waiter("w", 2)], ..asks(&["a"]) };
    let running = decided(&once, &facts, at(9));
    assert!(passed(&running).is_empty());
    let facts = Facts { requests: vec![], evidence: ends("a", Some(true)), ..facts };
    assert_eq!(passed(&decided(&after(&once, &running), &facts, at(10))), ["w"]);
}

#[test]
fn a_success_of_an_earlier_round_does_not_execute_the_next() {
    let once = primitive(1, Record::Once(Once::default()));
    let running = after(&once, &decided(&once, &asks(&["a"]), at(9)));
    let reset = decided(&running, &Facts { steps: vec![step("r", 11, Step::Reset)], ..Facts::default() }, at(12));
    assert_eq!((reset.round.number, reset.holders.len()), (1, 1));
    let ended = decided(&after(&once, &reset), &Facts { evidence: ends("a", Some(true)), ..asks(&["b"]) }, at(13));
    assert_eq!(granted(&ended), ["b"]);
}
