//! Annotations: any map of texts is a plan, nothing, or mistakes in words; and a plan is read again as it prints.

use std::collections::BTreeMap;

use konductor::plan::{Subject, parse};
use serde_json::{Value, json};

use crate::{Target, corpus, mutate, tape::Tape};

pub const TARGET: Target = Target { name: "annotations", inputs: 60_000, make, check, memory: 1 << 20 };

const SUBJECTS: [Subject; 4] = [Subject::Pod, Subject::PodTemplate, Subject::Job, Subject::CronJob];

thread_local! {
    static CASES: Vec<Value> = cases();
}

fn cases() -> Vec<Value> {
    let one = |key: &str, value: &str| json!({ key: value });
    let mut cases = vec![
        one("konductor.io/mutex", "db"),
        one("konductor.io/semaphore", "api;permits=2;timeout=10m"),
        one("konductor.io/rwmutex", "cache;mode=read"),
        one("konductor.io/once", "schema-42;strategy=wrap"),
        one("konductor.io/acquire", "mutex/db, semaphore/shop/api;permits=2;fencing=true, lease/l;priority=7"),
        one("konductor.io/wait", "gate/ready;timeout=2h;on-timeout=proceed, barrier/stage-1"),
        one("konductor.io/arrive", "barrier/extracted;on=start"),
        json!({ "konductor.io/done": "waitgroup/workers", "konductor.io/inject": "true", "example.com/other": "x" }),
        json!({ "konductor.io/mutex": "db;on-conflict=skip", "konductor.io/arrive": "barrier/b", "status.konductor.io/copied-from": "Job" }),
    ];
    cases.extend(corpus("annotations").into_iter().filter_map(|(_, text)| serde_json::from_slice(&text).ok()));
    cases
}

fn make(tape: &[u8]) -> Vec<u8> {
    CASES.with(|cases| mutate::json(cases, &mut Tape(tape)))
}

fn check(input: &[u8]) -> usize {
    let Ok(Value::Object(map)) = serde_json::from_slice(input) else { return 0 };
    let annotations: BTreeMap<String, String> =
        map.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect();
    let size = |subject| match parse(&annotations, subject) {
        Err(mistakes) => {
            assert!(!mistakes.list.is_empty());
            let text = mistakes.to_string();
            assert_eq!(text.lines().count(), mistakes.list.len() + 1, "{text}");
            text.len()
        }
        Ok(None) => 0,
        Ok(Some(plan)) => {
            assert_eq!(parse(&plan.annotations(), subject), Ok(Some(plan.clone())), "it prints {plan}");
            plan.to_string().len()
        }
    };
    SUBJECTS.into_iter().map(size).max().unwrap_or_default()
}
