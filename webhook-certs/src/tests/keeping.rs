//! The keeper against an API server that refuses what a real one refuses.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{cluster::Cluster, fresh, names};
use crate::{
    Certificates, Policy, Settings,
    contents::{BUNDLE, Contents, ISSUER_KEY, LEAF, NEXT_KEY},
    keeper::MANAGER_ANNOTATION,
    run,
};

const SECRET: &str = "/api/v1/namespaces/konductor-system/secrets/konductor-certs";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/konductor";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/konductor";

/// By the paused clock, which stands still as long as anybody has something to do: whatever can happen in this time has happened after it.
const A_WHILE: Duration = Duration::from_secs(600);

fn settings() -> Settings {
    Settings {
        namespace: "konductor-system".to_owned(),
        secret: "konductor-certs".to_owned(),
        mutating: vec!["konductor".to_owned()],
        validating: vec!["konductor".to_owned()],
        dns_names: names(),
        manager: "konductor".to_owned(),
        labels: BTreeMap::new(),
        managed_elsewhere: false,
        policy: Policy::default(),
    }
}

fn start(cluster: &Cluster, settings: Settings) -> Certificates {
    let certificates = Certificates::new();
    tokio::spawn(run(cluster.client(), settings, certificates.clone(), CancellationToken::new()));
    certificates
}

async fn ready(certificates: &Certificates) {
    tokio::time::timeout(Duration::from_secs(20), certificates.ready()).await.expect("never ready");
}

fn configuration(webhooks: usize) -> Value {
    let webhook = |n| json!({"name": format!("w{n}.konductor.io"), "admissionReviewVersions": ["v1"], "sideEffects": "None", "fromTheFuture": n, "clientConfig": {"service": {"name": "s", "namespace": "n"}}});
    json!({"metadata": {"name": "konductor"}, "webhooks": (0..webhooks).map(webhook).collect::<Vec<_>>()})
}

fn with_configurations() -> Cluster {
    let cluster = Cluster::default();
    cluster.put(MUTATING, configuration(3));
    cluster.put(VALIDATING, configuration(1));
    cluster
}

fn stored(cluster: &Cluster) -> BTreeMap<String, ByteString> {
    serde_json::from_value::<Secret>(cluster.get(SECRET).unwrap()).unwrap().data.unwrap()
}

fn bundle(cluster: &Cluster) -> String {
    String::from_utf8(stored(cluster)[BUNDLE].0.clone()).unwrap()
}

fn carries(cluster: &Cluster, path: &str, bundle: &str) -> bool {
    let wanted = serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap();
    cluster.get(path).unwrap()["webhooks"].as_array().unwrap().iter().all(|webhook| webhook["clientConfig"]["caBundle"] == wanted)
}

/// The Secret as we would have left it, changed by `change`.
fn ours(change: impl FnOnce(&mut BTreeMap<String, ByteString>)) -> Value {
    let mut data = fresh(jiff::Timestamp::now());
    change(&mut data);
    json!({"metadata": {"name": "konductor-certs", "namespace": "konductor-system", "labels": {"mine": "stays"}, "annotations": {MANAGER_ANNOTATION: "konductor"}}, "type": "kubernetes.io/tls", "data": data})
}

#[tokio::test(start_paused = true)]
async fn two_replicas_that_start_together_make_one_secret_and_rest() {
    let cluster = with_configurations();
    let replicas = [start(&cluster, settings()), start(&cluster, settings())];
    for replica in &replicas {
        ready(replica).await;
    }
    let bundle = bundle(&cluster);
    for replica in &replicas {
        assert_eq!(**replica.ca_bundle().borrow(), *bundle);
        assert!(replica.expires().is_some());
    }
    assert!(carries(&cluster, MUTATING, &bundle) && carries(&cluster, VALIDATING, &bundle));
    assert_eq!(cluster.get(MUTATING).unwrap()["webhooks"][2]["fromTheFuture"], 2, "fields that we do not know survive");

    let writes = |cluster: &Cluster| ["POST", "PUT", "PATCH"].map(|method| cluster.requests(method));
    sleep(A_WHILE).await;
    let before = writes(&cluster);
    sleep(A_WHILE).await;
    assert_eq!(writes(&cluster), before, "nobody writes when nothing is due");
    assert_eq!(before[1], 0, "one create was enough");
}

#[tokio::test]
async fn a_bundle_that_an_upgrade_reset_is_put_back() {
    let cluster = with_configurations();
    ready(&start(&cluster, settings())).await;
    let bundle = bundle(&cluster);
    cluster.put(MUTATING, configuration(2));
    cluster.until(|cluster| carries(cluster, MUTATING, &bundle)).await;
}

#[tokio::test]
async fn a_configuration_that_appears_later_gets_the_bundle() {
    let cluster = Cluster::default();
    ready(&start(&cluster, settings())).await;
    let bundle = bundle(&cluster);
    cluster.put(VALIDATING, configuration(1));
    cluster.until(|cluster| carries(cluster, VALIDATING, &bundle)).await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_somebody_else_is_left_alone() {
    let cluster = with_configurations();
    let mut foreign = ours(|_| ());
    foreign["metadata"]["annotations"] = json!({});
    cluster.put(SECRET, foreign);
    let certificates = start(&cluster, settings());
    sleep(A_WHILE).await;
    assert!(!certificates.is_ready());
    assert_eq!([cluster.requests("PUT"), cluster.requests("POST"), cluster.requests("PATCH")], [0, 0, 0]);
}

#[tokio::test]
async fn a_broken_secret_of_ours_is_repaired_and_keeps_its_labels() {
    let cluster = with_configurations();
    cluster.put(SECRET, ours(|data| data.values_mut().for_each(|value| value.0.clear())));
    ready(&start(&cluster, settings())).await;
    assert!(Contents::read(&stored(&cluster)).leaf.is_ok());
    assert_eq!(cluster.get(SECRET).unwrap()["metadata"]["labels"]["mine"], "stays");
}

#[tokio::test]
async fn a_broken_leaf_is_renewed_by_the_same_ca_and_served_by_every_replica() {
    let cluster = with_configurations();
    let replicas = [start(&cluster, settings()), start(&cluster, settings())];
    for replica in &replicas {
        ready(replica).await;
    }
    let (before, leaf) = (bundle(&cluster), stored(&cluster)[LEAF].clone());
    let mut secret = cluster.get(SECRET).unwrap();
    secret["data"][LEAF] = "".into();
    cluster.put(SECRET, secret);
    cluster.until(|cluster| Contents::read(&stored(cluster)).leaf.is_ok()).await;
    assert_ne!(stored(&cluster)[LEAF], leaf);
    assert_eq!(bundle(&cluster), before);
}

#[tokio::test]
async fn a_deleted_secret_comes_back_with_its_ca_and_a_new_leaf() {
    let cluster = with_configurations();
    let replicas = [start(&cluster, settings()), start(&cluster, settings())];
    for replica in &replicas {
        ready(replica).await;
    }
    let (before, leaf) = (bundle(&cluster), stored(&cluster)[LEAF].clone());
    cluster.delete(SECRET);
    cluster.until(|cluster| cluster.get(SECRET).is_some()).await;
    assert_ne!(stored(&cluster)[LEAF], leaf);
    assert_eq!(bundle(&cluster), before, "whoever knows the CA goes on trusting");
    assert!(carries(&cluster, MUTATING, &before));

    let mut emptied = cluster.get(SECRET).unwrap();
    emptied["data"] = json!({});
    cluster.put(SECRET, emptied);
    cluster.until(|cluster| cluster.get(SECRET).unwrap()["data"].get(LEAF).is_some()).await;
    assert_eq!(bundle(&cluster), before);
}

#[tokio::test]
async fn a_lost_ca_key_publishes_a_second_ca_everywhere_and_keeps_the_leaf() {
    let cluster = with_configurations();
    let secret = ours(|data| drop(data.remove(ISSUER_KEY)));
    let leaf = secret["data"][LEAF].clone();
    cluster.put(SECRET, secret);
    let certificates = start(&cluster, settings());
    cluster.until(|cluster| stored(cluster).contains_key(NEXT_KEY) && carries(cluster, MUTATING, &bundle(cluster))).await;
    ready(&certificates).await;
    assert_eq!(Contents::read(&stored(&cluster)).bundle.len(), 2);
    assert_eq!(cluster.get(SECRET).unwrap()["data"][LEAF], leaf);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cert_manager_keeps_is_only_read() {
    let cluster = with_configurations();
    let certificates = start(&cluster, Settings { managed_elsewhere: true, ..settings() });
    sleep(A_WHILE).await;
    assert!(!certificates.is_ready());
    let mut secret = ours(|data| drop(data.remove(ISSUER_KEY)));
    secret["metadata"]["annotations"] = json!({"cert-manager.io/issuer-name": "ours"});
    cluster.put(SECRET, secret);
    ready(&certificates).await;
    let bundle = bundle(&cluster);
    assert_eq!(**certificates.ca_bundle().borrow(), *bundle);
    assert!(carries(&cluster, MUTATING, &bundle));
    assert_eq!([cluster.requests("PUT"), cluster.requests("POST")], [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_was_away_is_no_end() {
    let cluster = with_configurations();
    cluster.set_down(true);
    let certificates = start(&cluster, settings());
    sleep(A_WHILE).await;
    assert!(!certificates.is_ready() && cluster.requests("GET") > 1, "it has tried more than once");
    cluster.set_down(false);
    ready(&certificates).await;
}
