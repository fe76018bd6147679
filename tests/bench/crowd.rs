//! Pods with a wrapped command that wait in line, each with an open session; once they are let loose, each ends as soon as it is let in.

use std::time::Instant;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    line::Wait,
    paper::{self, Paper},
};

/// Sessions that are opened at once.
const AT_ONCE: usize = 64;

/// A crowd in line: some of it is let in already, and waits for the word.
pub struct Crowd {
    tasks: JoinSet<anyhow::Result<Instant>>,
    word: watch::Sender<bool>,
}

impl Crowd {
    /// Opens everybody's session.
    pub async fn line_up(pods: Vec<Paper>) -> anyhow::Result<Self> {
        paper::all(&pods, Paper::runs).await?;
        let asked = stream::iter(pods).map(async |mut pod| {
            let mut wait = pod.line.acquire().await?;
            wait.told().await?;
            anyhow::Ok((pod, wait))
        });
        let waiting: Vec<(Paper, Wait)> = asked.buffer_unordered(AT_ONCE).try_collect().await?;
        let (word, hears) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (pod, wait) in waiting {
            tasks.spawn(passes(pod, wait, hears.clone()));
        }
        Ok(Self { tasks, word })
    }

    /// Lets it loose. Gives how many came in after the `inside` that were let in before, and in how many seconds.
    pub async fn rush(mut self, inside: usize) -> anyhow::Result<(f64, f64)> {
        let began = Instant::now();
        self.word.send(true)?;
        let mut last = began;
        let mut all: usize = 0;
        while let Some(passed) = self.tasks.join_next().await {
            last = last.max(passed??);
            all += 1;
        }
        let came_in = all.checked_sub(inside).context("fewer came in than were inside")?;
        Ok((came_in as f64, (last - began).as_secs_f64()))
    }
}

/// When it was let in.
async fn passes(mut pod: Paper, wait: Wait, mut word: watch::Receiver<bool>) -> anyhow::Result<Instant> {
    let tokens = wait.granted().await?;
    let at = Instant::now();
    word.wait_for(|said| *said).await?;
    pod.line.ended(tokens).await?;
    Ok(at)
}
