//! Grants a second while a line is worked off: of one Semaphore, and of a thousand Mutexes at once against the raw rate of writes.

use futures::{StreamExt, TryStreamExt, stream};
use konductor::api::{Mutex, Semaphore};
use serde_json::json;

use crate::{crowd::Crowd, floor, paper, report::Figure, stage::Cluster};

pub async fn semaphore(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (permits, behind) in [(1, 200), (10, 500), (100, 1500), (1000, 1500)] {
        let behind = cluster.pick(behind, behind / 2);
        let stage = cluster.stage("semaphore").await?;
        stage.make::<Semaphore>("s", json!({ "permits": permits })).await?;
        let pods = paper::pods(&stage, permits + behind, "konductor.io/semaphore", |_| "s;strategy=wrap".to_owned()).await?;
        let crowd = Crowd::line_up(pods).await?;
        cluster.leader().await?.calm().await?;
        let before = cluster.writes("semaphores").await?;
        let (grants, seconds) = crowd.rush(permits).await?;
        let writes = cluster.writes("semaphores").await? - before;
        stage.close().await?;
        let demand = if permits == 100 { ">= 1000" } else { "" };
        figures.push(Figure::new(format!("{permits} permits"), grants / seconds, "grants/s").demand(demand));
        figures.push(Figure::new(format!("{permits} permits: writes a grant"), writes / grants, "").demand("<= 2"));
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
    // One holds, five wait. The time is that of the slowest Mutex; the longer the lines, the less one slow handoff counts.
    let pods = paper::pods(&stage, 6 * count, "konductor.io/mutex", |number| format!("m-{};strategy=wrap", number / 6)).await?;
    let crowd = Crowd::line_up(pods).await?;
    cluster.leader().await?.calm().await?;
    let before = cluster.writes("mutexes").await?;
    let (grants, seconds) = crowd.rush(count).await?;
    let writes = cluster.writes("mutexes").await? - before;
    stage.close().await?;
    Ok(vec![
        Figure::new(format!("{count} Mutexes at once"), grants / seconds, "grants/s").beside("raw status writes", raw).demand(">= 0.8"),
        Figure::new(format!("{count} Mutexes at once: writes a grant, with those of the last ends"), writes / grants, "").demand("<= 2"),
    ])
}
