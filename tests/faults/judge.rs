//! The observer's judgement over a history. It knows konductor's promises and the shape of its objects, and none of its code: it reads plain JSON.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::{
    fenced,
    history::{Line, Revision, Run},
};

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    pub at: f64,
    /// The name of the rule.
    pub rule: &'static str,
    pub words: String,
}

/// What has been seen so far.
#[derive(Default)]
pub struct Judge {
    pub violations: Vec<Violation>,
    /// Grants by plural.
    pub grants: BTreeMap<String, usize>,
    /// What has opened, was done or executed, by plural.
    pub opened: BTreeMap<String, usize>,
    pub revisions: usize,
    pub runs: Vec<Run>,
    /// By lane and token.
    pub holds: HashMap<(String, i64), Hold>,
    versions: HashMap<String, i64>,
    revision: i64,
    primitives: HashMap<String, Primitive>,
    /// By UID; those that are gone, too.
    claims: HashMap<String, Claim>,
    claim_uids: HashMap<String, String>,
}

/// A grant: who got it, and when it was seen to have ended.
pub struct Hold {
    pub uid: String,
    pub ended: Option<f64>,
}

/// A primitive's name. Some of it outlives the object.
#[derive(Default)]
struct Primitive {
    largest_token: i64,
    last_token: i64,
    holders: Vec<Holder>,
    round: i64,
    /// Open, done, executed or failed in this round.
    latched: Option<String>,
    /// It was so once, in whatever life.
    was_open: bool,
}

#[derive(Clone)]
struct Holder {
    uid: String,
    kind: String,
    name: String,
    token: i64,
    permits: i64,
    reads: bool,
    /// Tokens of the Pods under a Job's hold.
    pods: Vec<(String, i64)>,
}

struct Claim {
    name: String,
    lane: String,
    operation: String,
    holder: String,
    delta: i64,
    ttl: Option<f64>,
    timeout: Option<f64>,
    renewals: i64,
    /// When it was first seen, and when its last renewal was.
    seen: f64,
    renewed: f64,
    ended: bool,
    succeeded: Option<bool>,
    phase: String,
    token: Option<i64>,
}

impl Judge {
    /// Judges one more line; those of etcd in the order of their revisions.
    pub fn line(&mut self, line: &Line) {
        match line {
            Line::Revision(seen) => self.saw(seen),
            Line::Run(run) => self.runs.push(run.clone()),
        }
    }

    /// Judges what can be judged only when all is known: what really ran.
    pub fn finish(&mut self) {
        self.violations.extend(fenced::judge(&self.runs, &self.holds));
    }

    fn broken(&mut self, at: f64, rule: &'static str, words: String) {
        self.violations.push(Violation { at, rule, words });
    }

    fn saw(&mut self, seen: &Revision) {
        self.revisions += 1;
        let (at, key) = (seen.at, seen.key.as_str());
        let known = self.versions.get(key).copied().unwrap_or(0);
        if seen.revision < self.revision {
            self.broken(at, "missed", format!("revision {} after {}", seen.revision, self.revision));
        }
        self.revision = seen.revision;
        if seen.value.is_some() && seen.version != known + 1 || seen.value.is_none() && known == 0 {
            self.broken(at, "missed", format!("{key}: version {} after {known}", seen.version));
        }
        self.versions.insert(key.to_owned(), if seen.value.is_some() { seen.version } else { 0 });
        match (key.split_once('/'), &seen.value) {
            (Some(("claims", name)), value) => self.claim(seen, name, value.as_ref()),
            (Some((plural, _)), Some(value)) => self.primitive(seen, plural, value),
            (_, None) => self.primitive_gone(seen),
            (None, _) => self.broken(at, "missed", format!("a key without a name: {key}")),
        }
    }

    // --- primitives -------------------------------------------------------------------------------------------------------

    fn primitive(&mut self, seen: &Revision, plural: &str, object: &Value) {
        let (key, at, status) = (&seen.key, seen.at, &object["status"]);
        let mut before = self.primitives.remove(key).unwrap_or_default();
        let holders: Vec<Holder> = status["holders"].as_array().into_iter().flatten().map(Holder::read).collect();
        let tokens = |holder: &Holder| -> Vec<(String, i64)> {
            // The first Pod under a Job's hold has the hold's own token.
            let later = holder.pods.iter().filter(|(_, token)| *token != holder.token);
            [(holder.uid.clone(), holder.token)].into_iter().chain(later.cloned()).collect()
        };
        let old: Vec<(String, i64)> = before.holders.iter().flat_map(tokens).collect();
        let now: Vec<(String, i64)> = holders.iter().flat_map(tokens).collect();
        let new: Vec<&(String, i64)> = now.iter().filter(|hold| !old.contains(hold)).collect();

        let mut largest = before.largest_token;
        for (uid, token) in &new {
            if *token <= before.largest_token || self.holds.contains_key(&(key.clone(), *token)) {
                self.broken(
                    at,
                    "token",
                    format!("{key}: {uid} was granted token {token}, and {} was granted before", before.largest_token),
                );
            }
            largest = largest.max(*token);
            self.holds.insert((key.clone(), *token), Hold { uid: uid.clone(), ended: None });
            *self.grants.entry(plural.to_owned()).or_default() += 1;
        }
        let last_token = status["lastToken"].as_i64().unwrap_or(0);
        if last_token < before.last_token || !holders.is_empty() && last_token < largest {
            self.broken(at, "token", format!("{key}: lastToken {last_token} after {} and {largest}", before.last_token));
        }
        if !new.is_empty()
            && let Some(words) = too_many(plural, object, &holders)
        {
            self.broken(at, "too many", format!("{key}: {words}"));
        }
        for (at_one, one) in holders.iter().enumerate() {
            if holders[..at_one].iter().any(|other| other.uid == one.uid) {
                self.broken(at, "too many", format!("{key}: {} holds twice", one.name));
            }
        }
        for (_, token) in old.iter().filter(|hold| !now.contains(hold)) {
            if let Some(hold) = self.holds.get_mut(&(key.clone(), *token)) {
                hold.ended = Some(at);
            }
        }
        for gone in before.holders.iter().filter(|old| !holders.iter().any(|now| now.uid == old.uid && now.token == old.token)) {
            if let Some(words) = self.taken(gone, at) {
                self.broken(at, "taken", format!("{key}: {} lost its hold {}: {words}", gone.name, gone.token));
            }
        }
        (before.largest_token, before.last_token, before.holders) = (largest, last_token, holders);
        self.latches(seen, plural, object, &mut before);
        self.primitives.insert(key.clone(), before);
    }

    fn primitive_gone(&mut self, seen: &Revision) {
        let before = self.primitives.entry(seen.key.clone()).or_default();
        let held = before.holders.first().map(|holder| holder.name.clone());
        // Tokens and what was once open are remembered beyond the object.
        let (largest_token, was_open) = (before.largest_token, before.was_open);
        *before = Primitive { largest_token, was_open, ..Primitive::default() };
        if let Some(name) = held {
            self.broken(seen.at, "taken", format!("{} was deleted while {name} held it", seen.key));
        }
    }

    /// Why a hold must not have ended now; nothing if it may. What ran in Pods is judged by what ran.
    fn taken(&self, holder: &Holder, at: f64) -> Option<String> {
        if holder.kind != "Claim" {
            return None;
        }
        let Some(claim) = self.claims.get(&holder.uid) else { return Some("its Claim was never seen".to_owned()) };
        let overdue = claim.ttl.is_some_and(|ttl| at - claim.renewed > ttl - 1.0);
        (!claim.ended && claim.succeeded.is_none() && !overdue).then(|| format!("claims/{} is there, and was renewed in time", claim.name))
    }

    /// What opens, is done or executed: with reason, and for ever within a round.
    fn latches(&mut self, seen: &Revision, plural: &str, object: &Value, before: &mut Primitive) {
        let (key, at, status) = (&seen.key, seen.at, &object["status"]);
        let phase = status["phase"].as_str().unwrap_or_default();
        let now = match (plural, phase) {
            ("barriers" | "gates", "Open" | "Failed") | ("waitgroups", "Done") => Some(phase.to_owned()),
            ("onces", _) if status["executed"] == true => Some("Executed".to_owned()),
            _ => None,
        };
        let round = status["round"].as_i64().unwrap_or(0);
        let was = before.latched.take().filter(|_| round == before.round);
        before.round = round;
        if was.is_some() && was != now {
            self.broken(at, "closed again", format!("{key} was {was:?} and is {now:?}"));
        }
        if was.is_none() && now.as_deref().is_some_and(|now| now != "Failed") {
            before.was_open = true;
            *self.opened.entry(plural.to_owned()).or_default() += 1;
            if let Some(words) = self.too_early(key, plural, object) {
                self.broken(at, "too early", format!("{key} is {now:?}: {words}"));
            }
        }
        before.latched = now;
        let arrivals: Vec<&str> = status["arrivals"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
        let twice = arrivals.iter().enumerate().any(|(index, name)| arrivals[..index].contains(name));
        if plural == "barriers" && (twice || status["arrived"].as_i64().unwrap_or(0) != arrivals.len() as i64) {
            self.broken(at, "counted", format!("{key}: {} of {arrivals:?}", status["arrived"]));
        }
    }

    /// Why it must not be open, done or executed yet; nothing if it may.
    fn too_early(&self, key: &str, plural: &str, object: &Value) -> Option<String> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let here = || self.claims.values().filter(|claim| claim.lane == key);
        match plural {
            "barriers" => {
                let wanted = spec["quorum"].as_i64().or(spec["expected"].as_i64()).unwrap_or(1);
                let arrived = status["arrived"].as_i64().unwrap_or(0);
                (arrived < wanted).then(|| format!("{arrived} of {wanted} have arrived"))
            }
            "onces" => {
                let by = status["executedBy"]["uid"].as_str().unwrap_or_default();
                let claimed = status["executedBy"]["kind"] == "Claim";
                let said = self.claims.get(by).and_then(|claim| claim.succeeded);
                (claimed && said != Some(true)).then(|| format!("who executed it said {said:?}"))
            }
            "waitgroups" => {
                let counter = status["counter"].as_i64().unwrap_or(0);
                let granted_adds = here().filter(|claim| claim.operation == "Add" && claim.phase == "Granted");
                let (added, done) =
                    (granted_adds.map(|claim| claim.delta).sum::<i64>(), here().filter(|claim| claim.operation == "Done").count());
                (counter != 0 || added > done as i64)
                    .then(|| format!("counter {counter}; {added} were added, {done} were asked to be done"))
            }
            _ => {
                let by_hand = here().any(|claim| claim.operation == "Open");
                let met =
                    status["conditionStatuses"].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["met"] == true));
                (!by_hand && !met).then(|| "nobody opened it, and its conditions are not met".to_owned())
            }
        }
    }

    // --- Claims -----------------------------------------------------------------------------------------------------------

    fn claim(&mut self, seen: &Revision, name: &str, object: Option<&Value>) {
        let at = seen.at;
        let Some(object) = object else {
            let gone = self.claim_uids.remove(name).and_then(|uid| self.claims.get_mut(&uid));
            if let Some(claim) = gone {
                claim.ended = true;
            }
            return;
        };
        let (uid, spec, status) = (text(&object["metadata"]["uid"]), &object["spec"], &object["status"]);
        self.claim_uids.insert(name.to_owned(), uid.clone());
        let claim = self.claims.entry(uid.clone()).or_insert_with(|| Claim::read(name, spec, at));
        if !object["metadata"]["deletionTimestamp"].is_null() {
            claim.ended = true;
        }
        claim.succeeded = spec["succeeded"].as_bool();
        let renewals = spec["renewals"].as_i64().unwrap_or(0);
        if renewals > claim.renewals {
            (claim.renewals, claim.renewed) = (renewals, at);
        }
        let phase = status["phase"].as_str().unwrap_or("Pending").to_owned();
        let (was, had) = (std::mem::replace(&mut claim.phase, phase.clone()), claim.token);
        let token = status["token"].as_i64();
        claim.token = token.or(had);
        if had.is_some() && token != had {
            self.broken(at, "told", format!("the token of claims/{name} was {had:?} and is {token:?}"));
        }
        if was == phase {
            return;
        }
        if ["Denied", "Expired", "Released"].contains(&was.as_str()) {
            self.broken(at, "told", format!("claims/{name} was {was} and is {phase}"));
        }
        let granted = phase == "Granted" && was == "Pending";
        if granted && let Some(claim) = self.claims.get_mut(&uid) {
            claim.renewed = at;
        }
        let reason = status["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Granted");
        let reason = reason.map(|one| text(&one["reason"])).unwrap_or_default();
        if let Some(words) = self.mistold(&uid, granted, token, &phase, &reason, at) {
            self.broken(at, "told", format!("claims/{name} is {phase}: {words}"));
        }
    }

    /// Why a Claim must not have been told this; nothing if it may.
    fn mistold(&self, uid: &str, granted: bool, token: Option<i64>, phase: &str, reason: &str, at: f64) -> Option<String> {
        let claim = self.claims.get(uid)?;
        let primitive = self.primitives.get(&claim.lane);
        if granted && claim.operation == "Acquire" {
            let hold = token.and_then(|token| self.holds.get(&(claim.lane.clone(), token)));
            return hold.is_none_or(|hold| hold.uid != uid).then(|| format!("{} never was granted to it with token {token:?}", claim.lane));
        }
        if granted && claim.operation == "Wait" {
            let open = primitive.is_some_and(|primitive| primitive.was_open);
            return (!open).then(|| format!("{} never was open", claim.lane));
        }
        let waited = at - claim.seen;
        let early = phase == "Denied" && reason == "TimedOut" && claim.timeout.is_some_and(|timeout| waited < timeout / 2.0);
        early.then(|| format!("{} waited {waited:.1} s of {:?}", claim.holder, claim.timeout))
    }
}

impl Holder {
    fn read(holder: &Value) -> Self {
        let token = |one: &Value| one["token"].as_i64().unwrap_or(0);
        Self {
            uid: text(&holder["uid"]),
            kind: text(&holder["kind"]),
            name: text(&holder["name"]),
            token: token(holder),
            permits: holder["permits"].as_i64().unwrap_or(1),
            reads: holder["mode"] == "Read",
            pods: holder["pods"].as_array().into_iter().flatten().map(|pod| (text(&pod["uid"]), token(pod))).collect(),
        }
    }
}

impl Claim {
    fn read(name: &str, spec: &Value, at: f64) -> Self {
        Self {
            name: name.to_owned(),
            lane: format!("{}/{}", plural(spec["kind"].as_str().unwrap_or_default()), text(&spec["name"])),
            operation: spec["operation"].as_str().unwrap_or("Acquire").to_owned(),
            holder: spec["holder"].as_str().unwrap_or(name).to_owned(),
            delta: spec["delta"].as_i64().unwrap_or(1),
            ttl: spec["ttl"].as_str().and_then(seconds),
            timeout: spec["timeout"].as_str().and_then(seconds),
            renewals: 0,
            seen: at,
            renewed: at,
            ended: false,
            succeeded: None,
            phase: "Pending".to_owned(),
            token: None,
        }
    }
}

/// Why these must not hold together; nothing if they may.
fn too_many(plural: &str, object: &Value, holders: &[Holder]) -> Option<String> {
    let names = || holders.iter().map(|holder| holder.name.as_str()).collect::<Vec<_>>().join(", ");
    let most = match plural {
        "mutexes" | "leases" | "onces" => 1,
        "rwmutexes" => return (holders.len() > 1 && holders.iter().any(|one| !one.reads)).then(|| format!("a writer among {}", names())),
        "semaphores" => object["spec"]["permits"].as_i64().unwrap_or(0),
        _ => return None,
    };
    let held: i64 = holders.iter().map(|holder| holder.permits).sum();
    (held > most).then(|| format!("{held} of {most} are held, by {}", names()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `90s`, `10m`, `1h`: what the load writes.
fn seconds(text: &str) -> Option<f64> {
    let unit = match text.chars().last()? {
        's' => 1.0,
        'm' => 60.0,
        _ => 3600.0,
    };
    text[..text.len() - 1].parse::<f64>().ok().map(|number| number * unit)
}

/// The plural of a kind, as in a key of etcd.
pub fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    if lower.ends_with('x') { format!("{lower}es") } else { format!("{lower}s") }
}
