//! What happens at `kubectl apply`: mistakes are refused in words, what is right is injected and runs, under every rule that a namespace may have.

use serde_json::{Value, json};

use crate::scene::Scene;

/// Where an annotation can stand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Pod,
    Job,
    JobTemplate,
    CronJob,
    CronJobTemplate,
    Deployment,
    StatefulSet,
    ReplicationController,
}

const EVERYWHERE: [On; 8] =
    [On::Pod, On::Job, On::JobTemplate, On::CronJob, On::CronJobTemplate, On::Deployment, On::StatefulSet, On::ReplicationController];

impl On {
    /// The metadata with the annotations.
    fn place(self) -> &'static str {
        match self {
            On::Pod | On::Job | On::CronJob => "metadata",
            On::CronJobTemplate => "spec.jobTemplate.spec.template.metadata",
            On::JobTemplate | On::Deployment | On::StatefulSet | On::ReplicationController => "spec.template.metadata",
        }
    }
}

/// An app that ends at once; its fields can be added to.
const APP: &str = "restartPolicy: Never, containers: [{name: app, image: 'konductor.local/busybox:1', command: ['true']}]";

/// A manifest of `x` with these annotations and this pod spec.
fn manifest(on: On, annotations: &str, spec: &str) -> String {
    let meta = format!("{{annotations: {{{annotations}}}}}");
    let named = format!("{{name: x, annotations: {{{annotations}}}}}");
    // A Pod of these is restarted for ever, and nothing else is valid.
    let always = spec.replace("restartPolicy: Never, ", "");
    match on {
        On::Pod => format!("{{apiVersion: v1, kind: Pod, metadata: {named}, spec: {{{spec}}}}}"),
        On::Job => format!("{{apiVersion: batch/v1, kind: Job, metadata: {named}, spec: {{template: {{spec: {{{spec}}}}}}}}}"),
        On::JobTemplate => {
            format!(
                "{{apiVersion: batch/v1, kind: Job, metadata: {{name: x}}, spec: {{template: {{metadata: {meta}, spec: {{{spec}}}}}}}}}"
            )
        }
        On::CronJob => format!(
            "{{apiVersion: batch/v1, kind: CronJob, metadata: {named}, spec: {{schedule: '0 0 1 1 *', jobTemplate: {{spec: {{template: {{spec: {{{spec}}}}}}}}}}}}}"
        ),
        On::CronJobTemplate => format!(
            "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: x}}, spec: {{schedule: '0 0 1 1 *', \
             jobTemplate: {{spec: {{template: {{metadata: {meta}, spec: {{{spec}}}}}}}}}}}}}"
        ),
        On::ReplicationController => format!(
            "{{apiVersion: v1, kind: ReplicationController, metadata: {{name: x}}, spec: {{selector: {{app: x}}, \
             template: {{metadata: {{labels: {{app: x}}, annotations: {{{annotations}}}}}, spec: {{{always}}}}}}}}}"
        ),
        On::Deployment | On::StatefulSet => format!(
            "{{apiVersion: apps/v1, kind: {on:?}, metadata: {{name: x}}, spec: {{selector: {{matchLabels: {{app: x}}}}, \
             template: {{metadata: {{labels: {{app: x}}, annotations: {{{annotations}}}}}, spec: {{{always}}}}}}}}}"
        ),
    }
}

/// A Job's manifest with this metadata on its pod template.
fn with_template(job: &str, metadata: &str) -> String {
    job.replace("\"template\":{", &format!("\"template\": {{\"metadata\": {{{metadata}}}, "))
}

fn must_say(what: &str, said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{what}: the message does not say {word:?}:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_refused_with_the_nearest_right_word() {
    let scene = Scene::open("mistakes").await;
    // The annotations, and what the message must say: the annotation, the wrong word, the right one.
    let mistakes: [(&str, &[&str]); 14] = [
        ("konductor.io/mutx: db", &["konductor.io/mutx", "did you mean `konductor.io/mutex`?"]),
        ("konductor.io/acquire: mutx/db", &["konductor.io/acquire", "`mutx/db`", "did you mean `mutex/db`?"]),
        ("konductor.io/acquire: db", &["konductor.io/acquire", "`db` has no kind", "did you mean `mutex/db`?"]),
        ("konductor.io/mutex: 'db;timeout=5'", &["konductor.io/mutex", "`timeout=5`", "90s"]),
        ("konductor.io/mutex: 'db;permits=2'", &["konductor.io/mutex", "`permits=2`", "is for a semaphore"]),
        ("konductor.io/semaphore: 'api;permit=2'", &["konductor.io/semaphore", "`permit=2`", "did you mean `permits=2`?"]),
        ("konductor.io/semaphore: 'api;permits=none'", &["konductor.io/semaphore", "`permits=none`", "a whole number"]),
        ("konductor.io/mutex: 'db;release=hok'", &["konductor.io/mutex", "`release=hok`", "did you mean `release=hook`?"]),
        ("konductor.io/acquire: 'mutex/db, mutex/db'", &["konductor.io/acquire", "`mutex/db`", "named twice"]),
        ("konducter.io/mutex: db", &["konducter.io/mutex", "begin with konductor.io/, like konductor.io/mutex"]),
        ("konductor.io/wait: mutex/db", &["konductor.io/wait", "`mutex/db`", "did you mean `konductor.io/acquire: mutex/db`?"]),
        ("konductor.io/mutex: 'db;strategy=warp'", &["konductor.io/mutex", "`strategy=warp`", "did you mean `strategy=wrap`?"]),
        ("konductor.io/mutex: DB", &["konductor.io/mutex", "`DB`", "did you mean `db`?"]),
        ("konductor.io/inject: 'no'", &["konductor.io/inject", "`no`", "neither true nor false"]),
    ];
    for on in EVERYWHERE {
        for (annotations, words) in mistakes {
            let said = scene.refused(&manifest(on, annotations, APP));
            must_say(&format!("{on:?} with {annotations}"), &said, words);
        }
    }
    let left = scene.run(&["get", "pods,jobs,cronjobs,deployments,statefulsets,replicationcontrollers", "-o", "name"]);
    assert_eq!(left, "", "nothing was let in");
}

/// No webhook is asked about labels, so this would be a Pod that runs without its lock.
#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_that_is_written_as_a_label_is_refused() {
    let scene = Scene::open("labels").await;
    for on in EVERYWHERE {
        let file = manifest(on, "konductor.io/mutex: db", APP);
        let file = file.replace("labels: {app: x}, annotations: {", "labels: {app: x, ").replace("annotations: {", "labels: {");
        let (label, right) = (format!("is a label here ({}.labels)", on.place()), format!("write it under {}.annotations", on.place()));
        must_say(&format!("{on:?}"), &scene.refused(&file), &["konductor.io/mutex", &label, &right]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_update_adds_is_looked_at_too() {
    let scene = Scene::open("updates").await;
    for on in [On::Job, On::CronJob, On::CronJobTemplate, On::Deployment] {
        let file =
            manifest(on, "mine: x", APP).replace("schedule:", "suspend: true, schedule:").replace("selector:", "replicas: 0, selector:");
        scene.apply(&file);
        let said = scene.refused(&file.replace("mine: x", "mine: x, konducter.io/mutex: db"));
        must_say(&format!("{on:?}"), &said, &["konducter.io/mutex", &format!("{}.annotations", on.place())]);
        if on != On::CronJobTemplate {
            let said = scene.run_refused(&["label", &format!("{on:?}"), "x", "konductor.io/mutex=db"]);
            must_say(&format!("{on:?}"), &said, &["konductor.io/mutex", "is a label here (metadata.labels)"]);
        }
        scene.apply(&file.replace("mine: x", "mine: 'y'"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_mistakes_are_told_at_once() {
    let scene = Scene::open("many_mistakes").await;
    let annotations = "konductor.io/mutx: db, konductor.io/acquire: 'semaphor/api;permit=2', konductor.io/wait: mutex/db";
    for on in EVERYWHERE {
        let said = scene.refused(&manifest(on, annotations, APP));
        let words = ["`konductor.io/mutex`", "`semaphore/api`", "`permits=2`", "`konductor.io/acquire: mutex/db`", "4 mistakes"];
        must_say(&format!("{on:?}"), &said, &words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_injected_is_refused() {
    let scene = Scene::open("cannot_inject").await;
    let windows = format!("{APP}, os: {{name: windows}}");
    let reserved = APP.replace("name: app", "name: konductor-app");
    let volume = format!("{APP}, volumes: [{{name: konductor-token, emptyDir: {{}}}}]");
    for on in EVERYWHERE {
        for (spec, words) in [(&windows, "Windows"), (&reserved, "`konductor-app` is reserved"), (&volume, "`konductor-token` is reserved")]
        {
            let said = scene.refused(&manifest(on, "konductor.io/mutex: db", spec));
            must_say(&format!("{on:?}"), &said, &[words]);
        }
    }
    let job = manifest(On::Job, "konductor.io/mutex: db", APP);
    let both = job.replace("template: {", "template: {metadata: {annotations: {konductor.io/mutex: db}}, ");
    must_say("on both levels", &scene.refused(&both), &["konductor.io/mutex", "spec.template", "keep one of them"]);
    let cron_job = manifest(On::CronJob, "konductor.io/mutex: db", APP);
    let both = cron_job.replace("jobTemplate: {", "jobTemplate: {metadata: {annotations: {konductor.io/mutex: db}}, ");
    must_say("on both levels", &scene.refused(&both), &["konductor.io/mutex", "jobTemplate", "keep one of them"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_hurt_is_warned_of() {
    let scene = Scene::open("warnings").await;
    let job =
        manifest(On::Job, "konductor.io/mutex: db", APP).replace("template:", "parallelism: 2, activeDeadlineSeconds: 600, template:");
    must_say("a Job", &scene.apply(&job), &["Warning: konductor:", "activeDeadlineSeconds", "2 parallel Pods share the hold"]);
    let deployment = manifest(On::Deployment, "konductor.io/mutex: db", APP).replace("selector:", "replicas: 0, selector:");
    must_say("a Deployment", &scene.apply(&deployment), &["Warning: konductor:", "rolling update", "Recreate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_pod_or_job_holds_cannot_be_edited() {
    let scene = Scene::open("frozen").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.apply(&scene.app("plain").as_pod(""));
    scene.apply(&scene.app("job").seconds(1).as_job("konductor.io/mutex: db"));
    scene.until_beating("holder").await;
    for edit in [
        &["annotate", "--overwrite", "pod/holder", "konductor.io/mutex=other"][..],
        &["annotate", "pod/holder", "konductor.io/mutex-"],
        &["annotate", "pod/holder", "konductor.io/semaphore=api"],
        &["annotate", "--overwrite", "pod/holder", "status.konductor.io/token-0=7"],
        &["annotate", "pod/plain", "konductor.io/mutex=db"],
    ] {
        must_say(&format!("{edit:?}"), &scene.run_refused(edit), &["konductor.io/*", "cannot be changed afterwards"]);
    }
    for edit in [&["label", "pod/holder", "konductor.io/injected-"], &["label", "pod/plain", "konductor.io/injected=true"]] {
        must_say(&format!("{edit:?}"), &scene.run_refused(edit), &["konductor.io/injected", "cannot be changed"]);
    }
    for edit in [
        &["annotate", "--overwrite", "job/job", "konductor.io/mutex=other"][..],
        &["annotate", "job/job", "konductor.io/mutex-"],
        &["annotate", "job/job", "konductor.io/semaphore=api"],
    ] {
        must_say(&format!("{edit:?}"), &scene.run_refused(edit), &["konductor.io/", "settled when it starts"]);
    }
    scene.run(&["annotate", "pod/holder", "job/job", "example.com/mine=yes"]);
    scene.run(&["label", "pod/holder", "job/job", "mine=yes"]);
    scene.tell_to_end("holder");
    scene.until_jobs_complete(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_konductor_writes_cannot_be_forged() {
    let scene = Scene::open("forged").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.until_beating("holder").await;
    let forged = "konductor.io/mutex: db;fencing=true, status.konductor.io/token-0: '999', status.konductor.io/copied-from: Job";
    scene.apply(&scene.app("liar").seconds(1).as_pod(forged));
    let pod = scene.pods().get("liar").await.unwrap();
    let annotations = pod.metadata.annotations.unwrap();
    assert!(!annotations.keys().any(|key| key.starts_with("status.konductor.io/")), "{annotations:?}");
    scene.until_waiting("liar").await;

    // Its Pod may not act under the hold of a Job that asks for nothing.
    let job = scene.app("free-rider").seconds(1).as_job("");
    let job = with_template(&job, "annotations: {konductor.io/mutex: db, status.konductor.io/copied-from: Job}");
    scene.apply(&job);
    let job = scene.jobs().get("free-rider").await.unwrap();
    let template = job.spec.unwrap().template.metadata.unwrap().annotations.unwrap();
    assert!(!template.contains_key("status.konductor.io/copied-from"), "{template:?}");

    // A label alone makes no holder.
    scene.apply(
        &scene.app("labelled").seconds(1).as_pod("").replace("annotations:", "labels: {konductor.io/injected: 'true'}, annotations:"),
    );
    let labels = scene.pods().get("labelled").await.unwrap().metadata.labels.unwrap_or_default();
    assert!(!labels.contains_key("konductor.io/injected"), "{labels:?}");
    scene.until_succeeded("labelled").await;
    assert_eq!(scene.mutex_holders("db").await, ["holder"]);

    scene.tell_to_end("holder");
    scene.until_succeeded("liar").await;
    scene.until_jobs_complete(1).await;
    let told = scene.pods().get("liar").await.unwrap().metadata.annotations.unwrap();
    assert_ne!(told["status.konductor.io/token-0"], "999");
    assert!(scene.most_at_once(&["holder", "liar", "free-rider"].map(String::from)) <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_same_file_again_changes_nothing() {
    let scene = Scene::open("again").await;
    scene.create_mutex("db");
    scene.create_semaphore("api", 3);
    let holds = "konductor.io/acquire: 'mutex/db, semaphore/api;permits=2'";
    let generation = |kind: &str, name: &str| scene.run(&["get", kind, name, "-o", "jsonpath={.metadata.generation}"]);
    for (kind, name, file) in [
        ("job", "job", scene.app("job").seconds(1).as_job(holds)),
        ("cronjob", "x", manifest(On::CronJob, holds, APP)),
        ("deployment", "x", manifest(On::Deployment, holds, APP).replace("selector:", "replicas: 0, selector:")),
    ] {
        scene.apply(&file);
        let before = generation(kind, name);
        let said = scene.apply(&file);
        assert!(said.contains("unchanged"), "{kind}: {said}");
        assert_eq!(generation(kind, name), before, "{kind}");
    }
    // kubectl calls a Pod with volumes "configured" in any case: every Pod gets one from Kubernetes itself.
    let pod = scene.app("pod").as_pod("konductor.io/semaphore: api");
    scene.apply(&pod);
    scene.until_beating("pod").await;
    let before = scene.run(&["get", "pod", "pod", "-o", "jsonpath={.metadata.annotations} {.spec}"]);
    scene.apply(&pod);
    assert_eq!(scene.run(&["get", "pod", "pod", "-o", "jsonpath={.metadata.annotations} {.spec}"]), before);
    scene.until_jobs_complete(1).await;
    assert!(scene.apply(&scene.app("job").seconds(1).as_job(holds)).contains("unchanged"), "also when it is complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_job_with_its_own_file_changes_nothing() {
    let scene = Scene::open("replace").await;
    scene.create_mutex("db");
    // Kubernetes itself refuses a replacement without the selector that it generated; with a selector of one's own it takes one.
    let job = scene.app("job").job_field("manualSelector", json!(true)).job_field("selector", json!({"matchLabels": {"mine": "job"}}));
    let job = with_template(&job.as_job("konductor.io/mutex: db"), "labels: {mine: job}");
    scene.apply(&job);
    scene.until_beating("job").await;
    // kubectl reads and then writes: whatever Kubernetes' controller of Jobs writes in between is a conflict. When it has seen the Pod ready it is silent.
    let ready = || scene.run(&["get", "job", "job", "-o", "jsonpath={.status.ready}"]);
    scene.until("the Pod is seen to be ready", async || ready() == "1").await;
    let template = || scene.run(&["get", "job", "job", "-o", "jsonpath={.spec.template.metadata.annotations}"]);
    let before = template();
    let token = scene.mutex_token("db").await;
    let output = scene.kubectl(&["replace", "-f", "-"], Some(&job));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(template(), before);
    // The CronJob controller, kubectl edit and the like send back what they have read.
    let mut live: Value = serde_json::from_str(&scene.run(&["get", "job", "job", "-o", "json"])).unwrap();
    live["metadata"]["resourceVersion"] = Value::Null;
    let output = scene.kubectl(&["replace", "-f", "-"], Some(&live.to_string()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.tell_to_end("job");
    scene.until_jobs_complete(1).await;
    assert_eq!(scene.mutex_token("db").await, token, "it was one hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn annotated_jobs_run_in_a_restricted_namespace_with_quota_and_limits() {
    let scene = Scene::open_with_labels("restricted", &[("pod-security.kubernetes.io/enforce", "restricted")]).await;
    scene.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota}, spec: {hard: {requests.cpu: '2', requests.memory: 2Gi, limits.cpu: '4', \
         limits.memory: 4Gi, requests.ephemeral-storage: 2Gi, limits.ephemeral-storage: 4Gi, pods: '10'}}}\n---\n\
         {apiVersion: v1, kind: LimitRange, metadata: {name: limits}, spec: {limits: [{type: Container, \
         defaultRequest: {cpu: 50m, memory: 64Mi, ephemeral-storage: 10Mi}, default: {cpu: 100m, memory: 128Mi, ephemeral-storage: 100Mi}, \
         max: {cpu: '1', memory: 1Gi}, min: {cpu: 10m, memory: 16Mi}}]}}\n",
    );
    scene.create_mutex("db");
    scene.create_semaphore("api", 1);
    let restricted = "restartPolicy: Never, \
        securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}, \
        containers: [{name: app, image: 'konductor.local/busybox:1', command: [sleep, '1'], \
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]";
    let own_amounts =
        restricted.replace("command:", "resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {cpu: 20m, memory: 32Mi}}, command:");
    for (name, annotations, spec) in [
        ("mutex", "konductor.io/mutex: db", restricted),
        ("semaphore", "konductor.io/semaphore: api", restricted),
        ("both", "konductor.io/acquire: 'mutex/db, semaphore/api;fencing=true'", restricted),
        ("own-amounts", "konductor.io/mutex: 'db;release=controller'", &own_amounts),
    ] {
        scene.apply(&manifest(On::Job, annotations, spec).replace("name: x", &format!("name: {name}")));
    }
    scene.until_jobs_complete(4).await;
    scene.until_mutex_free("db").await;
    assert!(scene.mutex_token("db").await > 0, "they did hold it");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_every_shape_hold() {
    let scene = Scene::open("shapes").await;
    scene.create_mutex("db");
    let busybox = |name: &str, command: &[&str]| json!({"name": name, "image": "konductor.local/busybox:1", "command": command});
    let mut sidecar = busybox("helper", &["sleep", "600"]);
    sidecar["restartPolicy"] = "Always".into();
    let shapes = [
        ("host-network", "hostNetwork", json!(true)),
        ("no-automount", "automountServiceAccountToken", json!(false)),
        ("other-user", "securityContext", json!({"runAsUser": 1234, "runAsGroup": 1234, "runAsNonRoot": true})),
        ("with-fs-group", "securityContext", json!({"runAsUser": 1234, "fsGroup": 2000})),
        ("fs-group-alone", "securityContext", json!({"fsGroup": 2000})),
        ("as-root", "securityContext", json!({"runAsUser": 0})),
        ("no-dns", "dnsConfig", json!({"nameservers": ["192.0.2.1"]})),
        ("shared-processes", "shareProcessNamespace", json!(true)),
        ("no-grace", "terminationGracePeriodSeconds", json!(0)),
        ("own-init", "initContainers", json!([busybox("prepare", &["true"])])),
        ("own-sidecar", "initContainers", json!([sidecar])),
    ];
    let mut names = Vec::new();
    for (shape, field, value) in shapes {
        for release in ["hook", "controller"] {
            let name = format!("{shape}-{release}");
            let app = scene.app(&name).seconds(1).pod_field(field, value.clone());
            scene.apply(&app.as_pod(&format!("konductor.io/mutex: 'db;fencing=true;release={release}'")));
            names.push(name);
        }
    }
    for name in &names {
        scene.until_succeeded(name).await;
    }
    assert_eq!(scene.most_at_once(&names), 1);
    scene.until_mutex_free("db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pod_of_a_deployment_holds() {
    let scene = Scene::open("deployment").await;
    scene.create_semaphore("licences", 2);
    let spec = "containers: [{name: app, image: 'konductor.local/busybox:1', command: [sleep, '600']}], terminationGracePeriodSeconds: 0";
    let file = manifest(On::Deployment, "konductor.io/semaphore: licences", spec).replace("selector:", "replicas: 3, selector:");
    scene.apply(&file);
    let count = async |pick: fn(&konductor::api::SemaphoreStatus) -> i32| {
        scene.semaphores().get("licences").await.unwrap().status.map_or(-1, |status| pick(&status))
    };
    let ready = || scene.run(&["get", "deployment", "x", "-o", "jsonpath={.status.readyReplicas}"]);
    scene
        .until("two Pods run and the third waits", async || {
            ready() == "2" && count(|status| status.in_use).await == 2 && count(|status| status.common.waiting).await == 1
        })
        .await;
    scene.run(&["scale", "deployment", "x", "--replicas=2"]);
    scene
        .until("two Pods are left", async || {
            scene.pods().list(&Default::default()).await.unwrap().items.len() == 2
                && ready() == "2"
                && count(|status| status.common.waiting).await == 0
        })
        .await;
    scene.run(&["delete", "deployment", "x"]);
    scene.until("all permits are back", async || count(|status| status.in_use).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_of_a_cron_job_holds() {
    let scene = Scene::open("cron_job").await;
    scene.create_mutex("db");
    let file = manifest(On::CronJob, "konductor.io/mutex: db", APP);
    scene.apply(&file);
    let template = scene.run(&["get", "cronjob", "x", "-o", "jsonpath={.spec.jobTemplate.metadata.annotations}"]);
    must_say("the jobTemplate", &template, &[r#""konductor.io/mutex":"db""#, r#""status.konductor.io/copied-from":"CronJob""#]);

    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.until_beating("holder").await;
    for name in ["first", "second"] {
        scene.run(&["create", "job", "--from=cronjob/x", name]);
        let job = scene.jobs().get(name).await.unwrap();
        assert_eq!(job.metadata.annotations.as_ref().unwrap()["konductor.io/mutex"], "db");
        let pod = job.spec.unwrap().template.metadata.unwrap().annotations.unwrap();
        assert_eq!((pod["konductor.io/mutex"].as_str(), pod["status.konductor.io/copied-from"].as_str()), ("db", "Job"));
    }
    scene.until("both wait", async || scene.mutexes().get("db").await.unwrap().status.unwrap().common.waiting == 2).await;
    scene.tell_to_end("holder");
    scene.until_jobs_complete(2).await;
    scene
        .until("both have held it", async || {
            let events = scene.events("db");
            ["job/first", "job/second"].iter().all(|job| events.iter().any(|event| event.starts_with("Released") && event.contains(job)))
        })
        .await;

    // Taking the annotation away takes the copies away.
    scene.run(&["annotate", "cronjob", "x", "konductor.io/mutex-"]);
    let template = scene.run(&["get", "cronjob", "x", "-o", "jsonpath={.spec.jobTemplate.metadata.annotations}"]);
    assert!(!template.contains("konductor.io"), "{template}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_switches_konductor_off_is_left_alone() {
    let scene = Scene::open("switched_off").await;
    scene.create_mutex("db");
    scene.apply(&scene.app("holder").as_pod("konductor.io/mutex: db"));
    scene.until_beating("holder").await;
    scene.apply(&scene.app("free").seconds(1).as_pod("konductor.io/mutex: db, konductor.io/inject: 'false'"));
    scene.apply(&scene.app("free-job").seconds(1).as_job("konductor.io/mutex: db, konductor.io/inject: 'false'"));
    scene.until_succeeded("free").await;
    scene.until_jobs_complete(1).await;
    assert!(scene.pods().get("free").await.unwrap().spec.unwrap().init_containers.unwrap_or_default().is_empty());
}
