//! Conditions: which states an object can be in, what `value` is compared with, and circles of Gates.

use super::*;
use crate::api::{GateState, GateType, Holder};

fn meets(on: GateType, state: Option<GateState>, value: Option<i64>, seen: Seen) -> bool {
    let condition = Condition { on, namespace: "ns".into(), name: "x".into(), state, value };
    let sight = Sight::There { uid: "u".into(), seen };
    let observed = [Observed { on, namespace: "ns".into(), name: "x".into(), sight }];
    condition.look(&Standing::default(), &observed, "ns", at(1)).met
}

/// An object of each kind in each of its situations, and the states that it is then in.
fn situations() -> Vec<(GateType, Seen, Vec<GateState>)> {
    use GateState::{Acquired, Active, Available, Closed, Complete, Done, Failed, Locked, NonZero, Open, Pending, Unlocked, Zero};
    let job = |complete, failed, active| Seen::Job { complete, failed, active, succeeded: 1 };
    let grants = |held, free| Seen::Grants { held, free };
    let mut all = vec![
        (GateType::Job, job(false, false, 0), vec![]),
        (GateType::Job, job(false, false, 2), vec![Active]),
        (GateType::Job, job(true, false, 0), vec![Complete]),
        (GateType::Job, job(false, true, 1), vec![Failed]),
        (GateType::Semaphore, grants(0, 3), vec![Available]),
        (GateType::Semaphore, grants(1, 2), vec![Available, Acquired]),
        (GateType::Semaphore, grants(3, 0), vec![Acquired]),
        (GateType::Gate, Seen::Gate { state: Latch::Shut, closed: false }, vec![Closed, Pending]),
        (GateType::Gate, Seen::Gate { state: Latch::Shut, closed: true }, vec![Closed]),
        (GateType::Gate, Seen::Gate { state: Latch::Open, closed: false }, vec![Open]),
        (GateType::Gate, Seen::Gate { state: Latch::Failed, closed: false }, vec![Closed, Failed]),
        (GateType::Barrier, Seen::Barrier { state: Latch::Shut, arrived: 1 }, vec![Closed, Pending]),
        (GateType::Barrier, Seen::Barrier { state: Latch::Open, arrived: 2 }, vec![Open]),
        (GateType::Barrier, Seen::Barrier { state: Latch::Failed, arrived: 1 }, vec![Closed, Failed]),
        (GateType::Once, Seen::Once { executed: false, running: false }, vec![Pending]),
        (GateType::Once, Seen::Once { executed: false, running: true }, vec![Active]),
        (GateType::Once, Seen::Once { executed: true, running: false }, vec![Done]),
        (GateType::WaitGroup, Seen::WaitGroup { done: false, counter: 0 }, vec![Pending, Zero]),
        (GateType::WaitGroup, Seen::WaitGroup { done: false, counter: 2 }, vec![Pending, NonZero]),
        (GateType::WaitGroup, Seen::WaitGroup { done: true, counter: 0 }, vec![Done, Zero]),
    ];
    for on in [GateType::Mutex, GateType::RWMutex, GateType::Lease] {
        all.push((on, grants(0, 1), vec![Unlocked, Available]));
        all.push((on, grants(1, 0), vec![Locked, Acquired]));
    }
    all
}

#[test]
fn each_kind_is_in_its_own_states_and_no_other() {
    for (on, seen, states) in situations() {
        for other in GateType::ALL.iter().flat_map(|on| on.states()) {
            assert_eq!(meets(on, Some(*other), None, seen), states.contains(other), "{on:?} {seen:?} {other:?}");
        }
        assert!(states.iter().all(|state| on.states().contains(state)), "{on:?} {states:?}");
    }
    for on in GateType::ALL {
        for state in on.states() {
            assert!(situations().iter().any(|(kind, _, states)| *kind == on && states.contains(state)), "{on:?} can be {state:?}");
        }
    }
}

#[test]
fn without_a_state_the_usual_one_of_its_kind_is_meant() {
    for (on, seen, states) in situations() {
        assert_eq!(meets(on, None, None, seen), states.contains(&on.states()[0]), "{on:?} {seen:?}");
    }
}

#[test]
fn a_value_is_the_least_that_must_be_counted() {
    let semaphore = Seen::Grants { held: 3, free: 2 };
    assert!(meets(GateType::Semaphore, Some(GateState::Available), Some(2), semaphore));
    assert!(!meets(GateType::Semaphore, Some(GateState::Available), Some(3), semaphore));
    assert!(meets(GateType::Semaphore, Some(GateState::Acquired), Some(3), semaphore));
    let barrier = Seen::Barrier { state: Latch::Shut, arrived: 2 };
    assert!(meets(GateType::Barrier, None, Some(2), barrier), "a value alone asks for no state");
    assert!(!meets(GateType::Barrier, Some(GateState::Open), Some(2), barrier));
    assert!(meets(GateType::WaitGroup, None, Some(2), Seen::WaitGroup { done: false, counter: 2 }));
    assert!(meets(GateType::Job, None, Some(4), Seen::Job { complete: false, failed: false, active: 0, succeeded: 4 }));
    for (on, seen, _) in situations().into_iter().filter(|(on, ..)| on.counts().is_none()) {
        assert!(!meets(on, None, Some(0), seen), "{on:?} has nothing to count");
    }
}

#[test]
fn what_is_seen_of_a_primitive_follows_from_its_record() {
    let holder = |permits| {
        let facts = Facts { requests: vec![Request { permits, ..request(who(HolderKind::Pod, "a"), 0) }], ..Facts::default() };
        decide(&primitive(5, Record::Grants), &facts, at(9)).holders
    };
    let held = |capacity, holders: Vec<Holder>| Primitive { holders, ..primitive(capacity, Record::Grants) };
    assert_eq!(Seen::of(GateType::Semaphore, &held(5, holder(3))), Some(Seen::Grants { held: 3, free: 2 }));
    assert_eq!(Seen::of(GateType::Semaphore, &held(2, holder(3))), Some(Seen::Grants { held: 3, free: 0 }), "permits were lowered");
    assert_eq!(Seen::of(GateType::RWMutex, &held(WHOLE, holder(1))), Some(Seen::Grants { held: 1, free: 0 }));
    let group = Record::WaitGroup(WaitGroup { added: 2, done_at: None });
    let members = Primitive { holders: holder(1), ..primitive(0, group) };
    assert_eq!(Seen::of(GateType::WaitGroup, &members), Some(Seen::WaitGroup { done: false, counter: 3 }));
    assert_eq!(Seen::of(GateType::Mutex, &Primitive::missing("ns")), None);
}

#[test]
fn what_is_not_seen_is_said() {
    let condition = Condition { on: GateType::Barrier, namespace: "b".into(), name: "x".into(), state: None, value: None };
    let look = |observed: &[Observed]| condition.look(&Standing::default(), observed, "ns", at(1)).message;
    assert_eq!(look(&[]), "there is no barrier/b/x");
    let hidden = Observed { on: GateType::Barrier, namespace: "b".into(), name: "x".into(), sight: Sight::NotAllowed };
    assert_eq!(look(&[hidden]), "barrier/b/x is another namespace's, which does not allow it");
}

#[test]
fn a_circle_of_gates_is_found_from_each_of_its_gates_and_from_no_other() {
    let waits_for = |gate: &u8| match gate {
        1 => vec![2, 4],
        2 => vec![3],
        3 => vec![1],
        4 => vec![1, 5],
        6 => vec![6],
        7 => vec![1],
        _ => vec![],
    };
    assert_eq!(cycle(&1, waits_for), [1, 4], "the shortest");
    assert_eq!(cycle(&3, waits_for), [3, 1, 2]);
    assert_eq!(cycle(&6, waits_for), [6]);
    assert!(cycle(&7, waits_for).is_empty() && cycle(&5, waits_for).is_empty());
}
