//! The same scenarios with koncli in init containers and scripts: each file of `examples/by-koncli` is applied as it is and does what its comments say. And
//! what was published for konductor 0.3, with no value changed.
//!
//! When what is done under a hold began and ended is in the containers' own logs, stamped by their node: the hold lasts longer on both sides.

use jiff::Timestamp;
use kube::{ResourceExt, api::ListParams};

use crate::scene::Scene;

/// A scene with the rights of the docs.
async fn opened(test: &str) -> Scene {
    let scene = Scene::open(test).await;
    let rights = include_str!("../../examples/by-koncli/rights.yaml");
    let (_, rights) = rights.split_once('\n').unwrap();
    assert!(include_str!("../../docs/sdk.md").contains(rights), "docs/sdk.md and examples/by-koncli/rights.yaml say the same");
    scene.apply(rights);
    scene
}

/// A scene with the rights and an example.
async fn applied(example: &str) -> Scene {
    let scene = opened(&format!("by_koncli_{example}")).await;
    scene.run(&["apply", "-f", &format!("{}/examples/by-koncli/{example}.yaml", env!("CARGO_MANIFEST_DIR"))]);
    scene
}

/// Between which times the containers of this name worked: from the first of their lines that says `begin` to the first after it that says `end`.
async fn spans(scene: &Scene, container: &str, begin: &str, end: &str) -> Vec<(Timestamp, Timestamp)> {
    let pods = scene.pods().list(&ListParams::default()).await.unwrap().items;
    let has = |pod: &&k8s_openapi::api::core::v1::Pod| {
        let spec = pod.spec.as_ref().unwrap();
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|found| found.name == container)
    };
    let span = |pod: &k8s_openapi::api::core::v1::Pod| {
        let logs = scene.run(&["logs", &pod.name_any(), "-c", container, "--timestamps"]);
        let mut lines = logs.lines().filter_map(|line| line.split_once(' '));
        let mut at = |text: &str| lines.find(|(_, line)| *line == text).map(|(time, _)| time.parse::<Timestamp>().unwrap());
        Some((at(begin)?, at(end)?))
    };
    pods.iter().filter(has).filter_map(span).collect()
}

fn most_at_once(spans: &[(Timestamp, Timestamp)]) -> usize {
    spans.iter().map(|(start, _)| spans.iter().filter(|(from, to)| from <= start && start < to).count()).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn extract_transform() {
    let scene = applied("extract-transform").await;
    scene.until_jobs_complete(5).await;
    let extracts = spans(&scene, "extract", "extracting", "extracted").await;
    let transforms = spans(&scene, "transform", "transforming", "transformed").await;
    assert_eq!((extracts.len(), transforms.len()), (3, 2));
    let (last, first) = (extracts.iter().map(|span| span.1).max(), transforms.iter().map(|span| span.0).min());
    assert!(last < first, "{extracts:?} {transforms:?}");
    let arrived = scene.run(&["get", "barriers.konductor.io", "extracted", "-o", "jsonpath={.status.arrivals[*].name}"]);
    let mut arrived: Vec<&str> = arrived.split_whitespace().collect();
    arrived.sort_unstable();
    assert_eq!(arrived, ["extract-1", "extract-2", "extract-3"], "the Jobs arrive, not their Pods");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_overlap() {
    let scene = applied("no-overlap").await;
    scene.run(&["patch", "cronjob", "report", "-p", r#"{"spec": {"suspend": true}}"#]);
    for run in ["first", "second", "third"] {
        scene.run(&["create", "job", "--from=cronjob/report", run]);
    }
    // A run of the schedule may have begun in between, and is one of them then.
    let jobs: Vec<String> = scene.jobs().list(&ListParams::default()).await.unwrap().items.iter().map(ResourceExt::name_any).collect();
    let runs = jobs.len();
    let logs = |job: &str| {
        let output = scene.kubectl(&["logs", &format!("job/{job}")], None);
        String::from_utf8(output.stdout).unwrap()
    };
    let told = |word: &str| jobs.iter().filter(|job| logs(job).lines().any(|line| line.starts_with(word))).count();
    scene.until("one reports, the others are left out", async || told("reporting") + told("the previous one still runs") == runs).await;
    assert_eq!(told("reporting"), 1);
    scene.until("those that are left out are complete", async || scene.jobs_with("Complete").await >= runs - 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gate() {
    let scene = applied("gate").await;
    scene.until_jobs_complete(3).await;
    let mut before = spans(&scene, "validate", "validating", "validated").await;
    before.extend(spans(&scene, "clean-up", "cleaning up", "cleaned up").await);
    let after = spans(&scene, "process", "processing", "processed").await;
    assert_eq!((before.len(), after.len()), (2, 1));
    assert!(before.iter().all(|span| span.1 < after[0].0), "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_limit() {
    let scene = applied("batch-limit").await;
    scene.until_jobs_complete(6).await;
    let spans = spans(&scene, "work", "working", "done").await;
    assert_eq!(spans.len(), 6);
    assert!(most_at_once(&spans) <= 2, "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutex() {
    let scene = applied("mutex").await;
    scene.until_jobs_complete(2).await;
    let spans = spans(&scene, "migrate", "migrating", "migrated").await;
    assert_eq!((spans.len(), most_at_once(&spans)), (2, 1), "{spans:?}");
    scene.until_mutex_free("schema").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migration() {
    let scene = applied("migration").await;
    scene.run(&["rollout", "status", "deployment/app", "--timeout=180s"]);
    let logs = scene.run(&["logs", "-l", "app=app", "-c", "migrate"]);
    assert_eq!(logs.lines().filter(|line| *line == "migrating to 42").count(), 1, "{logs}");
    assert!(scene.mutex_token("schema").await > 0, "whoever migrated held the Mutex");
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_by_jobs() {
    let scene = applied("migration-by-jobs").await;
    scene.until_jobs_complete(3).await;
    assert_eq!(spans(&scene, "migrate", "migrating", "migrated").await.len(), 1, "one of the three did it");
    scene.run(&["rollout", "status", "deployment/app", "--timeout=120s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache() {
    let scene = applied("cache").await;
    scene.until_jobs_complete(4).await;
    let readers = spans(&scene, "read", "reading", "read").await;
    let writers = spans(&scene, "write", "writing", "written").await;
    assert_eq!((readers.len(), writers.len()), (3, 1));
    assert!(readers.iter().all(|(from, to)| *to < writers[0].0 || writers[0].1 < *from), "{readers:?} {writers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers() {
    let scene = applied("workers").await;
    scene.until_jobs_complete(3).await;
    let workers = spans(&scene, "work", "working", "worked").await;
    let reports = spans(&scene, "report", "reporting", "reported").await;
    assert_eq!((workers.len(), reports.len()), (3, 1));
    assert!(workers.iter().all(|span| span.1 < reports[0].0), "{workers:?} {reports:?}");
}

/// The primitives, the init containers and the scripts as they were published. What was published in part is completed with what Kubernetes itself demands: a
/// name, a `restartPolicy`; the rights are those of the docs, and instead of the images that nobody has here there are images of the same contents.
#[tokio::test(flavor = "multi_thread")]
async fn the_published_manifests() {
    const KONCLI: &str = "konductor.local/busybox-koncli:1";
    let scene = opened("published").await;
    let primitive = |kind: &str, name: &str, spec: &str| {
        scene.apply(&format!("apiVersion: konductor.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
    };
    let pod = |init: &str, container: &str, script: &str| {
        let init =
            if init.is_empty() { String::new() } else { format!("initContainers: [{{name: wait, image: '{KONCLI}', command: {init}}}], ") };
        format!(
            "{{spec: {{restartPolicy: Never, serviceAccountName: konductor-user, {init}containers: [{{name: {container}, image: '{KONCLI}', command: [/bin/sh, -c, {script:?}]}}]}}}}"
        )
    };
    let job = |name: &str, template: &str| {
        scene.apply(&format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{template: {template}}}\n"));
    };
    primitive("Barrier", "stage-1-complete", "{expected: 3}");
    primitive("Barrier", "extract-complete", "{expected: 10}");
    primitive("Semaphore", "batch-limit", "{permits: 10}");
    primitive("Lease", "daily-report", "{ttl: 1h}");
    primitive("Mutex", "db-migration", "{ttl: 10m}");
    primitive("Gate", "validation-gate", "{conditions: [{type: Job, name: data-validation, state: Complete}]}");
    primitive(
        "Gate",
        "processing-gate",
        "{conditions: [{type: Job, name: validation-job, state: Complete}, {type: Job, name: cleanup-job, state: Complete}]}",
    );

    job("stage-2-processor", &pod("[koncli, barrier, wait, stage-1-complete]", "processor", "echo processed"));
    job("data-processing", &pod("[koncli, gate, wait, validation-gate]", "processor", "echo processed"));
    let report = "if koncli lease acquire daily-report --holder $HOSTNAME; then\n echo generated\n koncli lease release daily-report --holder $HOSTNAME\nfi";
    scene.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: report}}\nspec: {{schedule: '0 2 * * *', jobTemplate: {{spec: {{template: {}}}}}}}\n",
        pod("", "report", report)
    ));
    let migrate = "if koncli mutex lock db-migration --holder $HOSTNAME --timeout 30s; then\n echo migrated\n koncli mutex unlock db-migration --holder $HOSTNAME\nfi";
    job("migration", &pod("", "migrate", migrate));
    scene.run(&["create", "job", "--from=cronjob/report", "report-now"]);

    scene.until("what waits for nobody is complete", async || scene.jobs_with("Complete").await == 2).await;
    for (name, said) in [("migration", "migrated"), ("report-now", "generated")] {
        assert!(scene.run(&["logs", &format!("job/{name}")]).lines().any(|line| line == said), "{name}");
    }
    for index in 1..=3 {
        job(&format!("extract-{index}"), &pod("", "extract", "koncli barrier arrive stage-1-complete --holder $HOSTNAME"));
    }
    job("data-validation", &pod("", "validate", "true"));
    scene.until_jobs_complete(8).await;
}
