//! The suite: many seeds, the exhaustive walk, the planted bugs, and whether all of it was worth anything.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use konductor::{api::Mode, planted, rules::WHOLE};

use crate::{
    Asked,
    core::Stats,
    run::{Outcome, Plan, run},
    walk::{Held, Participant, walk},
    walk_gate, walk_meet,
};

/// A planted bug that survives this many seeds has escaped.
const SEEDS_FOR_A_BUG: u64 = 1000;
/// Violations that are shown.
const SHOWN: usize = 5;

pub fn answer(asked: &Asked) -> ExitCode {
    if let Some(seed) = asked.replay {
        return replay(asked, seed);
    }
    let mut good = true;
    if !asked.bugs_only && asked.bug.is_none() {
        good &= repeats(asked);
        good &= walks();
        good &= seeds(asked);
    }
    good &= bugs(asked);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(asked: &Asked, seed: u64) -> ExitCode {
    let Outcome { violations, trace, stats, digest } = run(Plan { traced: true, ..asked.plan(seed) });
    let lines = if asked.all { trace } else { telling(&trace, violations.first()) };
    lines.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {stats:?}, trace {digest:016x}");
    violations.iter().take(SHOWN).for_each(|violation| println!("  {violation}"));
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The lines that have to do with a violation: those that name what it names, and what went wrong around it.
fn telling(trace: &[String], violation: Option<&String>) -> Vec<String> {
    const MOST: usize = 60;
    let Some(violation) = violation else { return trace.iter().rev().take(MOST).rev().cloned().collect() };
    let end = trace.iter().position(|line| line.contains("VIOLATION")).unwrap_or(trace.len());
    let words: Vec<&str> = violation
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .filter(|word| {
            word.len() > 1
                && word.starts_with(['m', 's', 'p', 'j', 'r', 'l', 'b', 'o', 'w', 'g', 'c'])
                && word.ends_with(|last: char| last.is_ascii_digit())
        })
        .flat_map(|word| [word, word.rsplit_once('-').map_or(word, |(name, _)| name)])
        .collect();
    let signs = ["dies", "leads", "cut off", "silent", "power", "is back", "ready:", "stalls", "repaired", "compacted"];
    let told = |line: &&String| words.iter().any(|word| line.contains(word)) || signs.iter().any(|sign| line.contains(sign));
    let mut lines: Vec<String> = trace[..end.saturating_add(1).min(trace.len())].iter().filter(told).rev().take(MOST).cloned().collect();
    lines.reverse();
    lines
}

/// The same seed gives the same run, to the byte.
fn repeats(asked: &Asked) -> bool {
    let differs = (1..=5).find(|seed| {
        let plan = Plan { traced: true, ..asked.plan(*seed) };
        let (first, second) = (run(plan), run(plan));
        first.digest != second.digest || first.trace != second.trace
    });
    if let Some(seed) = differs {
        println!("seed {seed} gives another run each time");
    }
    differs.is_none()
}

/// All that two controllers and three participants can do.
fn walks() -> bool {
    let pod = |permits, priority| Participant { job: false, permits, priority, mode: None };
    let job = |permits, priority| Participant { job: true, permits, priority, mode: None };
    let (one, urgent, wide, worker) = (pod(1, 0), pod(1, 1), pod(2, 0), job(1, 0));
    let (reader, writer) = (Participant { mode: Some(Mode::Read), ..one }, Participant { mode: Some(Mode::Write), ..one });
    let two = Held::Grants(2);
    let mutex = Held::Grants(1);
    let rwmutex = Held::Grants(WHOLE);
    let held: [(&str, Held, [Participant; 3]); 10] = [
        ("Mutex, three Pods", mutex, [one, urgent, one]),
        ("Mutex, two Pods and a Job whose Pod is replaced", mutex, [one, worker, one]),
        ("Semaphore of 2, a wide Pod between narrow ones", two, [one, wide, one]),
        ("Semaphore of 2, a wide Pod, a Job and a Pod", two, [wide, worker, urgent]),
        ("RWMutex, a writer between readers", rwmutex, [reader, writer, reader]),
        ("RWMutex, two writers and a Job that reads", rwmutex, [writer, Participant { mode: Some(Mode::Read), ..worker }, writer]),
        ("Lease, a Job between Pods of other priority", mutex, [urgent, worker, one]),
        ("Once, three executors", Held::Once, [one, urgent, one]),
        ("Once, a Job between two others", Held::Once, [one, worker, one]),
        ("WaitGroup, two Pods and a Job", Held::WaitGroup, [one, worker, one]),
    ];
    let held = held.into_iter().map(|(name, held, participants)| (name, walk(&participants, held)));
    let met = [
        ("Barrier of 2, three participants", walk_meet::walk(2, false)),
        ("Barrier of 3 with a timeout, three participants", walk_meet::walk(3, true)),
        ("Gate on two Jobs, one of them made again", walk_gate::walk()),
    ];
    let mut good = true;
    for (name, walked) in held.chain(met) {
        println!("walk       {name}: {} states", walked.states);
        if let Some(problem) = walked.problem {
            println!("  {problem}");
            good = false;
        }
    }
    good
}

fn threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

fn seeds(asked: &Asked) -> bool {
    let began = Instant::now();
    let next = AtomicU64::new(1);
    let total = Mutex::new((Stats::default(), Vec::<(u64, String)>::new()));
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > asked.seeds {
                        return;
                    }
                    let outcome = run(asked.plan(seed));
                    let mut total = total.lock().unwrap();
                    total.0.add(&outcome.stats);
                    total.1.extend(outcome.violations.into_iter().take(1).map(|violation| (seed, violation)));
                }
            });
        }
    });
    let (stats, mut violations) = total.into_inner().unwrap();
    violations.sort();
    let Stats { operations, conflicts, ambiguous, takeovers, grants, releases, losses, crashes, waits, .. } = stats;
    let Stats { arrivals, opened, gates, executions, done, skips, resumed, ungated, .. } = stats;
    let Stats { claimed, renewals, expiries, by_hand, wrapped, left_out, busiest, .. } = stats;
    println!("seeds      {} in {} s", asked.seeds, began.elapsed().as_secs());
    println!("operations {operations} ({grants} grants, {releases} releases, {waits} sessions, {crashes} deaths of a controller)");
    println!("conflicts  {conflicts}");
    println!("ambiguous  {ambiguous} writes");
    println!("takeovers  {takeovers} of the leadership, {losses} of holds from lost nodes");
    println!("arrivals   {arrivals} counted, {opened} Barriers opened, {gates} Gates, {executions} Onces executed, {done} WaitGroups done");
    println!("held back  {resumed} Jobs resumed, {skips} left out, {ungated} Pods given a node");
    println!("claims     {claimed} that held, {renewals} renewals, {expiries} expired, {by_hand} steps by hand");
    println!("wrapped    {wrapped} runs of a command, {left_out} left out");
    println!("busiest    {busiest} requests of one controller within 10 s");
    println!("violations {}", violations.len());
    for (seed, violation) in violations.iter().take(SHOWN) {
        println!("  seed {seed} ({violation})\n    again: make sim SEED={seed}");
    }
    // A run in which little went wrong proves little.
    let enough = |count: u64, what: &str, for_each_hundred_seeds: u64| {
        let least = asked.seeds * for_each_hundred_seeds / 100;
        if count < least {
            println!("too few {what} to prove anything: {count}, at least {least} are wanted");
        }
        count >= least
    };
    violations.is_empty()
        & enough(operations, "operations", asked.operations * 90)
        & enough(conflicts, "conflicts", 500)
        & enough(ambiguous, "ambiguous writes", 100)
        & enough(takeovers, "takeovers", 200)
        & enough(crashes, "deaths of a controller", 200)
        & enough(losses, "holds taken from lost nodes", 10)
        & enough(grants, "grants", 1000)
        & enough(arrivals, "arrivals", 50)
        & enough(opened, "Barriers that open", 10)
        & enough(gates, "Gates that open", 5)
        & enough(executions, "executions", 10)
        & enough(done, "WaitGroups that are done", 10)
        & enough(skips, "Jobs that are left out", 20)
        & enough(resumed, "Jobs that are resumed", 80)
        & enough(ungated, "Pods that waited for a node", 150)
        & enough(claimed, "Claims that hold", 50)
        & enough(renewals, "renewals", 50)
        & enough(expiries, "Claims that expire", 10)
        & enough(by_hand, "steps by hand", 20)
        & enough(wrapped, "runs of wrapped commands", 100)
        & enough(left_out, "wrapped commands that are left out", 10)
}

/// Every planted bug is caught.
fn bugs(asked: &Asked) -> bool {
    let next = AtomicU64::new(0);
    let caught = Mutex::new(true);
    let bugs: Vec<&'static str> = asked.bug.map_or(planted::ALL.to_vec(), |bug| vec![bug]);
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let Some(bug) = bugs.get(index) else { return };
                    let first = |plan: Plan| run(plan).violations.into_iter().next();
                    // It must be the bug that the seed catches, not something else.
                    let hunt = |seed: u64| {
                        let words = first(Plan { bug: Some(bug), ..asked.plan(seed) })?;
                        first(Plan { bug: None, ..asked.plan(seed) }).is_none().then_some((seed, words))
                    };
                    let found = (1..=SEEDS_FOR_A_BUG).find_map(hunt);
                    let mut good = caught.lock().unwrap();
                    match found {
                        Some((seed, words)) => {
                            println!("planted    {bug}: caught by seed {seed} ({})", words.split(':').next().unwrap_or_default());
                        }
                        None => {
                            println!("planted    {bug}: ESCAPED {SEEDS_FOR_A_BUG} seeds");
                            *good = false;
                        }
                    }
                }
            });
        }
    });
    println!("replay     make sim SEED=n, or make sim SEED=n BUG=name");
    caught.into_inner().unwrap()
}
