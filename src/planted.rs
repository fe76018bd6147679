//! Planted bugs: mistakes of the kind that coordinators have had, each behind a name, so that the simulator can prove that it would catch them. Without
//! the feature `planted-bugs`, which only the simulator's build has, [`bug`] is a constant `false` and the compiler removes every one of them.

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static CHOSEN: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Switches one bug on for this thread, or all of them off.
#[cfg(feature = "planted-bugs")]
pub fn choose(name: Option<&'static str>) {
    CHOSEN.set(name);
}

/// Whether the bug of this name is switched on.
#[cfg(feature = "planted-bugs")]
pub fn bug(name: &str) -> bool {
    CHOSEN.get() == Some(name)
}

/// All of them.
#[cfg(feature = "planted-bugs")]
pub const ALL: [&str; 42] = [
    "status-without-version",
    "blind-retry-after-conflict",
    "granted-before-written",
    "no-answer-is-success",
    "granted-from-cache",
    "tokens-start-again",
    "released-when-unseen",
    "released-by-deletion",
    "released-by-hint",
    "released-twice",
    "job-over-without-its-pods",
    "predecessor-ignored",
    "finalizer-not-set",
    "finalizer-without-version",
    "expiry-by-remote-time",
    "any-outage-counts",
    "narrow-passes-wide",
    "deadline-counts-inside",
    "looks-at-a-cache",
    "webhook-drops-restart-policy",
    "barrier-counts-arrivals",
    "freed-before-recorded",
    "reader-passes-writer",
    "once-forgets-success",
    "once-takes-failure-for-success",
    "done-while-a-member-runs",
    "gate-takes-failed-for-complete",
    "gate-forgets-what-is-gone",
    "gate-lifted-before-it-holds",
    "resumed-before-it-holds",
    "claim-expires-by-remote-time",
    "claim-expires-unseen",
    "claim-released-when-unseen",
    "claim-let-in-again",
    "claim-vanishes-unrecorded",
    "step-applied-again",
    "holder-arrives-twice",
    "report-ends-any-hold",
    "once-believes-the-report",
    "end-of-any-run-counts",
    "freed-though-it-may-run-again",
    "reacts-to-itself",
];

/// A status write that the last writer wins.
#[cfg(feature = "planted-bugs")]
pub async fn overwrite_status<K>(api: &kube::Api<K>, object: &K) -> Result<K, kube::Error>
where
    K: kube::ResourceExt + serde::Serialize + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut status = serde_json::to_value(object).unwrap_or_default().get("status").cloned().unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        fields.entry("holders").or_insert(serde_json::json!([]));
    }
    let patch = kube::api::Patch::Merge(serde_json::json!({ "status": status }));
    api.patch_status(&object.name_any(), &kube::api::PatchParams::default(), &patch).await
}

/// A read that may be answered from a cache of the past.
#[cfg(feature = "planted-bugs")]
pub async fn look_at_a_cache(
    api: &kube::Api<k8s_openapi::api::core::v1::Pod>,
    name: &str,
    uid: &str,
) -> Result<Option<crate::controller::PodFacts>, kube::Error> {
    match api.get_with(name, &kube::api::GetParams::any()).await {
        Ok(pod) => Ok(Some(crate::controller::PodFacts::of(&pod)).filter(|pod| pod.uid() == uid)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Counts outages by the timestamps that others wrote, instead of by what was seen.
#[cfg(feature = "planted-bugs")]
pub fn trust_remote_time(state: &mut crate::controller::world::State, now: jiff::Timestamp) {
    for (outage, since) in state.unreachable.values_mut().filter(|_| bug("expiry-by-remote-time")) {
        if let crate::controller::Outage::Since(began) = outage {
            let past = std::time::Duration::try_from(now.duration_since(*began)).unwrap_or_default();
            *since = tokio::time::Instant::now().checked_sub(past).unwrap_or(*since);
        }
    }
}

/// Whether the bug of this name is switched on: never.
#[cfg(not(feature = "planted-bugs"))]
pub const fn bug(_: &str) -> bool {
    false
}
