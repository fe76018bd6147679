//! What holds for every annotation: a plan reads back as it prints, nothing panics, no mistake is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Item, Kind, MAX_ITEMS, Mode, On, OnConflict, OnLost, OnTimeout, Plan, Release, Role, Strategy as Place, Subject, Target, parse, table,
};
use crate::api::Duration;

fn any_target() -> impl Strategy<Value = (Option<String>, String)> {
    (proptest::option::of("[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?"), "[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\\.[a-z0-9]{1,4})?")
}

fn any_duration() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((1u64..1_000_000).prop_map(Duration::from_secs))
}

/// An item of any kind, with any of its keys. The kind of Once is executed where `once` says so, else waited for.
fn any_item() -> impl Strategy<Value = Item> {
    let kind = proptest::sample::select(Kind::ALL.to_vec());
    (kind, any_target(), any_duration(), any::<(bool, bool, i32)>(), 1..=table::MAX_PERMITS).prop_map(
        |(kind, (namespace, name), timeout, (one, other, priority), permits)| {
            let hold = |permits, mode, create| Role::Hold { permits, mode, priority, create };
            let on_timeout = if one && timeout.is_some() { OnTimeout::Proceed } else { OnTimeout::Fail };
            let role = match kind {
                Kind::Mutex => hold(1, Mode::Write, one),
                Kind::RwMutex => hold(1, if one { Mode::Read } else { Mode::Write }, false),
                Kind::Lease => hold(1, Mode::Write, false),
                Kind::Semaphore => hold(permits, Mode::Write, false),
                Kind::Gate => Role::Wait { on_timeout, arrive: false },
                Kind::Once if other => Role::Execute { priority },
                Kind::WaitGroup if other => Role::Join,
                Kind::Barrier if other => Role::Arrive { on: if one { On::Start } else { On::Success } },
                Kind::Once | Kind::WaitGroup => Role::Wait { on_timeout, arrive: false },
                Kind::Barrier => Role::Wait { on_timeout, arrive: priority % 2 == 0 },
            };
            let timeout = timeout.filter(|_| !matches!(role, Role::Arrive { .. }));
            Item { target: Target { kind, namespace, name }, role, timeout }
        },
    )
}

/// A plan that annotations can mean: one Once is executed at most, and what concerns the whole has something to concern.
fn any_plan() -> impl Strategy<Value = Plan> {
    let release = proptest::option::of(prop_oneof![Just(Release::Hook), Just(Release::Controller)]);
    let strategy = proptest::option::of(prop_oneof![Just(Place::Init), Just(Place::Gate), Just(Place::Suspend)]);
    let flags = any::<(bool, bool, bool)>();
    (proptest::collection::vec(any_item(), 1..MAX_ITEMS / 2), release, strategy, flags, any_duration(), any_duration()).prop_map(
        |(mut items, release, strategy, (fencing, skip, ignore), max_hold, start_timeout)| {
            let mut names = BTreeSet::new();
            let mut executes = 0;
            items.retain(|item| {
                executes += usize::from(matches!(item.role, Role::Execute { .. }));
                names.insert(item.target.clone()) && (executes < 2 || !matches!(item.role, Role::Execute { .. }))
            });
            let any = |fits: fn(Role) -> bool| items.iter().any(|item| fits(item.role));
            let (lasts, token) = (any(Role::lasts), any(Role::has_token));
            let waits = any(|role| role.is_step() && !matches!(role, Role::Arrive { .. }));
            let skip = skip && token;
            let suspend = skip || any(|role| matches!(role, Role::Execute { .. }));
            for item in items.iter_mut().filter(|item| skip && item.role.has_token()) {
                item.timeout = None;
            }
            let mut plan = Plan {
                items,
                release: release.filter(|_| lasts),
                fencing: fencing && token,
                strategy: if suspend { Some(Place::Suspend) } else { strategy.filter(|_| waits) },
                container: None,
                on_conflict: if skip { OnConflict::Skip } else { OnConflict::Queue },
                on_lost: if ignore && lasts { OnLost::Ignore } else { OnLost::Kill },
                max_hold: max_hold.filter(|_| lasts),
                start_timeout: start_timeout.filter(|_| lasts),
            };
            plan.arrange();
            plan
        },
    )
}

/// A mistake of a known number: each of these pieces is one.
fn any_wrong_item() -> impl Strategy<Value = (String, usize)> {
    prop_oneof![
        Just(("mutx/a".to_owned(), 1)),
        Just(("mutex/A".to_owned(), 1)),
        Just((String::new(), 1)),
        Just(("gate/a".to_owned(), 1)),
        Just(("mutex/b;permits=2;timeout=x".to_owned(), 2)),
        Just(("semaphore/c;permit=2;permits=0;strategy=warp".to_owned(), 3)),
    ]
}

proptest! {
    #[test]
    fn prints_what_it_reads(plan in any_plan()) {
        prop_assert_eq!(parse(&plan.annotations(), Subject::Job), Ok(Some(plan)));
    }

    #[test]
    fn prints_what_it_reads_of_a_wrapped_command(plan in any_plan(), container in proptest::option::of("[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?")) {
        prop_assume!(plan.items.iter().any(|item| !matches!(item.role, Role::Arrive { .. })));
        let plan = Plan { strategy: Some(Place::Wrap), container, release: None, ..plan };
        prop_assert_eq!(parse(&plan.annotations(), Subject::PodTemplate), Ok(Some(plan)));
    }

    #[test]
    fn never_panics(key in "((status\\.)?[Kk]ond[a-z]{0,6}(\\.io)?/)?\\PC{0,12}", value in "\\PC{0,40}") {
        let _ = parse(&BTreeMap::from([(key, value)]), Subject::Job);
    }

    #[test]
    fn never_panics_on_what_is_nearly_right(value in "(mutex|semaphore|gate|barrier|once|mutx|)/?[a-zA-Z./-]{0,8}(;(permits|timeout|release|fencing|mode|strategy|on|on-timeout|max-hold|)=?[0-9a-z-]{0,5}){0,3}(,|, mutex/x)?") {
        for word in table::ANNOTATIONS.iter().map(|annotation| annotation.word) {
            if let Err(mistakes) = parse(&BTreeMap::from([(format!("konductor.io/{word}"), value.clone())]), Subject::CronJob) {
                prop_assert!(!mistakes.list.is_empty());
                prop_assert!(mistakes.to_string().lines().count() == mistakes.list.len() + 1);
            }
        }
    }

    #[test]
    fn counts_every_mistake(items in proptest::collection::vec(any_wrong_item(), 2..6)) {
        let names = items.iter().enumerate().map(|(n, (item, _))| item.replace("/b", &format!("/b{n}")).replace("/c", &format!("/c{n}")));
        let value = names.collect::<Vec<_>>().join(",");
        let expected: usize = items.iter().map(|(_, mistakes)| mistakes).sum();
        let empty = value.trim().is_empty();
        let mistakes = parse(&BTreeMap::from([("konductor.io/acquire".to_owned(), value)]), Subject::Pod).unwrap_err();
        prop_assert_eq!(mistakes.list.len(), if empty { 1 } else { expected }, "{}", mistakes);
    }
}
