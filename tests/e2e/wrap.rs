//! `strategy=wrap`: one container's command waits, holds for as long as it runs, and gives back the moment it has ended, whatever else the Pod does.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Command,
};

use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{alone::nodes::must_be_ours, scene::Scene};

const HOLDS: &str = "konductor.io/mutex: 'db;strategy=wrap;container=app'";

fn make_once(scene: &Scene, name: &str) {
    scene.apply(&format!("apiVersion: konductor.io/v1\nkind: Once\nmetadata: {{name: {name}}}\n"));
}

async fn until_executed_by(scene: &Scene, once: &str, executor: &str) {
    let arguments = ["get", "onc", once, "-o", "jsonpath={.status.phase} {.status.executor}"];
    scene.until(&format!("once/{once} is executed by {executor}"), async || scene.run(&arguments) == format!("Executed {executor}")).await;
}

/// The exit code of a container that has ended.
fn exit_code(scene: &Scene, pod: &str, container: &str) -> String {
    let path = format!("jsonpath={{.status.containerStatuses[?(@.name==\"{container}\")].state.terminated.exitCode}}");
    scene.run(&["get", "pod", pod, "-o", &path])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_replicas_migrates_and_the_others_go_on_when_it_has() {
    let scene = Scene::open("wrap_replicas").await;
    make_once(&scene, "schema");
    let migrate = scene.app("migrate").seconds(3);
    scene.apply(&scene.app("web").replicas(3).after(migrate).as_deployment("konductor.io/once: 'schema;strategy=wrap;container=migrate'"));
    scene.run(&["rollout", "status", "deployment/web", "--timeout=180s"]);
    let migrations = scene.runs("migrate");
    assert_eq!(migrations.len(), 1, "{migrations:?}");
    until_executed_by(&scene, "schema", &format!("pod/{}", migrations[0].pod)).await;
    scene.until("all three serve", async || scene.runs("web").len() == 3).await;
    assert!(scene.runs("web").iter().all(|run| run.from > migrations[0].to), "nobody served before the migration was done");

    let pods = scene.pods().list(&ListParams::default()).await.unwrap().items;
    for pod in &pods {
        if pod.name_any() == migrations[0].pod {
            assert!(!scene.events(&pod.name_any()).iter().any(|event| event.starts_with("Skipped")), "{}", pod.name_any());
        } else {
            scene.until_told(&pod.name_any(), "Skipped").await;
        }
    }
    scene
        .until("konductor has let the Pods go, though they live on", async || {
            let pods = scene.pods().list(&ListParams::default()).await.unwrap();
            pods.items.len() == 3 && pods.items.iter().all(|pod| pod.finalizers().is_empty())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_passes_the_turn_and_a_success_is_for_ever() {
    let scene = Scene::open("wrap_turns").await;
    make_once(&scene, "seed");
    let once = "konductor.io/once: seed;strategy=wrap";
    scene.apply(&scene.app("fails").as_pod(once));
    scene.until_beating("fails").await;
    scene.apply(&scene.app("does-it").as_pod(once));
    scene.until("the next one waits", async || scene.run(&["logs", "does-it", "--ignore-errors"]).contains("waiting for once/seed")).await;
    scene.end("fails", "3");
    scene.until_beating("does-it").await;
    // The turn is passed when the command ends, a moment before the kubelet reports it.
    scene.until("the failure is reported", async || exit_code(&scene, "fails", "app") == "3").await;
    scene.end("does-it", "0");
    until_executed_by(&scene, "seed", "pod/does-it").await;
    scene.apply(&scene.app("late").as_pod(once));
    scene.until_succeeded("late").await;
    assert!(scene.beats("late").is_empty(), "its command was left out");
    let names = ["fails", "does-it"].map(str::to_owned);
    assert_eq!(scene.most_at_once(&names), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_with_the_command_though_the_pod_lives_on() {
    let scene = Scene::open("wrap_lives_on").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("one").beside(scene.app("one-serves")).as_pod(HOLDS));
    scene.until_beating("one").await;
    // Where the command is not the first process of its PID namespace.
    let two = scene.app("two").beside(scene.app("two-serves")).pod_field("shareProcessNamespace", json!(true));
    scene.apply(&two.as_pod(HOLDS));
    scene.until_beating("two-serves").await;
    scene.until_beats_on("one").await;
    assert!(scene.beats("two").is_empty());
    scene.end("one", "7");
    scene.until_beating("two").await;
    scene.until_beats_on("one-serves").await;
    assert_eq!(scene.phase("one").await.as_deref(), Some("Running"));
    scene.until("the exit code is reported", async || exit_code(&scene, "one", "app") == "7").await;
    scene.end("two", "0");
    scene.until_mutex_free("db").await;
    scene.until_beats_on("two-serves").await;
    assert_eq!(scene.most_at_once(&["one".to_owned(), "two".to_owned()]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pods_command_is_told_to_end_and_holds_until_it_has() {
    let scene = Scene::open("wrap_deleted").await;
    scene.create_mutex("db");
    // It would run for the whole of its grace period if it were not told.
    scene.apply(&scene.app("leaves").grace(2).as_pod(HOLDS));
    scene.until_beating("leaves").await;
    scene.apply(&scene.app("next").seconds(1).as_pod(HOLDS));
    scene.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: says, annotations: {konductor.io/semaphore: 'slots;strategy=wrap'}}\nspec: {restartPolicy: Never, containers: \
         [{name: app, image: 'konductor.local/busybox:1', command: [sh, -c, 'trap \"echo told; exit 0\" TERM; echo ready; while :; do sleep 0.1; done']}]}\n",
    );
    scene.create_semaphore("slots", 1);
    scene.until("it runs", async || scene.run(&["logs", "says", "--ignore-errors"]).lines().any(|line| line == "ready")).await;
    let mut log = scene.start_kubectl(&["logs", "--follow", "says"], None);
    let mut lines = BufReader::new(log.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"), "the log is followed");
    scene.run(&["delete", "pod", "says", "leaves", "--wait=false"]);
    assert!(lines.any(|line| line == "told"));
    log.wait().unwrap();
    scene.until_succeeded("next").await;
    assert_eq!(scene.most_at_once(&["leaves".to_owned(), "next".to_owned()]), 1);
}

/// The process around the command of this Pod, found on the machine.
async fn wrapper(scene: &Scene, pod: &str) -> String {
    must_be_ours();
    let uid = scene.pods().get(pod).await.unwrap().metadata.uid.unwrap();
    let is_it = |pid: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cgroup").replace('_', "-").contains(&uid) && read("cmdline").starts_with("/konductor.io/konductor\0")
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| name.bytes().all(|c| c.is_ascii_digit())).find(is_it).expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_holds_anew_with_a_larger_token() {
    let scene = Scene::open("wrap_runs").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("again").restart("OnFailure").as_pod("konductor.io/mutex: 'db;strategy=wrap;fencing=true'"));
    scene.until("the first run runs", async || scene.runs("again").len() == 1).await;
    scene.end("again", "1");
    scene.until("the second run runs", async || scene.runs("again").len() == 2).await;
    // Killed at once, it reports nothing: the next run says that this one is over.
    assert!(Command::new("kill").args(["-9", &wrapper(&scene, "again").await]).status().unwrap().success());
    scene.until("the third run runs", async || scene.runs("again").len() == 3).await;
    scene.end("again", "0");
    scene.until_succeeded("again").await;
    scene.until_mutex_free("db").await;
    let tokens: Vec<i64> = scene.runs("again").iter().map(|run| run.token).collect();
    assert!(tokens[0] > 0 && tokens.windows(2).all(|pair| pair[0] < pair[1]), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_skips_leaves_its_command_out_and_ends_well() {
    let scene = Scene::open("wrap_skips").await;
    scene.create_mutex("db");
    let holds = "konductor.io/mutex: 'db;strategy=wrap;on-conflict=skip'";
    scene.apply(&scene.app("first").as_pod(holds));
    scene.until_beating("first").await;
    scene.apply(&scene.app("second").as_pod(holds));
    scene.until_succeeded("second").await;
    assert!(scene.beats("second").is_empty());
    let told = || scene.events("second").into_iter().any(|event| event.starts_with("Skipped") && event.contains("held by pod/first"));
    scene.until("the Event says why", async || told()).await;
    scene.end("first", "0");
    scene.until_mutex_free("db").await;
}

/// What Pod Security asks, as whichever user: the token is readable, and the binary can be run.
#[tokio::test(flavor = "multi_thread")]
async fn it_runs_in_a_restricted_namespace_as_any_user() {
    let scene = Scene::open_with_labels("wrap_restricted", &[("pod-security.kubernetes.io/enforce", "restricted")]).await;
    scene.create_semaphore("slots", 9);
    let container = "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}";
    let profile = "runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}";
    let users = [
        ("image", "", "", "65532"),
        ("pod", ", runAsUser: 4711", "", "4711"),
        ("group", ", fsGroup: 2000", ", runAsUser: 4712", "4712"),
        ("container", "", ", runAsUser: 1000770000, runAsGroup: 0", "1000770000"),
    ];
    for (name, of_pod, of_container, _) in users {
        scene.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{konductor.io/semaphore: 'slots;strategy=wrap;fencing=true'}}}}\nspec:\n  \
             restartPolicy: Never\n  securityContext: {{{profile}{of_pod}}}\n  containers:\n  - name: app\n    image: konductor.local/busybox:1\n    \
             command: [sh, -c, 'echo user $(id -u), token $KONDUCTOR_FENCING_TOKEN $(cat /var/run/konductor/0)']\n    securityContext: {container}{of_container}}}\n"
        ));
    }
    for (name, _, _, user) in users {
        scene.until_succeeded(name).await;
        let log = scene.run(&["logs", name, "-c", "app"]);
        let said =
            log.lines().find_map(|line| line.strip_prefix(&format!("user {user}, token "))).unwrap_or_else(|| panic!("{name}: {log}"));
        let (variable, file) = said.split_once(' ').unwrap();
        assert!(variable == file && variable.parse::<i64>().is_ok(), "{name}: {log}");
    }
}
