//! Mutex and Semaphore: Pods and Jobs that ask, hold and end.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const PARTICIPANTS: usize = 6;

/// One thing that happens in the world.
#[derive(Clone, Debug)]
enum Happening {
    Ask { participant: usize, patience: u8, presence: u8 },
    Withdraw(usize),
    PodEnds(usize),
    JobEnds(usize),
    Permits(i32),
    Delete,
    Decide { seconds: i64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..PARTICIPANTS, 0u8..4, 0u8..6).prop_map(|(participant, patience, presence)| Happening::Ask { participant, patience, presence }),
        1 => (0..PARTICIPANTS).prop_map(Happening::Withdraw),
        3 => (0..PARTICIPANTS).prop_map(Happening::PodEnds),
        2 => (0..PARTICIPANTS).prop_map(Happening::JobEnds),
        1 => (0i32..5).prop_map(Happening::Permits),
        1 => Just(Happening::Delete),
        6 => (0i64..3).prop_map(|seconds| Happening::Decide { seconds }),
    ]
}

#[derive(Clone, Debug)]
struct Participant {
    permits: i32,
    priority: i32,
    age: i64,
    /// A Job, whose Pods come one after the other (or at once, if shared).
    job: bool,
    shared: bool,
}

fn participants() -> impl Strategy<Value = Vec<Participant>> {
    prop::collection::vec((1i32..4, 0i32..2, 0i64..3, any::<bool>(), any::<bool>()), PARTICIPANTS).prop_map(|all| {
        all.into_iter().map(|(permits, priority, age, job, shared)| Participant { permits, priority, age, job, shared }).collect()
    })
}

struct World {
    participants: Vec<Participant>,
    /// How many Pods each participant has had: the present one has this number.
    generation: Vec<u32>,
    primitive: Primitive,
    asking: BTreeMap<usize, Request>,
    facts: Vec<Evidence>,
    ended_pods: BTreeSet<String>,
    over: BTreeSet<String>,
    now: i64,
    tokens: BTreeSet<i64>,
}

impl World {
    fn new(participants: Vec<Participant>) -> Self {
        let primitive = primitive(2, Record::Grants);
        Self {
            generation: vec![0; participants.len()],
            participants,
            primitive,
            asking: BTreeMap::new(),
            facts: vec![],
            ended_pods: BTreeSet::new(),
            over: BTreeSet::new(),
            now: EPOCH,
            tokens: BTreeSet::new(),
        }
    }

    fn pod(&self, participant: usize) -> String {
        format!("pod-{participant}-{}", self.generation[participant])
    }

    fn request(&self, participant: usize, patience: u8, presence: u8) -> Request {
        let Participant { permits, priority, age, job, shared } = self.participants[participant];
        let pod = self.pod(participant);
        let (kind, uid, pod) = if job {
            (HolderKind::Job, format!("job-{participant}"), Some(PodRef { name: pod.clone(), uid: pod }))
        } else {
            (HolderKind::Pod, pod, None)
        };
        Request {
            who: Who { kind, namespace: "ns".into(), name: format!("{participant}"), uid }.into(),
            pod,
            permits,
            mode: None,
            priority,
            created: Timestamp::from_second(EPOCH - age).unwrap(),
            presence: [Presence::Here, Presence::Here, Presence::Here, Presence::Here, Presence::Expected, Presence::Away]
                [usize::from(presence)],
            patience: match patience {
                0 => Patience::Now,
                1 => Patience::Until(Timestamp::from_second(EPOCH + 4).unwrap()),
                _ => Patience::Forever,
            },
            shared,
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Ask { participant, patience, presence } => {
                if self.participants[participant].job && self.over.contains(&format!("job-{participant}")) {
                    return;
                }
                if self.ended_pods.contains(&self.pod(participant)) {
                    self.generation[participant] += 1;
                }
                let request = self.request(participant, patience, presence);
                self.asking.insert(participant, request);
            }
            Happening::Withdraw(participant) => {
                self.asking.remove(&participant);
            }
            Happening::PodEnds(participant) => {
                let uid = self.pod(participant);
                self.asking.remove(&participant);
                self.ended_pods.insert(uid.clone());
                self.facts.push(Evidence::PodOut { uid, how: Out::Ended });
            }
            Happening::JobEnds(participant) => {
                if self.participants[participant].job && !self.asking.contains_key(&participant) {
                    let uid = format!("job-{participant}");
                    self.over.insert(uid.clone());
                    self.facts.push(Evidence::JobOver { uid });
                }
            }
            Happening::Permits(permits) => self.primitive.capacity = permits,
            Happening::Delete => self.primitive.deleting = true,
            Happening::Decide { seconds } => {
                self.now += seconds;
                self.decide();
            }
        }
    }

    fn decide(&mut self) {
        let before = self.primitive.clone();
        let requests: Vec<Request> = self.asking.values().cloned().collect();
        let now = Timestamp::from_second(self.now).unwrap();
        let decision = ask(&before, &requests, &self.facts, now);

        self.never_more_than_the_capacity(&before, &decision);
        self.tokens_only_grow(&before, &decision);
        self.nothing_is_released_without_evidence(&before, &decision);
        self.nobody_is_passed_by_somebody_behind(&before, &requests, &decision);
        self.no_pod_of_a_job_that_holds_is_refused(&requests, &decision);

        let after = Primitive { holders: decision.holders.clone(), last_token: decision.last_token, ..before.clone() };
        if !decision.changed {
            assert_eq!((&before.holders.len(), before.last_token), (&decision.holders.len(), decision.last_token));
        }
        for grant in &decision.granted {
            self.asking.retain(|_, request| request.asker() != grant.asker);
        }
        for refusal in &decision.refused {
            self.asking.retain(|_, request| request.asker() != refusal.asker);
        }
        if decision.changed {
            self.primitive = after;
        }
    }

    fn never_more_than_the_capacity(&self, before: &Primitive, decision: &Decision) {
        let sum: i32 = decision.holders.iter().map(|holder| holder.permits).sum();
        let nobody_new = decision.holders.iter().all(|holder| holder.token <= before.last_token);
        assert!(sum <= before.capacity || nobody_new, "{sum} permits of {}: {decision:?}", before.capacity);
        let distinct: BTreeSet<_> = decision.holders.iter().map(|holder| &holder.uid).collect();
        assert_eq!(distinct.len(), decision.holders.len(), "a holder holds once");
        for holder in &decision.holders {
            let exclusive = holder.kind == HolderKind::Job && !self.participants[holder.name.parse::<usize>().unwrap()].shared;
            let running = holder.pods.iter().filter(|pod| !self.ended_pods.contains(&pod.uid)).count();
            assert!(!exclusive || running <= 1, "one Pod of a Job at a time: {holder:?}");
        }
    }

    fn tokens_only_grow(&mut self, before: &Primitive, decision: &Decision) {
        assert!(decision.last_token >= before.last_token);
        for grant in decision.granted.iter().filter(|grant| grant.new) {
            assert!(grant.token > before.last_token && grant.token <= decision.last_token);
            assert!(grant.token >= (EPOCH + 1) * 1000, "above every token of a predecessor of the same name");
            assert!(self.tokens.insert(grant.token), "a token is handed out once");
        }
    }

    fn nothing_is_released_without_evidence(&self, before: &Primitive, decision: &Decision) {
        for holder in &before.holders {
            let kept = decision.holders.iter().find(|kept| kept.uid == holder.uid);
            let proven = match holder.kind {
                HolderKind::Pod | HolderKind::Claim => self.ended_pods.contains(&holder.uid),
                HolderKind::Job => self.over.contains(&holder.uid) && holder.pods.iter().all(|pod| self.ended_pods.contains(&pod.uid)),
            };
            assert_eq!(kept.is_none(), proven, "{holder:?}");
            assert_eq!(kept.is_none(), decision.released.iter().any(|release| release.holder.uid == holder.uid));
            for pod in holder.pods.iter().filter(|pod| !self.ended_pods.contains(&pod.uid)) {
                assert!(kept.is_some_and(|kept| kept.pods.contains(pod)), "a Pod that may run is not forgotten");
            }
        }
    }

    /// Whoever is granted new permits has nobody in front that is present, fits at all and still waits for permits.
    fn nobody_is_passed_by_somebody_behind(&self, before: &Primitive, requests: &[Request], decision: &Decision) {
        let rank = |request: &Request| (-request.priority, request.created, request.who.uid.clone());
        for passed in requests.iter().filter(|request| decision.queue.iter().any(|q| q.asker == request.asker() && q.why == Why::InLine)) {
            for grant in
                decision.granted.iter().filter(|grant| grant.new && !before.holders.iter().any(|holder| holder.uid == grant.who.uid))
            {
                let winner = requests.iter().find(|request| request.asker() == grant.asker).unwrap();
                assert!(rank(winner) < rank(passed), "{winner:?} went before {passed:?}");
            }
        }
        // And nobody waits in front while there is room for it.
        let used: i32 = decision.holders.iter().map(|holder| holder.permits).sum();
        if let Some(first) = decision.queue.iter().find(|queued| queued.why == Why::InLine) {
            let request = requests.iter().find(|request| request.asker() == first.asker).unwrap();
            assert!(request.presence == Presence::Expected || used + request.permits > before.capacity, "room for {request:?}");
        }
    }

    fn no_pod_of_a_job_that_holds_is_refused(&self, requests: &[Request], decision: &Decision) {
        for refusal in &decision.refused {
            let refused = requests.iter().find(|request| request.asker() == refusal.asker).unwrap();
            assert!(!decision.holders.iter().any(|holder| holder.uid == refused.who.uid), "{refused:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(participants in participants(), happenings in prop::collection::vec(happening(), 1..60)) {
        let mut world = World::new(participants);
        for happening in &happenings {
            world.happen(happening);
        }
    }

    /// After everybody has ended and nobody gives up, all who are present and fit get their turn.
    #[test]
    fn everybody_gets_a_turn(participants in participants()) {
        let mut world = World::new(participants);
        world.primitive.capacity = 3;
        world.now += 2;
        for participant in 0..PARTICIPANTS {
            world.happen(&Happening::Ask { participant, patience: 3, presence: 0 });
        }
        for _ in 0..PARTICIPANTS {
            world.decide();
            for participant in 0..PARTICIPANTS {
                if !world.asking.contains_key(&participant) {
                    world.happen(&Happening::PodEnds(participant));
                    world.happen(&Happening::JobEnds(participant));
                }
            }
        }
        world.decide();
        prop_assert!(world.asking.is_empty(), "{:?}", world.asking);
        prop_assert!(world.primitive.holders.is_empty(), "{:?}", world.primitive.holders);
    }
}

fn pod_request(name: &str, permits: i32, age: i64) -> Request {
    Request { permits, ..request(who(HolderKind::Pod, name), age) }
}

fn semaphore(capacity: i32) -> Primitive {
    primitive(capacity, Record::Grants)
}

/// A decision on requests and evidence alone.
fn ask(primitive: &Primitive, requests: &[Request], evidence: &[Evidence], now: Timestamp) -> Decision {
    let facts = Facts { requests: requests.to_vec(), evidence: evidence.to_vec(), ..Facts::default() };
    decided(primitive, &facts, now)
}

fn later() -> Timestamp {
    Timestamp::from_second(EPOCH + 10).unwrap()
}

#[test]
fn a_wide_request_is_not_starved_by_narrow_ones() {
    let mut primitive = semaphore(4);
    let first = ask(&primitive, &[pod_request("narrow", 1, 9)], &[], later());
    primitive.holders = first.holders;
    primitive.last_token = first.last_token;
    let requests = [pod_request("wide", 4, 5), pod_request("narrow-2", 1, 4)];
    assert!(granted(&ask(&primitive, &requests, &[], later())).is_empty());
    let ended = Evidence::PodOut { uid: "narrow".into(), how: Out::Ended };
    assert_eq!(granted(&ask(&primitive, &requests, &[ended], later())), ["wide"]);
}

#[test]
fn a_request_that_can_never_fit_stops_nobody() {
    let decision = ask(&semaphore(2), &[pod_request("too-wide", 3, 9), pod_request("fits", 2, 1)], &[], later());
    assert_eq!(granted(&decision), ["fits"]);
    assert_eq!(decision.queue, [Queued { asker: "too-wide".into(), why: Why::TooWide }]);
}

#[test]
fn who_need_not_wait_is_let_in_however_late_it_comes() {
    let late = |name: &str| Request { patience: Patience::Until(Timestamp::from_second(EPOCH + 1).unwrap()), ..pod_request(name, 1, 0) };
    let decision = ask(&semaphore(1), &[late("first"), late("second")], &[], later());
    assert_eq!(granted(&decision), ["first"]);
    assert_eq!(decision.refused, [Refusal { asker: "second".to_owned(), why: Refused::TimedOut }]);
}

#[test]
fn one_that_is_expected_keeps_its_place_and_one_that_is_away_is_passed() {
    let mut oldest = pod_request("oldest", 1, 9);
    oldest.presence = Presence::Expected;
    assert!(granted(&ask(&semaphore(1), &[oldest.clone(), pod_request("young", 1, 1)], &[], later())).is_empty());
    oldest.presence = Presence::Away;
    assert_eq!(granted(&ask(&semaphore(1), &[oldest, pod_request("young", 1, 1)], &[], later())), ["young"]);
}

#[test]
fn permits_lowered_below_what_is_held_take_nothing_and_give_nothing() {
    let mut primitive = semaphore(3);
    let both = ask(&primitive, &[pod_request("a", 2, 9), pod_request("b", 1, 8)], &[], later());
    assert_eq!(granted(&both), ["a", "b"]);
    primitive = Primitive { holders: both.holders, last_token: both.last_token, capacity: 1, ..primitive };
    let lowered = ask(&primitive, &[pod_request("c", 1, 7)], &[], later());
    assert!(!lowered.changed && granted(&lowered).is_empty() && lowered.holders.len() == 2);
    let ended = ask(&primitive, &[pod_request("c", 1, 7)], &[Evidence::PodOut { uid: "a".into(), how: Out::Ended }], later());
    assert!(granted(&ended).is_empty(), "one of one is still held");
}

#[test]
fn nothing_is_granted_in_the_second_of_creation() {
    let created = Timestamp::from_second(EPOCH).unwrap();
    let decision = ask(&semaphore(1), &[pod_request("a", 1, 0)], &[], created);
    assert_eq!(decision.queue, [Queued { asker: "a".into(), why: Why::TooYoung }]);
    assert_eq!(decision.again_at, Some(Timestamp::from_second(EPOCH + 1).unwrap()));
}

#[test]
fn another_namespace_needs_consent() {
    let known = pod_request("a", 1, 0);
    let stranger = Request { who: Who { namespace: "elsewhere".into(), ..(*known.who).clone() }.into(), ..known };
    let mut primitive = semaphore(1);
    assert_eq!(ask(&primitive, std::slice::from_ref(&stranger), &[], later()).refused[0].why, Refused::NotAllowed);
    primitive.allowed_namespaces = vec!["elsewhere".into()];
    assert_eq!(granted(&ask(&primitive, &[stranger], &[], later())), ["a"]);
}

#[test]
fn a_lost_holder_is_fenced_by_a_larger_token() {
    let mut primitive = semaphore(1);
    let first = ask(&primitive, &[pod_request("a", 1, 9)], &[], later());
    primitive = Primitive { holders: first.holders, last_token: first.last_token, ..primitive };
    let lost = ask(&primitive, &[pod_request("b", 1, 8)], &[Evidence::PodOut { uid: "a".into(), how: Out::Lost }], later());
    assert!(lost.released[0].lost);
    assert!(lost.granted[0].token > first.granted[0].token);
}
