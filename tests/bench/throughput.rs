//! Grants a second: on one Semaphore, and on a thousand Mutexes at once against the raw rate of writes.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use konductor::api::{Mutex, Semaphore};
use serde_json::json;

use crate::{crowd::Crowd, floor, paper, report::Figure, stage::Cluster};

/// Before the count begins.
const WARM: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(4);

pub async fn semaphore(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for permits in [1, 10, 100, 1000] {
        let stage = cluster.stage("semaphore").await?;
        stage.make::<Semaphore>("s", json!({ "permits": permits })).await?;
        // Half as many again wait, so that a permit that comes free finds somebody; and no Pod asks more often than one may.
        let crowd = (permits + permits / 2).max(400);
        let pods = paper::pods(&stage, crowd, "konductor.io/semaphore", |_| "s;strategy=wrap".to_owned()).await?;
        let mut crowd = Crowd::start(pods).await?;
        crowd.rate(WARM).await?;
        let before = cluster.writes("semaphores").await?;
        let (rate, grants) = crowd.rate(LASTS).await?;
        let writes = cluster.writes("semaphores").await? - before;
        drop(crowd);
        stage.close().await?;
        figures.push(Figure::new(format!("{permits} permits"), rate, "grants/s").demand(if permits == 100 { ">= 1000" } else { "" }));
        figures.push(Figure::new(format!("{permits} permits: etcd writes a cycle"), writes / grants, "").demand("<= 2, falling"));
    }
    Ok(figures)
}

pub async fn mutexes(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let raw = floor::write_rate(cluster).await?;
    let stage = cluster.stage("mutexes").await?;
    let count = cluster.pick(1000, 200);
    let made = (0..count).map(|number| {
        let stage = &stage;
        async move { stage.make::<Mutex>(&format!("m-{number}"), json!({})).await }
    });
    stream::iter(made).buffer_unordered(32).try_collect::<Vec<_>>().await?;
    // Two for each: one holds, one waits.
    let pods = paper::pods(&stage, 2 * count, "konductor.io/mutex", |number| format!("m-{};strategy=wrap", number / 2)).await?;
    let mut crowd = Crowd::start(pods).await?;
    crowd.rate(WARM).await?;
    let before = cluster.writes("mutexes").await?;
    let (rate, grants) = crowd.rate(LASTS).await?;
    let writes = cluster.writes("mutexes").await? - before;
    drop(crowd);
    stage.close().await?;
    Ok(vec![
        Figure::new(format!("{count} Mutexes at once"), rate, "grants/s").beside("raw status writes", raw).demand(">= 0.8"),
        Figure::new(format!("{count} Mutexes at once: etcd writes a cycle"), writes / grants, "").demand("<= 2"),
    ])
}
