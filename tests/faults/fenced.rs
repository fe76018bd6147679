//! What the primitives guard: who used it, when and with which token, by their own words. Judged without what etcd says, and against it.

use std::collections::{BTreeMap, HashMap};

use crate::{
    history::Run,
    judge::{Hold, Violation},
};

/// An end is written after the fact by a clock of hundredths.
const BLUR: f64 = 0.05;

/// What is wrong with these runs.
pub fn judge(runs: &[Run], holds: &HashMap<(String, i64), Hold>) -> Vec<Violation> {
    let mut lanes: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        lanes.entry(&run.lane).or_default().push(run);
    }
    let mut found: Vec<Violation> = runs.iter().filter_map(|run| without_a_hold(run, holds)).collect();
    for (lane, mut runs) in lanes {
        runs.sort_by(|a, b| a.from.total_cmp(&b.from));
        found.extend(together(lane, &runs));
    }
    found
}

fn without_a_hold(run: &Run, holds: &HashMap<(String, i64), Hold>) -> Option<Violation> {
    let words = match holds.get(&(run.lane.clone(), run.token)) {
        None => "never was granted that token".to_owned(),
        Some(Hold { ended: Some(ended), .. }) if *ended < run.to - BLUR && !run.has_forfeited(*ended) => {
            format!("ran {:.2} s longer than it held", run.to - ended)
        }
        Some(_) => return None,
    };
    Some(Violation { at: run.to, rule: "ran without a hold", words: format!("{}: {} with token {} {words}", run.lane, run.by, run.token) })
}

/// Those of one lane that ran at the same time and must not, or in an order in which their tokens do not grow.
fn together(lane: &str, runs: &[&Run]) -> Vec<Violation> {
    let (shared, most) = lane.split_once('/').map_or((false, 1), |(plural, name)| match plural {
        "semaphores" => (true, name.rsplit('-').next().and_then(|permits| permits.parse().ok()).unwrap_or(1)),
        "rwmutexes" => (true, i64::MAX),
        _ => (false, 1),
    });
    let mut found = Vec::new();
    let mut broken = |at: f64, rule: &'static str, words: String| found.push(Violation { at, rule, words: format!("{lane}: {words}") });
    let mut running: Vec<&Run> = Vec::new();
    let mut largest: Option<&Run> = None;
    for &run in runs {
        running.retain(|other| other.to > run.from);
        // Who has forfeited its hold may run on beside those that come after it: their tokens are larger.
        let (outlived, beside): (Vec<&Run>, Vec<&Run>) = running.iter().partition(|other| other.has_forfeited(run.from));
        for other in outlived.iter().filter(|other| other.token > run.token) {
            broken(
                run.from,
                "would win",
                format!("{} ({}) began beside {} ({}), which was cut off", run.by, run.token, other.by, other.token),
            );
        }
        let used: i64 = run.permits + beside.iter().map(|other| other.permits).sum::<i64>();
        let unequal = lane.starts_with("rwmutexes/") && beside.iter().any(|other| !other.reads || !run.reads);
        if used > most || unequal {
            let names: Vec<String> = beside.iter().map(|other| format!("{} ({}) till {:.2}", other.by, other.token, other.to)).collect();
            broken(run.from, "ran together", format!("{} ({}) began at {:.2} beside {}", run.by, run.token, run.from, names.join(", ")));
        }
        if let Some(other) = largest.filter(|other| !shared && other.token >= run.token) {
            broken(run.from, "ran together", format!("{} ({}) began after {} ({})", run.by, run.token, other.by, other.token));
        }
        largest = [largest, Some(run)].into_iter().flatten().max_by_key(|run| run.token);
        running.push(run);
    }
    found
}
