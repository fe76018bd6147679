//! The floor: the API calls that safety needs, made raw by one client. They are made on a copy of the kind Mutex, with its schema and its rules, that konductor
//! does not know: so nobody answers them.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use k8s_openapi::{api::core::v1::Pod, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::GroupVersionKind,
};
use serde_json::json;

use crate::{
    numbers::Times,
    paper,
    report::Figure,
    stage::{Cluster, Stage, empty, until},
};

/// The group of the copies.
const GROUP: &str = "copies.bench.konductor.io";

/// A copied kind in one namespace.
pub struct Copied {
    api: Api<DynamicObject>,
}

/// Makes the copy of a kind, unless it is there.
pub async fn copy(stage: &Stage, kind: &str, plural: &str) -> anyhow::Result<Copied> {
    let crds = Api::<CustomResourceDefinition>::all(stage.client.clone());
    let name = format!("{plural}.{GROUP}");
    if crds.get_opt(&name).await?.is_none() {
        let mut spec = crds.get(&format!("{plural}.konductor.io")).await?.spec;
        spec.group = GROUP.to_owned();
        spec.names.categories = None;
        spec.names.short_names = None;
        let mut copy = CustomResourceDefinition { spec, ..CustomResourceDefinition::default() };
        copy.metadata.name = Some(name.clone());
        crds.create(&PostParams::default(), &copy).await?;
    }
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", kind), plural);
    let api = Api::namespaced_with(stage.client.clone(), &stage.namespace, &resource);
    until("the copied kind is served", async || Ok(api.list(&Default::default()).await.is_ok())).await?;
    Ok(Copied { api })
}

impl Copied {
    pub async fn create(&self, name: String, kind: &str, spec: serde_json::Value) -> anyhow::Result<DynamicObject> {
        let object = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": { "name": name }, "spec": spec });
        Ok(self.api.create(&PostParams::default(), &serde_json::from_value(object)?).await?)
    }

    /// One compare-and-swap: replaces the holder, as a handoff does.
    pub async fn swap(&self, object: &mut DynamicObject) -> anyhow::Result<()> {
        let token = object.data["status"]["lastToken"].as_i64().unwrap_or(1_700_000_000_000) + 1;
        let uid = format!("00000000-0000-0000-0000-{:012}", token % 1_000_000_000_000);
        let since = "2026-01-01T00:00:00Z";
        let holder = json!({
            "uid": uid, "kind": "Pod", "namespace": "bench", "name": "holder", "token": token, "permits": 1, "since": since,
        });
        object.data["status"] = json!({
            "phase": "Locked", "holder": "pod/holder", "lockedAt": since, "holders": [holder], "lastToken": token, "waiting": 10, "observedGeneration": 1,
        });
        let name = object.metadata.name.clone().context("an object has a name")?;
        *object = self.api.replace_status(&name, &PostParams::default(), object).await?;
        Ok(())
    }
}

/// The floors of one round.
pub struct Floor {
    /// One report of a kubelet, its watch event and one compare-and-swap.
    pub report: Times,
    /// One live GET of a Pod and one compare-and-swap.
    pub pod: Times,
    /// One delete, its watch event, one compare-and-swap and its watch event.
    pub claim: Times,
}

pub async fn of_handoffs(cluster: &Cluster) -> anyhow::Result<Floor> {
    let stage = cluster.stage("floor").await?;
    let mutexes = copy(&stage, "Mutex", "mutexes").await?;
    let claims = copy(&stage, "Claim", "claims").await?;
    let mut mutex = mutexes.create("m".to_owned(), "Mutex", json!({})).await?;
    stage.api::<Pod>().create(&PostParams::default(), &paper::manifest("p", None)).await?;
    let mut floor = Floor { report: Times::default(), pod: Times::default(), claim: Times::default() };
    let count = cluster.pick(300, 100);
    let pods = stage.api::<Pod>();
    let pods_from = pods.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut reported = pods.watch(&WatchParams::default().timeout(280), &pods_from).await?.boxed();
    for number in 0..count {
        let began = Instant::now();
        let status = Patch::Merge(json!({ "status": { "message": number.to_string() } }));
        pods.patch_status("p", &PatchParams::default(), &status).await?;
        while !matches!(reported.try_next().await?.context("the watch ended")?, WatchEvent::Modified(_)) {}
        mutexes.swap(&mut mutex).await?;
        floor.report.push(began.elapsed());
    }
    for _ in 0..count {
        let began = Instant::now();
        pods.get("p").await?;
        mutexes.swap(&mut mutex).await?;
        floor.pod.push(began.elapsed());
    }

    let spec = json!({ "kind": "Mutex", "name": "m" });
    let made = (0..count).map(|number| claims.create(format!("c-{number}"), "Claim", spec.clone()));
    stream::iter(made).buffer_unordered(16).try_collect::<Vec<_>>().await?;
    let from = |list: kube::core::ObjectList<DynamicObject>| list.metadata.resource_version.unwrap_or_default();
    let (claims_from, mutexes_from) =
        (from(claims.api.list(&Default::default()).await?), from(mutexes.api.list(&Default::default()).await?));
    let mut gone = claims.api.watch(&WatchParams::default().timeout(280), &claims_from).await?.boxed();
    let mut written = mutexes.api.watch(&WatchParams::default().timeout(280), &mutexes_from).await?.boxed();
    for number in 0..count {
        let began = Instant::now();
        claims.api.delete(&format!("c-{number}"), &DeleteParams::default()).await?;
        while !matches!(gone.try_next().await?.context("the watch ended")?, WatchEvent::Deleted(_)) {}
        mutexes.swap(&mut mutex).await?;
        while !matches!(written.try_next().await?.context("the watch ended")?, WatchEvent::Modified(_)) {}
        floor.claim.push(began.elapsed());
    }
    empty(&claims.api).await?;
    empty(&mutexes.api).await?;
    stage.close().await?;
    Ok(floor)
}

/// Status writes a second by so many writers, each of a Mutex of its own.
async fn writes(mutexes: &Copied, writers: usize, lasts: Duration) -> anyhow::Result<f64> {
    let made = (0..writers).map(|number| mutexes.create(format!("w-{writers}-{number}"), "Mutex", json!({})));
    let objects: Vec<_> = stream::iter(made).buffer_unordered(16).try_collect().await?;
    let began = Instant::now();
    let counts = try_join_all(objects.into_iter().map(async |mut object| {
        let mut count = 0u32;
        while began.elapsed() < lasts {
            mutexes.swap(&mut object).await?;
            count += 1;
        }
        anyhow::Ok(count)
    }));
    let all: u32 = counts.await?.into_iter().sum();
    Ok(f64::from(all) / began.elapsed().as_secs_f64())
}

/// The raw status write rate at the best concurrency.
pub async fn write_rate(cluster: &Cluster) -> anyhow::Result<f64> {
    let stage = cluster.stage("writes").await?;
    let mutexes = copy(&stage, "Mutex", "mutexes").await?;
    let mut best = 0.0f64;
    for writers in [16, 32, 64, 128] {
        best = best.max(writes(&mutexes, writers, Duration::from_secs(3)).await?);
    }
    empty(&mutexes.api).await?;
    Ok(best)
}

pub async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let floor = of_handoffs(cluster).await?;
    let rate = write_rate(cluster).await?;
    let of = |what: &str, times: &Times, part: f64| Figure::new(what, times.quantile(part), "ms");
    Ok(vec![
        of("a Pod's hold: p50", &floor.pod, 0.5),
        of("a Pod's hold: p99", &floor.pod, 0.99),
        of("a Claim: p50", &floor.claim, 0.5),
        of("a Claim: p99", &floor.claim, 0.99),
        Figure::new("status writes at the best concurrency", rate, "/s"),
    ])
}
