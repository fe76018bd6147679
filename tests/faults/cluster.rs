//! The cluster's parts, and what can be done to them: it is that of `tests/cluster`, on this machine.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Pod, Secret},
};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::{process::Command, time::sleep};

/// Where konductor runs.
pub const SYSTEM: &str = "konductor-system";
/// What needs longer than this does not come back.
const COMES_BACK: Duration = Duration::from_secs(300);

/// Runs a program, which must succeed.
pub async fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().await.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A command of `tests/cluster/cluster`.
pub async fn cluster(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    run(script.to_str().expect("a path"), arguments).await
}

pub async fn kubectl(arguments: &[&str]) -> String {
    run("kubectl", &[&["--namespace", SYSTEM], arguments].concat()).await
}

/// Changes something of konductor's container, and puts its Pods on the node that stays; waits until the new ones serve and the old ones are gone.
pub async fn redeploy(client: &Client, mut container: Value) {
    container["name"] = "konductor".into();
    let pod = json!({ "nodeSelector": { "kubernetes.io/hostname": crate::pods::HOME }, "containers": [container] });
    let patch = json!({ "spec": { "template": { "spec": pod } } }).to_string();
    kubectl(&["patch", "deployment/konductor", "--patch", &patch]).await;
    until_two_serve(client).await;
}

/// The environment by which konductor finds the API server.
pub fn by_way_of(address: &str, port: u16) -> Value {
    let variable = |name: &str, value: &str| json!({ "name": name, "value": value });
    json!({ "env": [variable("KUBERNETES_SERVICE_HOST", address), variable("KUBERNETES_SERVICE_PORT", &port.to_string())] })
}

/// Lets konductor have other records of elections than its own: its Role names the one.
pub async fn allow_more_leaders() {
    let role = ["create", "role", "faults", "--verb=get,update,create", "--resource=leases.coordination.k8s.io"];
    let binding = ["create", "rolebinding", "faults", "--role=faults", "--serviceaccount=konductor-system:konductor"];
    for object in [&role[..], &binding[..]] {
        kubectl(object).await;
    }
}

/// Waits until both replicas serve and those before them are gone; gives them.
async fn until_two_serve(client: &Client) -> Vec<Pod> {
    let rollout = ["--namespace", SYSTEM, "rollout", "status", "deployment/konductor", "--timeout=60s"];
    // The API server may be busy with itself.
    until("konductor is rolled out", async || Command::new("kubectl").args(rollout).output().await.ok().filter(|it| it.status.success()))
        .await;
    until("there are two replicas", async || Some(servers(client).await).filter(|servers| servers.len() == 2)).await
}

/// Waits until both replicas serve, those before them are gone, and one of them leads.
pub async fn until_serving(client: &Client) {
    let servers = until_two_serve(client).await;
    let is_one = |leader: &String| servers.iter().any(|pod| pod.metadata.name.as_ref() == Some(leader));
    until("one of the replicas leads", async || leader(client).await.filter(is_one)).await;
}

async fn servers(client: &Client) -> Vec<Pod> {
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    let list = pods.list(&kube::api::ListParams::default().labels("app.kubernetes.io/component=server")).await;
    list.map(|list| list.items).unwrap_or_default()
}

/// The Pod that is recorded as the leader.
pub async fn leader(client: &Client) -> Option<String> {
    let lease = Api::<Lease>::namespaced(client.clone(), SYSTEM).get("konductor-leader").await.ok()?;
    lease.spec?.holder_identity.filter(|identity| !identity.is_empty())
}

/// Sends the Pod that leads a signal, when there is one that runs and gets it; gives its name and its processes.
pub async fn signal_leader(client: &Client, which: &str) -> (String, Vec<String>) {
    until("the leader gets a signal", async || {
        let name = leader(client).await?;
        let pod = Api::<Pod>::namespaced(client.clone(), SYSTEM).get(&name).await.ok()?;
        let processes = processes(pod.metadata.uid.as_deref().unwrap_or("?"));
        (!processes.is_empty() && signal(which, &processes).await).then_some((name, processes))
    })
    .await
}

/// The processes of `konductor serve` in the Pod of this UID, found on the machine: the image has no shell to do it from inside.
fn processes(uid: &str) -> Vec<String> {
    let is_it = |pid: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cgroup").replace('_', "-").contains(uid) && read("cmdline").contains("serve")
    };
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| name.bytes().all(|c| c.is_ascii_digit())).filter(is_it).collect()
}

/// Waits until there is what is looked for. What never comes back would else be a run without an end.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < COMES_BACK, "never came true within {COMES_BACK:?}: {what}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Sends a signal; says whether all of them were there to get it.
pub async fn signal(signal: &str, processes: &[String]) -> bool {
    Command::new("kill").arg(signal).args(processes).output().await.is_ok_and(|it| it.status.success())
}

pub async fn until_api_answers() {
    let began = Instant::now();
    while !Command::new("kubectl")
        .args(["get", "--raw", "/readyz", "--request-timeout=2s"])
        .output()
        .await
        .is_ok_and(|it| it.status.success())
    {
        assert!(began.elapsed() < Duration::from_secs(180), "the API server was started and does not answer: {}", cluster(&["logs"]).await);
        sleep(Duration::from_millis(200)).await;
    }
}

/// Kills a part of the control plane and starts it again; returns when the API server answers.
pub async fn kill_and_start(component: &str) {
    cluster(&["component", "kill", component]).await;
    cluster(&["component", "start", component]).await;
    until_api_answers().await;
}

/// The certificate that konductor serves, as the Secret has it; empty while there is none.
pub async fn certificate(client: &Client) -> Vec<u8> {
    let secret = Api::<Secret>::namespaced(client.clone(), SYSTEM).get("konductor-certs").await.ok();
    secret.and_then(|secret| secret.data?.remove("tls.crt")).map(|bytes| bytes.0).unwrap_or_default()
}

/// Prints what may keep somebody from being served.
pub async fn describe() {
    let here = format!("--namespace={SYSTEM}");
    for question in [
        &["get", "nodes"][..],
        &["get", "pods", "--output=wide", &here],
        &["get", "leases,endpointslices", &here],
        &["get", "pods", "--output=wide", "--namespace=faults"],
        &["get", "konductor", "--namespace=faults"],
        &["logs", "--selector=app.kubernetes.io/component=server", "--prefix", "--tail=20", &here],
    ] {
        let output = Command::new("kubectl").args(question).arg("--request-timeout=5s").output().await.expect("kubectl");
        eprintln!("  kubectl {}", question.join(" "));
        for line in String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines() {
            eprintln!("    {line}");
        }
    }
}

/// What happens to packets on their way to the webhook, until [`free_webhook`].
pub async fn cut_webhook(verdict: &str) {
    let rules = format!(
        "table inet faults {{\n chain output {{\n type filter hook output priority 10\n tcp dport 9443 counter {verdict}\n }}\n }}\n"
    );
    run("bash", &["-c", "nft -f - <<<\"$1\"", "nft", &rules]).await;
}

/// They arrive again; gives how many did not.
pub async fn free_webhook() -> u64 {
    let table = run("nft", &["list", "table", "inet", "faults"]).await;
    run("nft", &["delete", "table", "inet", "faults"]).await;
    let packets = table.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    packets.unwrap_or_else(|| panic!("nft does not say how many packets it has counted: {table}"))
}
