//! Decades of rotation in seconds, with real certificates and the real verifier.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use proptest::prelude::*;

use super::{NAMES, fresh, names, verify};
use crate::{
    Policy,
    contents::{BUNDLE, Contents, Data, ISSUER_KEY, LEAF, LEAF_KEY, NEXT_KEY},
    rotation::{Facts, LeafFacts, PolicyError, Step, Validity, next_step},
};

fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

fn start() -> Timestamp {
    "2026-11-03T12:00:00Z".parse().unwrap()
}

/// A keeper without a cluster: one Secret, configurations that are written at once (or not at all).
struct World {
    data: Data,
    policy: Policy,
    now: Timestamp,
    published_since: Option<Timestamp>,
    configurations_reachable: bool,
    /// Every bundle that was ever published, with the time at which it stopped being the current one.
    past: Vec<(String, Timestamp)>,
    steps: Vec<Step>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            data: Data::new(),
            policy: Policy::default(),
            now: start(),
            published_since: None,
            configurations_reachable: true,
            past: Vec::new(),
            steps: Vec::new(),
        };
        world.wake();
        world
    }

    fn wake(&mut self) -> Timestamp {
        for _ in 0..5 {
            let contents = Contents::read(&self.data);
            let published = self.published_since.filter(|_| self.configurations_reachable);
            let step = next_step(&contents.facts(&names()), published, self.now, &self.policy);
            if let Step::Wait { until } = step {
                assert!(until > self.now, "a wait that is over would spin");
                return until;
            }
            self.steps.push(step);
            self.data = contents.advance(&self.data, step, "konductor", &names(), self.now, &self.policy).unwrap();
            let bundle = Contents::read(&self.data).bundle_pem();
            if bundle != contents.bundle_pem() {
                self.past.push((contents.bundle_pem(), self.now));
                self.published_since = Some(self.now);
            }
        }
        panic!("no rest after {:?}", self.steps);
    }

    /// The promise: whoever took the bundle at any time within the overlap can verify what is served now.
    fn check(&self) {
        let contents = Contents::read(&self.data);
        let leaf = &contents.leaf.as_ref().unwrap().certified.cert[0];
        let current = contents.bundle_pem();
        let recent =
            self.past.iter().filter(|(_, until)| self.now.duration_since(*until) < self.policy.overlap()).map(|(bundle, _)| bundle);
        for bundle in recent.chain([&current]).filter(|bundle| !bundle.is_empty()) {
            verify(leaf, bundle, NAMES[1], self.now).unwrap_or_else(|error| panic!("at {}: {error} after {:?}", self.now, self.steps));
        }
    }

    fn count(&self, step: Step) -> usize {
        self.steps.iter().filter(|taken| **taken == step).count()
    }

    fn damage(&mut self, key: &str) {
        self.data.insert(key.to_owned(), ByteString(b"nonsense".to_vec()));
    }
}

#[test]
fn forty_years_pass_and_every_recent_bundle_verifies_what_is_served() {
    let mut world = World::new();
    while world.now < start() + days(365 * 40) {
        let until = world.wake();
        world.check();
        // Just before the next step is the hardest moment.
        world.now = (until - SignedDuration::from_secs(1)).max(world.now + SignedDuration::from_secs(1));
        world.check();
        world.now = until;
    }
    assert_eq!(world.count(Step::CreateAll), 1);
    assert_eq!(world.count(Step::PublishNewCa), 4);
    assert_eq!(world.count(Step::SwitchLeaf), 4);
    assert_eq!(world.count(Step::DropOldCa), 4);
    assert!((200..300).contains(&world.count(Step::RenewLeaf)), "{}", world.count(Step::RenewLeaf));
}

#[test]
fn a_new_ca_signs_nothing_before_the_overlap_is_over() {
    let mut world = World::new();
    let mut published = None;
    while world.count(Step::SwitchLeaf) == 0 {
        world.now = world.wake();
        if published.is_none() && world.count(Step::PublishNewCa) == 1 {
            published = Some(world.now);
            assert_eq!(Contents::read(&world.data).bundle.len(), 2);
        }
        world.wake();
    }
    assert!(world.now.duration_since(published.unwrap()) >= world.policy.overlap() - world.policy.leaf_lifetime());
    assert!(!world.data.contains_key(NEXT_KEY));
}

#[test]
fn the_leaf_does_not_switch_while_a_configuration_cannot_be_written() {
    let mut world = World::new();
    world.configurations_reachable = false;
    // Beyond the overlap, still before the old CA's last year.
    while world.now < start() + days(3650 - 200) {
        world.now += days(20);
        world.wake();
        world.check();
    }
    assert_eq!((world.count(Step::PublishNewCa), world.count(Step::SwitchLeaf)), (1, 0));
    world.configurations_reachable = true;
    world.wake();
    assert_eq!(world.count(Step::SwitchLeaf), 1);
}

#[test]
fn a_lost_leaf_is_made_again_by_the_same_ca() {
    for key in [LEAF, LEAF_KEY] {
        let mut world = World::new();
        let before = Contents::read(&world.data).bundle_pem();
        world.damage(key);
        world.now += days(1);
        world.wake();
        assert_eq!(world.steps, [Step::CreateAll, Step::RenewLeaf]);
        assert_eq!(Contents::read(&world.data).bundle_pem(), before);
        world.check();
    }
}

#[test]
fn a_lost_ca_key_leads_to_a_new_ca_that_is_used_at_the_last_call() {
    let mut world = World::new();
    world.now += days(1);
    world.damage(ISSUER_KEY);
    world.wake();
    assert_eq!(world.steps, [Step::CreateAll, Step::PublishNewCa]);
    world.check();
    world.now = start() + days(80);
    world.wake();
    assert_eq!(world.count(Step::SwitchLeaf), 0, "clients that know only the old CA are served as long as possible");
    world.now = start() + days(82);
    world.wake();
    assert_eq!(world.count(Step::SwitchLeaf), 1);
    world.now += days(40);
    world.wake();
    // Those who knew only the old CA are left behind, or the leaf would have expired for all.
    world.past.clear();
    world.check();
    assert_eq!(Contents::read(&world.data).bundle.len(), 1);
}

#[test]
fn a_lost_bundle_means_starting_again() {
    let mut world = World::new();
    world.damage(BUNDLE);
    world.past.clear();
    world.wake();
    assert_eq!(world.steps, [Step::CreateAll, Step::CreateAll]);
}

#[test]
fn a_key_of_another_certificate_is_noticed() {
    let now = start();
    let (mut ours, other) = (fresh(now), fresh(now));
    ours.insert(LEAF_KEY.to_owned(), other[LEAF_KEY].clone());
    assert!(Contents::read(&ours).leaf.is_err());
    ours.insert(ISSUER_KEY.to_owned(), other[ISSUER_KEY].clone());
    assert_eq!(Contents::read(&ours).facts(&names()).issuer, None);
}

#[test]
fn new_names_are_added_at_once_and_two_versions_do_not_renew_in_turns() {
    let world = World::new();
    let new = vec!["other.konductor-system.svc".to_owned()];
    let contents = Contents::read(&world.data);
    assert_eq!(next_step(&contents.facts(&new), None, world.now, &world.policy), Step::RenewLeaf);
    let data = contents.advance(&world.data, Step::RenewLeaf, "konductor", &new, world.now, &world.policy).unwrap();
    let contents = Contents::read(&data);
    for names in [&new, &names()] {
        assert!(matches!(next_step(&contents.facts(names), None, world.now, &world.policy), Step::Wait { .. }));
    }
}

#[test]
fn lifetimes_that_cannot_keep_the_promise_are_refused() {
    let hours = |n: u64| Duration::from_secs(3600 * n);
    assert_eq!(Policy::new(hours(100), hours(0), hours(20)), Err(PolicyError::LeafTooShort));
    assert_eq!(Policy::new(hours(100), hours(10), hours(19)), Err(PolicyError::OverlapTooShort));
    assert_eq!(Policy::new(hours(79), hours(10), hours(20)), Err(PolicyError::CaTooShort));
    let default = Policy::default();
    assert_eq!(Policy::new(hours(24 * 3650), hours(24 * 90), hours(24 * 365)), Ok(default));
}

/// The decision alone, case by case: (leaf, issuer, next, retired, published) at day 0 with certificates made some days before.
#[test]
fn the_table_of_decisions() {
    let now = start();
    let policy = Policy::default();
    let ca = |age: i64| Some(Validity { made: now - days(age), not_after: now - days(age) + days(3650) });
    let leaf = |age: i64| {
        let validity = Validity { made: now - days(age), not_after: now - days(age) + days(90) };
        Some(LeafFacts { validity, names_fit: true, signed_by_issuer: true })
    };
    let long_ago = Some(now - days(1));
    let cases = [
        ("nothing at all", (None, None, None, false, None), Some(Step::CreateAll)),
        ("all is young", (leaf(1), ca(1), None, false, None), None),
        ("leaf at two thirds", (leaf(60), ca(100), None, false, None), Some(Step::RenewLeaf)),
        ("leaf expired while away", (leaf(90), ca(100), None, false, None), Some(Step::RenewLeaf)),
        ("everything expired while away", (leaf(4000), ca(4000), None, false, None), Some(Step::CreateAll)),
        ("expired while away, a new CA was published", (leaf(4000), ca(4000), ca(500), false, None), Some(Step::SwitchLeaf)),
        ("CA with two years left", (leaf(1), ca(2920), None, false, None), Some(Step::PublishNewCa)),
        ("CA key gone", (leaf(1), None, None, true, None), Some(Step::PublishNewCa)),
        ("published, too early", (leaf(1), ca(3000), ca(364), false, long_ago), None),
        ("published, leaf due", (leaf(61), ca(3000), ca(100), false, long_ago), Some(Step::RenewLeaf)),
        ("published long enough", (leaf(1), ca(3300), ca(365), false, long_ago), Some(Step::SwitchLeaf)),
        ("long enough, configurations behind", (leaf(1), ca(3300), ca(365), false, None), None),
        ("long enough, configurations written just now", (leaf(1), ca(3300), ca(365), false, Some(now)), None),
        ("switched yesterday", (leaf(1), ca(366), None, true, long_ago), None),
        ("switched a month ago", (leaf(30), ca(396), None, true, long_ago), Some(Step::DropOldCa)),
    ];
    for (what, (leaf, issuer, next, retired, published), expected) in cases {
        let step = next_step(&Facts { leaf, issuer, next, retired }, published, now, &policy);
        match expected {
            Some(expected) => assert_eq!(step, expected, "{what}"),
            None => assert!(matches!(step, Step::Wait { until } if until > now), "{what}: {step:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Whoever is away for up to a month at a time keeps the promise all the same.
    #[test]
    fn irregular_keepers_keep_the_promise(pauses in prop::collection::vec(1_i64..30 * 24, 400)) {
        let mut world = World::new();
        for hours in pauses {
            world.now += SignedDuration::from_hours(hours);
            world.check();
            world.wake();
            world.check();
        }
        prop_assert_eq!(world.count(Step::CreateAll), 1);
    }

    /// Whatever is in the Secret, and after whatever absence, one pass leads to a leaf that the bundle verifies.
    #[test]
    fn any_damage_and_any_absence_is_repaired_in_one_pass(
        damage in prop::collection::vec((0_usize..5, any::<bool>()), 0..5),
        away in 0_i64..5000,
        back in 0_i64..5000,
    ) {
        let mut world = World::new();
        world.now += days(away);
        world.wake();
        for (key, remove) in damage {
            let key = [LEAF, LEAF_KEY, BUNDLE, ISSUER_KEY, NEXT_KEY][key];
            if remove { world.data.remove(key); } else { world.damage(key); }
        }
        world.now += days(back);
        world.wake();
        world.past.clear();
        world.check();
    }
}
