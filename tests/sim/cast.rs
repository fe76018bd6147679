//! The primitives of a run and what users write about them: each seed has a few kinds, so that many meet at each of them.

use konductor::{controller::object::Key, plan::Kind};
use serde_json::{Value, json};

use crate::{
    chance::Chance,
    core::Core,
    request::{What, Writer},
    truth::NAMESPACE,
};

/// A primitive that users use.
pub type Named = (What, &'static str);

const HELD: [Named; 6] = [
    (What::Mutexes, "m0"),
    (What::Mutexes, "m1"),
    (What::Semaphores, "s0"),
    (What::Semaphores, "s1"),
    (What::RwMutexes, "r0"),
    (What::OurLeases, "l0"),
];
const MET: [Named; 6] = [
    (What::Barriers, "b0"),
    (What::Barriers, "b1"),
    (What::Onces, "o0"),
    (What::WaitGroups, "w0"),
    (What::Gates, "g0"),
    (What::Gates, "g1"),
];

/// The primitives of this seed.
pub fn drawn(chance: &mut Chance) -> Vec<Named> {
    if chance.permille(350) {
        return HELD[..4].to_vec();
    }
    let mut some = |from: &[Named], count: usize| -> Vec<Named> {
        let mut left = from.to_vec();
        (0..count).map(|_| left.remove(chance.below(left.len() as u64) as usize)).collect()
    };
    let mut cast = some(&HELD, 2);
    cast.extend(some(&MET, 3));
    cast.sort();
    cast
}

/// On what a person writes.
#[derive(Clone, Copy, PartialEq)]
pub enum On {
    Pod,
    /// A Pod with a command that is wrapped.
    Wrapped,
    /// The same on a Job's template of Pods.
    Template,
    Job,
}

/// What a person writes on a Pod or a Job.
pub struct Wish {
    pub annotations: Value,
    pub words: String,
    /// Its Pods wait before they get a node.
    pub gated: bool,
    /// It may come to an end by itself even if its Pods are restarted for ever.
    pub patient: bool,
}

#[derive(Default)]
struct Items {
    wait: Vec<String>,
    acquire: Vec<String>,
    arrive: Vec<String>,
    done: Vec<String>,
    once: Option<String>,
}

impl Core {
    pub fn make_primitive(&mut self, (what, name): Named) {
        let spec = self.spec(what);
        self.note((20, 0), |_| format!("user  creates {name}: {spec}"));
        self.create(Writer::World, what, NAMESPACE, name, json!({"spec": spec}));
    }

    fn spec(&mut self, what: What) -> Value {
        let ttl = format!("{}s", self.chance.between(4, 15));
        match what {
            What::Semaphores => json!({"ttl": ttl, "permits": if self.truth.at_last { 4 } else { self.chance.between(1, 4) }}),
            What::OurLeases => json!({"ttl": ttl, "priority": self.chance.between(0, 3)}),
            What::Barriers => {
                let expected = self.chance.between(2, 4);
                let mut spec = json!({"expected": expected});
                if self.chance.permille(400) {
                    spec["quorum"] = self.chance.between(1, expected).into();
                }
                self.with_timeout(spec)
            }
            What::Gates => {
                // One without conditions is opened by hand.
                let least = u64::from(self.faults.claims == 0 || !self.chance.permille(150));
                let conditions: Vec<Value> = (0..self.chance.between(least, 2)).map(|_| self.gate_condition()).collect();
                self.with_timeout(json!({ "conditions": conditions }))
            }
            What::Onces | What::WaitGroups if self.chance.permille(200) => json!({ "ttl": ttl }),
            What::Onces | What::WaitGroups => json!({}),
            _ => json!({ "ttl": ttl }),
        }
    }

    fn with_timeout(&mut self, mut spec: Value) -> Value {
        if self.chance.permille(250) {
            spec["timeout"] = format!("{}s", self.chance.between(5, 90)).into();
        }
        spec
    }

    /// Something that happens for good: what comes and goes may have been so when the Gate looked, and nobody could say later.
    fn gate_condition(&mut self) -> Value {
        let others: Vec<(&str, &str)> = self
            .cast
            .iter()
            .filter_map(|(what, name)| match what {
                What::Barriers => Some(("Barrier", *name)),
                What::Onces => Some(("Once", *name)),
                What::WaitGroups => Some(("WaitGroup", *name)),
                _ => None,
            })
            .collect();
        if self.chance.permille(250)
            && let Some((on, name)) = self.chance.pick(&others).copied()
        {
            return json!({"type": on, "name": name});
        }
        let name = format!("j{}", self.chance.below(3));
        match self.chance.below(10) {
            0..7 => json!({"type": "Job", "name": name}),
            _ => json!({"type": "Job", "name": name, "state": "Failed"}),
        }
    }

    /// What somebody writes, as annotations.
    pub fn wish(&mut self, on: On) -> Wish {
        let mut items = Items::default();
        let mut count = 0;
        for named in self.cast.clone() {
            if self.chance.permille(if count == 0 { 450 } else { 200 }) {
                self.item(named, on, &mut items);
                count += 1;
            }
        }
        if count == 0
            && let Some(named) = self.chance.pick(&self.cast).copied()
        {
            self.item(named, on, &mut items);
        }
        let gated = self.options(on, &mut items);
        let lists = [("wait", &items.wait), ("acquire", &items.acquire), ("arrive", &items.arrive), ("done", &items.done)];
        let mut annotations = json!({});
        for (word, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            annotations[format!("konductor.io/{word}")] = list.join(", ").into();
        }
        if let Some(once) = &items.once {
            annotations["konductor.io/once"] = once.clone().into();
        }
        let words = annotations.to_string();
        // A Pod that is restarted for ever after its time is over, or that waits for what never comes or is done, would never come to an end.
        let once = items.once.is_some() && !words.contains("strategy=wrap");
        let patient = items.wait.is_empty() && !once && !words.contains("timeout");
        Wish { annotations, words, gated, patient }
    }

    fn item(&mut self, (what, name): Named, on: On, items: &mut Items) {
        let namespace = if self.chance.permille(300) { format!("{NAMESPACE}/") } else { String::new() };
        let item = |kind: Kind| format!("{kind}/{namespace}{name}");
        match what {
            What::Mutexes | What::RwMutexes | What::OurLeases | What::Semaphores => {
                let held = self.held(what, item(kind_of(what)));
                items.acquire.push(held);
            }
            What::Onces if on != On::Pod && items.once.is_none() && self.chance.permille(700) => {
                items.once = Some(format!("{namespace}{name}"))
            }
            What::WaitGroups if self.chance.permille(700) => items.done.push(item(Kind::WaitGroup)),
            What::Barriers => match self.chance.below(100) {
                0..55 => items.arrive.push(item(Kind::Barrier)),
                55..68 => items.arrive.push(format!("{};on=start", item(Kind::Barrier))),
                68..76 => {
                    items.arrive.push(format!("{};on=start", item(Kind::Barrier)));
                    items.wait.push(item(Kind::Barrier));
                }
                _ => self.waits(item(Kind::Barrier), items),
            },
            _ => self.waits(item(kind_of(what)), items),
        }
    }

    fn waits(&mut self, mut item: String, items: &mut Items) {
        if self.chance.permille(350) {
            item.push_str(&format!(";timeout={}s", self.chance.between(0, 40)));
            if self.chance.permille(400) {
                item.push_str(";on-timeout=proceed");
            }
        }
        items.wait.push(item);
    }

    fn held(&mut self, what: What, mut item: String) -> String {
        if what == What::Semaphores {
            item.push_str(&format!(";permits={}", self.chance.between(1, 3)));
        }
        if what == What::RwMutexes && self.chance.permille(600) {
            item.push_str(";mode=read");
        }
        if what == What::Mutexes && self.chance.permille(30) {
            item.push_str(";create=true");
        }
        if self.chance.permille(250) {
            item.push_str(&format!(";priority={}", self.chance.between(0, 5)));
        }
        if self.chance.permille(150) {
            item.push_str(&format!(";timeout={}s", self.chance.between(0, 30)));
        }
        item
    }

    /// What concerns the object as a whole. Says whether its Pods are gated.
    fn options(&mut self, on: On, items: &mut Items) -> bool {
        let job = on == On::Job;
        let Items { wait, acquire, done, once, arrive: _ } = items;
        let lasts = !acquire.is_empty() || !done.is_empty() || once.is_some();
        let mut options = String::new();
        for limit in ["max-hold", "start-timeout"] {
            // A Job would make another Pod for each that held for too long.
            if lasts && on != On::Template && self.chance.permille(60) {
                options.push_str(&format!(";{limit}={}s", self.chance.between(2, 40)));
            }
        }
        let can_skip = on != On::Pod && !acquire.is_empty() && !acquire.iter().any(|item| item.contains("timeout="));
        let mut gated = false;
        let skips = can_skip && self.chance.permille(if job { 130 } else { 200 });
        if skips {
            options.push_str(";on-conflict=skip");
        }
        if matches!(on, On::Wrapped | On::Template) {
            options.push_str(";strategy=wrap");
            if self.chance.permille(350) {
                options.push_str(";container=first");
            }
        } else if !skips && once.is_none() {
            match self.chance.below(100) {
                0..20 => {
                    gated = true;
                    options.push_str(";strategy=gate");
                }
                20..45 if job => options.push_str(";strategy=suspend"),
                _ => {}
            }
        }
        let first = wait.first_mut().or(acquire.first_mut()).or(done.first_mut()).or(once.as_mut());
        first.is_some_and(|first| {
            first.push_str(&options);
            gated
        })
    }
}

/// Its kind, in the product's words.
pub fn kind_of(what: What) -> Kind {
    match what {
        What::Mutexes => Kind::Mutex,
        What::RwMutexes => Kind::RwMutex,
        What::OurLeases => Kind::Lease,
        What::Semaphores => Kind::Semaphore,
        What::Onces => Kind::Once,
        What::WaitGroups => Kind::WaitGroup,
        What::Barriers => Kind::Barrier,
        What::Gates => Kind::Gate,
        other => unreachable!("{other:?} are no primitives"),
    }
}

/// Where primitives of this kind are.
pub fn what_of(kind: Kind) -> What {
    match kind {
        Kind::Mutex => What::Mutexes,
        Kind::RwMutex => What::RwMutexes,
        Kind::Lease => What::OurLeases,
        Kind::Semaphore => What::Semaphores,
        Kind::Once => What::Onces,
        Kind::WaitGroup => What::WaitGroups,
        Kind::Barrier => What::Barriers,
        Kind::Gate => What::Gates,
    }
}

/// The key of a primitive.
pub fn key(what: What, name: &str) -> Key {
    Key { kind: kind_of(what), namespace: NAMESPACE.to_owned(), name: name.to_owned() }
}
