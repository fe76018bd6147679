//! Plans as text: what is printed reads back as the same plan.

use std::{collections::BTreeMap, fmt};

use super::{Item, Kind, Mode, On, OnConflict, OnLost, OnTimeout, Plan, Role, Subject, Target};
use crate::api::names::USER_PREFIX;

impl Plan {
    /// The annotations that mean this plan.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations: BTreeMap<String, String> = BTreeMap::new();
        let mut add = |word: &str, item: String| {
            let value = annotations.entry(format!("{USER_PREFIX}{word}")).or_default();
            if !value.is_empty() {
                value.push_str(", ");
            }
            value.push_str(&item);
        };
        for (index, item) in self.items.iter().enumerate() {
            // What concerns the whole plan has to stand behind some item.
            let whole = if index == 0 { self.whole() } else { String::new() };
            // The annotation `once` names the kind.
            let text = item.to_string();
            let text = if matches!(item.role, Role::Execute { .. }) { text.split_once('/').map_or("", |(_, rest)| rest) } else { &text };
            add(item.role.word(), format!("{text}{whole}"));
            if matches!(item.role, Role::Wait { arrive: true, .. }) {
                let arrive = Item { target: item.target.clone(), role: Role::Arrive { on: On::Start }, timeout: None };
                add(arrive.role.word(), arrive.to_string());
            }
        }
        annotations
    }

    /// The keys that concern the plan as a whole.
    fn whole(&self) -> String {
        let Self { items: _, release, fencing, strategy, container, on_conflict, on_lost, max_hold, start_timeout } = self;
        let given = |key: &str, value: Option<String>| value.map(|value| format!(";{key}={value}")).unwrap_or_default();
        [
            given("release", release.map(|release| release.to_string())),
            given("fencing", fencing.then(|| "true".to_owned())),
            given("strategy", strategy.map(|strategy| strategy.to_string())),
            given("container", container.clone()),
            given("on-conflict", (*on_conflict != OnConflict::default()).then(|| on_conflict.to_string())),
            given("on-lost", (*on_lost != OnLost::default()).then(|| on_lost.to_string())),
            given("max-hold", max_hold.map(|max_hold| max_hold.to_string())),
            given("start-timeout", start_timeout.map(|start_timeout| start_timeout.to_string())),
        ]
        .concat()
    }
}

impl Role {
    /// The annotation that lists items of this role; its key is `konductor.io/` and this word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wait { .. } => "wait",
            Self::Hold { .. } => "acquire",
            Self::Execute { .. } => "once",
            Self::Join => "done",
            Self::Arrive { .. } => "arrive",
        }
    }
}

/// The annotations that mean this plan, one a line.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.annotations().iter().enumerate() {
            write!(out, "{}{key}: {value}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// One item of a list.
impl fmt::Display for Item {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, role, timeout } = self;
        write!(out, "{target}{role}")?;
        match timeout {
            Some(timeout) => write!(out, ";timeout={timeout}"),
            None => Ok(()),
        }
    }
}

/// The keys of an item that are not their default.
impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // That it arrives too is said by an annotation of its own.
            Self::Wait { on_timeout, arrive: _ } if *on_timeout != OnTimeout::default() => write!(out, ";on-timeout={on_timeout}"),
            Self::Wait { on_timeout: _, arrive: _ } => Ok(()),
            Self::Hold { permits, mode, priority, create } => {
                if *permits != 1 {
                    write!(out, ";permits={permits}")?;
                }
                if *mode != Mode::default() {
                    write!(out, ";mode={mode}")?;
                }
                if *priority != 0 {
                    write!(out, ";priority={priority}")?;
                }
                if *create { out.write_str(";create=true") } else { Ok(()) }
            }
            Self::Execute { priority } if *priority != 0 => write!(out, ";priority={priority}"),
            Self::Arrive { on } if *on != On::default() => write!(out, ";on={on}"),
            Self::Execute { priority: _ } | Self::Join | Self::Arrive { on: _ } => Ok(()),
        }
    }
}

/// `mutex/db`, or `mutex/shop/db` with a namespace.
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace {
            Some(namespace) => write!(out, "{kind}/{namespace}/{name}"),
            None => write!(out, "{kind}/{name}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}
