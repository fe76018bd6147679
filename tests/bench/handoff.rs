//! From the end of a holder to the answer of the next: a Mutex for which one, ten or a thousand Pods wait.

use std::{collections::VecDeque, time::Instant};

use anyhow::Context;
use konductor::{api::Mutex, coordinator::protocol::Token};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    floor::{self, Floor},
    numbers::Times,
    paper::{self, Paper},
    report::Figure,
    stage::Cluster,
};

const BESIDE: &str = "GET + compare-and-swap";
/// There is one spare Pod for so many handoffs: each turn is two requests, and a Pod that asks oftener than the coordinator lets it is turned away.
const TURNS: usize = 20;

/// A Pod that was just let in.
struct Granted {
    at: Instant,
    pod: Paper,
    tokens: Vec<Token>,
}

/// The sessions that wait, each a task.
struct Queue {
    tasks: JoinSet<anyhow::Result<()>>,
    news: mpsc::UnboundedSender<Granted>,
    granted: mpsc::UnboundedReceiver<Granted>,
}

impl Queue {
    fn new() -> Self {
        let (news, granted) = mpsc::unbounded_channel();
        Self { tasks: JoinSet::new(), news, granted }
    }

    /// Opens the session of a Pod; returns when the coordinator has said that it waits, or let it in.
    async fn join(&mut self, mut pod: Paper) -> anyhow::Result<()> {
        let mut wait = pod.line.acquire().await?;
        wait.told().await?;
        let news = self.news.clone();
        self.tasks.spawn(async move {
            let tokens = wait.granted().await?;
            let _ = news.send(Granted { at: Instant::now(), pod, tokens });
            Ok(())
        });
        Ok(())
    }

    async fn next(&mut self) -> anyhow::Result<Granted> {
        let Self { tasks, granted, .. } = self;
        tokio::select! {
            granted = granted.recv() => granted.context("nobody waits"),
            // A task that ended well has sent its news.
            Some(Err(error)) = async { tasks.join_next().await.map(|ended| ended.context("a session").flatten()) } => Err(error),
        }
    }
}

pub async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let floor = floor::of_handoffs(cluster).await?;
    let mut figures = Vec::new();
    for waiting in [1, 10, 1000] {
        figures.extend(pods(cluster, &floor, waiting).await?);
    }
    for waiting in [1, 10, 1000] {
        let times = of_commands(cluster, waiting, cluster.pick(200, 50)).await?;
        figures.extend(self::figures("a command ends", waiting, &times, &floor));
    }
    Ok(figures)
}

fn figures(what: &str, waiting: usize, times: &Times, floor: &Floor) -> [Figure; 2] {
    let of = |part, name| {
        Figure::new(format!("{what}, {waiting} wait: {name}"), times.quantile(part), "ms").beside(BESIDE, floor.pod.quantile(part))
    };
    [of(0.5, "p50").demand("<= 1.5"), of(0.99, "p99").demand("<= 5")]
}

/// Ordinary Pods. Its kubelet reports the end, and its sidecar makes the release call.
async fn pods(cluster: &Cluster, floor: &Floor, waiting: usize) -> anyhow::Result<Vec<Figure>> {
    let stage = cluster.stage("handoff").await?;
    stage.make::<Mutex>("m", json!({})).await?;
    let handoffs = cluster.pick(100, 50);
    let mut spare = paper::pods(&stage, waiting + handoffs + 1, "konductor.io/mutex", |_| "m".to_owned()).await?;
    let mut queue = Queue::new();
    // All but those that will be the next to come.
    paper::all(&spare[handoffs..], Paper::waits).await?;
    for pod in spare.split_off(handoffs) {
        queue.join(pod).await?;
    }
    let mut holder = queue.next().await?;
    let mut starts = async |queue: &mut Queue| {
        let pod = spare.pop().context("all Pods are used up")?;
        pod.waits().await?;
        queue.join(pod).await
    };
    let before = (cluster.writes("mutexes").await?, cluster.events().await?);
    let (mut from_call, mut from_report) = (Times::default(), Times::default());
    let mut early = 0;
    for _ in 0..handoffs {
        holder.pod.runs().await?;
        holder.pod.line.prepare().await?;
        let reports = Instant::now();
        holder.pod.ends().await?;
        let calls = Instant::now();
        ((), holder) = tokio::try_join!(holder.pod.line.release(), queue.next())?;
        early += usize::from(holder.at < calls);
        from_call.push(holder.at.saturating_duration_since(calls));
        from_report.push(holder.at - reports);
        starts(&mut queue).await?;
    }
    let writes = (cluster.writes("mutexes").await? - before.0) / handoffs as f64;
    let events = (cluster.events().await? - before.1) / handoffs as f64;
    drop(queue);
    stage.close().await?;
    let mut figures: Vec<Figure> = figures("a Pod ends", waiting, &from_call, floor).into();
    figures.push(
        Figure::new(format!("its kubelet reports that, {waiting} wait: p50"), from_report.quantile(0.5), "ms")
            .beside("PATCH + hop + compare-and-swap", floor.report.quantile(0.5)),
    );
    figures.push(Figure::new(format!("let in before the release call, {waiting} wait"), 100.0 * early as f64 / handoffs as f64, "%"));
    figures.push(Figure::new(format!("writes of the Mutex a handoff, {waiting} wait"), writes, "").demand("<= 2"));
    figures.push(Figure::new(format!("writes of Events a handoff, {waiting} wait"), events, ""));
    Ok(figures)
}

/// Pods with a wrapped command, which runs again and again.
pub async fn of_commands(cluster: &Cluster, waiting: usize, handoffs: usize) -> anyhow::Result<Times> {
    let stage = cluster.stage("wrapped").await?;
    stage.make::<Mutex>("m", json!({})).await?;
    let beside = handoffs / TURNS;
    let pods = paper::pods(&stage, waiting + 1 + beside, "konductor.io/mutex", |_| "m;strategy=wrap".to_owned()).await?;
    // Not the spare ones: a command that runs and has not asked yet keeps its place in line.
    paper::all(&pods[beside..], Paper::runs).await?;
    let mut spare = VecDeque::from(pods);
    let mut queue = Queue::new();
    for pod in spare.split_off(beside) {
        queue.join(pod).await?;
    }
    let mut holder = queue.next().await?;
    let mut times = Times::default();
    for _ in 0..handoffs {
        holder.pod.line.prepare().await?;
        let began = Instant::now();
        let tokens = std::mem::take(&mut holder.tokens);
        let ((), next) = tokio::try_join!(holder.pod.line.ended(tokens), queue.next())?;
        times.push(next.at - began);
        spare.push_back(std::mem::replace(&mut holder, next).pod);
        let pod = spare.pop_front().expect("one was just put there");
        pod.runs().await?;
        queue.join(pod).await?;
    }
    drop(queue);
    stage.close().await?;
    Ok(times)
}
