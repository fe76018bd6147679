//! The cluster as the bench uses it: a namespace for each measurement, what the API server counts, and konductor's leader as the kernel sees it.

use std::{fs, time::Duration};

use anyhow::{Context, bail, ensure};
use http::Request;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use konductor::api::{Barrier, Claim, Mutex, Semaphore};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Where konductor itself runs.
const SYSTEM: &str = "konductor-system";
/// After this long, what should come true by itself is taken for what never will.
const PATIENCE: Duration = Duration::from_secs(180);

pub struct Cluster {
    pub client: Client,
    /// Less of everything.
    pub quick: bool,
}

impl Cluster {
    pub async fn connect(quick: bool) -> anyhow::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // An answer that came late by a retry would be a wrong number.
        let mut config = kube::Config::infer().await?;
        config.default_retry = false;
        let cluster = Self { client: Client::try_from(config)?, quick };
        cluster.led().await?;
        Ok(cluster)
    }

    /// Waits until konductor has a leader that has nothing to do.
    async fn led(&self) -> anyhow::Result<()> {
        until("konductor has a leader", async || Ok(self.leader().await.is_ok())).await?;
        self.leader().await?.calm().await
    }

    /// So many, or so few in a quick run.
    pub fn pick<T>(&self, usual: T, quick: T) -> T {
        if self.quick { quick } else { usual }
    }

    /// An empty namespace.
    pub async fn stage(&self, name: &str) -> anyhow::Result<Stage> {
        let namespace = Namespace {
            metadata: kube::core::ObjectMeta { generate_name: Some(format!("bench-{name}-")), ..Default::default() },
            ..Default::default()
        };
        let made = Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        let stage = Stage { client: self.client.clone(), namespace: made.metadata.name.context("a namespace has a name")? };
        let accounts = stage.api::<ServiceAccount>();
        until("the namespace has its service account", async || Ok(accounts.get_opt("default").await?.is_some())).await?;
        Ok(stage)
    }

    /// The sum of all counters of this name that have these labels, as the API server counts.
    pub async fn counted(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let metrics = self.client.request_text(Request::get("/metrics").body(Vec::new())?).await?;
        let of_it =
            metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label)));
        Ok(of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Writes of objects of this resource of konductor's that the API server has made to etcd.
    pub async fn writes(&self, resource: &str) -> anyhow::Result<f64> {
        self.written("konductor.io", resource).await
    }

    /// The same of Events, whoever wrote them.
    pub async fn events(&self) -> anyhow::Result<f64> {
        self.written("", "events").await
    }

    async fn written(&self, group: &str, resource: &str) -> anyhow::Result<f64> {
        let mut all = 0.0;
        for operation in ["create", "update", "delete"] {
            let labels = [&format!("operation=\"{operation}\"")[..], &format!("group=\"{group}\""), &format!("resource=\"{resource}\"")];
            all += self.counted("etcd_requests_total", &labels).await?;
        }
        Ok(all)
    }

    /// The process of konductor's leader.
    pub async fn leader(&self) -> anyhow::Result<Process> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), SYSTEM);
        let leaders = pods.list(&ListParams::default().labels("konductor.io/leader=true")).await?;
        let pod = leaders.items.into_iter().next().context("konductor has no leader")?;
        let status = pod.status.and_then(|status| status.container_statuses?.into_iter().next());
        Process::of_container(&status.and_then(|status| status.container_id).context("the leader has no container")?)
    }

    /// Replaces all of konductor's Pods, so that the leader is a process that has done nothing yet.
    pub async fn change_leader(&self) -> anyhow::Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), SYSTEM);
        let ours = ListParams::default().labels("app.kubernetes.io/name=konductor");
        let old = pods.list_metadata(&ours).await?.items.into_iter().filter_map(|pod| pod.metadata.uid).collect::<Vec<_>>();
        pods.delete_collection(&DeleteParams::default(), &ours).await?;
        until("konductor has another leader", async || {
            let now = pods.list(&ours).await?.items;
            let new = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| !old.contains(uid));
            let ready = |pod: &Pod| {
                let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
            };
            Ok(now.iter().all(|pod| new(pod) && ready(pod)))
        })
        .await?;
        self.led().await
    }

    /// What it runs on, for people.
    pub fn machine(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default();
        format!("{cores} processors and {} GiB of memory", kib.div_ceil(1 << 20))
    }
}

/// A namespace of its own.
pub struct Stage {
    pub client: Client,
    pub namespace: String,
}

impl Stage {
    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes an object of this name and spec.
    pub async fn make<K>(&self, name: &str, spec: Value) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let (api_version, kind) = (K::api_version(&()), K::kind(&()));
        let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name }, "spec": spec });
        Ok(self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object)?).await?)
    }

    /// Empties it, and waits until that is done: else it would be part of what is measured next. (To take the namespace itself away lasts ten seconds.)
    pub async fn close(self) -> anyhow::Result<()> {
        empty(&self.api::<Pod>()).await?;
        empty(&self.api::<Claim>()).await?;
        empty(&self.api::<Mutex>()).await?;
        empty(&self.api::<Semaphore>()).await?;
        empty(&self.api::<Barrier>()).await
    }
}

/// Deletes all of a kind, and waits until they are gone.
pub async fn empty<K: Resource + Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>) -> anyhow::Result<()> {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    // Ten thousand may be more than the API server has time for in one request.
    while let Err(error) = api.delete_collection(&now, &ListParams::default()).await {
        let late = matches!(&error, kube::Error::Api(status) if status.code == 504);
        ensure!(late, error);
    }
    until("all are gone", async || Ok(api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty())).await
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !so().await? {
        if began.elapsed() > PATIENCE {
            bail!("never came true: {what}");
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A process on this machine.
pub struct Process(u32);

impl Process {
    /// The first process of a container, by its ID as Kubernetes shows it.
    pub fn of_container(id: &str) -> anyhow::Result<Self> {
        let id = id.rsplit('/').next().unwrap_or_default();
        let in_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(id));
        let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(in_it).min().map(Self).with_context(|| format!("container {id} has no process"))
    }

    /// Waits until it has caught up: until it does next to nothing for a second.
    pub async fn calm(&self) -> anyhow::Result<()> {
        until("konductor has caught up", async || {
            let before = self.processor_time()?;
            sleep(Duration::from_secs(1)).await;
            Ok(self.processor_time()? - before < 0.1)
        })
        .await
    }

    /// Memory that is its alone, in MiB.
    pub fn private_memory(&self) -> anyhow::Result<f64> {
        self.memory("Private_")
    }

    /// What of that it has written: the rest are pages of files that nobody else has open, which the kernel can take back.
    pub fn written_memory(&self) -> anyhow::Result<f64> {
        self.memory("Private_Dirty")
    }

    fn memory(&self, of: &str) -> anyhow::Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0))?;
        let kib = text.lines().filter(|line| line.starts_with(of)).filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        Ok(kib.sum::<f64>() / 1024.0)
    }

    /// Processor time that it has used, in seconds.
    pub fn processor_time(&self) -> anyhow::Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // After the name, which may have spaces; then the 12th and the 13th are user and system time, in hundredths.
        let after = text.rsplit(") ").next().unwrap_or_default();
        Ok(after.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0)
    }
}
