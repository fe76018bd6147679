//! Tests of the annotations: grammar, roles, and the words of every mistake.

use std::collections::BTreeMap;

use super::{
    Item, MAX_ITEMS, MAX_VALUE, Mistakes, Plan, Strategy, Subject, lookalike, parse,
    table::{self, Fits, Verb},
};

fn plan_of(annotations: &[(&str, &str)], subject: Subject) -> Result<Option<Plan>, Mistakes> {
    let annotations: BTreeMap<String, String> = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    parse(&annotations, subject)
}

fn plan(annotations: &[(&str, &str)]) -> Result<Option<Plan>, Mistakes> {
    plan_of(annotations, Subject::Pod)
}

fn ok(annotations: &[(&str, &str)]) -> String {
    let read = plan(annotations).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    read.map_or_else(|| "nothing".to_owned(), |plan| plan.annotations().into_values().collect())
}

/// The plan of a Job as one line: the words of its annotations and their values.
fn job(annotations: &[(&str, &str)]) -> String {
    let annotations: Vec<(String, &str)> = annotations.iter().map(|(word, value)| (format!("konductor.io/{word}"), *value)).collect();
    let annotations: Vec<(&str, &str)> = annotations.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let read = plan_of(&annotations, Subject::Job).unwrap_or_else(|mistakes| panic!("{mistakes}")).expect("a plan");
    read.to_string().replace("konductor.io/", "").replace('\n', " | ")
}

/// The only mistake of one annotation.
fn mistake(key: &str, value: &str) -> String {
    the_mistake(&[(key, value)], Subject::Pod)
}

fn the_mistake(annotations: &[(&str, &str)], subject: Subject) -> String {
    let mistakes = plan_of(annotations, subject).expect_err("a mistake");
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
        ("konductor.io/acquire", "banana/db", "acquire takes mutex, rwmutex, lease or semaphore"),
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
        ("konductor.io/semaphore", "api;", "has a `;` with nothing behind it"),
        ("konductor.io/semaphore", "api,permits=2", "did you mean `api;permits=2`?"),
        ("konductor.io/acquire", "mutex: db", "did you mean `mutex/db`?"),
        ("konductor.io/acquire", "mutex/db;semaphore/x;permits=2", "`semaphore/x` is an item of its own; items are separated by commas"),
        ("konductor.io/mutex", "a/b/c", "write name or namespace/name"),
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
fn reads_every_role_and_key() {
    for (annotations, read) in [
        (
            &[("wait", "gate/a;timeout=2h;on-timeout=proceed, barrier/b, waitgroup/c, once/d")][..],
            "wait: gate/a;on-timeout=proceed;timeout=2h, barrier/b, waitgroup/c, once/d",
        ),
        (&[("barrier", "b"), ("gate", "g;timeout=0s"), ("waitgroup", "w")], "wait: barrier/b, gate/g;timeout=0s, waitgroup/w"),
        (
            &[("rwmutex", "cache;mode=read"), ("lease", "l;priority=3"), ("mutex", "m;create=true")],
            "acquire: mutex/m;create=true, rwmutex/cache;mode=read, lease/l;priority=3",
        ),
        (
            &[("mutex", "m;max-hold=1h;start-timeout=5m;on-lost=ignore;strategy=gate")],
            "acquire: mutex/m;strategy=gate;on-lost=ignore;max-hold=1h;start-timeout=5m",
        ),
        (
            &[("arrive", "barrier/a, barrier/b;on=start"), ("done", "waitgroup/w;timeout=1m")],
            "arrive: barrier/a, barrier/b;on=start | done: waitgroup/w;timeout=1m",
        ),
        // A meeting point is one item; the annotations that mean it are two.
        (&[("barrier", "b;timeout=5m"), ("arrive", "barrier/b;on=start")], "arrive: barrier/b;on=start | wait: barrier/b;timeout=5m"),
        (&[("once", "migrate;priority=2")], "once: migrate;priority=2;strategy=suspend"),
        (&[("once", "shop/migrate;strategy=suspend;on-conflict=skip")], "once: shop/migrate;strategy=suspend;on-conflict=skip"),
        (
            &[("mutex", "m;on-conflict=skip"), ("wait", "gate/g;timeout=5m")],
            "acquire: mutex/m | wait: gate/g;timeout=5m;strategy=suspend;on-conflict=skip",
        ),
        (&[("wait", "gate/g;strategy=suspend")], "wait: gate/g;strategy=suspend"),
        // What is the default may be said.
        (&[("mutex", "m;on-conflict=queue;on-lost=kill;fencing=false;create=false;priority=0")], "acquire: mutex/m"),
        (&[("rwmutex", "m;mode=write"), ("arrive", "barrier/b;on=success")], "acquire: rwmutex/m | arrive: barrier/b"),
    ] {
        assert_eq!(job(annotations), read);
    }
}

#[test]
fn the_order_is_waits_then_holds_then_arrivals() {
    let read = plan_of(
        &[
            ("konductor.io/acquire", "semaphore/s, mutex/m, lease/l, rwmutex/r"),
            ("konductor.io/arrive", "barrier/z, barrier/y"),
            ("konductor.io/done", "waitgroup/w"),
            ("konductor.io/once", "o"),
            ("konductor.io/wait", "gate/b, barrier/a"),
        ],
        Subject::Job,
    );
    let plan = read.unwrap().unwrap().in_namespace("shop");
    let names = |items: Vec<&Item>| items.iter().map(|item| item.target.name.clone()).collect::<String>();
    assert_eq!(names(plan.items.iter().collect()), "bamrlsowyz");
    assert_eq!(names(plan.steps().collect()), "bamrlsow");
    assert_eq!(names(plan.holds().collect()), "mrlsow");
    assert_eq!(names(plan.tokens().collect()), "mrlso");
}

#[test]
fn who_owes_an_outcome() {
    for (key, value, owes) in [
        ("konductor.io/arrive", "barrier/b", true),
        ("konductor.io/arrive", "barrier/b;on=start", false),
        ("konductor.io/done", "waitgroup/w", true),
        ("konductor.io/once", "o", true),
        ("konductor.io/mutex", "m", false),
        ("konductor.io/wait", "gate/g", false),
    ] {
        assert_eq!(plan_of(&[(key, value)], Subject::Job).unwrap().unwrap().owes_outcome(), owes, "{key}: {value}");
    }
}

#[test]
fn what_does_not_go_together_is_said() {
    for (key, value, words) in [
        (
            "konductor.io/wait",
            "mutex/x",
            "wait takes once, waitgroup, barrier or gate, and a mutex goes with acquire; did you mean `konductor.io/acquire: mutex/x`?",
        ),
        ("konductor.io/wait", "semaphore/x", "did you mean `konductor.io/acquire: semaphore/x`?"),
        ("konductor.io/wait", "lease/x;permits=2", "did you mean `konductor.io/acquire: lease/x`?"),
        ("konductor.io/wait", "rwmutx/x", "did you mean `konductor.io/acquire: rwmutex/x`?"),
        ("konductor.io/wait", "onc/x", "did you mean `once/x`?"),
        ("konductor.io/wait", "ready", "did you mean `gate/ready`?"),
        ("konductor.io/wait", "", "write items like gate/data-ready"),
        ("konductor.io/acquire", "barrier/x", "a barrier goes with wait or arrive"),
        ("konductor.io/acquire", "gate/x", "did you mean `konductor.io/wait: gate/x`?"),
        ("konductor.io/acquire", "waitgroup/x", "a waitgroup goes with wait or done"),
        ("konductor.io/acquire", "once/x", "a once goes with once or wait"),
        ("konductor.io/arrive", "waitgroup/x", "arrive takes barrier, and a waitgroup goes with wait or done"),
        ("konductor.io/arrive", "stage-1", "did you mean `barrier/stage-1`?"),
        ("konductor.io/done", "barrier/x", "done takes waitgroup, and a barrier goes with wait or arrive"),
        ("konductor.io/done", "workers", "did you mean `waitgroup/workers`?"),
        ("konductor.io/gate", "gate/x", "did you mean `x`?"),
        ("konductor.io/gate", "a, b", "did you mean `konductor.io/wait: gate/a, gate/b`?"),
        ("konductor.io/mutex", "m;on-timeout=proceed", "on-timeout is for wait"),
        ("konductor.io/gate", "g;on-timeout=proceed", "write timeout= too"),
        ("konductor.io/gate", "g;timeout=1m;on-timeout=procede", "did you mean `on-timeout=proceed`?"),
        ("konductor.io/gate", "g;priority=1", "priority is for acquire or once"),
        ("konductor.io/done", "waitgroup/w;priority=1", "priority is for acquire or once"),
        ("konductor.io/arrive", "barrier/b;timeout=1m", "timeout is for wait, acquire, done or once"),
        ("konductor.io/arrive", "barrier/b;on=begin", "on takes success or start"),
        ("konductor.io/wait", "barrier/b;on=start", "on is for arrive"),
        ("konductor.io/semaphore", "s;create=true", "create is for a mutex"),
        ("konductor.io/mutex", "m;mode=read", "mode is for an rwmutex"),
        ("konductor.io/rwmutex", "m;mode=reed", "did you mean `mode=read`?"),
        ("konductor.io/lease", "l;permits=2", "permits is for a semaphore"),
        ("konductor.io/gate", "g;max-hold=1h", "max-hold goes with acquire, done or once"),
        ("konductor.io/gate", "g;start-timeout=1h", "start-timeout goes with acquire, done or once"),
        ("konductor.io/gate", "g;release=controller", "release goes with acquire, done or once"),
        ("konductor.io/gate", "g;on-lost=ignore", "on-lost goes with acquire, done or once"),
        ("konductor.io/done", "waitgroup/w;fencing=true", "fencing goes with acquire or once"),
        ("konductor.io/gate", "g;on-conflict=queue", "on-conflict goes with acquire or once"),
        ("konductor.io/arrive", "barrier/b;strategy=gate", "strategy goes with wait, acquire, done or once"),
        ("konductor.io/mutex", "m;max-hold=0s", "longer than 0s"),
        ("konductor.io/mutex", "m;strategy=warp", "did you mean `strategy=wrap`?"),
        ("konductor.io/mutex", "m;container=app", "container goes with strategy=wrap"),
        ("konductor.io/mutex", "m;strategy=gate;container=app", "container goes with strategy=wrap"),
        ("konductor.io/mutex", "m;strategy=wrap;container=App", "container takes the name of a container"),
        ("konductor.io/mutex", "m;strategy=wrap;release=controller", "what wraps the command reports its end itself"),
        ("konductor.io/mutex", "m;strategy=wrap;on-conflict=skip;timeout=5m", "contradicts on-conflict=skip"),
        ("konductor.io/acquire", "mutex/a;strategy=wrap;container=a, mutex/b;container=b", "contradicts"),
        ("konductor.io/mutex", "m;strategy=suspended", "did you mean `strategy=suspend`?"),
        ("konductor.io/max-hold", "1h", "konductor.io/acquire: mutex/x;max-hold=1h"),
        ("konductor.io/mode", "read", "konductor.io/acquire: rwmutex/x;mode=read"),
        ("konductor.io/on", "start", "konductor.io/arrive: barrier/x;on=start"),
        ("konductor.io/acquire", "mutex/a;max-hold=1h, mutex/b;max-hold=2h", "contradicts"),
    ] {
        let message = mistake(key, value);
        assert!(message.starts_with(key) && message.contains(words), "{key}: {value}\n{message}\nshould say: {words}");
    }
}

#[test]
fn a_message_is_one_line_whatever_it_quotes() {
    for (key, value) in [("konductor.io/mutex", "mutex/a\nb"), ("konductor.io/acquire", "mutx/a\nb"), ("konductor.io/mu\ntex", "a")] {
        let message = mistake(key, value);
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn nobody_waits_for_itself() {
    for (annotations, words) in [
        ([("konductor.io/arrive", "barrier/b"), ("konductor.io/barrier", "b")], "`;on=start` arrives before it waits"),
        ([("konductor.io/done", "waitgroup/w"), ("konductor.io/wait", "waitgroup/w")], "it would wait for its own end"),
        ([("konductor.io/once", "o"), ("konductor.io/wait", "once/o")], "it would wait for itself"),
        ([("konductor.io/gate", "g"), ("konductor.io/wait", "gate/g")], "is named twice, here and in konductor.io/gate"),
    ] {
        let message = the_mistake(&annotations, Subject::Job);
        assert!(message.contains(words), "{message}\nshould say: {words}");
    }
}

#[test]
fn what_fits_only_jobs_is_refused_elsewhere() {
    for (key, value, words) in [
        (
            "konductor.io/once",
            "o",
            "`o` does not fit a SUBJECT: no Pod ends well without running its containers; `;strategy=wrap` leaves out one container's command",
        ),
        ("konductor.io/mutex", "m;on-conflict=skip", "does not fit a SUBJECT: only a Job can be skipped, or with strategy=wrap a command"),
        ("konductor.io/gate", "g;strategy=suspend", "did you mean `strategy=gate`?"),
    ] {
        for subject in [Subject::Pod, Subject::PodTemplate] {
            let message = the_mistake(&[(key, value)], subject);
            assert!(message.contains(&words.replace("SUBJECT", subject.word())), "{message}");
        }
        let read = |subject| plan_of(&[(key, value)], subject).unwrap_or_else(|mistakes| panic!("{mistakes}")).unwrap();
        assert_eq!(read(Subject::Job).strategy, Some(Strategy::Suspend));
        // The copies on a Job's Pod mean the same.
        assert_eq!(read(Subject::Job), read(Subject::PodOfJob));
        assert_eq!(read(Subject::Job), read(Subject::CronJob));
    }
}

#[test]
fn who_may_be_skipped_does_not_wait() {
    for (value, words) in [
        ("m;on-conflict=skip;strategy=gate", "contradicts on-conflict=skip: only a Job that was suspended from the start"),
        ("m;on-conflict=skip;timeout=5m", "`timeout=5m` contradicts on-conflict=skip"),
    ] {
        let message = the_mistake(&[("konductor.io/mutex", value)], Subject::CronJob);
        assert!(message.contains(words), "{message}\nshould say: {words}");
    }
    let message = the_mistake(&[("konductor.io/once", "o;strategy=init")], Subject::Job);
    assert!(message.contains("contradicts konductor.io/once: only a Job that was suspended from the start"), "{message}");
    assert_eq!(job(&[("mutex", "m;on-conflict=skip;timeout=0s")]), "acquire: mutex/m;timeout=0s;strategy=suspend;on-conflict=skip");
}

#[test]
fn what_is_wrapped_is_a_command_of_a_pod() {
    for (annotations, read) in [
        (&[("konductor.io/once", "o;strategy=wrap;container=migrate")][..], "o;strategy=wrap;container=migrate"),
        (&[("konductor.io/mutex", "m;on-conflict=skip;strategy=wrap")], "mutex/m;strategy=wrap;on-conflict=skip"),
        (&[("konductor.io/gate", "g;strategy=wrap")], "gate/g;strategy=wrap"),
    ] {
        assert_eq!(ok(annotations), read);
        for subject in [Subject::Job, Subject::CronJob, Subject::PodOfJob] {
            assert!(the_mistake(annotations, subject).contains("a Job holds across its Pods"), "{read}");
        }
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
        ("konductor.io/acquire", "mutx/a, semaphore/b;permit=2;timeout=5;strategy=warp, mutex/A"),
        ("konductor.io/mutex", ""),
        ("konductor.io/onse", "x"),
        ("konducter.io/gate", "x"),
    ])
    .unwrap_err();
    insta::assert_snapshot!(mistakes, @r"
    8 mistakes in the annotations of the Pod:
      konducter.io/gate: is not an annotation of konductor; its annotations begin with konductor.io/; did you mean `konductor.io/gate`?
      konductor.io/acquire: `mutx/a` begins with an unknown kind; acquire takes mutex, rwmutex, lease or semaphore; did you mean `mutex/a`?
      konductor.io/acquire: `permit=2` has an unknown key; it could be timeout, permits, priority, strategy, container, on-conflict, release, max-hold, start-timeout, on-lost or fencing; did you mean `permits=2`?
      konductor.io/acquire: `timeout=5` has a wrong value; timeout takes a duration like 90s, 10m or 1h30m (0s does not wait)
      konductor.io/acquire: `strategy=warp` has a wrong value; strategy takes init, gate, suspend or wrap; did you mean `strategy=wrap`?
      konductor.io/acquire: `mutex/A` names `A`, which is no name of a mutex: small letters, digits, `-` and `.`, at most 253; did you mean `mutex/a`?
      konductor.io/mutex: is an empty item; write one like db-migrate
      konductor.io/onse: is no annotation of konductor; there are wait, acquire, arrive, done, once, mutex, rwmutex, lease, semaphore, waitgroup, barrier, gate, inject; did you mean `konductor.io/once`?
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
    assert_eq!(plan.twice_in("shop").map(|item| item.target.to_string()), Some("mutex/shop/db".to_owned()));
    assert_eq!(plan.twice_in("bank"), None);
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

/// The documentation says what each key's default is.
#[test]
fn to_write_the_default_of_a_key_changes_nothing() {
    let mut written = 0;
    for table::Key { word, default, fits, read, .. } in table::KEYS {
        if read(&mut table::Options::default(), default).is_none() {
            continue; // no value, but words about what is so without it
        }
        let (verb, kind) = match fits {
            Fits::Verbs(verbs) | Fits::Whole(verbs) => (verbs[0], verbs[0].example().0),
            Fits::Kinds(kinds) => (Verb::Acquire, kinds[0]),
        };
        let item = format!("{kind}/x{}", if *word == "on-timeout" { ";timeout=1m" } else { "" });
        let annotation = format!("konductor.io/{}", verb.word());
        let plan = |item: &str| plan_of(&[(&annotation, item)], Subject::Job).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(plan(&item), plan(&format!("{item};{word}={default}")), "{word}");
        written += 1;
    }
    assert!(written >= 9, "only {written} of them");
}
