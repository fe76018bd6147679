//! Everything that a simulated run consists of, behind one lock: chance, time, the API server's objects, the truth, the judge, the counts.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::{
    cast::{self, Named},
    chance::Chance,
    judge::Judge,
    process::Process,
    request::{Change, Place, What, Writer},
    truth::Truth,
};

/// When the simulated API server's time begins.
const EPOCH: i64 = 1_767_225_600;

/// The run, shared by all its tasks.
pub struct Sim(Mutex<Core>);

impl Sim {
    pub fn new(core: Core) -> Arc<Self> {
        Arc::new(Self(Mutex::new(core)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often, in a thousand, each kind of fault strikes. Drawn once a seed: some runs have none of a kind, some many.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub slow: u64,
    pub lost_on_the_way: u64,
    pub lost_after: u64,
    pub twice: u64,
    pub refused: u64,
    pub outside: u64,
    pub cut: u64,
    pub crash: u64,
    pub watch_slow: u64,
    pub watch_end: u64,
    pub gone: u64,
    pub node: u64,
    pub clock: u64,
    pub agent: u64,
    pub users: u64,
    pub claims: u64,
    pub by_hand: u64,
}

impl Faults {
    pub fn drawn(chance: &mut Chance) -> Self {
        let mut some = |most: u64| if chance.permille(600) { chance.between(1, most) } else { 0 };
        let drawn = Self {
            slow: some(200),
            lost_on_the_way: some(60),
            lost_after: some(120),
            twice: some(60),
            refused: some(60),
            outside: some(200),
            cut: some(20),
            crash: some(30),
            watch_slow: some(150),
            watch_end: some(30),
            gone: some(15),
            node: some(25),
            clock: some(20),
            agent: some(40),
            users: some(60),
            claims: some(100),
            by_hand: some(250),
        };
        // On a good wire it can be told who should have come first.
        if chance.permille(250) {
            return Self { slow: 0, lost_on_the_way: 0, lost_after: 0, refused: 0, cut: 0, watch_slow: 0, ..drawn };
        }
        drawn
    }
}

/// What a run counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub operations: u64,
    pub conflicts: u64,
    pub ambiguous: u64,
    pub takeovers: u64,
    pub grants: u64,
    pub releases: u64,
    pub losses: u64,
    pub crashes: u64,
    pub waits: u64,
    /// Arrivals that were counted, and Barriers that opened.
    pub arrivals: u64,
    pub opened: u64,
    /// Gates that opened.
    pub gates: u64,
    /// Onces that were executed.
    pub executions: u64,
    /// WaitGroups that were done.
    pub done: u64,
    /// Jobs that were left out, Jobs that were resumed, Pods that got a node.
    pub skips: u64,
    pub resumed: u64,
    pub ungated: u64,
    /// Claims that somebody relied on, their renewals, those that expired, and what was done by hand.
    pub claimed: u64,
    pub renewals: u64,
    pub expiries: u64,
    pub by_hand: u64,
    /// Runs of wrapped commands, and those that were left out.
    pub wrapped: u64,
    pub left_out: u64,
    /// Most requests of one process within ten seconds.
    pub busiest: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        let Self { operations, conflicts, ambiguous, takeovers, grants, releases, losses, crashes, waits, .. } = other;
        let Self { arrivals, opened, gates, executions, done, skips, resumed, ungated, .. } = other;
        let Self { claimed, renewals, expiries, by_hand, wrapped, left_out, busiest, .. } = other;
        self.operations += operations;
        self.conflicts += conflicts;
        self.ambiguous += ambiguous;
        self.takeovers += takeovers;
        self.grants += grants;
        self.releases += releases;
        self.losses += losses;
        self.crashes += crashes;
        self.waits += waits;
        self.arrivals += arrivals;
        self.opened += opened;
        self.gates += gates;
        self.executions += executions;
        self.done += done;
        self.skips += skips;
        self.resumed += resumed;
        self.ungated += ungated;
        self.claimed += claimed;
        self.renewals += renewals;
        self.expiries += expiries;
        self.by_hand += by_hand;
        self.wrapped += wrapped;
        self.left_out += left_out;
        self.busiest = self.busiest.max(*busiest);
    }
}

/// What happened, line by line if it is wanted, and always as one number.
pub struct Trace {
    wanted: bool,
    pub lines: Vec<String>,
    hash: DefaultHasher,
}

impl Trace {
    pub fn new(wanted: bool) -> Self {
        Self { wanted, lines: Vec::new(), hash: DefaultHasher::new() }
    }

    pub fn digest(&self) -> u64 {
        self.hash.finish()
    }
}

pub struct Core {
    /// The primitives of this run.
    pub cast: Vec<Named>,
    pub chance: Chance,
    pub began: Instant,
    /// How far the API server's clock was stepped forward.
    pub skew: Duration,
    pub faults: Faults,
    /// While false, nothing goes wrong and everything is quick.
    pub chaos: bool,
    pub revision: u64,
    pub compacted: u64,
    pub objects: BTreeMap<Place, Value>,
    pub history: Vec<Change>,
    /// Wakes the open watches, in the order in which they wait. (tokio's `watch` channel wakes in a random order.)
    pub pulse: Arc<Notify>,
    pub uids: u64,
    /// Since when each node has been called unreachable.
    pub unreachable: BTreeMap<String, Instant>,
    /// When each node's last outage ended, and how long it had lasted.
    pub outages: BTreeMap<String, (Instant, Duration)>,
    pub truth: Truth,
    pub judge: Judge,
    pub processes: Vec<Process>,
    pub stats: Stats,
    pub trace: Trace,
    /// The last write of a konductor process to anything but its leader's record.
    pub last_write: Option<Instant>,
    /// When time last jumped for everybody.
    pub jumped: Option<Instant>,
    /// The last write of anybody else, or the last time that ran out.
    pub last_event: Instant,
}

impl Core {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let faults = Faults::drawn(&mut chance);
        let cast = cast::drawn(&mut chance);
        Self {
            cast,
            chance,
            began: Instant::now(),
            skew: Duration::ZERO,
            faults,
            chaos: false,
            revision: 100,
            compacted: 0,
            objects: BTreeMap::new(),
            history: Vec::new(),
            pulse: Arc::default(),
            uids: 0,
            unreachable: BTreeMap::new(),
            outages: BTreeMap::new(),
            truth: Truth::default(),
            judge: Judge::default(),
            processes: Vec::new(),
            stats: Stats::default(),
            trace: Trace::new(traced),
            last_write: None,
            jumped: None,
            last_event: Instant::now(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        Instant::now() - self.began
    }

    /// The API server's clock.
    pub fn server_time(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.elapsed() + self.skew).unwrap_or_default();
        Timestamp::from_second(EPOCH).unwrap_or_default().checked_add(elapsed).unwrap_or_default()
    }

    pub fn world_was_quiet_for(&self) -> Duration {
        let healed = self.judge.calm_since.map(|since| since.elapsed()).unwrap_or_default();
        self.last_event.elapsed().min(healed)
    }

    /// Whether a fault of this frequency strikes now.
    pub fn strikes(&mut self, frequency: u64) -> bool {
        self.chaos && frequency > 0 && self.chance.permille(frequency)
    }

    /// Notes what happened. The text is made only if somebody will read it; what identifies the run goes into the digest either way.
    pub fn note(&mut self, mark: (u64, u64), text: impl FnOnce(&Self) -> String) {
        let at = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        (at, mark, self.revision).hash(&mut self.trace.hash);
        if self.trace.wanted {
            let line = format!("{:>9.3}s  {}", self.elapsed().as_secs_f64(), text(self));
            line.hash(&mut self.trace.hash);
            self.trace.lines.push(line);
        }
    }

    /// What follows from a committed revision: the judge looks at it, and the counts.
    pub fn committed(&mut self, writer: Writer, place: &Place, before: Option<&Value>, after: Option<&Value>) {
        if place.0 == What::Nodes {
            let unknown = after.is_none_or(|node| node["status"]["conditions"][0]["status"] == "Unknown");
            if unknown {
                self.unreachable.entry(place.2.clone()).or_insert_with(Instant::now);
            } else if let Some(since) = self.unreachable.remove(&place.2) {
                self.outages.insert(place.2.clone(), (Instant::now(), since.elapsed()));
            }
        }
        if writer == Writer::World {
            self.last_event = Instant::now();
        }
        if let Writer::Process { .. } = writer
            && place.0 != What::Leases
        {
            self.last_write = Some(Instant::now());
            if matches!(place.0, What::Pods | What::Jobs | What::Claims) {
                self.judge_deed(place.0, before, after);
            }
            if place.0 == What::Claims {
                self.judge_answer(writer, before, after);
            }
        }
        self.truth.seen_by_api(place, before, after);
        self.end_shown(place, after);
        if place.0 == What::Claims {
            self.claim_seen(before, after);
        }
        self.finished(place, after);
        if place.0.is_primitive() {
            self.judge_revision(writer, place, before, after);
        }
    }
}
