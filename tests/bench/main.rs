//! `make bench`: what waiting and handing over cost, beside the API calls that safety needs and beside what people use otherwise. Every round measures all of
//! them one after the other; the table has the medians over the rounds. It prints, and people judge: nothing here fails because it was slow.
//!
//! - [`stage`] is the cluster: a namespace for each measurement, and what the API server and the kernel count.
//! - [`paper`] has Pods that are real to the API server, the webhook and konductor, and whose kubelet is this program; [`line`] is what their agents say.
//! - [`floor`] makes the API calls that no coordination can do without.
//! - the others are the sections of the table, one file each, and [`report`] writes it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod barrier;
mod claims;
mod crowd;
mod floor;
mod handoff;
mod line;
mod numbers;
mod paper;
mod peers;
mod plot;
mod pods;
mod report;
mod scale;
mod stage;
mod throughput;
mod webhook;

use std::{env, time::Instant};

use anyhow::{Context, bail};

use report::{Figure, Report};
use stage::Cluster;

/// What is measured in every round, in this order; then what is measured once.
static ROUNDS: [&str; 8] = ["floor", "handoff", "claims", "semaphore", "mutexes", "barrier", "webhook", "peers"];
static ONCE: [&str; 4] = ["crowd", "memory", "chain", "scale"];

async fn measure(section: &str, cluster: &Cluster, report: &mut Report) -> anyhow::Result<Vec<Figure>> {
    match section {
        "floor" => floor::measure(cluster).await,
        "handoff" => handoff::measure(cluster).await,
        "claims" => claims::measure(cluster).await,
        "semaphore" => throughput::semaphore(cluster).await,
        "mutexes" => throughput::mutexes(cluster).await,
        "barrier" => barrier::measure(cluster).await,
        "webhook" => webhook::measure(cluster).await,
        "peers" => peers::measure(cluster).await,
        "crowd" => barrier::crowded(cluster).await,
        "memory" => pods::memory(cluster).await,
        "chain" => pods::chain(cluster).await,
        "scale" => {
            let (figures, plot) = scale::measure(cluster).await?;
            report.plot = Some(plot);
            Ok(figures)
        }
        _ => bail!("there is no section '{section}'; there are: {}", [&ROUNDS[..], &ONCE[..]].concat().join(" ")),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let only = set("ONLY");
    let wanted = |section: &str| only.as_ref().is_none_or(|only| only.split_whitespace().any(|word| word == section));
    let quick = set("QUICK").is_some();
    let rounds = set("ROUNDS").map_or(Ok(if quick { 1 } else { 3 }), |rounds| rounds.parse()).context("ROUNDS")?;
    for word in only.iter().flat_map(|only| only.split_whitespace()) {
        if !ROUNDS.contains(&word) && !ONCE.contains(&word) {
            bail!("there is no section '{word}'; there are: {}", [&ROUNDS[..], &ONCE[..]].concat().join(" "));
        }
    }
    let cluster = Cluster::connect(quick).await?;
    let mut report = Report::default();
    let began = Instant::now();
    let mut failed = false;
    for (round, section) in (1..=rounds)
        .flat_map(|round| ROUNDS.iter().map(move |section| (round, section)))
        .chain(ONCE.iter().map(|section| (rounds, section)))
        .filter(|(_, section)| wanted(section))
    {
        let from = Instant::now();
        match measure(section, &cluster, &mut report).await {
            Ok(figures) => report.add(section, figures),
            Err(error) => {
                eprintln!("{section} came to nothing: {error:?}");
                failed = true;
            }
        }
        eprintln!("{:>5} s  round {round} of {rounds}: {section} took {:.1} s", began.elapsed().as_secs(), from.elapsed().as_secs_f64());
    }
    println!("{}", report.table());
    if failed {
        bail!("some of it came to nothing (see above), so nothing is written");
    }
    // A part of it is no result.
    if let Some(path) = set("WRITE").filter(|_| only.is_none() && !quick) {
        report.write(path.as_ref(), &cluster, rounds, began.elapsed())?;
        eprintln!("written to {path}");
    }
    Ok(())
}
