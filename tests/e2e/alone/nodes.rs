//! Holders on a second node, which loses power or is cut off the network. A hold is taken from a live holder in this case only: when its node has been
//! unreachable for longer than the Mutex's `ttl`. These tests bring the second node up and take it away, and run alone.

use std::{path::Path, process::Command, time::Duration};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::Api;
use serde_json::json;

use crate::{
    app::Run,
    ends::{Case, JOB_BY_HOOK, PODS, handed_over, next_starts, queues_for, still_held},
    jobs::until_replacement_waits,
    scene::Scene,
};

pub const FIRST: &str = "node-1";
pub const SECOND: &str = "node-2";
const TTL: i64 = 10;

/// A command of `tests/cluster/cluster`, which must be the cluster that the tests talk to.
pub fn cluster(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "cluster {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Stops tests that would break somebody else's cluster.
pub fn must_be_ours() {
    assert_eq!(std::env::var("KUBECONFIG").ok(), Some(cluster(&["kubeconfig"])), "this test breaks parts of the cluster of tests/cluster");
}

/// A node that is there for one test.
pub struct SecondNode<'a>(&'a Scene);

impl<'a> SecondNode<'a> {
    pub fn join(scene: &'a Scene) -> Self {
        must_be_ours();
        cluster(&["up", "--nodes", "2"]);
        Self(scene)
    }

    /// All its programs are gone at once.
    fn kill(&self) {
        cluster(&["node", "kill", SECOND]);
    }

    fn start(&self) {
        cluster(&["node", "start", SECOND]);
    }

    /// It is cut off the network; its containers go on.
    pub fn pause(&self) {
        cluster(&["node", "pause", SECOND]);
    }

    pub fn resume(&self) {
        cluster(&["node", "resume", SECOND]);
    }

    /// What its Ready condition says, and since when.
    async fn ready(&self) -> (String, Timestamp) {
        let node = Api::<Node>::all(self.0.client.clone()).get(SECOND).await.unwrap();
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status, ready.last_transition_time.unwrap().0)
    }

    /// Waits until Kubernetes does not know of it any more; says since when.
    async fn until_unreachable(&self) -> Timestamp {
        self.0.until("the node is unreachable", async || self.ready().await.0 == "Unknown").await;
        self.ready().await.1
    }

    async fn until_ready(&self) {
        self.0.until("the node is ready", async || self.ready().await.0 == "True").await;
    }
}

impl Drop for SecondNode<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"], None);
        }
        let _ = std::panic::catch_unwind(|| cluster(&["node", "remove", SECOND]));
    }
}

/// When the app's container of a Pod was started, as soon as its kubelet says so.
async fn app_started(scene: &Scene, pod: &str) -> Timestamp {
    let started = async || {
        let statuses = scene.pods().get(pod).await.unwrap().status.and_then(|status| status.container_statuses).unwrap_or_default();
        statuses.into_iter().find(|status| status.name == "app")?.state?.running?.started_at
    };
    scene.until(&format!("the kubelet says that {pod} runs"), async || started().await.is_some()).await;
    started().await.unwrap().0
}

/// Whoever started, started when the node had been unreachable for the `ttl`. Times are whole seconds: the later one is rounded down by less than one.
async fn after_the_ttl(scene: &Scene, ttl: i64, pod: &str, unreachable: Timestamp) {
    let waited = app_started(scene, pod).await.duration_since(unreachable).as_secs();
    assert!(waited >= ttl, "{pod} started after {waited} s");
}

pub async fn hold_lost(scene: &Scene, about: &str) {
    scene.until_told(about, "HoldLost").await;
}

pub async fn gone(scene: &Scene, pod: &str) {
    scene.until(&format!("{pod} is gone"), async || scene.pods().get_opt(pod).await.unwrap().is_none()).await;
}

fn overlap(holder: &Run, next: &Run) -> f64 {
    holder.to - next.from
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_given_away_when_its_node_is_gone_for_longer_than_the_ttl() {
    let scene = Scene::open_alone("node_killed").await;
    let node = SecondNode::join(&scene);
    queues_for(&scene, PODS, &format!("{TTL}s"), |app| app.restart("OnFailure").on_node(SECOND), |app| app.on_node(FIRST)).await;
    node.kill();
    let since = node.until_unreachable().await;
    for case in PODS {
        let next = next_starts(&scene, *case).await;
        assert!(overlap(&scene.runs(&case.holder())[0], &next) <= 0.0, "the power is off");
        after_the_ttl(&scene, TTL, &case.next(), since).await;
        hold_lost(&scene, &case.mutex()).await;
    }
    // The node comes back with the same disk. Its Pods would be started again, and must not believe that they still hold.
    node.start();
    for case in PODS {
        gone(&scene, &case.holder()).await;
        hold_lost(&scene, &case.holder()).await;
        assert_eq!(scene.runs(&case.holder()).len(), 1, "{case}: its app does not run again");
        assert_eq!(scene.mutex_holders(&case.mutex()).await, [case.next()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_cut_off_for_longer_than_the_ttl_is_ended_when_it_comes_back() {
    let scene = Scene::open_alone("node_cut_off").await;
    let node = SecondNode::join(&scene);
    queues_for(&scene, PODS, &format!("{TTL}s"), |app| app.on_node(SECOND), |app| app.on_node(FIRST)).await;
    scene.apply(&format!("apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {{name: fenced}}\nspec: {{ttl: {TTL}s}}\n"));
    let ignores = "konductor.io/mutex: 'fenced;on-lost=ignore;fencing=true'";
    scene.apply(&scene.app("ignores").on_node(SECOND).as_pod(ignores));
    app_started(&scene, "ignores").await; // as far as konductor can know
    scene.apply(&scene.app("ignores-next").on_node(FIRST).as_pod(ignores));
    node.pause();
    let since = node.until_unreachable().await;
    let mut started = Vec::new();
    for case in PODS {
        let next = next_starts(&scene, *case).await;
        after_the_ttl(&scene, TTL, &case.next(), since).await;
        // Nobody can reach it, so nothing can end it: this is what the larger token is for.
        scene.until_beats_on(&case.holder()).await;
        assert!(overlap(&scene.runs(&case.holder())[0], &next) > 0.0);
        started.push((*case, next));
    }
    scene.until_beating("ignores-next").await;
    node.resume();
    for (case, next) in started {
        hold_lost(&scene, &case.holder()).await;
        gone(&scene, &case.holder()).await;
        let last = scene.runs(&case.holder());
        scene.until_beats_on(&case.next()).await;
        assert_eq!(scene.runs(&case.holder()), last, "{case}: its app has ended");
        assert_eq!(scene.mutex_holders(&case.mutex()).await, [case.next()]);
        assert_eq!(scene.mutex_token(&case.mutex()).await, next.token, "{case}: nothing was granted to it again");
    }
    // Whoever wants to is left alone: what it writes to looks at its token.
    hold_lost(&scene, "fenced").await;
    scene.until_beats_on("ignores").await;
    assert!(scene.runs("ignores")[0].token < scene.runs("ignores-next")[0].token);
    assert_eq!(scene.mutex_holders("fenced").await, ["ignores-next"]);
}

/// Twice unreachable, each time for less than the `ttl`, but for longer in all.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_within_the_ttl_keeps_its_holds() {
    let scene = Scene::open_alone("node_away_briefly").await;
    let node = SecondNode::join(&scene);
    queues_for(&scene, PODS, "40s", |app| app.on_node(SECOND), |app| app.on_node(FIRST)).await;
    for _ in 0..2 {
        node.pause();
        node.until_unreachable().await;
        // The one thing that is waited for here is that time goes by.
        tokio::time::sleep(Duration::from_secs(22)).await;
        node.resume();
        node.until_ready().await;
    }
    for case in PODS {
        still_held(&scene, *case).await;
        assert!(!scene.events(&case.holder()).iter().any(|event| event.starts_with("HoldLost")));
        scene.end(&case.holder(), "0");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_reboots_within_the_ttl_runs_its_holders_again() {
    let scene = Scene::open_alone("node_reboots").await;
    let node = SecondNode::join(&scene);
    queues_for(&scene, PODS, "5m", |app| app.restart("OnFailure").on_node(SECOND), |app| app.on_node(FIRST)).await;
    node.kill();
    node.start();
    for case in PODS {
        scene.until(&format!("{case}: the app runs again"), async || scene.runs(&case.holder()).len() == 2).await;
        still_held(&scene, *case).await;
        let runs = scene.runs(&case.holder());
        assert_eq!(runs[0].token, runs[1].token, "{case}: the same hold");
        scene.end(&case.holder(), "0");
    }
    for case in PODS {
        handed_over(&scene, *case).await;
    }
}

/// Kubernetes tells the Pod of a lost node to go and makes another one. That one is let in under the Job's hold when the `ttl` is over; the Job itself
/// never lost its hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_elsewhere_when_its_node_is_lost() {
    const CASE: Case = JOB_BY_HOOK;
    // Longer than Kubernetes takes to make the other Pod.
    const TTL: i64 = 40;
    let scene = Scene::open_alone("job_on_lost_node").await;
    let node = SecondNode::join(&scene);
    let rather_there = json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 100, "preference": { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [SECOND] }] } },
    ] } });
    let told_to_go_soon =
        json!([{ "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1 }]);
    let shape = |app: crate::app::App| {
        app.job_field("backoffLimit", json!(3))
            .pod_field("affinity", rather_there.clone())
            .pod_field("tolerations", told_to_go_soon.clone())
    };
    queues_for(&scene, &[CASE], &format!("{TTL}s"), shape, |app| app.on_node(FIRST)).await;
    let first = scene.runs(&CASE.holder()).remove(0);
    assert_eq!(scene.pods().get(&first.pod).await.unwrap().spec.unwrap().node_name.as_deref(), Some(SECOND));
    node.kill();
    let since = node.until_unreachable().await;
    until_replacement_waits(&scene, CASE).await;
    scene.until("a replacement runs", async || scene.runs(&CASE.holder()).len() == 2).await;
    let second = scene.runs(&CASE.holder()).remove(1);
    after_the_ttl(&scene, TTL, &second.pod, since).await;
    assert!(first.token < second.token, "{first:?} {second:?}");
    still_held(&scene, CASE).await;
    scene.end(&CASE.holder(), "0");
    handed_over(&scene, CASE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_command_that_was_cut_off_for_longer_than_the_ttl_is_ended_when_it_comes_back() {
    let scene = Scene::open_alone("wrap_cut_off").await;
    let node = SecondNode::join(&scene);
    scene.apply("apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {name: db}\nspec: {ttl: 15s}\n");
    let holds = "konductor.io/mutex: 'db;strategy=wrap;fencing=true'";
    scene.apply(&scene.app("holder").on_node(SECOND).as_pod(holds));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("next").on_node(FIRST).as_pod(holds));
    node.pause();
    scene.until_beating("next").await;
    scene.until_beats_on("holder").await;
    assert!(scene.runs("holder")[0].token < scene.runs("next")[0].token, "which is what the token is for");
    node.resume();
    hold_lost(&scene, "holder").await;
    gone(&scene, "holder").await;
    let last = scene.runs("holder");
    scene.until_beats_on("next").await;
    assert_eq!(scene.runs("holder"), last);
    assert_eq!(scene.mutex_holders("db").await, ["next"]);
    scene.end("next", "0");
    scene.until_mutex_free("db").await;
}
