//! The test of the observer itself: a history that was recorded on a cluster is good, and each way to spoil it is seen by the rule that should see it.

use serde_json::{Value, json};

use crate::{
    history::{Line, Revision, Run},
    judge::Judge,
};

const RECORDED: &str = include_str!("recorded.jsonl");

/// Changes a history; says whether it found what to change.
type Change = fn(&mut Vec<Line>) -> bool;

/// What happened, the rule that must see it, and the change that makes it so.
const SPOILED: [(&str, &str, Change); 24] = [
    ("a revision is not seen", "missed", |lines| remove(lines, |seen| seen.key.starts_with("mutexes/") && seen.version == 3)),
    ("a second one holds a Mutex", "too many", |lines| {
        change(lines, "mutexes/", |status| {
            let mut second = status["holders"][0].clone();
            (second["uid"], second["token"]) = ("another".into(), (token(&second) + 1).into());
            status["lastToken"] = second["token"].clone();
            status["holders"].as_array_mut().filter(|holders| holders.len() == 1).map(|holders| holders.push(second)).is_some()
        })
    }),
    ("one of several readers writes", "too many", |lines| {
        change_all(lines, "rwmutexes/", |status| {
            let many = status["holders"].as_array_mut().filter(|holders| holders.len() > 1);
            many.map(|holders| holders[0]["mode"] = "Write".into()).is_some()
        })
    }),
    ("more permits are held than there are", "too many", |lines| {
        change_all(lines, "semaphores/", |status| {
            let holder = status["holders"].as_array_mut().and_then(|holders| holders.last_mut());
            holder.map(|holder| holder["permits"] = 9.into()).is_some()
        })
    }),
    ("one holds twice", "too many", |lines| {
        change(lines, "semaphores/", |status| {
            let mut again = status["holders"][0].clone();
            again["token"] = (token(&again) + 1000).into();
            status["lastToken"] = again["token"].clone();
            status["holders"].as_array_mut().map(|holders| holders.push(again)).is_some()
        })
    }),
    ("a token is given again", "token", |lines| {
        let mut first = None;
        change(lines, "mutexes/", |status| {
            let Some(now) = status["holders"][0]["token"].as_i64() else { return false };
            let earlier = *first.get_or_insert(now);
            status["holders"][0]["token"] = earlier.into();
            now != earlier
        })
    }),
    ("the counter of tokens goes back", "token", |lines| {
        change(lines, "mutexes/", |status| std::mem::replace(&mut status["lastToken"], 1.into()).as_i64().is_some_and(|last| last > 1))
    }),
    ("a hold ends without evidence", "taken", |lines| remove(lines, |seen| seen.key.starts_with("claims/m-") && seen.value.is_none())),
    ("a held Mutex is gone", "taken", |lines| {
        let Some(at) =
            place(lines, |seen| status(seen).is_some_and(|status| seen.key.starts_with("mutexes/") && status["holders"][0].is_object()))
        else {
            return false;
        };
        let Line::Revision(seen) = lines[at].clone() else { return false };
        lines.insert(at + 1, Line::Revision(Revision { version: 0, value: None, ..seen }));
        true
    }),
    ("a Claim is told of a grant that was none", "told", |lines| {
        change(lines, "claims/m-", |status| {
            let granted = status["phase"] == "Granted";
            status["token"] = (token(status) + 1).into();
            granted
        })
    }),
    ("a Claim that is over is granted", "told", |lines| {
        let Some(at) = place(lines, |seen| status(seen).is_some_and(|status| status["phase"] == "Released")) else { return false };
        let Line::Revision(mut again) = lines[at].clone() else { return false };
        again.version += 1;
        again.value.as_mut().unwrap()["status"]["phase"] = "Granted".into();
        lines.insert(at + 1, Line::Revision(again));
        true
    }),
    ("a Claim times out before its time", "told", |lines| {
        change(lines, "claims/m-", |status| {
            let granted = status["phase"] == "Granted";
            *status = json!({ "phase": "Denied", "conditions": [{ "type": "Granted", "reason": "TimedOut" }] });
            granted
        })
    }),
    ("a wait is over though nothing has opened", "told", |lines| {
        change_all(lines, "barriers/", |status| std::mem::replace(&mut status["phase"], "Waiting".into()) == "Open")
    }),
    ("a Barrier opens too early", "too early", |lines| {
        change_all(lines, "barriers/", |status| {
            if let Some(arrivals) = status["arrivals"].as_array_mut() {
                arrivals.truncate(1);
            }
            status["arrived"] = 1.into();
            status["phase"] == "Open"
        })
    }),
    ("a Barrier counts one twice", "counted", |lines| {
        change(lines, "barriers/", |status| {
            let one = status["arrivals"][0].clone();
            status["arrived"] = (status["arrived"].as_i64().unwrap_or(0) + 1).into();
            status["arrivals"].as_array_mut().map(|arrivals| arrivals.push(one)).is_some()
        })
    }),
    ("what was executed is not any more", "closed again", |lines| {
        let mut executed = 0;
        change(lines, "onces/", |status| {
            executed += usize::from(status["executed"] == true);
            status["executed"] = false.into();
            executed > 1
        })
    }),
    ("a Once is executed and nobody has succeeded", "too early", |lines| {
        let mut found = false;
        for value in revisions(lines).filter(|seen| seen.key.starts_with("claims/")).filter_map(|seen| seen.value.as_mut()) {
            found |= value["spec"].as_object_mut().is_some_and(|spec| spec.remove("succeeded").is_some());
        }
        found
    }),
    ("a WaitGroup is done before its members", "too early", |lines| {
        change(lines, "waitgroups/", |status| {
            status["counter"] = 1.into();
            status["phase"] == "Done"
        })
    }),
    ("one runs on when it holds no more", "ran without a hold", |lines| change_run(lines, |run| run.to += 1000.0)),
    ("one runs with a token of its own making", "ran without a hold", |lines| change_run(lines, |run| run.token += 1_000_000)),
    ("two run at the same time", "ran together", |lines| change_run(lines, |run| run.to += 1000.0)),
    ("one that is cut off loses its hold before its time", "ran without a hold", |lines| run_on(lines, 500.0)),
    ("the next begins before its time", "ran together", |lines| run_on(lines, 500.0)),
    ("one that is cut off has a larger token than the next", "would win", |lines| {
        change_run(lines, |run| (run.forfeit, run.to, run.token) = (Some(run.from), run.to + 1000.0, run.token + 1_000_000))
    }),
];

/// Whether the observer finds nothing in a good history, and in each spoiled one what is wrong with it.
pub fn all_are_seen() -> bool {
    let good: Vec<Line> = RECORDED.lines().map(|line| serde_json::from_str(line).expect("a line of a history")).collect();
    let mut seen = true;
    let found = rules(&good);
    if !found.is_empty() {
        eprintln!("the observer finds fault with a good history: {found:#?}");
        seen = false;
    }
    for (what, rule, spoil) in SPOILED {
        let mut lines = good.clone();
        if !spoil(&mut lines) {
            eprintln!("the recorded history has no place where {what}");
            seen = false;
        } else if !rules(&lines).iter().any(|found| found.starts_with(rule)) {
            eprintln!("the observer does not see that {what}");
            seen = false;
        }
    }
    let mut outlived = good.clone();
    let changed = run_on(&mut outlived, 0.0);
    let found = rules(&outlived);
    if !changed || !found.is_empty() {
        eprintln!("the observer finds fault with one that was cut off and runs on: {found:#?}");
        seen = false;
    }
    println!("the observer was shown {} spoiled histories", SPOILED.len());
    seen
}

fn rules(lines: &[Line]) -> Vec<String> {
    let mut judge = Judge::default();
    lines.iter().for_each(|line| judge.line(line));
    judge.finish();
    judge.violations.iter().map(|found| format!("{}: {}", found.rule, found.words)).collect()
}

fn token(of: &Value) -> i64 {
    of["token"].as_i64().unwrap_or(0)
}

fn status(seen: &Revision) -> Option<&Value> {
    seen.value.as_ref().map(|value| &value["status"])
}

fn revisions(lines: &mut [Line]) -> impl Iterator<Item = &mut Revision> {
    lines.iter_mut().filter_map(|line| if let Line::Revision(seen) = line { Some(seen) } else { None })
}

/// Where the first revision like this is.
fn place(lines: &[Line], like: impl Fn(&Revision) -> bool) -> Option<usize> {
    lines.iter().position(|line| matches!(line, Line::Revision(seen) if like(seen)))
}

fn remove(lines: &mut Vec<Line>, like: impl Fn(&Revision) -> bool) -> bool {
    place(lines, like).map(|at| lines.remove(at)).is_some()
}

/// Changes the first status of such a key that can be changed so.
fn change(lines: &mut [Line], key: &str, mut so: impl FnMut(&mut Value) -> bool) -> bool {
    revisions(lines).filter(|seen| seen.key.starts_with(key)).filter_map(|seen| seen.value.as_mut()).any(|value| {
        let mut status = value["status"].clone();
        let changed = so(&mut status);
        if changed {
            value["status"] = status;
        }
        changed
    })
}

/// Changes all of them.
fn change_all(lines: &mut [Line], key: &str, so: impl Fn(&mut Value) -> bool) -> bool {
    let values = revisions(lines).filter(|seen| seen.key.starts_with(key)).filter_map(|seen| seen.value.as_mut());
    let changed: Vec<bool> = values.filter(|value| !value["status"].is_null()).map(|value| so(&mut value["status"])).collect();
    changed.contains(&true)
}

/// The first run under a Mutex goes on as one that is cut off; its hold may be given away so many seconds after its end.
fn run_on(lines: &mut [Line], after: f64) -> bool {
    change_run(lines, |run| (run.forfeit, run.to) = (Some(run.to + after), run.to + 1000.0))
}

/// Changes the first run under a Mutex.
fn change_run(lines: &mut [Line], so: impl Fn(&mut Run)) -> bool {
    let runs = lines.iter_mut().filter_map(|line| if let Line::Run(run) = line { Some(run) } else { None });
    runs.filter(|run| run.lane.starts_with("mutexes/")).take(1).map(so).count() > 0
}
