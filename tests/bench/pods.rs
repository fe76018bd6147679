//! Real Pods on the node: the memory of what is injected into them, and the time from one container's end to the next one's start.

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use konductor::api::{Mutex, names};
use kube::{
    Api,
    api::{PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    numbers::median,
    report::Figure,
    stage::{Cluster, Process, until},
};

/// A Pod that runs this in a shell.
fn manifest(name: &str, annotation: Option<&str>, script: &str) -> Pod {
    let annotations: serde_json::Map<_, _> = annotation.map(|value| ("konductor.io/mutex".to_owned(), value.into())).into_iter().collect();
    let pod = json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "app", "image": "konductor.local/busybox:1", "command": ["sh", "-c", script] }],
        },
    });
    serde_json::from_value(pod).unwrap()
}

/// The containers of a Pod that run, by name.
async fn running(pods: &Api<Pod>, pod: &str) -> anyhow::Result<Vec<ContainerStatus>> {
    let status = pods.get(pod).await?.status.unwrap_or_default();
    let all = status.init_container_statuses.into_iter().flatten().chain(status.container_statuses.into_iter().flatten());
    Ok(all.filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some())).collect())
}

pub async fn memory(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let stage = cluster.stage("memory").await?;
    let pods = stage.api::<Pod>();
    stage.make::<Mutex>("m", json!({})).await?;
    stage.make::<Mutex>("w", json!({})).await?;
    let mut figures = Vec::new();
    for (pod, mutex, container, what) in [
        ("holds", "m", names::HOLD_CONTAINER, "the sidecar of a Pod that holds"),
        ("waits", "m", names::ACQUIRE_CONTAINER, "the acquire step of a Pod that waits"),
        ("wraps", "w;strategy=wrap", "app", "what wraps a command"),
    ] {
        pods.create(&PostParams::default(), &manifest(pod, Some(mutex), "exec sleep 600")).await?;
        let mut id = None;
        until("the container runs", async || {
            let found = running(&pods, pod).await?.into_iter().find(|running| running.name == container);
            id = found.and_then(|container| container.container_id);
            Ok(id.is_some())
        })
        .await?;
        // Until it has connected and has nothing more to do.
        sleep(Duration::from_secs(3)).await;
        let process = Process::of_container(&id.context("a container has an ID")?)?;
        figures.push(Figure::new(what, process.private_memory()?, "MiB").demand("<= 2"));
        figures.push(Figure::new(format!("{what}: written"), process.written_memory()?, "MiB"));
    }
    stage.close().await?;
    Ok(figures)
}

/// Writes when it began and when it ended, by the machine's clock, where the kubelet reads it.
const LINK: &str = "read a _ </proc/uptime; sleep 0.2; read b _ </proc/uptime; echo $a $b >/dev/termination-log";

/// From one's end to the next one's start, in seconds: all gaps of a chain whose links have ended.
async fn gaps(pods: &Api<Pod>) -> anyhow::Result<Vec<f64>> {
    let mut runs: Vec<(f64, f64)> = Vec::new();
    for pod in pods.list(&Default::default()).await? {
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let end = statuses.into_iter().find_map(|status| status.state?.terminated);
        let words = end.and_then(|end| end.message).context("a link of the chain has ended without a word")?;
        let (began, ended) = words.trim().split_once(' ').context("it says when it began and ended")?;
        runs.push((began.parse()?, ended.parse()?));
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(runs.windows(2).map(|pair| pair[1].0 - pair[0].1).collect())
}

fn has_ended(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

pub async fn chain(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let links = cluster.pick(8, 4);
    let stage = cluster.stage("chain").await?;
    stage.make::<Mutex>("m", json!({})).await?;
    let pods = stage.api::<Pod>();
    for number in 0..links {
        pods.create(&PostParams::default(), &manifest(&format!("link-{number}"), Some("m"), LINK)).await?;
    }
    until("the chain has ended", async || Ok(pods.list(&Default::default()).await?.iter().all(has_ended))).await?;
    let with = median(gaps(&pods).await?);
    stage.close().await?;

    // Without konductor somebody has to see that one has ended, and make the next.
    let stage = cluster.stage("chain").await?;
    let pods = stage.api::<Pod>();
    let from = pods.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut seen = pods.watch(&WatchParams::default().timeout(280), &from).await?.boxed();
    for number in 0..links {
        let name = format!("link-{number}");
        pods.create(&PostParams::default(), &manifest(&name, None, LINK)).await?;
        loop {
            if let WatchEvent::Modified(pod) = seen.try_next().await?.context("the watch ended")?
                && pod.metadata.name.as_ref() == Some(&name)
                && has_ended(&pod)
            {
                break;
            }
        }
    }
    let without = median(gaps(&pods).await?);
    stage.close().await?;
    let what = "from one container's end to the next one's start";
    Ok(vec![Figure::new(what, with * 1e3, "ms").beside("next Pod made at the end of the one before", without * 1e3)])
}
