//! From items to a plan: what no item can say alone. What contradicts what, what would wait for itself, and what fits which object.

use super::{
    Item, Mistake, Mistakes, On, OnConflict, Plan, Role, Strategy, Subject,
    parse::{MAX_ITEMS, Written},
    table::{Fits, KEYS, Options, Verb},
    target::{clip, listed},
};
use crate::api::names::USER_PREFIX;

/// The plan of these items; `mistakes` are those that were found in them.
pub(super) fn plan(items: &[Written], subject: Subject, mistakes: Vec<Mistake>) -> Result<Option<Plan>, Mistakes> {
    let mut whole = Whole { items, subject, mistakes };
    if let Some(first) = items.first()
        && items.len() > MAX_ITEMS
    {
        whole.mistakes.push(Mistake::new(&first.key, &format!("{} items", items.len()), format!("are too many; {MAX_ITEMS} are allowed")));
    }
    whole.pairs();
    whole.concerned();
    whole.waits();
    let mut plan = Plan {
        items: whole.roles(),
        release: whole.agreed("release", |options| options.release),
        fencing: whole.agreed("fencing", |options| options.fencing).unwrap_or_default(),
        strategy: whole.agreed("strategy", |options| options.strategy),
        container: whole.agreed("container", |options| options.container.clone()),
        on_conflict: whole.agreed("on-conflict", |options| options.on_conflict).unwrap_or_default(),
        on_lost: whole.agreed("on-lost", |options| options.on_lost).unwrap_or_default(),
        max_hold: whole.agreed("max-hold", |options| options.max_hold),
        start_timeout: whole.agreed("start-timeout", |options| options.start_timeout),
    };
    whole.suits(&mut plan);
    plan.arrange();
    let Whole { items: _, subject, mistakes: mut list } = whole;
    if list.is_empty() {
        return Ok(Some(plan).filter(|plan| !plan.items.is_empty()));
    }
    list.sort_by(|a, b| a.annotation.cmp(&b.annotation));
    Err(Mistakes { subject, list })
}

struct Whole<'a> {
    items: &'a [Written],
    subject: Subject,
    mistakes: Vec<Mistake>,
}

impl<'a> Whole<'a> {
    /// An object is named once; only a Barrier may be arrived at on start and waited for: a meeting point.
    fn pairs(&mut self) {
        for (index, item) in self.items.iter().enumerate() {
            let Some(target) = &item.target else { continue };
            let Some(first) = self.items.iter().take(index).find(|other| other.target.as_ref() == Some(target)) else { continue };
            let place = if first.key == item.key { String::new() } else { format!(", here and in {}", first.key) };
            let problem = match (first.verb, item.verb) {
                (Verb::Arrive, Verb::Wait) | (Verb::Wait, Verb::Arrive) => {
                    let arrive = if first.verb == Verb::Arrive { first } else { item };
                    if arrive.options.on == Some(On::Start) {
                        continue;
                    }
                    format!(
                        "is waited for and arrived at{place}: it would wait for its own success; `;on=start` arrives before it waits, which makes it a meeting point"
                    )
                }
                (Verb::Done, Verb::Wait) | (Verb::Wait, Verb::Done) => {
                    format!("is waited for and joined{place}: it would wait for its own end")
                }
                (Verb::Once, Verb::Wait) | (Verb::Wait, Verb::Once) => {
                    format!("is waited for and executed{place}: it would wait for itself; once alone does not run what somebody has done")
                }
                _ => format!("is named twice{place}; an object is named once, with `permits` for more of a Semaphore"),
            };
            self.mistakes.push(Mistake::new(&item.key, &target.to_string(), problem));
        }
    }

    /// Keys of the whole object stand where there is something that they concern.
    fn concerned(&mut self) {
        if self.items.iter().any(|item| item.target.is_none()) {
            return;
        }
        for entry in KEYS {
            let Fits::Whole(verbs) = entry.fits else { continue };
            if self.items.iter().any(|item| verbs.contains(&item.verb)) {
                continue;
            }
            if let Some((key, text)) = self.given(entry.word) {
                let verbs = listed(verbs.iter().map(|verb| verb.word()));
                self.mistakes.push(Mistake::new(key, text, format!("concerns nothing here: {} goes with {verbs}", entry.word)));
            }
        }
    }

    fn waits(&mut self) {
        for item in self.items.iter().filter(|item| item.options.timeout.is_none()) {
            if let Some((_, text)) = item.given.iter().find(|(entry, _)| entry.word == "on-timeout") {
                let problem = "says what happens when the time is over, but no time is given; write timeout= too";
                self.mistakes.push(Mistake::new(&item.key, text, problem));
            }
        }
    }

    /// What suits the object that is annotated, and what follows from that.
    fn suits(&mut self, plan: &mut Plan) {
        let once = self.items.iter().find(|item| item.verb == Verb::Once);
        let skip = self.given("on-conflict").filter(|_| plan.on_conflict == OnConflict::Skip);
        let subject = self.subject;
        let misfit = |key: &str, text: &str, why: &str| Mistake::new(key, text, format!("does not fit a {subject}: {why}"));
        if let Some((key, text)) = self.given("container").filter(|_| !plan.wraps()) {
            self.mistakes.push(Mistake::new(key, text, "concerns nothing here: container goes with strategy=wrap"));
        }
        if matches!(subject, Subject::Pod | Subject::PodTemplate) {
            if plan.wraps() {
                return self.wrapped(skip.is_some());
            }
            self.mistakes.extend(once.map(|item| {
                let why = "no Pod ends well without running its containers; `;strategy=wrap` leaves out one container's command, or annotate the Job or CronJob";
                misfit(&item.key, &item.text, why)
            }));
            self.mistakes.extend(skip.map(|(key, text)| {
                misfit(
                    key,
                    text,
                    "only a Job can be skipped, or with strategy=wrap a command; annotate the Job or CronJob, or add `;strategy=wrap`",
                )
            }));
            let suspend = self.given("strategy").filter(|_| plan.strategy == Some(Strategy::Suspend));
            self.mistakes.extend(suspend.map(|(key, text)| {
                misfit(key, text, "only a Job can be suspended; annotate the Job or CronJob, or keep each Pod from being scheduled")
                    .near(Some("strategy=gate"))
            }));
            return;
        }
        if let Some((key, text)) = self.given("strategy").filter(|_| plan.wraps()) {
            let why = "a Job holds across its Pods, and a wrapped command for as long as it runs; annotate the pod template";
            self.mistakes.push(misfit(key, text, why));
            return;
        }
        if skip.is_some() {
            self.impatient();
        }
        let because = match (once, skip) {
            (Some(_), _) => format!("{USER_PREFIX}once"),
            (None, Some((_, text))) => text.to_owned(),
            (None, None) => return,
        };
        if plan.strategy.is_some_and(|strategy| strategy != Strategy::Suspend)
            && let Some((key, text)) = self.given("strategy")
        {
            let problem = format!("contradicts {because}: only a Job that was suspended from the start can be skipped; leave strategy out");
            self.mistakes.push(Mistake::new(key, text, problem));
        }
        plan.strategy = Some(Strategy::Suspend);
    }

    /// A command that is wrapped: whoever wraps it also reports its end.
    fn wrapped(&mut self, skip: bool) {
        if skip {
            self.impatient();
        }
        if let Some((key, text)) = self.given("release") {
            let problem = "contradicts strategy=wrap: what wraps the command reports its end itself; leave release out";
            self.mistakes.push(Mistake::new(key, text, problem));
        }
    }

    /// Who does not wait needs no time for it.
    fn impatient(&mut self) {
        for item in self.items {
            let waits = item.options.timeout.is_some_and(|timeout| !timeout.is_zero());
            if let Some((_, text)) = item.given.iter().find(|(entry, _)| entry.word == "timeout")
                && waits
                && matches!(item.verb, Verb::Acquire | Verb::Once)
            {
                let problem = "contradicts on-conflict=skip, which does not wait for what somebody else holds";
                self.mistakes.push(Mistake::new(&item.key, text, problem));
            }
        }
    }

    /// The items of the plan. Those of a meeting point are one.
    fn roles(&self) -> Vec<Item> {
        let meets = |item: &Written, verb: Verb| {
            let start = |other: &Written| other.verb != Verb::Arrive || other.options.on == Some(On::Start);
            start(item) && self.items.iter().any(|other| other.verb == verb && other.target == item.target && start(other))
        };
        let mut plan = Vec::new();
        for item in self.items {
            let Options { timeout, on_timeout, permits, mode, priority, create, on, .. } = item.options;
            let Some(target) = item.target.clone() else { continue };
            let role = match item.verb {
                Verb::Arrive if meets(item, Verb::Wait) => continue,
                Verb::Arrive => Role::Arrive { on: on.unwrap_or_default() },
                Verb::Wait => Role::Wait { on_timeout: on_timeout.unwrap_or_default(), arrive: meets(item, Verb::Arrive) },
                Verb::Acquire => Role::Hold {
                    permits: permits.unwrap_or(1),
                    mode: mode.unwrap_or_default(),
                    priority: priority.unwrap_or_default(),
                    create: create.unwrap_or_default(),
                },
                Verb::Done => Role::Join,
                Verb::Once => Role::Execute { priority: priority.unwrap_or_default() },
            };
            plan.push(Item { target, role, timeout });
        }
        plan
    }

    /// The value that the items agree on: these keys concern the object as a whole.
    fn agreed<T: PartialEq>(&mut self, word: &str, read: fn(&Options) -> Option<T>) -> Option<T> {
        let mut given = self.items.iter().filter_map(|item| read(&item.options).map(|value| (item, value)));
        let (first, value) = given.next()?;
        if let Some((item, _)) = given.find(|(_, other)| *other != value) {
            let problem = format!("contradicts `{}`: {word} concerns the whole object and can have one value only", clip(&first.text));
            self.mistakes.push(Mistake::new(&item.key, &item.text, problem));
        }
        Some(value)
    }

    /// Where a key is given: the annotation and the text.
    fn given(&self, word: &str) -> Option<(&'a str, &'a str)> {
        self.items.iter().find_map(|item| {
            let (_, text) = item.given.iter().find(|(entry, _)| entry.word == word)?;
            Some((item.key.as_str(), text.as_str()))
        })
    }
}
