//! What monitoring sees: `GET /metrics`, in the OpenMetrics text format. Counters and histograms are of this process; what is held and waited for is told by
//! the leader, from the statuses that it sees.
//!
//! Names and units follow the naming practices of Prometheus: base units (seconds), `_total` for counters. Every counter is there from the start, at zero:
//! `increase` would not see the first thing that happens otherwise.

use std::{
    collections::HashSet,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    api::HolderKind,
    plan::Kind,
    rules::{Decision, Refused, Request},
};

/// A wait can last from a moment to a night.
const WAITS: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0];
/// A review takes a millisecond; the API server gives up after 5 s.
const REVIEWS: [f64; 9] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLoss {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWebhook {
    webhook: &'static str,
}

/// What the leader sees of all primitives of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many there are.
    pub objects: usize,
    /// How many hold them.
    pub holders: usize,
    /// How many wait for them.
    pub waiting: usize,
}

/// A question that is asked at each scrape; `None` where there is no answer.
pub type Ask<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// What is asked at each scrape.
pub struct Sight {
    /// What the leader sees, by kind; nothing in a replica that does not lead.
    pub census: Ask<Vec<(Kind, Census)>>,
    /// When the certificate that is served expires.
    pub certificate_expires: Ask<Timestamp>,
}

/// All that is counted.
pub struct Metrics {
    grants: Family<OfKind, Counter>,
    waits: Waits,
    releases: Family<OfKind, Counter>,
    losses: Family<OfLoss, Counter>,
    refusals: Family<OfRefusal, Counter>,
    skipped_jobs: Counter,
    writes: Family<OfKind, Counter>,
    conflicts: Family<OfKind, Counter>,
    reviews: Reviews,
    refused_reviews: Family<OfWebhook, Counter>,
}

struct Waits(Family<OfKind, Histogram, fn() -> Histogram>);

impl Default for Waits {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(WAITS)))
    }
}

struct Reviews(Family<OfWebhook, Histogram, fn() -> Histogram>);

impl Default for Reviews {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(REVIEWS)))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let this = Self {
            grants: Family::default(),
            waits: Waits::default(),
            releases: Family::default(),
            losses: Family::default(),
            refusals: Family::default(),
            skipped_jobs: Counter::default(),
            writes: Family::default(),
            conflicts: Family::default(),
            reviews: Reviews::default(),
            refused_reviews: Family::default(),
        };
        for kind in Kind::ALL.map(Kind::word) {
            for family in [&this.grants, &this.releases, &this.writes, &this.conflicts] {
                drop(family.get_or_create(&OfKind { kind }));
            }
            drop(this.waits.0.get_or_create(&OfKind { kind }));
            for reason in LOSSES {
                drop(this.losses.get_or_create(&OfLoss { kind, reason }));
            }
            for reason in REFUSALS.map(reason) {
                drop(this.refusals.get_or_create(&OfRefusal { kind, reason }));
            }
        }
        for webhook in WEBHOOKS {
            drop(this.reviews.0.get_or_create(&OfWebhook { webhook }));
            drop(this.refused_reviews.get_or_create(&OfWebhook { webhook }));
        }
        this
    }
}

impl Metrics {
    /// A decision was written, or needed no writing.
    pub fn decided(&self, kind: Kind, decision: &Decision, requests: &[Request], now: Timestamp) {
        let of = OfKind { kind: kind.word() };
        let granted: HashSet<&str> = decision.granted.iter().filter(|grant| grant.new).map(|grant| grant.asker.as_str()).collect();
        for request in requests.iter().filter(|request| granted.contains(request.asker())) {
            self.grants.get_or_create(&of).inc();
            if let Ok(waited) = Duration::try_from(now.duration_since(request.created)) {
                self.waits.0.get_or_create(&of).observe(waited.as_secs_f64());
            }
        }
        for release in &decision.released {
            self.releases.get_or_create(&of).inc();
            if release.lost {
                let [unreachable, not_renewed] = LOSSES;
                let reason = if release.holder.kind == HolderKind::Claim { not_renewed } else { unreachable };
                self.losses.get_or_create(&OfLoss { kind: kind.word(), reason }).inc();
            }
        }
    }

    /// Somebody was told that it will not hold, or not go on.
    pub fn refused(&self, kind: Kind, why: Refused) {
        self.refusals.get_or_create(&OfRefusal { kind: kind.word(), reason: reason(why) }).inc();
    }

    /// A status was written.
    pub fn wrote(&self, kind: Kind) {
        self.writes.get_or_create(&OfKind { kind: kind.word() }).inc();
    }

    /// A status was not written, because somebody else wrote in between, or because no answer came.
    pub fn wrote_not(&self, kind: Kind) {
        self.conflicts.get_or_create(&OfKind { kind: kind.word() }).inc();
    }

    /// A Job was skipped.
    pub fn skipped_job(&self) {
        self.skipped_jobs.inc();
    }

    /// A webhook answered.
    pub fn reviewed(&self, webhook: &'static str, allowed: bool, took: Duration) {
        self.reviews.0.get_or_create(&OfWebhook { webhook }).observe(took.as_secs_f64());
        if !allowed {
            self.refused_reviews.get_or_create(&OfWebhook { webhook }).inc();
        }
    }

    /// `GET /metrics`.
    pub fn router(self: &Arc<Self>, sight: Sight) -> Router {
        Router::new().route("/metrics", get(scrape)).with_state(Arc::new(Exposition::of(self, sight)))
    }
}

/// Why a hold is taken: from a Pod or a Job, and from a Claim.
const LOSSES: [&str; 2] = ["unreachable", "not-renewed"];
const WEBHOOKS: [&str; 2] = ["mutate", "validate"];
const REFUSALS: [Refused; 6] =
    [Refused::TimedOut, Refused::NotFree, Refused::NotAllowed, Refused::Upgrade, Refused::Failed, Refused::Unsuitable];

const fn reason(why: Refused) -> &'static str {
    match why {
        Refused::TimedOut => "timed-out",
        Refused::NotFree => "not-free",
        Refused::NotAllowed => "not-allowed",
        Refused::Upgrade => "upgrade",
        Refused::Failed => "failed",
        Refused::Unsuitable => "unsuitable",
    }
}

/// The metrics under their names, and what is asked at each scrape.
struct Exposition {
    registry: Registry,
    sight: Sight,
    leads: Gauge,
    expires: Gauge,
    objects: Family<OfKind, Gauge>,
    holders: Family<OfKind, Gauge>,
    waiting: Family<OfKind, Gauge>,
    /// One scrape at a time fills the gauges and reads them.
    turn: Mutex<()>,
}

impl Exposition {
    fn of(metrics: &Metrics, sight: Sight) -> Self {
        let mut registry = Registry::with_prefix("konductor");
        let this = &mut registry;
        this.register("grants", "Holds granted", metrics.grants.clone());
        this.register_with_unit("wait", "Time from the creation of a holder to its grant", Unit::Seconds, metrics.waits.0.clone());
        this.register("releases", "Holds that ended", metrics.releases.clone());
        this.register("losses", "Holds taken from holders that may still run", metrics.losses.clone());
        this.register("refusals", "Requests refused", metrics.refusals.clone());
        this.register("skipped_jobs", "Jobs that were made Complete without a run", metrics.skipped_jobs.clone());
        this.register("status_writes", "Statuses of primitives written", metrics.writes.clone());
        this.register("status_conflicts", "Writes that were not done, or not answered, and decided anew", metrics.conflicts.clone());
        this.register_with_unit("admission", "Time to answer a webhook's review", Unit::Seconds, metrics.reviews.0.clone());
        this.register("admission_refusals", "Reviews in which a webhook refused", metrics.refused_reviews.clone());
        this.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let (leads, expires) = (Gauge::default(), Gauge::default());
        let (objects, holders, waiting) = (Family::default(), Family::default(), Family::default());
        this.register("leader", "Whether this replica leads", leads.clone());
        this.register("certificate_expiry_timestamp_seconds", "When the serving certificate expires", expires.clone());
        this.register("primitives", "Primitives that there are; told by the leader", objects.clone());
        this.register("holders", "Pods, Jobs and Claims that hold; told by the leader", holders.clone());
        this.register("waiting", "Pods, Jobs and Claims that wait; told by the leader", waiting.clone());
        Self { registry, sight, leads, expires, objects, holders, waiting, turn: Mutex::default() }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let census = (self.sight.census)();
        self.leads.set(census.is_some().into());
        self.expires.set((self.sight.certificate_expires)().map_or(0, Timestamp::as_second));
        // One that leads no more must not go on telling what it saw.
        for family in [&self.objects, &self.holders, &self.waiting] {
            family.clear();
        }
        for (kind, Census { objects, holders, waiting }) in census.into_iter().flatten() {
            let of = OfKind { kind: kind.word() };
            for (family, count) in [(&self.objects, objects), (&self.holders, holders), (&self.waiting, waiting)] {
                family.get_or_create(&of).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

async fn scrape(State(exposition): State<Arc<Exposition>>) -> Response {
    match exposition.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::rules::Release;

    /// Every metric that a scrape shows, by the name that a query uses.
    fn names() -> BTreeSet<String> {
        let sight = Sight {
            census: Box::new(|| Some(vec![(Kind::Mutex, Census::default())])),
            certificate_expires: Box::new(|| Timestamp::from_second(1_000).ok()),
        };
        let text = Exposition::of(&Metrics::default(), sight).text().unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
    }

    /// Every word of a text that looks like one of our metrics.
    fn used(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("konductor_")).map(str::to_owned).collect()
    }

    #[test]
    fn what_alerts_dashboard_and_docs_name_exists_and_nothing_is_missing_in_the_docs() {
        let names = names();
        let stem =
            |name: &String| ["_bucket", "_sum", "_count"].iter().fold(name.clone(), |name, end| name.trim_end_matches(*end).to_owned());
        let stems: BTreeSet<String> = names.iter().map(stem).collect();
        for (file, text) in [
            ("alerts.yaml", include_str!("../charts/konductor/files/alerts.yaml")),
            ("alerts-test.yaml", include_str!("../tests/chart/alerts-test.yaml")),
            ("dashboard.json", include_str!("../charts/konductor/files/dashboard.json")),
        ] {
            let used = used(text);
            assert!(used.len() >= 5 && used.is_subset(&names), "{file}: {:?}", used.difference(&names));
        }
        assert_eq!(used(include_str!("../docs/metrics.md")), stems, "docs/metrics.md");
    }

    #[test]
    fn every_counter_is_there_from_the_start() {
        let text = Exposition::of(&Metrics::default(), Sight { census: Box::new(|| None), certificate_expires: Box::new(|| None) });
        let text = text.text().unwrap();
        for line in [
            "konductor_grants_total{kind=\"gate\"} 0",
            "konductor_losses_total{kind=\"mutex\",reason=\"unreachable\"} 0",
            "konductor_refusals_total{kind=\"barrier\",reason=\"timed-out\"} 0",
            "konductor_admission_refusals_total{webhook=\"validate\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_hold_that_is_taken_counts_by_what_its_holder_is() {
        let taken = |kind: HolderKind| {
            let holder =
                json!({ "uid": "u-1", "kind": kind, "namespace": "shop", "name": "a", "token": 1, "since": "2026-01-01T00:00:00Z" });
            Release { holder: serde_json::from_value(holder).unwrap(), lost: true, outcome: None }
        };
        let decision =
            Decision { released: [HolderKind::Pod, HolderKind::Claim, HolderKind::Claim].map(taken).into(), ..Decision::default() };
        let metrics = Metrics::default();
        metrics.decided(Kind::Lease, &decision, &[], Timestamp::UNIX_EPOCH);
        let count = |reason| metrics.losses.get_or_create(&OfLoss { kind: "lease", reason }).get();
        assert_eq!((count("unreachable"), count("not-renewed")), (1, 2));
    }

    #[test]
    fn what_happened_is_told_and_only_a_leader_counts_primitives() {
        let metrics = Metrics::default();
        metrics.refused(Kind::Lease, Refused::NotFree);
        metrics.reviewed("mutate", false, Duration::from_millis(3));
        metrics.skipped_job();
        let leads = Arc::new(Mutex::new(true));
        let sight = Sight {
            census: Box::new({
                let leads = leads.clone();
                move || leads.lock().unwrap().then(|| vec![(Kind::Mutex, Census { objects: 3, holders: 2, waiting: 7 })])
            }),
            certificate_expires: Box::new(|| Timestamp::from_second(1_000).ok()),
        };
        let exposition = Exposition::of(&metrics, sight);
        let text = exposition.text().unwrap();
        for line in [
            "konductor_refusals_total{kind=\"lease\",reason=\"not-free\"} 1",
            "konductor_admission_seconds_bucket{le=\"0.005\",webhook=\"mutate\"} 1",
            "konductor_admission_refusals_total{webhook=\"mutate\"} 1",
            "konductor_skipped_jobs_total 1",
            "konductor_leader 1",
            "konductor_certificate_expiry_timestamp_seconds 1000",
            "konductor_waiting{kind=\"mutex\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        *leads.lock().unwrap() = false;
        let text = exposition.text().unwrap();
        assert!(text.contains("konductor_leader 0") && !text.contains("konductor_waiting{"), "{text}");
    }
}
