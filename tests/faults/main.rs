//! `make faults`: konductor on a real cluster under load, faults one after the other, and an observer that shares no code with the controller and reads
//! etcd and what really ran. It prints one table, and fails at a broken promise, a waiter that was not served, or a run that proves too little.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod cluster;
mod faults;
mod fenced;
mod history;
mod judge;
mod load;
mod pods;
mod proxy;
mod report;
mod shift;
mod spoiled;
mod waiters;
mod watch;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{Api, Client, Config, api::PostParams};
use tokio::task::{LocalSet, spawn_local};

use crate::{
    faults::{ALL, Row, Stage},
    judge::Judge,
    load::Load,
    pods::Pods,
    proxy::{PORTS, Proxy},
    waiters::Waiters,
    watch::Observer,
};

const HELP: &str = "faults [--quick] [--only FAULT]... [--folder FOLDER]   on the cluster that KUBECONFIG names
faults --observer                                      only the test of the observer itself
faults --judge FILE                                    judges the history of an earlier run again";
const NAMESPACE: &str = "faults";

struct Asked {
    quick: bool,
    only: Vec<&'static str>,
    folder: PathBuf,
    observer: bool,
    judge: Option<String>,
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(words) => {
            eprintln!("{words}\n{HELP}\nthe faults are: {}", ALL.join(", "));
            return ExitCode::from(2);
        }
    };
    if let Some(file) = &asked.judge {
        let mut judge = Judge::default();
        history::read(file).iter().for_each(|line| judge.line(line));
        judge.finish();
        return report::say(&[], &judge, None);
    }
    if !spoiled::all_are_seen() {
        return ExitCode::FAILURE;
    }
    if asked.observer {
        return ExitCode::SUCCESS;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(LocalSet::new().run_until(run(asked)))
}

fn asked() -> Result<Asked, String> {
    let mut asked =
        Asked { quick: false, only: Vec::new(), folder: std::env::temp_dir().join("konductor-faults"), observer: false, judge: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => asked.quick = true,
            "--observer" => asked.observer = true,
            "--judge" => asked.judge = Some(value()?),
            "--folder" => asked.folder = value()?.into(),
            "--only" => {
                let name = value()?;
                asked.only.push(ALL.into_iter().find(|known| **known == name).ok_or(format!("there is no fault '{name}'"))?);
            }
            _ => return Err(format!("what is {argument}?")),
        }
    }
    Ok(asked)
}

async fn run(asked: Asked) -> ExitCode {
    let kubeconfig = std::env::var("KUBECONFIG").unwrap_or_default();
    assert_eq!(kubeconfig, cluster::cluster(&["kubeconfig"]).await, "this breaks everything, so it must be the cluster of tests/cluster");
    let mut config = Config::infer().await.expect("a kubeconfig");
    config.default_retry = false;
    let address = config.cluster_url.host().expect("an address").to_owned();
    let client = Client::try_from(config).expect("a client");
    let proxy = Proxy::start(&address, &Path::new(&kubeconfig).with_file_name("pki")).await;
    cluster::redeploy(&client, cluster::by_way_of(&address, PORTS[0].0)).await;
    cluster::until_serving(&client).await;

    let folder = asked.folder.join("pods");
    let _ = fs::remove_dir_all(&asked.folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("a folder for everybody");
    let history = asked.folder.join("history.jsonl");
    let (observer, _watching) = Observer::open(NAMESPACE, &history).await;
    make_namespace(&client).await;

    let waiters = Waiters::default();
    let load = Load::new(client.clone(), NAMESPACE, observer.clone(), waiters.clone());
    let pods = Pods::new(load.clone(), &folder);
    let at_work = [spawn_local(load.clone().work()), spawn_local(pods.clone().work())];
    let mut stage = Stage {
        client,
        address,
        observer: observer.clone(),
        waiters,
        load: load.clone(),
        pods: pods.clone(),
        proxy,
        quick: asked.quick,
        rows: Vec::new(),
    };
    let mut before = Row::new("no fault yet");
    stage.calm(&mut before).await;
    eprintln!("everybody is at work, after {:.1} s", before.longest.as_secs_f64());
    for fault in ALL {
        if asked.only.is_empty() || asked.only.contains(&fault) {
            stage.fault(fault).await;
        }
    }
    at_work.iter().for_each(|task| task.abort());
    tokio::time::sleep(Duration::from_secs(1)).await;
    pods.all_ended();
    observer.until_seen().await;
    let mut judge = observer.judge.lock().unwrap();
    judge.finish();
    println!("the history is in {}", history.display());
    report::say(&stage.rows, &judge, Some(&*load))
}

async fn make_namespace(client: &Client) {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace that was not there");
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE);
    while accounts.get("default").await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
