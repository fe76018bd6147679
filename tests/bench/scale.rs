//! Time and memory against size: up to 50,000 waiting Pods, then up to 100,000 primitives beside them. The Pods wait for a node (`strategy=gate`), so no agent is needed;
//! fifty for each Mutex, of which one holds. At each size: the memory of konductor's leader, the processor time that each new object cost it, and a handoff
//! elsewhere in the cluster.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use konductor::api::Mutex;
use kube::api::PostParams;
use serde_json::json;

use crate::{
    handoff, paper,
    plot::{self, Panel},
    report::Figure,
    stage::{Cluster, Process, Stage},
};

/// Pods that want one Mutex.
const EACH: usize = 50;

/// What was seen at one size.
struct Point {
    size: usize,
    memory: f64,
    /// Processor time of the leader for each object that was added, in ms.
    spent: f64,
    handoff: f64,
}

pub async fn measure(cluster: &Cluster) -> anyhow::Result<(Vec<Figure>, String)> {
    let pods = cluster.pick([5_000, 10_000, 25_000, 50_000], [500, 1_000, 1_500, 2_000]);
    let primitives = cluster.pick([10_000, 25_000, 50_000, 100_000], [1_000, 2_000, 3_000, 4_000]);
    // Both stay where they are: taking so much away would last longer than making it, and the cluster goes down after this.
    // What those before have left is memory that the next ones are given.
    cluster.change_leader().await?;
    let stage = cluster.stage("scale").await?;
    let waiting = grow(cluster, &pods, async |number| {
        if number % EACH == 0 {
            stage.make::<Mutex>(&format!("m-{}", number / EACH), json!({})).await?;
        }
        gated(&stage, number).await
    })
    .await?;
    cluster.change_leader().await?;
    let stage = cluster.stage("scale").await?;
    let unused = grow(cluster, &primitives, async |number| stage.make::<Mutex>(&format!("m-{number}"), json!({})).await.map(drop)).await?;
    let mut figures = lines("waiting Pods", &waiting);
    figures.extend(lines("primitives", &unused));
    let mut charts = panels("waiting Pods", &waiting);
    charts.extend(panels("primitives", &unused));
    Ok((figures, plot::draw(&charts)))
}

async fn gated(stage: &Stage, number: usize) -> anyhow::Result<()> {
    let mutex = format!("m-{};strategy=gate", number / EACH);
    let pod = paper::manifest(&format!("p-{number}"), Some(("konductor.io/mutex", &mutex)));
    stage.api::<Pod>().create(&PostParams::default(), &pod).await?;
    Ok(())
}

/// Makes objects up to each of these sizes, and looks.
async fn grow(cluster: &Cluster, sizes: &[usize], make: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<Vec<Point>> {
    let leader = cluster.leader().await?;
    let mut points = vec![look(cluster, &leader, 0, 0.0).await?];
    for &size in sizes {
        let (before, from) = (leader.processor_time()?, points.last().map_or(0, |point| point.size));
        stream::iter(from..size).map(|number| make(number)).buffer_unordered(32).try_collect::<Vec<_>>().await?;
        leader.calm().await?;
        let spent = (leader.processor_time()? - before) / (size - from) as f64 * 1e3;
        points.push(look(cluster, &leader, size, spent).await?);
        eprintln!("         {size} of them");
    }
    Ok(points)
}

async fn look(cluster: &Cluster, leader: &Process, size: usize, spent: f64) -> anyhow::Result<Point> {
    let handoff = handoff::of_commands(cluster, 1, cluster.pick(100, 50)).await?.quantile(0.5);
    Ok(Point { size, memory: leader.private_memory()?, spent, handoff })
}

fn lines(of: &str, points: &[Point]) -> Vec<Figure> {
    let line = |point: &Point| {
        let Point { size, memory, spent, handoff } = point;
        let name = |what: &str| format!("{size} {of}: {what}");
        let each = (*size > 0).then(|| Figure::new(name("processor time for each of the last"), *spent, "ms"));
        let (memory, handoff) =
            (Figure::new(name("the leader's memory"), *memory, "MiB"), Figure::new(name("a handoff, p50"), *handoff, "ms"));
        [memory, handoff].into_iter().chain(each)
    };
    points.iter().flat_map(line).collect()
}

fn panels(of: &str, points: &[Point]) -> Vec<Panel> {
    let panel = |what: &str, unit: &'static str, value: &dyn Fn(&Point) -> f64| Panel {
        title: format!("{what} against {of}"),
        unit,
        points: points.iter().map(|point| (point.size as f64, value(point))).collect(),
    };
    vec![panel("Leader's memory", "MiB", &|point: &Point| point.memory), panel("A handoff, p50,", "ms", &|point: &Point| point.handoff)]
}
