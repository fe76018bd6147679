//! The same for Claims: from the delete of the one that holds to the watch event that tells the next one.

use std::{collections::HashSet, time::Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use konductor::api::{Claim, ClaimPhase, Mutex};
use kube::{
    api::{DeleteParams, WatchEvent, WatchParams},
    core::ResourceExt,
};
use serde_json::json;

use crate::{
    floor::{self, Floor},
    numbers::Times,
    report::Figure,
    stage::Cluster,
};

const BESIDE: &str = "DELETE + hop + compare-and-swap + hop";

pub async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let floor = floor::of_handoffs(cluster).await?;
    let mut figures = Vec::new();
    for waiting in [1, 10, 1000] {
        figures.extend(handoffs(cluster, &floor, waiting).await?);
    }
    Ok(figures)
}

async fn handoffs(cluster: &Cluster, floor: &Floor, waiting: usize) -> anyhow::Result<Vec<Figure>> {
    let stage = cluster.stage("claims").await?;
    stage.make::<Mutex>("m", json!({})).await?;
    let claims = stage.api::<Claim>();
    let from = claims.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut seen = claims.watch(&WatchParams::default().timeout(280), &from).await?.boxed();
    let make = async |number: usize| {
        stage.make::<Claim>(&format!("c-{number}"), json!({ "kind": "Mutex", "name": "m", "operation": "Acquire", "ttl": "1h" })).await
    };
    stream::iter(0..=waiting).map(&make).buffer_unordered(16).try_collect::<Vec<_>>().await?;
    // Until one holds and all others were told that they wait.
    let (mut holder, mut told) = (None, HashSet::new());
    while holder.is_none() || told.len() <= waiting {
        let claim = next(&mut seen).await?;
        if let Some(status) = &claim.status {
            told.insert(claim.name_any());
            if status.phase == ClaimPhase::Granted {
                holder = Some(claim.name_any());
            }
        }
    }
    let mut holder = holder.context("nobody holds")?;
    let mut times = Times::default();
    let handoffs = cluster.pick(100, 50);
    let writes = async || anyhow::Ok((cluster.writes("mutexes").await?, cluster.writes("claims").await?));
    let before = writes().await?;
    for number in 1..=handoffs {
        let began = Instant::now();
        claims.delete(&holder, &DeleteParams::default()).await?;
        loop {
            let claim = next(&mut seen).await?;
            if claim.name_any() != holder && claim.status.as_ref().is_some_and(|status| status.phase == ClaimPhase::Granted) {
                holder = claim.name_any();
                break;
            }
        }
        times.push(began.elapsed());
        // One more waits before the next one ends.
        let name = make(waiting + number).await?.name_any();
        loop {
            let claim = next(&mut seen).await?;
            if claim.name_any() == name && claim.status.is_some() {
                break;
            }
        }
    }
    let after = writes().await?;
    drop(seen);
    stage.close().await?;
    let of = |part, name| {
        Figure::new(format!("a Claim is deleted, {waiting} wait: {name}"), times.quantile(part), "ms")
            .beside(BESIDE, floor.claim.quantile(part))
    };
    let each = |resource, writes: f64| Figure::new(format!("writes of {resource} a handoff, {waiting} wait"), writes / handoffs as f64, "");
    Ok(vec![
        of(0.5, "p50").demand("<= 1.5"),
        of(0.99, "p99").demand("<= 5"),
        each("the Mutex", after.0 - before.0).demand("<= 2"),
        each("Claims", after.1 - before.1),
    ])
}

/// The next Claim that was made or written.
async fn next(seen: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<Claim>>> + Unpin)) -> anyhow::Result<Claim> {
    loop {
        match seen.try_next().await?.context("the watch ended")? {
            WatchEvent::Added(claim) | WatchEvent::Modified(claim) => return Ok(claim),
            WatchEvent::Error(error) => anyhow::bail!("the watch ended: {error}"),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
        }
    }
}
