//! `koncli explain -f FILE`: what annotations mean, in words. The same code as the webhook's reads them, offline.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};

use super::{
    inject,
    manifests::{self, Document},
    output::{Failure, Format, tell},
};
use crate::{
    api::names,
    inject::Settings,
    plan::{Item, On, OnConflict, OnLost, OnTimeout, Plan, Release, Role, Strategy, Subject, parse},
};

/// What to explain.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exits with 1 if something would be refused.\n\nExample:\n  koncli explain -f job.yaml")]
pub struct ExplainArgs {
    /// Files or folders of YAML or JSON documents; `-` is the standard input.
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
}

/// Explains every annotated object.
///
/// # Errors
/// If the files cannot be read.
pub fn explain(args: &ExplainArgs, namespace: &str, format: Format) -> Result<u8, Failure> {
    let documents = manifests::documents(&args.filename)?;
    documents.iter().filter_map(Document::oddity).for_each(tell);
    let objects = documents.iter().flat_map(|document| manifests::objects(&document.value));
    let explained: Vec<Value> = objects.filter_map(|object| of_object(object, namespace)).collect();
    let refused = explained.iter().any(|object| object.get("refused").is_some_and(|words| !words.is_null()));
    let text = match explained.as_slice() {
        [] => "nothing in it is konductor's business: there are no annotations of konductor.io".to_owned(),
        explained => explained.iter().map(in_words).collect::<Vec<_>>().join("\n"),
    };
    format.print(&text, &json!({ "items": explained }))?;
    Ok(u8::from(refused))
}

/// What becomes of one object; `None` if it has nothing to do with konductor.
fn of_object(object: &Value, default_namespace: &str) -> Option<Value> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or_default();
    let namespace = text("/metadata/namespace").unwrap_or_default();
    let namespace = if namespace.is_empty() { default_namespace } else { namespace };
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
    let (refused, mut warnings) = match inject::admit(&Settings::anywhere(), object, default_namespace) {
        Ok((_, warnings)) => (None, warnings),
        Err(words) => (Some(words), Vec::new()),
    };
    let places: &[(&str, Subject, &str)] = match kind {
        "Pod" => &[("/metadata/annotations", Subject::Pod, "the Pod")],
        "Job" => &[
            ("/metadata/annotations", Subject::Job, "the Job, once, across its Pods and retries"),
            ("/spec/template/metadata/annotations", Subject::PodTemplate, "each of its Pods"),
        ],
        "CronJob" => &[
            ("/metadata/annotations", Subject::CronJob, "each Job that it makes"),
            ("/spec/jobTemplate/metadata/annotations", Subject::Job, "each Job that it makes"),
            ("/spec/jobTemplate/spec/template/metadata/annotations", Subject::PodTemplate, "each Pod of its Jobs"),
        ],
        _ => &[("/spec/template/metadata/annotations", Subject::PodTemplate, "each of its Pods")],
    };
    let plan = places.iter().find_map(|(path, subject, who)| {
        let annotations: BTreeMap<String, String> = object.pointer(path).and_then(|map| serde_json::from_value(map.clone()).ok())?;
        Some((parse(&annotations, *subject).ok()??.in_namespace(namespace), *subject, *who))
    });
    if plan.is_none() && refused.is_none() && warnings.is_empty() {
        warnings.push(unread(object, kind)?);
    }
    let (holder, lines) = plan.as_ref().map_or((None, Vec::new()), |(plan, subject, who)| (Some(*who), lines(plan, *subject, namespace)));
    Some(json!({
        "kind": kind, "namespace": namespace, "name": name, "holder": holder, "steps": lines, "warnings": warnings, "refused": refused,
    }))
}

/// What is said of annotations that nobody reads.
fn unread(object: &Value, kind: &str) -> Option<String> {
    if ["Pod", "Job", "CronJob"].contains(&kind) {
        return None;
    }
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object)?;
    let key = annotations.keys().find(|key| key.starts_with(names::USER_PREFIX) && *key != names::INJECT)?;
    Some(format!("{key} does nothing on a {kind}: it is read on a Pod, a Job, a CronJob and the pod template of whatever else makes Pods"))
}

/// What a plan comes to, in the order in which it happens.
fn lines(plan: &Plan, subject: Subject, namespace: &str) -> Vec<String> {
    let Plan { items: _, release, fencing, strategy, on_conflict, on_lost, max_hold, start_timeout, container } = plan;
    let mut lines = Vec::new();
    match strategy {
        Some(Strategy::Suspend) => lines.push("is suspended until all of this is there: no Pod exists while it waits".to_owned()),
        Some(Strategy::Gate) => lines.push("is given to no node while it waits".to_owned()),
        Some(Strategy::Wrap) => {
            let container = container.as_ref().map_or("its only container".to_owned(), |name| format!("container {name}"));
            lines.push(format!("goes through this in {container}, each time before its command runs"));
        }
        Some(Strategy::Init) | None => {}
    }
    lines.extend(plan.steps().map(|item| step(item, plan, namespace)));
    for item in &plan.items {
        let target = target(item, namespace);
        match item.role {
            Role::Arrive { on: On::Success } => lines.push(format!("arrives at {target} when it has succeeded")),
            Role::Execute { .. } => {
                lines.push(format!("when it has succeeded, {target} is executed for ever; when it has failed, the next one has the turn"))
            }
            Role::Join => lines.push(format!("is done with {target} when it ends, in whatever way")),
            _ => {}
        }
    }
    let wraps = *strategy == Some(Strategy::Wrap);
    if plan.holds().any(|item| item.role != Role::Join) {
        lines.push(match (subject, release) {
            _ if wraps => "gives back what it holds when that command has ended".to_owned(),
            (_, Some(Release::Controller)) => {
                "gives back what it holds when the API server shows that none of its app containers can run any more".to_owned()
            }
            (Subject::Job | Subject::CronJob, _) => {
                "gives back what it holds when the Job is over and none of its Pods can run any more".to_owned()
            }
            _ => "gives back what it holds when none of its app containers can run any more".to_owned(),
        });
        if *on_lost == OnLost::Ignore {
            lines.push("goes on if a hold is taken from it".to_owned());
        }
    }
    if *on_conflict == OnConflict::Skip {
        let skipped = if wraps { "the command is left out, as if it had succeeded" } else { "it is skipped: Complete, without a Pod" };
        lines.push(format!("if somebody else holds, {skipped}"));
    }
    if *fencing {
        lines.push("its containers see the fencing token in KONDUCTOR_FENCING_TOKEN".to_owned());
    }
    lines.extend(max_hold.map(|limit| format!("is deleted when it has held for {limit}")));
    lines.extend(start_timeout.map(|limit| format!("is deleted when it has held for {limit} without having started")));
    lines
}

fn step(item: &Item, plan: &Plan, namespace: &str) -> String {
    let target = target(item, namespace);
    let mut text = match item.role {
        Role::Wait { arrive: true, .. } => format!("arrives at {target}, and waits until it is open"),
        Role::Wait { .. } => format!("waits for {target}"),
        Role::Hold { permits, mode, priority, create } => {
            let mut text = format!("holds {target}");
            if permits != 1 {
                text.push_str(&format!(" ({permits} permits)"));
            }
            if item.target.kind == crate::plan::Kind::RwMutex {
                text.push_str(if mode == crate::plan::Mode::Read { ", to read, beside others" } else { ", to write, alone" });
            }
            if priority != 0 {
                text.push_str(&format!(", with priority {priority}"));
            }
            if create {
                text.push_str("; it is made if it is missing");
            }
            text
        }
        Role::Execute { .. } => format!("runs only if nobody has executed {target}; otherwise it is skipped"),
        Role::Join => format!("is counted by {target}"),
        Role::Arrive { .. } => format!("arrives at {target} as it starts"),
    };
    let proceeds = matches!(item.role, Role::Wait { on_timeout: OnTimeout::Proceed, .. });
    match item.timeout {
        Some(limit) if limit.is_zero() => {
            text.push_str(if proceeds { "; goes on at once if that is not so" } else { "; fails at once if that is not so" })
        }
        Some(limit) => text.push_str(&format!("; {} {limit} after its creation", if proceeds { "goes on without it" } else { "fails" })),
        None if item.role.has_token() && plan.on_conflict == OnConflict::Skip => {}
        None if matches!(item.role, Role::Wait { .. } | Role::Hold { .. }) => text.push_str("; for as long as it takes"),
        None => {}
    }
    text
}

fn target(item: &Item, namespace: &str) -> String {
    let mut target = item.target.clone();
    target.namespace = target.namespace.filter(|of| of != namespace);
    target.to_string()
}

fn in_words(object: &Value) -> String {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let texts = |field: &str| object.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut lines = vec![format!(
        "{}/{} in namespace {}",
        text("kind").unwrap_or_default(),
        text("name").unwrap_or_default(),
        text("namespace").unwrap_or_default()
    )];
    lines.extend(text("holder").map(|who| format!("  who: {who}")));
    lines.extend(texts("steps").enumerate().map(|(index, step)| format!("  {}. {step}", index + 1)));
    lines.extend(texts("warnings").map(|warning| format!("  Warning: {warning}")));
    lines.extend(text("refused").map(|words| format!("  would be refused: {}", words.replace('\n', "\n  "))));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(yaml: &str) -> String {
        let object: Value = serde_saphyr::from_str(yaml).unwrap();
        of_object(&object, "shop").map(|explained| in_words(&explained)).unwrap_or_default()
    }

    fn job(annotations: &str) -> String {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: j\n  annotations:\n    {annotations}\nspec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: a, image: i}}]}}}}}}\n"
        )
    }

    #[test]
    fn steps_are_told_in_their_order() {
        let text = explained(&job(
            "{konductor.io/acquire: 'semaphore/api;permits=2, mutex/db', konductor.io/wait: 'gate/ready;timeout=2h', konductor.io/arrive: barrier/done}",
        ));
        let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
        assert!(place("waits for gate/ready; fails 2h after its creation") < place("holds mutex/db"));
        assert!(place("holds mutex/db") < place("holds semaphore/api (2 permits)"));
        assert!(place("holds semaphore/api") < place("arrives at barrier/done when it has succeeded"));
        assert!(text.contains("who: the Job, once"), "{text}");
    }

    #[test]
    fn what_would_be_refused_is_told_in_the_words_of_the_webhook() {
        let text = explained(&job("{konductor.io/mutx: db}"));
        assert!(text.contains("would be refused") && text.contains("did you mean `konductor.io/mutex`?"), "{text}");
    }

    #[test]
    fn a_member_of_a_waitgroup_gives_nothing_back() {
        let text = explained(&job("{konductor.io/done: waitgroup/workers}"));
        assert!(text.contains("is done with waitgroup/workers") && !text.contains("gives back"), "{text}");
    }

    #[test]
    fn an_annotation_that_nobody_reads_is_told() {
        for kind in ["ConfigMap", "Jbo"] {
            let text =
                explained(&format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: c, annotations: {{konductor.io/mutex: db}}}}\n"));
            assert!(text.contains(&format!("konductor.io/mutex does nothing on a {kind}")), "{text}");
        }
    }

    #[test]
    fn what_is_none_of_konductors_business_is_passed_over() {
        assert_eq!(explained("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"), "");
        assert_eq!(explained(&job("{example.com/x: z}")), "");
    }

    #[test]
    fn a_template_is_explained_as_its_pods() {
        let text = explained(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {metadata: {annotations: {konductor.io/rwmutex: 'cache;mode=read'}}, spec: {containers: [{name: a, image: i}]}}}\n",
        );
        assert!(text.contains("each of its Pods") && text.contains("holds rwmutex/cache, to read, beside others"), "{text}");
    }
}
