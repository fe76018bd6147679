//! A Barrier that opens under those who wait for it, and what their waiting costs konductor's leader.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use konductor::api::{Barrier, Claim};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    paper::{self, Paper},
    report::Figure,
    stage::Cluster,
};

/// How long they wait while the processor time is counted.
const WAITS: Duration = Duration::from_secs(10);

pub async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let mut figures = opened(cluster, 100).await?;
    figures.extend(opened(cluster, 1000).await?);
    Ok(figures)
}

/// The same with many: measured once.
pub async fn crowded(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    // What an earlier crowd has left is memory that the next one is given.
    cluster.change_leader().await?;
    opened(cluster, cluster.pick(10_000, 2_000)).await
}

async fn opened(cluster: &Cluster, waiting: usize) -> anyhow::Result<Vec<Figure>> {
    let stage = cluster.stage("barrier").await?;
    stage.make::<Barrier>("b", json!({ "expected": 1 })).await?;
    let leader = cluster.leader().await?;
    let memory = leader.private_memory()?;
    let mut pods = paper::pods(&stage, waiting, "konductor.io/barrier", |_| "b".to_owned()).await?;
    paper::all(&pods, Paper::waits).await?;
    let asked = stream::iter(&mut pods).map(async |pod| {
        let mut wait = pod.line.acquire().await?;
        wait.told().await?;
        anyhow::Ok(wait)
    });
    let waits: Vec<_> = asked.buffer_unordered(64).try_collect().await?;
    // Until everybody's Event is written.
    leader.calm().await?;
    let spent = leader.processor_time()?;
    sleep(WAITS).await;
    let spent = leader.processor_time()? - spent;
    let grown = leader.private_memory()? - memory;

    let answers = waits.into_iter().map(|wait| tokio::spawn(async move { wait.granted().await.map(|_| Instant::now()) }));
    let answers: Vec<_> = answers.collect();
    let began = Instant::now();
    stage.make::<Claim>("opens", json!({ "kind": "Barrier", "name": "b", "operation": "Arrive" })).await?;
    let answered = try_join_all(answers).await?.into_iter().collect::<anyhow::Result<Vec<Instant>>>()?;
    let last = answered.into_iter().max().map_or(Duration::ZERO, |last| last - began);
    drop(pods);
    stage.close().await?;
    let mut figures = vec![
        Figure::new(format!("{waiting} wait: from the arrival to the last answer"), last.as_secs_f64() * 1e3, "ms")
            .demand(if waiting >= 10_000 { "<= 1000" } else { "" }),
    ];
    if waiting > 1000 {
        let each = spent / WAITS.as_secs_f64() / waiting as f64;
        figures.push(
            Figure::new(format!("{waiting} wait: the leader's memory, for 10,000"), grown / waiting as f64 * 1e4, "MiB").demand("<= 100"),
        );
        figures.push(Figure::new(format!("{waiting} wait: the leader's processor time, for 10,000"), each * 1e4 * 100.0, "% of one"));
    }
    Ok(figures)
}
