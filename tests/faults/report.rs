//! The table, and whether the run was good: nothing broken, everybody served, and enough of everything to mean something.

use std::{collections::BTreeMap, process::ExitCode, sync::atomic::Ordering};

use crate::{
    faults::Row,
    judge::Judge,
    load::{LANES, Load, ROUNDS},
    pods,
};

/// Violations that are shown.
const SHOWN: usize = 20;

/// Prints everything; says whether it was good. Without rows it was only judged again.
pub fn say(rows: &[Row], judge: &Judge, load: Option<&Load>) -> ExitCode {
    let during = |row: &Row| judge.violations.iter().filter(|found| (row.from..row.to).contains(&found.at)).count();
    if !rows.is_empty() {
        println!("\n{:<26}{:>6}{:>16}{:>12}{:>18}", "fault", "times", "waited then", "violations", "longest recovery");
    }
    for row in rows {
        let Row { fault, times, waited, longest, proof, .. } = row;
        let proof = proof.as_ref().map_or("", |(words, _)| words);
        println!("{fault:<26}{times:>6}{waited:>16}{:>12}{:>16.1} s  {proof}", during(row), longest.as_secs_f64());
    }
    let mut by_lane: BTreeMap<&str, usize> = BTreeMap::new();
    for run in &judge.runs {
        *by_lane.entry(run.lane.split_once('/').map_or("", |(plural, _)| plural)).or_default() += 1;
    }
    println!("\n{} revisions; grants: {:?}; runs: {by_lane:?}", judge.revisions, judge.grants);
    if let Some(load) = load {
        println!("{} Claims were too late with their renewal", load.expired.load(Ordering::Relaxed));
    }
    for found in judge.violations.iter().take(SHOWN) {
        println!("VIOLATION at {:.2}, {}: {}", found.at, found.rule, found.words);
    }
    let vacuous = if load.is_some() { too_little(rows, judge) } else { Vec::new() };
    for words in &vacuous {
        println!("TOO LITTLE: {words}");
    }
    println!("{} violations", judge.violations.len());
    if judge.violations.is_empty() && vacuous.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What was too little for this run to prove anything.
fn too_little(rows: &[Row], judge: &Judge) -> Vec<String> {
    let mut found = Vec::new();
    for Row { fault, wanted, times, waited, proof, .. } in rows {
        if times < wanted {
            found.push(format!("{fault}: {times} of {wanted} times"));
        }
        if *waited < *times.min(&20) {
            found.push(format!("{fault}: {waited} waited when it ended"));
        }
        if let Some((words, false)) = proof {
            found.push(format!("{fault}: {words}"));
        }
    }
    // A run takes half a minute per kind of fault at the least.
    let least = 10 * rows.len().max(1);
    for plural in ["mutexes", "semaphores", "rwmutexes", "leases", "onces"] {
        let grants = judge.grants.get(plural).copied().unwrap_or(0);
        if grants < least {
            found.push(format!("{grants} grants of {plural}; {least} would be something"));
        }
    }
    let lanes = LANES.iter().map(|lane| (lane.key(), least)).chain(pods::LANES.iter().map(|lane| (lane.key.to_owned(), rows.len().max(1))));
    for (lane, least) in lanes {
        let runs = judge.runs.iter().filter(|run| run.lane.starts_with(&lane)).count();
        if runs < least {
            found.push(format!("{runs} runs in {lane}; {least} would be something"));
        }
    }
    for plural in ROUNDS.map(crate::judge::plural) {
        let opened = judge.opened.get(&plural).copied().unwrap_or(0);
        if opened < least / 2 {
            found.push(format!("{opened} rounds of {plural}; {} would be something", least / 2));
        }
    }
    found
}
