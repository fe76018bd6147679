//! RWMutex: many readers or one writer.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const PARTICIPANTS: usize = 6;

#[derive(Clone, Debug)]
enum Happening {
    Ask { participant: usize, writes: bool, patience: u8, away: bool },
    Ends(usize),
    Decide { seconds: i64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..PARTICIPANTS, any::<bool>(), 0u8..6, prop::bool::weighted(0.1))
            .prop_map(|(participant, writes, patience, away)| Happening::Ask { participant, writes, patience, away }),
        3 => (0..PARTICIPANTS).prop_map(Happening::Ends),
        5 => (0i64..3).prop_map(|seconds| Happening::Decide { seconds }),
    ]
}

/// Half of the participants are Pods, half are Claims. Each has one life.
fn name(participant: usize) -> Who {
    let kind = if participant.is_multiple_of(2) { HolderKind::Pod } else { HolderKind::Claim };
    who(kind, &format!("p{participant}"))
}

fn wants(participant: usize, mode: Mode) -> Request {
    Request { mode: Some(mode), ..request(name(participant), i64::try_from(participant / 2).unwrap()) }
}

struct World {
    primitive: Primitive,
    asking: BTreeMap<usize, Request>,
    gone: BTreeSet<String>,
    facts: Vec<Evidence>,
    now: i64,
}

impl World {
    fn new() -> Self {
        let primitive = primitive(WHOLE, Record::Grants);
        Self { primitive, asking: BTreeMap::new(), gone: BTreeSet::new(), facts: vec![], now: 0 }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Ask { participant, writes, patience, away } => {
                if self.gone.contains(&name(participant).uid) {
                    return;
                }
                let mut request = wants(participant, if writes { Mode::Write } else { Mode::Read });
                request.patience = patience_of(patience);
                request.presence = if away { Presence::Away } else { Presence::Here };
                self.asking.insert(participant, request);
            }
            Happening::Ends(participant) => {
                let uid = name(participant).uid;
                self.asking.remove(&participant);
                if self.gone.insert(uid.clone()) {
                    self.facts.push(match name(participant).kind {
                        HolderKind::Claim => Evidence::ClaimOver { uid, how: ClaimEnd::Expired },
                        HolderKind::Pod | HolderKind::Job => ended(&uid),
                    });
                }
            }
            Happening::Decide { seconds } => {
                self.now += seconds;
                self.decide();
            }
        }
    }

    fn decide(&mut self) {
        let facts = Facts { requests: self.asking.values().cloned().collect(), evidence: self.facts.clone(), ..Facts::default() };
        let decision = decided(&self.primitive, &facts, at(self.now));

        let writers = decision.holders.iter().filter(|holder| holder.mode == Some(Mode::Write)).count();
        assert!(writers == 0 || decision.holders.len() == 1, "a writer is alone: {:?}", decision.holders);
        for holder in &self.primitive.holders {
            assert_eq!(decision.holders.iter().all(|kept| kept.uid != holder.uid), self.gone.contains(&holder.uid), "{holder:?}");
        }
        let in_line = |request: &&Request| decision.queue.iter().any(|queued| queued.asker == request.asker() && queued.why == Why::InLine);
        let held_before = |uid: &String| self.primitive.holders.iter().any(|holder| holder.uid == *uid);
        for waiting in facts.requests.iter().filter(in_line) {
            for reader in
                facts.requests.iter().filter(|request| granted(&decision).contains(&request.asker()) && !held_before(&request.who.uid))
            {
                let rank = |request: &Request| (request.created, request.who.uid.clone());
                assert!(rank(reader) < rank(waiting), "a waiting writer stops new readers: {reader:?} passed {waiting:?}");
            }
        }
        for refusal in decision.refused.iter().filter(|refusal| refusal.why == Refused::Upgrade) {
            assert!(decision.holders.iter().any(|holder| holder.uid == refusal.asker && holder.mode == Some(Mode::Read)));
        }
        let answered = |request: &Request| !decision.queue.iter().any(|queued| queued.asker == request.asker());
        self.asking.retain(|_, request| !answered(request));
        self.primitive = after(&self.primitive, &decision);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn readers_and_writers_never_meet(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut world = World::new();
        for happening in &happenings {
            world.happen(happening);
        }
    }

    #[test]
    fn everybody_reads_or_writes_in_the_end(modes in prop::collection::vec(any::<bool>(), PARTICIPANTS)) {
        let mut world = World::new();
        world.now = 2;
        for (participant, writes) in modes.into_iter().enumerate() {
            world.happen(&Happening::Ask { participant, writes, patience: 2, away: false });
        }
        for _ in 0..PARTICIPANTS {
            world.decide();
            for participant in 0..PARTICIPANTS {
                if !world.asking.contains_key(&participant) {
                    world.happen(&Happening::Ends(participant));
                }
            }
        }
        world.decide();
        prop_assert!(world.asking.is_empty() && world.primitive.holders.is_empty());
    }
}

#[test]
fn a_waiting_writer_stops_new_readers() {
    let mutex = primitive(WHOLE, Record::Grants);
    let mut facts = Facts { requests: vec![wants(4, Mode::Read)], ..Facts::default() };
    let first = decided(&mutex, &facts, at(9));
    assert_eq!(granted(&first), ["p4"]);
    facts.requests = vec![wants(2, Mode::Write), wants(0, Mode::Read)];
    let second = decided(&after(&mutex, &first), &facts, at(9));
    assert!(granted(&second).is_empty(), "the younger reader stands behind the writer");
    facts.evidence = vec![ended("p4")];
    assert_eq!(granted(&decided(&after(&mutex, &first), &facts, at(9))), ["p2"]);
}

#[test]
fn an_upgrade_is_refused_and_a_writer_may_read() {
    let mutex = primitive(WHOLE, Record::Grants);
    let holding = |mode| {
        let facts = Facts { requests: vec![wants(0, mode)], ..Facts::default() };
        after(&mutex, &decided(&mutex, &facts, at(9)))
    };
    let upgrade = Facts { requests: vec![wants(0, Mode::Write)], ..Facts::default() };
    assert_eq!(decided(&holding(Mode::Read), &upgrade, at(9)).refused, [Refusal { asker: "p0".into(), why: Refused::Upgrade }]);
    let downgrade = Facts { requests: vec![wants(0, Mode::Read)], ..Facts::default() };
    assert_eq!(granted(&decided(&holding(Mode::Write), &downgrade, at(9))), ["p0"]);
}

#[test]
fn renewals_are_noted_and_expiry_needs_its_own_evidence() {
    let lease = primitive(1, Record::Grants);
    let claim = |uid: &str| request(who(HolderKind::Claim, uid), 0);
    let held = after(&lease, &decided(&lease, &Facts { requests: vec![claim("a")], ..Facts::default() }, at(9)));
    let renewed = |renewals, second| Evidence::Renewed { uid: "a".into(), renewals, expires_at: at(second) };
    let facts = Facts { requests: vec![claim("b")], evidence: vec![renewed(2, 20), renewed(1, 15)], ..Facts::default() };
    let late = decided(&held, &facts, at(1000));
    assert_eq!((late.changed, late.drifted), (false, true), "a renewal alone is not worth a write");
    assert_eq!((late.holders[0].renewals, late.holders[0].expires_at.as_ref().unwrap().0), (2, at(20)));
    assert_eq!(late.queue, [Queued { asker: "b".into(), why: Why::InLine }]);
    let expired = Evidence::ClaimOver { uid: "a".into(), how: ClaimEnd::Expired };
    let next = decided(&held, &Facts { evidence: vec![expired], ..facts }, at(1000));
    assert!(next.released[0].lost && next.granted[0].asker == "b");
}
