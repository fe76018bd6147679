//! Barrier and WaitGroup: each participant counts once, and what is finished stays so.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;

const PARTICIPANTS: usize = 6;

#[derive(Clone, Debug)]
enum Happening {
    /// Of a Barrier: it arrives (perhaps again). Of a WaitGroup: it joins.
    Comes(usize),
    /// Its evidence is not shown any more: its Job was cleaned up.
    Forgotten(usize),
    Ends(usize),
    By {
        claim: usize,
        step: Step,
    },
    ClaimOver(usize),
    Waits {
        participant: usize,
        patience: u8,
    },
    Quorum(i32),
    Decide {
        seconds: i64,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let steps = prop_oneof![5 => (-2i64..3).prop_map(Step::Add), 1 => Just(Step::Reset), 1 => Just(Step::Open)];
    prop_oneof![
        4 => (0..PARTICIPANTS).prop_map(Happening::Comes),
        1 => (0..PARTICIPANTS).prop_map(Happening::Forgotten),
        3 => (0..PARTICIPANTS).prop_map(Happening::Ends),
        2 => (0..20usize, steps).prop_map(|(claim, step)| Happening::By { claim, step }),
        1 => (0..20usize).prop_map(Happening::ClaimOver),
        2 => (0..PARTICIPANTS, 0u8..6).prop_map(|(participant, patience)| Happening::Waits { participant, patience }),
        1 => (1i32..5).prop_map(Happening::Quorum),
        6 => (0i64..3).prop_map(|seconds| Happening::Decide { seconds }),
    ]
}

struct World {
    primitive: Primitive,
    facts: Facts,
    now: i64,
    /// UIDs of steps that were ever counted.
    applied: BTreeSet<String>,
    /// What the counter of a WaitGroup must be, told from the happenings alone.
    added: i64,
    joined: BTreeSet<String>,
}

impl World {
    fn new(record: Record) -> Self {
        let primitive = primitive(0, record);
        Self { primitive, facts: Facts::default(), now: 0, applied: BTreeSet::new(), added: 0, joined: BTreeSet::new() }
    }

    fn happen(&mut self, happening: &Happening) {
        match happening.clone() {
            Happening::Comes(participant) => {
                let uid = format!("p{participant}");
                let who = who(HolderKind::Job, &uid);
                self.facts.arrivals.push(Participant { who: who.clone(), at: at(self.now) });
                let over = self.facts.evidence.contains(&Evidence::JobOver { uid });
                if !over && !self.facts.requests.iter().any(|known| *known.who == who) {
                    let pod = PodRef { uid: format!("pod-{participant}"), name: String::new() };
                    self.facts.requests.push(Request { pod: Some(pod), ..request(who, 0) });
                }
            }
            Happening::Forgotten(participant) => {
                self.facts.arrivals.retain(|arrival| arrival.who.uid != format!("p{participant}"));
            }
            Happening::Ends(participant) => {
                let uid = format!("p{participant}");
                self.facts.requests.retain(|request| request.who.uid != uid);
                self.facts.evidence.push(ended(&format!("pod-{participant}")));
                self.facts.evidence.push(Evidence::JobOver { uid });
            }
            Happening::By { claim, step: what } => {
                let uid = format!("claim-{claim}");
                let over = Evidence::ClaimOver { uid: uid.clone(), how: ClaimEnd::Released };
                if !self.facts.evidence.contains(&over) && !self.facts.steps.iter().any(|known| known.uid == uid) {
                    self.facts.steps.push(step(&uid, self.now, what));
                }
            }
            Happening::ClaimOver(claim) => {
                let uid = format!("claim-{claim}");
                self.facts.steps.retain(|step| step.uid != uid);
                self.facts.evidence.push(Evidence::ClaimOver { uid, how: ClaimEnd::Released });
            }
            Happening::Waits { participant, patience } => {
                let asker = format!("w{participant}");
                self.facts.waiters.retain(|waiter| waiter.asker != asker);
                self.facts.waiters.push(waiter(&asker, patience));
            }
            Happening::Quorum(quorum) => {
                if let Record::Barrier(barrier) = &mut self.primitive.record {
                    // Edited by a person; what has opened does not care.
                    if barrier.state == Latch::Shut {
                        barrier.quorum = quorum;
                    }
                }
            }
            Happening::Decide { seconds } => {
                self.now += seconds;
                self.decide();
            }
        }
    }

    fn decide(&mut self) {
        if !matches!(self.primitive.record, Record::WaitGroup(_)) {
            self.facts.requests.clear();
        }
        let decision = decided(&self.primitive, &self.facts, at(self.now));
        self.steps_count_once(&decision);
        match (&self.primitive.record, &decision.record) {
            (Record::Barrier(before), Record::Barrier(barrier)) => self.a_barrier_keeps_its_promise(before, barrier, &decision),
            (Record::WaitGroup(before), Record::WaitGroup(group)) => self.a_wait_group_keeps_its_promise(before, group, &decision),
            other => panic!("{other:?}"),
        }
        let waits = |asker: &str| decision.queue.iter().any(|queued| queued.asker == asker);
        self.facts.waiters.retain(|waiter| waits(&waiter.asker));
        self.primitive = after(&self.primitive, &decision);
        self.joined = self.primitive.holders.iter().map(|holder| holder.uid.clone()).collect();
    }

    fn steps_count_once(&mut self, decision: &Decision) {
        for uid in decision.round.applied.iter().filter(|uid| !self.primitive.round.applied.contains(uid)) {
            assert!(self.applied.insert(uid.clone()), "{uid} was applied twice");
            match self.facts.steps.iter().find(|step| step.uid == *uid).unwrap().step {
                Step::Add(delta) => self.added += delta,
                Step::Reset => self.added = 0,
                Step::Open | Step::Close => panic!("neither kind opens by hand"),
            }
        }
    }

    fn a_barrier_keeps_its_promise(&self, before: &Barrier, barrier: &Barrier, decision: &Decision) {
        let distinct: BTreeSet<_> = barrier.arrivals.iter().map(|arrival| &arrival.who.uid).collect();
        assert_eq!(distinct.len(), barrier.arrivals.len(), "a participant counts once");
        assert!(barrier.arrivals.iter().all(|arrival| before.arrivals.contains(arrival) || self.facts.arrivals.contains(arrival)));
        let enough = barrier.arrivals.len() >= usize::try_from(barrier.quorum).unwrap();
        let same_round = decision.round.number == self.primitive.round.number;
        match barrier.state {
            Latch::Open => assert!(enough || (same_round && before.state == Latch::Open)),
            Latch::Shut | Latch::Failed => assert!(!enough),
        }
        let overdue = barrier.deadline(&decision.round).is_some_and(|deadline| at(self.now) >= deadline);
        assert_eq!(barrier.state == Latch::Failed, overdue && !enough && barrier.state != Latch::Open);
        assert_eq!(barrier.state == Latch::Shut, barrier.since.is_none());
        for passed in &decision.passed {
            assert!(barrier.state == Latch::Open || passed.how == Pass::Proceeded);
        }
    }

    fn a_wait_group_keeps_its_promise(&self, before: &WaitGroup, group: &WaitGroup, decision: &Decision) {
        assert_eq!(group.added, self.added);
        let over = |uid: &String| self.facts.evidence.contains(&Evidence::JobOver { uid: uid.clone() });
        for uid in &self.joined {
            assert_eq!(!decision.holders.iter().any(|holder| holder.uid == *uid), over(uid), "a member is counted until its end is proven");
        }
        if before.done_at.is_none() && group.done_at.is_some() {
            assert!(decision.holders.is_empty() && group.added == 0);
        }
        assert!(decision.queue.iter().all(|queued| queued.why != Why::InLine), "there is room for all");
        for passed in &decision.passed {
            assert!(group.done_at.is_some() || passed.how == Pass::Proceeded);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_barrier_counts_participants(quorum in 1i32..5, timeout in prop::option::of(1u64..20), happenings in prop::collection::vec(happening(), 1..60)) {
        let timeout = timeout.map(Duration::from_secs);
        let mut world = World::new(Record::Barrier(Barrier { quorum, timeout, ..Barrier::default() }));
        for happening in &happenings {
            world.happen(happening);
        }
    }

    #[test]
    fn a_wait_group_counts_members(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut world = World::new(Record::WaitGroup(WaitGroup::default()));
        for happening in &happenings {
            world.happen(happening);
        }
    }
}

fn barrier(quorum: i32, timeout: Option<u64>) -> Primitive {
    primitive(0, Record::Barrier(Barrier { quorum, timeout: timeout.map(Duration::from_secs), ..Barrier::default() }))
}

fn arrival(uid: &str, second: i64) -> Participant {
    Participant { who: who(HolderKind::Job, uid), at: at(second) }
}

fn state(decision: &Decision) -> Latch {
    match &decision.record {
        Record::Barrier(barrier) => barrier.state,
        Record::Gate(gate) => gate.state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_barrier_opens_at_its_quorum_and_counts_nobody_twice() {
    let mut facts = Facts { arrivals: vec![arrival("a", 1), arrival("a", 2), arrival("a", 3)], ..Facts::default() };
    facts.waiters = vec![waiter("w", 2)];
    let first = decided(&barrier(2, None), &facts, at(9));
    assert_eq!((state(&first), settled(&first)), (Latch::Shut, vec![Settlement::Counted; 3]));
    facts.arrivals.extend([arrival("b", 4), arrival("c", 5)]);
    let second = decided(&after(&barrier(2, None), &first), &facts, at(9));
    assert_eq!(state(&second), Latch::Open);
    assert_eq!(passed(&second), ["w"]);
    assert_eq!(settled(&second).last(), Some(&Settlement::Late), "it was open when c came");
}

#[test]
fn arrivals_of_one_claim_made_anew_are_one() {
    let claim = |uid: &str| Participant { who: Who { name: "ann".into(), ..who(HolderKind::Claim, uid) }, at: at(1) };
    let facts = Facts { arrivals: vec![claim("1"), claim("2")], ..Facts::default() };
    assert_eq!(state(&decided(&barrier(2, None), &facts, at(9))), Latch::Shut);
}

#[test]
fn a_timeout_counts_from_creation_and_what_was_in_time_counts_though_we_come_late() {
    let mut facts = Facts { arrivals: vec![arrival("a", 4), arrival("late", 6)], waiters: vec![waiter("w", 2)], ..Facts::default() };
    let late = decided(&barrier(2, Some(5)), &facts, at(60));
    assert_eq!((state(&late), settled(&late)), (Latch::Failed, vec![Settlement::Counted, Settlement::Late]));
    assert_eq!(late.refused, [Refusal { asker: "w".into(), why: Refused::Failed }]);
    facts.arrivals.push(arrival("b", 5));
    assert_eq!(state(&decided(&barrier(2, Some(5)), &facts, at(60))), Latch::Open, "both were there in time");
    assert_eq!(decided(&barrier(2, Some(50)), &Facts::default(), at(1)).again_at, Some(at(50)));
}

#[test]
fn a_failed_barrier_lets_pass_who_said_that_it_proceeds() {
    let facts = Facts { waiters: vec![waiter("w", 3)], ..Facts::default() };
    let failed = decided(&barrier(2, Some(5)), &facts, at(60));
    assert_eq!(failed.passed, [Passed { asker: "w".into(), how: Pass::Proceeded }]);
}

#[test]
fn a_new_round_does_not_count_the_old_arrivals_again() {
    let mut facts =
        Facts { arrivals: vec![arrival("a", 1), arrival("b", 2)], steps: vec![step("reset", 5, Step::Reset)], ..Facts::default() };
    let open = decided(&barrier(2, None), &Facts { steps: vec![], ..facts.clone() }, at(4));
    let reset = decided(&after(&barrier(2, None), &open), &facts, at(6));
    assert_eq!((state(&reset), reset.round.number), (Latch::Shut, 1));
    assert_eq!(settled(&reset), [Settlement::Counted, Settlement::Late, Settlement::Late]);
    facts.arrivals.push(arrival("c", 7));
    let next = decided(&after(&barrier(2, None), &reset), &facts, at(8));
    assert_eq!((state(&next), next.round.number), (Latch::Shut, 1));
}

#[test]
fn another_namespace_arrives_only_by_consent() {
    let mut stranger = arrival("a", 1);
    stranger.who.namespace = "elsewhere".into();
    let facts = Facts { arrivals: vec![stranger], ..Facts::default() };
    assert_eq!(settled(&decided(&barrier(1, None), &facts, at(9))), [Settlement::NotAllowed]);
    let open = Primitive { allowed_namespaces: vec!["elsewhere".into()], ..barrier(1, None) };
    assert_eq!(state(&decided(&open, &facts, at(9))), Latch::Open);
}

#[test]
fn a_wait_group_is_done_when_the_last_member_is_and_not_before_the_first() {
    let group = primitive(0, Record::WaitGroup(WaitGroup::default()));
    let mut facts = Facts { waiters: vec![waiter("w", 2)], ..Facts::default() };
    let nobody = decided(&group, &facts, at(9));
    assert_eq!(nobody.queue, [Queued { asker: "w".into(), why: Why::Shut }]);
    facts.requests = vec![request(who(HolderKind::Pod, "a"), 0), request(who(HolderKind::Pod, "b"), 0)];
    let both = decided(&group, &facts, at(9));
    assert_eq!(granted(&both), ["a", "b"]);
    facts.requests.clear();
    facts.evidence = vec![ended("a")];
    let one = decided(&after(&group, &both), &facts, at(10));
    assert!(passed(&one).is_empty());
    facts.evidence.push(ended("b"));
    let none = decided(&after(&group, &one), &facts, at(11));
    assert_eq!(passed(&none), ["w"]);
    let later = Facts { requests: vec![request(who(HolderKind::Pod, "c"), 0)], waiters: facts.waiters, ..Facts::default() };
    let latched = decided(&after(&group, &none), &later, at(12));
    assert_eq!((granted(&latched), passed(&latched)), (vec!["c"], vec!["w"]), "done stays done");
}

#[test]
fn a_counter_never_falls_below_zero() {
    let group = primitive(0, Record::WaitGroup(WaitGroup::default()));
    let facts = |steps: &[Adjustment]| Facts { steps: steps.to_vec(), ..Facts::default() };
    let refused = decided(&group, &facts(&[step("a", 1, Step::Add(-1))]), at(9));
    assert_eq!((settled(&refused), refused.changed), (vec![Settlement::BelowZero], false));
    let both = decided(&group, &facts(&[step("b", 2, Step::Add(-1)), step("a", 1, Step::Add(1))]), at(9));
    assert_eq!(settled(&both), [Settlement::Counted; 2]);
    let Record::WaitGroup(WaitGroup { added: 0, done_at: Some(_) }) = both.record else { panic!("{both:?}") };
}
