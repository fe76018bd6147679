//! Pods with a wrapped command that take, and give back, and take again, as fast as they are let in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use tokio::{task::JoinSet, time::sleep};

use crate::paper::Paper;

/// A crowd at work; dropping it ends it.
pub struct Crowd {
    tasks: JoinSet<anyhow::Result<()>>,
    grants: Arc<AtomicU64>,
}

impl Crowd {
    /// Starts with all of these Pods.
    pub async fn start(pods: Vec<Paper>) -> anyhow::Result<Self> {
        try_join_all(pods.iter().map(Paper::runs)).await?;
        let mut crowd = Self { tasks: JoinSet::new(), grants: Arc::default() };
        for pod in pods {
            crowd.tasks.spawn(again_and_again(pod, crowd.grants.clone()));
        }
        Ok(crowd)
    }

    /// Grants a second over this time, and how many that were.
    pub async fn rate(&mut self, lasts: Duration) -> anyhow::Result<(f64, f64)> {
        let (before, began) = (self.grants.load(Ordering::Relaxed), Instant::now());
        tokio::select! {
            () = sleep(lasts) => {}
            Some(ended) = self.tasks.join_next() => ended??,
        }
        let grants = (self.grants.load(Ordering::Relaxed) - before) as f64;
        Ok((grants / began.elapsed().as_secs_f64(), grants))
    }
}

async fn again_and_again(mut pod: Paper, grants: Arc<AtomicU64>) -> anyhow::Result<()> {
    loop {
        let tokens = pod.line.acquire().await?.granted().await?;
        grants.fetch_add(1, Ordering::Relaxed);
        pod.line.ended(tokens).await?;
    }
}
