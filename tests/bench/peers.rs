//! What people use where there is no konductor, measured by the Go program in peers/, beside konductor: a handoff of a wrapped command.

use std::{
    collections::{HashMap, hash_map::Entry},
    env,
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::{handoff, numbers::Times, report::Figure, stage::Cluster};

const BESIDE: &str = "konductor, a command ends";

#[derive(Deserialize)]
struct Measured {
    what: String,
    waiting: usize,
    p50: f64,
    p99: f64,
    requests: f64,
}

pub async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let stage = cluster.stage("peers").await?;
    let program = env::var("BENCH_PEERS").context("BENCH_PEERS names the program of tests/bench/peers")?;
    let mut command = Command::new(program);
    command.args(["-namespace", &stage.namespace]);
    if cluster.quick {
        command.arg("-quick");
    }
    let output = command.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stage.close().await?;
    let mut figures = Vec::new();
    let mut ours: HashMap<usize, Times> = HashMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let Measured { what, waiting, p50, p99, requests } = serde_json::from_str(line)?;
        let ours = match ours.entry(waiting) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(handoff::of_commands(cluster, waiting, 100).await?),
        };
        for (name, part, value) in [("p50", 0.5, p50), ("p99", 0.99, p99)] {
            figures.push(Figure::new(format!("{what}, {waiting} wait: {name}"), value, "ms").beside(BESIDE, ours.quantile(part)));
        }
        if requests > 0.0 {
            figures.push(Figure::new(format!("{what}, {waiting} wait: requests a handoff"), requests, ""));
        }
    }
    Ok(figures)
}
