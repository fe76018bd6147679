//! A program that works on shards, at most a few at a time in the whole cluster, and then has one of all its runs write the report. Several of them may run at
//! once, on any machines:
//!
//! ```sh
//! kubectl apply -f examples/sdk/primitives.yaml
//! cargo run --example sdk -- 1 & cargo run --example sdk -- 2
//! ```

#![allow(clippy::print_stdout, reason = "it is what it does")]

use std::time::Duration;

use konductor::client::{Client, Error, Options};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let shard = std::env::args().nth(1).unwrap_or_else(|| "1".to_owned());
    let client = Client::connect().await?;

    // At most so many shards at a time, whoever works on them. Lost, the work is dropped at its next await.
    let slot = client.semaphore("shards").acquire(1, Options::default().on_wait(|message| println!("{message}"))).await?;
    tokio::select! {
        () = work(&shard, slot.token()) => slot.release().await?,
        why = slot.lost() => return Err(Error::Lost(why)),
    }

    // This run counts once for its shard, even if it is started again.
    client.clone().holder(format!("shard-{shard}")).barrier("shards-done").arrive().await?;
    client.barrier("shards-done").wait(Options::default().timeout(Duration::from_secs(600))).await?;

    // All of them come here; one writes the report.
    match client.once("report").run(Options::default(), async || report().await).await? {
        Some(written) => println!("wrote the report: {written:?}"),
        None => println!("somebody else wrote the report"),
    }
    client.settled().await;
    Ok(())
}

async fn work(shard: &str, token: i64) {
    println!("working on shard {shard} with token {token}");
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn report() -> Result<&'static str, std::io::Error> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok("all shards are done")
}
