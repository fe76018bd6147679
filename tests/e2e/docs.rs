//! What README.md and docs/ show, on a cluster: every manifest is taken by it, and every command of kubectl and helm is one. What shows without a cluster is in
//! `tests/docs.rs`.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

#[path = "../pages/mod.rs"]
mod pages;

use pages::{Code, TOP};

use crate::scene::{SYSTEM, Scene, kubelet_times};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pages_show_is_taken_by_a_cluster() {
    let mut broken = Vec::new();
    let (mut manifests, mut commands) = (0, 0);
    for page in pages::pages() {
        let scene = Scene::open("docs").await;
        for block in &page.blocks {
            let results = match &block.code {
                Code::Manifests(objects) => objects.iter().map(|object| apply(&scene, object)).collect(),
                Code::Annotations(annotations) => vec![annotate(&scene, annotations)],
                Code::Values(values) => vec![render(values)],
                Code::Commands(_) | Code::Synopsis(_) | Code::Other => Vec::new(),
            };
            manifests += results.len();
            broken.extend(results.into_iter().filter_map(|result| Some(format!("{}: {}", block.place, result.err()?))));
        }
        let shown = page.commands().into_iter().map(|(place, command)| (place, command, false));
        let mentioned = page.mentions(&["kubectl", "helm"]).into_iter().map(|command| (page.path.as_str(), command, true));
        for (place, command, unfinished) in shown.chain(mentioned) {
            let result = match command[0].as_str() {
                "kubectl" => kubectl(&scene, &command[1..], unfinished),
                "helm" => helm(&command[1..], unfinished),
                _ => continue,
            };
            commands += 1;
            broken.extend(result.err().map(|why| format!("{place}: {}: {why}", command.join(" "))));
        }
    }
    assert!(manifests > 30 && commands > 50, "only {manifests} manifests and {commands} commands were found");
    assert!(broken.is_empty(), "{} things are wrong on the pages:\n{}", broken.len(), broken.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pipeline_of_the_page_runs_two_nights() {
    let scene = Scene::open("nights").await;
    let image = scene.run_in_system(&["get", "deployment", "konductor", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]);
    let of = |path: &str| pages::pages().into_iter().find(|page| page.path == path).unwrap().blocks;
    let blocks = of("docs/sdk.md").into_iter().chain(of("docs/nightly.md"));
    let objects = blocks.flat_map(|block| if let Code::Manifests(objects) = block.code { objects } else { Vec::new() });
    for mut object in objects.filter(|object| object["kind"] != "Job") {
        if object["kind"] == "CronJob" {
            object["spec"]["suspend"] = true.into(); // no run but those made here
        }
        let text = object.to_string().replace("konductor.local/konductor:0.1.0", &image);
        scene.apply(&text);
        if object["metadata"]["name"] == "extract-a" {
            scene.apply(&text.replace("extract-a", "extract-b"));
        }
    }
    for night in 1..=2 {
        let run = |cron: &str| scene.run(&["create", "job", &format!("--from=cronjob/{cron}"), &format!("{cron}-{night}")]);
        run("night-begins");
        scene.until_jobs_complete(4 * (night - 1) + 1).await;
        for cron in ["transform", "extract-a", "extract-b"] {
            run(cron);
        }
        scene.until_jobs_complete(4 * night).await;
        let times = kubelet_times(&scene.pods()).await;
        let of = |job: &str| times.iter().find(|(pod, _)| pod.starts_with(&format!("{job}-{night}-"))).map(|(_, times)| *times).unwrap();
        let (began, _) = of("transform");
        assert!(["extract-a", "extract-b"].iter().all(|job| of(job).1 <= began), "night {night}: {times:?}");
    }
}

/// Applies an object in the scene's namespace. Those of konductor's kinds stay, so that commands find them; the others are only looked at by the API server.
fn apply(scene: &Scene, object: &Value) -> Result<(), String> {
    let mut object = object.clone();
    object["metadata"]["namespace"] = scene.namespace.as_str().into();
    let stays = object["apiVersion"] == "konductor.io/v1";
    let arguments: &[&str] = if stays { &["apply", "-f", "-"] } else { &["apply", "--dry-run=server", "-f", "-"] };
    let said = judged(&scene.kubectl(arguments, Some(&object.to_string())))?;
    if said.contains("Warning: ") { Err(said) } else { Ok(()) }
}

/// Puts annotations on a Job, and if that cannot have them, on a Pod.
fn annotate(scene: &Scene, annotations: &Value) -> Result<(), String> {
    let spec =
        json!({ "restartPolicy": "Never", "containers": [{ "name": "app", "image": "konductor.local/busybox:1", "command": ["true"] }] });
    let metadata = json!({ "name": "annotated", "annotations": annotations });
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": { "template": { "spec": spec } } });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
    apply(scene, &job).or_else(|_| apply(scene, &pod))
}

/// Renders the chart with these values; its schema refuses what it does not know.
fn render(values: &Value) -> Result<(), String> {
    let file = std::env::temp_dir().join(format!("konductor-values-{}.json", std::process::id()));
    std::fs::write(&file, values.to_string()).unwrap();
    helm(&["install", "konductor", "charts/konductor", "-f", file.to_str().unwrap(), "-n", SYSTEM].map(str::to_owned), false)
}

/// Runs a command of kubectl's so that nothing changes. It is right if it works, or if nothing is wrong but that what it names is not there.
fn kubectl(scene: &Scene, words: &[String], unfinished: bool) -> Result<(), String> {
    let mut words: Vec<&str> = words.iter().map(|word| if word == "KIND" { "barrier" } else { word.as_str() }).collect();
    let verb = verb(&words);
    match verb {
        "apply" | "create" | "delete" | "label" | "annotate" | "patch" | "replace" | "scale" => words.insert(0, "--dry-run=server"),
        "wait" => words.push("--timeout=0"), // looks once
        "get" | "describe" | "logs" | "edit" | "diff" | "explain" | "auth" | "top" => {}
        "rollout" if words.contains(&"status") => words.push("--watch=false"),
        other => return Err(format!("how to try `kubectl {other}`?")),
    }
    if words.contains(&"-f") {
        words.push("--namespace="); // that of the file
    }
    // What is piped in stands for anything that can be.
    let mutex = "apiVersion: konductor.io/v1\nkind: Mutex\nmetadata: {name: piped}\n";
    let output = scene.kubectl(&words, words.contains(&"-").then_some(mutex));
    let Err(said) = judged(&output) else { return Ok(()) };
    let breaks_off = ["must specify", "must provide", "needs an argument", "condition: \"\""].iter().any(|words| said.contains(words));
    let differs = verb == "diff" && output.status.code() == Some(1);
    match said.as_str() {
        said if said.contains("(NotFound)") || differs || unfinished && breaks_off => Ok(()),
        said if said.contains("condition not met for") => has_condition(scene, &words),
        _ => Err(said),
    }
}

/// Whether what `kubectl wait` looks at has such a condition at all; otherwise it would wait for ever.
fn has_condition(scene: &Scene, wait: &[&str]) -> Result<(), String> {
    let wanted = wait.iter().find_map(|word| word.strip_prefix("--for=condition=")).ok_or("for which condition?")?;
    let wanted = wanted.split('=').next().unwrap_or_default();
    let object = wait.iter().find(|word| word.contains('/') && !word.starts_with('-')).ok_or("for what?")?;
    judged(&scene.kubectl(&["wait", "--for=jsonpath={.status.conditions}", object, "--timeout=60s"], None))?;
    let there = judged(&scene.kubectl(&["get", object, "-o", "jsonpath={.status.conditions[*].type}"], None))?;
    if there.split(' ').any(|condition| condition == wanted) { Ok(()) } else { Err(format!("its conditions are {there}")) }
}

/// The first word that is neither a flag nor the namespace of one.
fn verb<'a>(words: &[&'a str]) -> &'a str {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-n" | "--namespace" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            verb => return verb,
        }
    }
    ""
}

/// Runs a command of helm's so that nothing changes.
fn helm(words: &[String], unfinished: bool) -> Result<(), String> {
    let (verb, rest) = words.split_first().ok_or("what should helm do?")?;
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let words = match verb.as_str() {
        "install" => [&["template", "--kube-version=1.34.0"], words.as_slice()].concat(),
        "upgrade" | "uninstall" | "rollback" => [&[verb.as_str()], words.as_slice(), &["--dry-run"]].concat(),
        "get" | "history" | "list" | "status" | "template" => [&[verb.as_str()], words.as_slice()].concat(),
        other => return Err(format!("how to try `helm {other}`?")),
    };
    let output = Command::new("helm").args(&words).current_dir(TOP).stdin(Stdio::null()).output().expect("helm runs");
    match judged(&output) {
        Err(said) if unfinished && said.contains("requires at least") => Ok(()),
        Err(said) if said.contains("ensure CRDs are installed first") => Ok(()), // those of other operators
        result => result.map(drop),
    }
}

/// What a command said, and whether it worked.
fn judged(output: &Output) -> Result<String, String> {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said.trim().to_owned()) }
}
