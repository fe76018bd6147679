//! Those who use Claims, as they really are: programs that renew what they hold and stop in time if they cannot (as the SDK has it), scripts that go by
//! the end that they were shown (as with koncli), people who do one thing by hand. All of them may be cut off, die, come back, or think better of it.

use jiff::{SignedDuration, Timestamp};
use konductor::{
    api::{Claim, ClaimKind, ClaimSpec, Mode as Held, Operation},
    controller::object::Key,
    plan::{Mode, On, OnTimeout, Role},
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    api::deleting,
    cast::{Named, key},
    cluster::{place, text},
    core::Core,
    people::{Person, Want},
    request::{What, Writer},
    truth::NAMESPACE,
};

/// Somebody with a Claim.
#[derive(Clone, Debug)]
pub struct Claimant {
    pub uid: String,
    pub name: String,
    pub key: Key,
    pub spec: ClaimSpec,
    /// It counts from when it sent what was answered, and renews; otherwise it believes what it was shown.
    program: bool,
    pub stage: Stage,
    /// Until when it relies on its hold.
    until: Until,
    /// How long it holds after a renewal, as far as it knows.
    ttl: Duration,
    asked: Instant,
    /// It finds what it had before it died.
    resumed: bool,
    renewal: Option<Renewal>,
    /// When it does what comes next: a look, a renewal.
    next: Instant,
    cut_until: Option<Instant>,
    returns: Option<Instant>,
    /// Somebody else deleted its Claim.
    pub robbed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// It waits for its answer.
    Asking,
    /// It was told that it holds, some time after it asked, and renews before it relies on that.
    Confirming,
    /// It does what it holds for, until then.
    Working(Instant),
    /// It has executed, said so, and waits until that is on record.
    Saying,
    /// It deletes its Claim.
    Leaving,
    /// It does nothing any more, and its Claim is still there.
    Dead,
    Over,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Asking => "asks",
            Self::Confirming => "was told that it holds, and renews",
            Self::Working(_) => "relies on what it holds",
            Self::Saying => "has executed",
            Self::Leaving => "leaves",
            Self::Dead => "dies",
            Self::Over => "is gone",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Until {
    /// By its own clock.
    Own(Instant),
    /// By the API server's.
    Shown(Timestamp),
}

/// A renewal on its way.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    sent: Instant,
    /// `None`: it was lost, or has arrived.
    arrives: Option<Instant>,
    /// `None`: its answer is lost.
    back: Option<Instant>,
    /// Whether it was done, and the Claim still said that it holds.
    done: Option<bool>,
    given_up: Instant,
}

impl Claimant {
    /// Whether it relies on its hold now.
    pub fn relies(&self, time: Timestamp) -> bool {
        let before = match self.until {
            Until::Own(end) => Instant::now() < end,
            Until::Shown(end) => time < end,
        };
        before && !self.robbed && matches!(self.stage, Stage::Working(_))
    }

    /// Whether nothing more will come of it.
    pub fn over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// It is done once.
    pub fn is_step(&self) -> bool {
        !matches!(self.spec.operation, Operation::Acquire | Operation::Wait | Operation::Arrive)
    }

    /// Under which name it arrives.
    pub fn arrives_as(&self) -> &str {
        self.spec.holder.as_deref().unwrap_or(&self.name)
    }
}

/// How far the API says that a Claim is.
pub fn phase(claim: &Value) -> &str {
    claim["status"]["phase"].as_str().unwrap_or("Pending")
}

/// Whether a Claim can become nothing else.
pub fn is_over(claim: &Value) -> bool {
    matches!(phase(claim), "Denied" | "Expired" | "Released")
}

/// Whether nothing more comes of a Claim.
pub fn settled(claim: &Value) -> bool {
    is_over(claim) || phase(claim) == "Granted" && claim["spec"]["operation"] != "Acquire"
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

impl Core {
    /// Somebody makes a Claim of one of few names, so that names come back.
    pub fn user_claims(&mut self) {
        let number = self.chance.below(8);
        let Some(named) = self.chance.pick(&self.cast).copied() else { return };
        let (name, spec, program) = (format!("c{number}"), self.claim_spec(named), self.chance.permille(600));
        if self.get(What::Claims, NAMESPACE, &name).is_some() {
            return;
        }
        self.note((40, number), |_| format!("user  claims by {name}: {spec}"));
        let made = self.create(Writer::World, What::Claims, NAMESPACE, &name, json!({ "spec": spec }));
        let Ok(Claim { spec, .. }) = serde_json::from_value::<Claim>(made.clone()) else {
            return self.violation("schema", format!("{name} cannot be read"));
        };
        let (uid, now, key) = (text(&made["metadata"]["uid"]), Instant::now(), key(named.0, named.1));
        let timeout = spec.timeout.map(|timeout| SignedDuration::try_from(timeout.as_std()).unwrap_or(SignedDuration::MAX));
        let person = Person {
            uid: uid.clone(),
            job: None,
            wants: role(named.0, &spec).map(|role| Want { key: key.clone(), role, timeout }).into_iter().collect(),
            skips: false,
            wraps: false,
            max_hold: None,
            start_timeout: None,
            created: time(&made["metadata"]["creationTimestamp"]).unwrap_or_default(),
            born: now,
            succeeded: false,
            ended: None,
            shown: None,
        };
        self.truth.people.insert(uid.clone(), person);
        let claimant = Claimant {
            uid: uid.clone(),
            name,
            key,
            spec,
            program,
            stage: Stage::Asking,
            until: Until::Own(now),
            ttl: Duration::ZERO,
            asked: now,
            resumed: false,
            renewal: None,
            next: now,
            cut_until: None,
            returns: None,
            robbed: false,
        };
        self.truth.claimants.insert(uid, claimant);
    }

    fn claim_spec(&mut self, (what, name): Named) -> Value {
        let by_hand = self.strikes(self.faults.by_hand);
        let operation = match (what, by_hand, self.chance.below(100)) {
            (What::Barriers | What::Onces, true, _) | (What::Gates, true, 75..) | (What::WaitGroups, true, 0..10) => "Reset",
            (What::Gates, true, 0..45) => "Open",
            (What::Gates, true, _) => "Close",
            (What::Barriers, _, 0..60) => "Arrive",
            (What::WaitGroups, _, 0..45) => "Add",
            (What::WaitGroups, _, 45..80) => "Done",
            (What::Barriers | What::Gates | What::WaitGroups, ..) | (What::Onces, _, 60..) => "Wait",
            _ => "Acquire",
        };
        let mut spec = json!({"kind": what.types().1, "name": name, "operation": operation, "renewals": 0});
        match operation {
            "Add" => spec["delta"] = self.chance.between(1, 2).into(),
            "Arrive" if self.chance.permille(600) => spec["holder"] = format!("h{}", self.chance.below(3)).into(),
            "Acquire" => {
                if self.chance.permille(700) {
                    spec["ttl"] = format!("{}s", self.chance.between(2, 12)).into();
                }
                if what == What::Semaphores {
                    spec["permits"] = self.chance.between(1, 3).into();
                }
                if what == What::RwMutexes && self.chance.permille(600) {
                    spec["mode"] = "Read".into();
                }
                if self.chance.permille(250) {
                    spec["priority"] = self.chance.between(1, 5).into();
                }
            }
            _ => {}
        }
        if self.chance.permille(200) {
            spec["timeout"] = format!("{}s", self.chance.between(0, 30)).into();
        }
        spec
    }

    /// One look of all of them.
    pub fn claimants(&mut self) {
        let uids: Vec<String> = self.truth.claimants.values().filter(|one| !one.over()).map(|one| one.uid.clone()).collect();
        for uid in uids {
            let Some(mut claimant) = self.truth.claimants.remove(&uid) else { continue };
            let before = claimant.stage;
            self.renewal_travels(&mut claimant);
            self.claimant(&mut claimant);
            if claimant.stage != before {
                self.note((41, uid.len() as u64), |_| format!("claimant  {uid}: {}", claimant.stage.name()));
            }
            self.truth.claimants.insert(uid, claimant);
        }
    }

    fn soon(&mut self) -> Instant {
        Instant::now() + self.chance.millis(20, if self.chaos { 1500 } else { 200 })
    }

    fn claimant(&mut self, claimant: &mut Claimant) {
        let now = Instant::now();
        if claimant.stage == Stage::Dead {
            if claimant.returns.is_some_and(|at| now >= at) {
                (claimant.stage, claimant.resumed, claimant.returns) = (Stage::Asking, true, None);
            }
            return;
        }
        if self.strikes(self.faults.agent / 10) && claimant.stage != Stage::Leaving {
            claimant.stage = Stage::Dead;
            claimant.returns = self.chance.permille(300).then(|| now + self.chance.millis(500, 15_000));
            return;
        }
        if self.strikes(self.faults.cut / 5) {
            claimant.cut_until = Some(now + self.chance.millis(500, 25_000));
        }
        if claimant.cut_until.is_some_and(|until| now < until && self.chaos) {
            return;
        }
        if let Stage::Working(until) = claimant.stage {
            return self.works(claimant, until);
        }
        if now < claimant.next || claimant.stage == Stage::Confirming {
            return;
        }
        claimant.next = self.soon();
        let at = place(What::Claims, &claimant.name);
        let found = self.objects.get(&at).filter(|claim| claim["metadata"]["uid"] == claimant.uid.as_str() && !deleting(claim)).cloned();
        let Some(claim) = found else {
            claimant.stage = Stage::Over;
            return;
        };
        match claimant.stage {
            Stage::Asking if phase(&claim) == "Granted" && claimant.spec.operation == Operation::Acquire => {
                self.told_by_claim(claimant, &claim)
            }
            Stage::Asking if phase(&claim) == "Pending" && !self.strikes(self.faults.users / 12) => {}
            Stage::Saying if phase(&claim) == "Granted" && !self.strikes(self.faults.users) => {}
            Stage::Leaving => {
                self.note((42, 0), |_| format!("claimant  deletes {}", claimant.name));
                self.delete(Writer::World, &at, None);
                claimant.stage = Stage::Over;
            }
            _ => claimant.stage = Stage::Leaving,
        }
    }

    /// It sees that it holds.
    fn told_by_claim(&mut self, claimant: &mut Claimant, claim: &Value) {
        let now = Instant::now();
        if claimant.program && claimant.spec.ttl.is_none() && claim["spec"]["renewals"] != 0 {
            // Once it was renewed its status does not say for how long it holds: the SDK has it released first.
            claimant.stage = Stage::Leaving;
            return;
        }
        let (from, to) = (time(&claim["status"]["grantedAt"]), time(&claim["status"]["expiresAt"]));
        let shown = from.zip(to).and_then(|(from, to)| Duration::try_from(to.duration_since(from)).ok()).unwrap_or_default();
        let known = shown.saturating_sub(Duration::from_secs(1)).max(Duration::from_millis(500));
        claimant.ttl = claimant.spec.ttl.map_or(known, |ttl| ttl.as_std());
        claimant.until =
            if claimant.program { Until::Own(claimant.asked + claimant.ttl * 4 / 5) } else { Until::Shown(to.unwrap_or_default()) };
        if claimant.resumed || claimant.program && claimant.asked.elapsed() > claimant.ttl / 10 {
            claimant.stage = Stage::Confirming;
            self.renews(claimant, now);
        } else {
            self.begins(claimant);
        }
    }

    fn begins(&mut self, claimant: &mut Claimant) {
        let long = if self.chance.permille(150) { 40_000 } else { 4000 };
        claimant.stage =
            Stage::Working(Instant::now() + if self.chaos { self.chance.millis(0, long) } else { self.chance.millis(0, 1500) });
        claimant.next = Instant::now() + claimant.ttl / 3;
        self.stats.claimed += 1;
        self.judge_claim_starts(claimant);
    }

    fn works(&mut self, claimant: &mut Claimant, until: Instant) {
        let now = Instant::now();
        if !claimant.relies(self.server_time()) {
            self.note((43, 0), |_| format!("claimant  {} counts its hold as lost", claimant.uid));
            claimant.stage = Stage::Leaving;
        } else if now >= until && !self.truth.claims_run_on {
            let executes = claimant.spec.kind == ClaimKind::Once;
            claimant.stage = if executes { Stage::Saying } else { Stage::Leaving };
            claimant.next = self.soon();
            if executes {
                self.says(claimant);
            }
        } else if claimant.program && claimant.renewal.is_none() && now >= claimant.next {
            self.renews(claimant, now);
        }
    }

    /// It says how its execution came out.
    fn says(&mut self, claimant: &Claimant) {
        let well = !self.chaos || self.chance.permille(700);
        if let Some(person) = self.truth.people.get_mut(&claimant.uid).filter(|_| well) {
            person.succeeds();
        }
        self.note((44, u64::from(well)), |_| {
            format!("claimant  {} says that it {}", claimant.uid, if well { "succeeded" } else { "failed" })
        });
        self.change(&place(What::Claims, &claimant.name), |claim| {
            claim["spec"]["succeeded"] = well.into();
            claim["metadata"]["generation"] = (claim["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
        });
    }

    fn renews(&mut self, claimant: &mut Claimant, now: Instant) {
        let slow = if self.strikes(self.faults.slow) { 3000 } else { 20 };
        let (there, back) = (now + self.chance.millis(1, slow), self.chance.millis(1, slow));
        let arrives = (!self.strikes(self.faults.lost_on_the_way)).then_some(there);
        let back = arrives.filter(|_| !self.strikes(self.faults.lost_after)).map(|there| there + back);
        let given_up = now + (claimant.ttl / 10).max(Duration::from_millis(500));
        claimant.renewal = Some(Renewal { sent: now, arrives, back, done: None, given_up });
    }

    /// A renewal arrives, its answer comes back, or it is given up and soon tried again.
    fn renewal_travels(&mut self, claimant: &mut Claimant) {
        let now = Instant::now();
        let Some(mut renewal) = claimant.renewal.take() else { return };
        if renewal.arrives.is_some_and(|at| now >= at) {
            renewal.arrives = None;
            renewal.done = Some(self.renewal_arrives(claimant));
        }
        let relies = claimant.relies(self.server_time());
        match (renewal.done, renewal.back) {
            (Some(done), Some(back)) if now >= back => match claimant.stage {
                Stage::Confirming | Stage::Working(_) if !done => claimant.stage = Stage::Leaving,
                Stage::Confirming | Stage::Working(_) => {
                    if claimant.program && (relies || claimant.stage == Stage::Confirming) {
                        claimant.until = Until::Own(renewal.sent + claimant.ttl * 4 / 5);
                    }
                    if claimant.stage == Stage::Confirming {
                        self.begins(claimant);
                    }
                    claimant.next = renewal.sent + claimant.ttl / 3;
                }
                _ => {}
            },
            _ if now >= renewal.given_up && claimant.stage == Stage::Confirming => claimant.stage = Stage::Leaving,
            _ if now >= renewal.given_up => claimant.next = now + (claimant.ttl / 15).max(Duration::from_millis(100)),
            _ => claimant.renewal = Some(renewal),
        }
    }

    fn renewal_arrives(&mut self, claimant: &Claimant) -> bool {
        let at = place(What::Claims, &claimant.name);
        let found = self.objects.get(&at).filter(|claim| claim["metadata"]["uid"] == claimant.uid.as_str());
        let Some(holds) = found.map(|claim| phase(claim) == "Granted") else { return false };
        self.note((45, 0), |_| format!("claimant  {} renews", claimant.uid));
        self.stats.renewals += 1;
        self.change(&at, |claim| {
            claim["spec"]["renewals"] = (claim["spec"]["renewals"].as_i64().unwrap_or(0) + 1).into();
            claim["metadata"]["generation"] = (claim["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
        });
        holds
    }

    /// Claims whose owners are gone are tidied away: those that are over, and at last those of which nothing will come.
    pub fn tidy_claims(&mut self) {
        let spent = |claim: &Value, claimant: &Claimant| {
            let hopeless = self.truth.at_last && phase(claim) == "Pending" && claimant.spec.operation != Operation::Acquire;
            matches!(claimant.stage, Stage::Dead | Stage::Over) && (settled(claim) || hopeless) && !deleting(claim)
        };
        let with = |claim: &Value| {
            let claimant = self.truth.claimants.get(claim["metadata"]["uid"].as_str().unwrap_or_default());
            claimant.is_some_and(|claimant| spent(claim, claimant))
        };
        let names: Vec<String> = self.all(What::Claims).filter(|claim| with(claim)).map(|claim| text(&claim["metadata"]["name"])).collect();
        for name in names {
            if self.chance.permille(if self.truth.at_last { 300 } else { 15 }) {
                self.delete(Writer::World, &place(What::Claims, &name), None);
            }
        }
    }

    /// Somebody deletes a Claim that is not theirs.
    pub fn user_deletes_claim(&mut self) {
        let claims: Vec<String> = self.all(What::Claims).map(|claim| text(&claim["metadata"]["name"])).collect();
        let Some(name) = self.chance.pick(&claims).cloned() else { return };
        let uid = text(&self.objects[&place(What::Claims, &name)]["metadata"]["uid"]);
        if let Some(claimant) = self.truth.claimants.get_mut(&uid) {
            claimant.robbed = true;
        }
        self.note((46, 0), |_| format!("user  deletes the claim {name}"));
        self.delete(Writer::World, &place(What::Claims, &name), None);
    }
}

/// What a Claim wants, in the words of annotations; `None` of what is done by hand.
fn role(what: What, spec: &ClaimSpec) -> Option<Role> {
    let priority = spec.priority.unwrap_or(0);
    Some(match spec.operation {
        Operation::Acquire if what == What::Onces => Role::Execute { priority },
        Operation::Acquire => {
            let mode = if spec.mode == Some(Held::Read) { Mode::Read } else { Mode::Write };
            Role::Hold { permits: spec.permits.unwrap_or(1), mode, priority, create: false }
        }
        Operation::Wait => Role::Wait { on_timeout: OnTimeout::Fail, arrive: false },
        Operation::Arrive => Role::Arrive { on: On::Start },
        Operation::Add | Operation::Done | Operation::Open | Operation::Close | Operation::Reset => return None,
    })
}
