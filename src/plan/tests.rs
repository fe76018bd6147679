//! What is read, what is refused and with which words.

//! Tests of the annotations: grammar, words of every mistake, properties.
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Item, Kind, MAX_ITEMS, MAX_VALUE, Mistakes, Mode, OnConflict, OnLost, Plan, Release, Role, Subject, Target, lookalike, parse, table,
};
use crate::api::Duration;

fn plan(annotations: &[(&str, &str)]) -> Result<Option<Plan>, Mistakes> {
    let annotations: BTreeMap<String, String> = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    parse(&annotations, Subject::Pod)
}

fn ok(annotations: &[(&str, &str)]) -> String {
    plan(annotations)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .map_or_else(|| "nothing".to_owned(), |plan| plan.annotations().into_values().collect())
}

/// The only mistake of one annotation.
fn mistake(key: &str, value: &str) -> String {
    let mistakes = plan(&[(key, value)]).expect_err(value);
    assert_eq!(mistakes.list.len(), 1, "{mistakes}");
    mistakes.list[0].to_string()
}

#[test]
fn reads_the_grammar_of_the_design() {
    assert_eq!(
        ok(&[("konductor.io/acquire", "semaphore/api-limit;permits=2, mutex/db-migrate")]),
        "mutex/db-migrate, semaphore/api-limit;permits=2"
    );
    assert_eq!(ok(&[("konductor.io/mutex", "db")]), "mutex/db");
    assert_eq!(ok(&[("konductor.io/semaphore", " api ; permits = 2 ; priority=-3 ")]), "semaphore/api;permits=2;priority=-3");
    assert_eq!(
        ok(&[("konductor.io/acquire", "mutex/shop/db;timeout=1h30m;release=controller;fencing=true")]),
        "mutex/shop/db;timeout=1h30m;release=controller;fencing=true"
    );
    assert_eq!(
        ok(&[("konductor.io/mutex", "a"), ("konductor.io/semaphore", "a"), ("konductor.io/acquire", "mutex/b")]),
        "mutex/a, mutex/b, semaphore/a"
    );
}

#[test]
fn nothing_of_ours_is_no_plan() {
    assert_eq!(ok(&[]), "nothing");
    assert_eq!(ok(&[("prometheus.io/scrape", "true"), ("status.konductor.io/token-0", "7")]), "nothing");
    assert_eq!(ok(&[("konductor.io/mutex", "db"), ("konductor.io/inject", "false")]), "nothing");
    assert_eq!(ok(&[("konductor.io/mutex", "db"), ("konductor.io/inject", "true")]), "mutex/db");
}

#[test]
fn says_what_is_wrong_and_what_would_be_right() {
    for (key, value, words) in [
        ("konductor.io/mutx", "db", "did you mean `konductor.io/mutex`?"),
        ("konductor.io/Mutex", "db", "did you mean `konductor.io/mutex`?"),
        ("konductor.io/timeout", "5m", "write it behind the item"),
        ("konductor.io/inject", "no", "is neither true nor false"),
        ("konductor.io/inject", "False", "did you mean `false`?"),
        ("konductor.io/mutex", "", "is an empty item"),
        ("konductor.io/acquire", " ", "is empty"),
        ("konductor.io/acquire", "mutex/a,", "is an empty item"),
        ("konductor.io/acquire", "db", "did you mean `mutex/db`?"),
        ("konductor.io/acquire", "mutx/db", "did you mean `mutex/db`?"),
        ("konductor.io/acquire", "banana/db", "the kinds are mutex, semaphore"),
        ("konductor.io/acquire", "mutex/a/b/c", "too many slashes"),
        ("konductor.io/acquire", "mutex/Shop/db", "did you mean `mutex/shop/db`?"),
        ("konductor.io/acquire", "mutex/db_migrate", "did you mean `mutex/db-migrate`?"),
        ("konductor.io/acquire", "mutex/-", "no name of a mutex"),
        ("konductor.io/acquire", "mutex/a.b/c", "no name of a namespace"),
        ("konductor.io/mutex", "mutex/db", "did you mean `db`?"),
        ("konductor.io/mutex", "a, b", "did you mean `konductor.io/acquire: mutex/a, mutex/b`?"),
        ("konductor.io/mutex", "db;permits=2", "does not fit a mutex"),
        ("konductor.io/semaphore", "api;permit=2", "did you mean `permits=2`?"),
        ("konductor.io/semaphore", "api;permits=0", "a whole number from 1 to 1000000"),
        ("konductor.io/semaphore", "api;permits=1000001", "a whole number from 1 to 1000000"),
        ("konductor.io/semaphore", "api;permits=+1", "a whole number from 1 to 1000000"),
        ("konductor.io/semaphore", "api;permits", "has no value"),
        ("konductor.io/semaphore", "api;permits=1;permits=1", "a second time"),
        ("konductor.io/semaphore", "api;", "is no key=value"),
        ("konductor.io/mutex", "db;timeout=5", "a duration like 90s"),
        ("konductor.io/mutex", "db;timeout=-5s", "a duration like 90s"),
        ("konductor.io/mutex", "db;priority=high", "a whole number from -2147483648"),
        ("konductor.io/mutex", "db;release=hok", "did you mean `release=hook`?"),
        ("konductor.io/mutex", "db;fencing=yes", "true or false"),
        ("konductor.io/acquire", "mutex/a, mutex/a", "is named twice"),
        ("konductor.io/acquire", "mutex/a;release=hook, mutex/b;release=controller", "contradicts"),
        ("konductor.io/acquire", "mutex/a;fencing=true, mutex/b;fencing=false", "contradicts"),
    ] {
        let message = mistake(key, value);
        assert!(message.starts_with(key) && message.contains(words), "{key}: {value}\n{message}\nshould say: {words}");
    }
}

#[test]
fn what_comes_later_is_not_called_unknown() {
    for (key, value) in [
        ("konductor.io/wait", "gate/x"),
        ("konductor.io/arrive", "barrier/x"),
        ("konductor.io/done", "waitgroup/x"),
        ("konductor.io/once", "x"),
        ("konductor.io/lease", "x"),
        ("konductor.io/rwmutex", "x;mode=read"),
        ("konductor.io/barrier", "x"),
        ("konductor.io/gate", "x"),
        ("konductor.io/waitgroup", "x"),
        ("konductor.io/acquire", "lease/x"),
        ("konductor.io/acquire", "rwmutex/x"),
        ("konductor.io/mutex", "x;strategy=suspend"),
        ("konductor.io/mutex", "x;on-conflict=skip"),
        ("konductor.io/mutex", "x;max-hold=1h"),
        ("konductor.io/mutex", "x;start-timeout=1h"),
        ("konductor.io/mutex", "x;create=true"),
        ("konductor.io/mutex", "x;on-lost=ignore"),
        ("konductor.io/mutex", "x;on-timeout=proceed"),
        ("konductor.io/mutex", "x;mode=read"),
    ] {
        assert!(mistake(key, value).contains("not supported by this version yet"), "{key}: {value}");
    }
}

#[test]
fn keys_that_look_like_ours_are_mistakes() {
    for key in [
        "konducter.io/mutex",
        "conductor.io/mutex",
        "Konductor.io/mutex",
        "KONDUCTOR.IO/mutex",
        "konductor.com/mutex",
        "konductor/mutex",
        "kondcutor.io/mutex",
        "konductors.io/mutex",
        "konductor.oi/mutx",
        "konductor.io.mutex",
        "konductor-mutex",
        "io.konductor/mutex",
        "konductor",
        "konductor.example.com/mutex",
    ] {
        assert!(mistake(key, "db").contains("its annotations begin with konductor.io/"), "{key}");
    }
    assert!(mistake("konducter.io/mutx", "db").contains("did you mean `konductor.io/mutex`?"));
    for key in ["conductor.io/task", "konductor.example.com/color", "inductor.io/coil", "kubernetes.io/mutex", "mutex", "konduktorium"] {
        assert_eq!(lookalike(key), None, "{key}");
    }
}

#[test]
fn every_mistake_is_in_one_error() {
    let mistakes = plan(&[
        ("konductor.io/acquire", "mutx/a, semaphore/b;permit=2;timeout=5;strategy=gate, mutex/A"),
        ("konductor.io/mutex", ""),
        ("konductor.io/onse", "x"),
        ("konducter.io/gate", "x"),
    ])
    .unwrap_err();
    insta::assert_snapshot!(mistakes, @r"
    8 mistakes in the annotations of the Pod:
      konducter.io/gate: is not an annotation of konductor; its annotations begin with konductor.io/; did you mean `konductor.io/gate`?
      konductor.io/acquire: `mutx/a` begins with an unknown kind; the kinds are mutex, semaphore; did you mean `mutex/a`?
      konductor.io/acquire: `permit=2` has an unknown key; the keys are timeout, permits, priority, release, fencing; did you mean `permits=2`?
      konductor.io/acquire: `timeout=5` has a wrong value; timeout takes a duration like 90s, 10m or 1h30m (0s does not wait)
      konductor.io/acquire: `strategy=gate` is not supported by this version yet; the keys are timeout, permits, priority, release, fencing
      konductor.io/acquire: `mutex/A` names `A`, which is no name of a mutex: small letters, digits, `-` and `.`, at most 253; did you mean `mutex/a`?
      konductor.io/mutex: is an empty item; write one like db-migrate
      konductor.io/onse: is no annotation of konductor; there are acquire, mutex, semaphore, inject; did you mean `konductor.io/once`?
    ");
}

#[test]
fn too_much_is_a_mistake() {
    let many: Vec<String> = (0..=MAX_ITEMS).map(|n| format!("mutex/m{n}")).collect();
    assert!(mistake("konductor.io/acquire", &many.join(",")).contains("`17 items` are too many; 16 are allowed"));
    let message = mistake("konductor.io/acquire", &"x".repeat(MAX_VALUE + 1));
    assert!(message.contains("bytes long") && message.len() < 300, "{message}");
    let longest = format!("semaphore/{}/{};timeout=1h;priority=-2147483648;permits=1000000", "n".repeat(63), "x".repeat(253));
    let items: Vec<String> =
        (0..MAX_ITEMS).map(|n| longest.replacen('x', &char::from(b'a' + u8::try_from(n).unwrap()).to_string(), 1)).collect();
    assert_eq!(plan(&[("konductor.io/acquire", &items.join(", "))]).unwrap().unwrap().items.len(), MAX_ITEMS);
}

#[test]
fn the_order_is_one_for_all_namespaces() {
    let order = |value: &str, namespace: &str| -> Vec<String> {
        let plan = plan(&[("konductor.io/acquire", value)]).unwrap().unwrap().in_namespace(namespace);
        plan.items.iter().map(|item| item.target.to_string()).collect()
    };
    assert_eq!(order("mutex/x, mutex/b/y", "a"), ["mutex/a/x", "mutex/b/y"]);
    assert_eq!(order("mutex/y, mutex/a/x", "b"), ["mutex/a/x", "mutex/b/y"]);
}

#[test]
fn the_own_namespace_does_not_hide_a_second_hold() {
    let plan = plan(&[("konductor.io/acquire", "mutex/db, mutex/shop/db")]).unwrap().unwrap();
    assert_eq!(plan.twice_in("shop").map(|target| target.to_string()), Some("mutex/shop/db".to_owned()));
    assert_eq!(plan.twice_in("bank"), None);
}

fn any_hold() -> impl Strategy<Value = Item> {
    let name = "[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\\.[a-z0-9]{1,4})?";
    let namespace = proptest::option::of("[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?");
    (any::<bool>(), namespace, name, 1..=table::MAX_PERMITS, any::<i32>(), proptest::option::of(0u64..1_000_000)).prop_map(
        |(mutex, namespace, name, permits, priority, timeout)| {
            let kind = if mutex { Kind::Mutex } else { Kind::Semaphore };
            let permits = if mutex { 1 } else { permits };
            let role = Role::Hold { permits, mode: Mode::Write, priority, create: false };
            Item { target: Target { kind, namespace, name }, role, timeout: timeout.map(Duration::from_secs) }
        },
    )
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let release = proptest::option::of(prop_oneof![Just(Release::Hook), Just(Release::Controller)]);
    (proptest::collection::vec(any_hold(), 1..MAX_ITEMS), release, any::<bool>()).prop_map(|(mut items, release, fencing)| {
        items.sort_by(|a, b| a.target.cmp(&b.target));
        items.dedup_by(|a, b| a.target == b.target);
        Plan {
            items,
            release,
            fencing,
            strategy: None,
            on_conflict: OnConflict::Queue,
            on_lost: OnLost::Kill,
            max_hold: None,
            start_timeout: None,
        }
    })
}

/// A mistake of a known number: each of these pieces is one.
fn any_wrong_item() -> impl Strategy<Value = (String, usize)> {
    prop_oneof![
        Just(("mutx/a".to_owned(), 1)),
        Just(("mutex/A".to_owned(), 1)),
        Just((String::new(), 1)),
        Just(("lease/a".to_owned(), 1)),
        Just(("mutex/b;permits=2;timeout=x".to_owned(), 2)),
        Just(("semaphore/c;permit=2;permits=0;strategy=gate".to_owned(), 3)),
    ]
}

proptest! {
    #[test]
    fn prints_what_it_reads(plan in any_plan()) {
        prop_assert_eq!(parse(&plan.annotations(), Subject::Pod), Ok(Some(plan)));
    }

    #[test]
    fn never_panics(key in "((status\\.)?[Kk]ond[a-z]{0,6}(\\.io)?/)?\\PC{0,12}", value in "\\PC{0,40}") {
        let _ = parse(&BTreeMap::from([(key, value)]), Subject::Job);
    }

    #[test]
    fn never_panics_on_what_is_nearly_right(value in "(mutex|semaphore|mutx|)/?[a-zA-Z./-]{0,8}(;(permits|timeout|release|fencing|mode|)=?[0-9a-z-]{0,5}){0,3}(,|, mutex/x)?") {
        for word in ["acquire", "mutex", "semaphore", "inject", "wait"] {
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

/// The API server catches a misspelt prefix by a policy of its own, which has to know the words as well.
#[test]
fn the_policy_of_the_chart_knows_every_annotation() {
    let policy = include_str!("../../charts/konductor/templates/policies.yaml");
    let words: Vec<&str> = table::ANNOTATIONS.iter().map(|annotation| annotation.word).collect();
    let listed = policy.split_once("/(wait|").and_then(|(_, rest)| rest.split_once(")$")).map(|(list, _)| format!("wait|{list}")).unwrap();
    let mut listed: Vec<&str> = listed.split('|').collect();
    let mut words = words;
    listed.sort_unstable();
    words.sort_unstable();
    assert_eq!(listed, words);
}
