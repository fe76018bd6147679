//! `koncli inject -f FILE`: the webhook's own code, offline. Every document of the input comes out again, changed or not; or, if one of them would be
//! refused, none: half of an application must not get into a cluster, nor something that waits for nothing.

use std::{io::Write, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use super::{
    manifests::{self, read},
    output::Format,
};
use crate::{
    api::names,
    inject::{self, Request, Settings, validate},
};

/// What to inject, and what an installation would inject.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Of a Job or CronJob the output shows the copied annotations and no container: Pods are injected when they are created.\n\n\
                        Example:\n  koncli inject -f pod.yaml | kubectl diff -f -"
)]
pub struct InjectArgs {
    /// Files or folders of YAML or JSON documents; `-` is the standard input.
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Image of the injected containers.
    #[arg(long, default_value = "konductor")]
    image: String,
    /// IP address and port of the coordinator's Service, to be shown in the output; an installation fills in its own.
    #[arg(long, default_value = "192.0.2.1:443")]
    server_address: SocketAddr,
    /// File with the CA certificates that vouch for the coordinator, PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Writes every document as it would be admitted to `out`, or none if one of them has mistakes; these and warnings go to `err`. As JSON it is one List.
/// Gives the exit code.
pub fn inject(args: &InjectArgs, namespace: &str, format: Format, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    let InjectArgs { filename, image, server_address, ca_file } = args;
    let ca_pem = ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
    let settings = Settings { image: image.clone(), server_address: server_address.to_string(), ca_pem, ..Settings::anywhere() };
    let (mut admitted, mut refused) = (Vec::new(), false);
    for document in manifests::documents(filename)? {
        let oddity = document.oddity();
        match admit(&settings, &document.value, namespace) {
            Ok((object, warnings)) => {
                for warning in oddity.into_iter().chain(warnings) {
                    writeln!(err, "Warning: {warning}")?;
                }
                admitted.push(object);
            }
            Err(words) => {
                refused = true;
                writeln!(err, "{}: {words}", document.place)?;
            }
        }
    }
    if refused {
        writeln!(err, "nothing is printed: each document must be right first")?;
        return Ok(1);
    }
    if format == Format::Json {
        writeln!(out, "{:#}", json!({ "apiVersion": "v1", "kind": "List", "items": admitted }))?;
        return Ok(0);
    }
    for object in admitted {
        writeln!(out, "---\n{}", serde_saphyr::to_string(&object)?.trim_end())?;
    }
    Ok(0)
}

/// What admission makes of one object, or why it refuses it. A List is admitted item by item, as kubectl sends it.
pub fn admit(settings: &Settings, object: &Value, default_namespace: &str) -> Result<(Value, Vec<String>), String> {
    if let Some(items) = object.get("items").and_then(Value::as_array).filter(|_| object.get("kind").is_some_and(|kind| kind == "List")) {
        let (mut admitted, mut warnings, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            match admit(settings, item, default_namespace) {
                Ok((item, more)) => {
                    admitted.push(item);
                    warnings.extend(more);
                }
                Err(words) => refusals.push(words),
            }
        }
        if !refusals.is_empty() {
            return Err(refusals.join("\n"));
        }
        let mut list = object.clone();
        if let Some(items) = list.get_mut("items") {
            *items = admitted.into();
        }
        return Ok((list, warnings));
    }
    if is_switched_off(object) {
        return Ok((object.clone(), Vec::new()));
    }
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(default_namespace);
    let request = Request { namespace, object, old: None };
    let mut outcome = inject::inject(settings, &request).map_err(|refusal| refusal.to_string())?;
    if is_validated(object) {
        let request = Request { namespace, object: &outcome.object, old: None };
        outcome.warnings.extend(validate(&request).map_err(|refusal| refusal.to_string())?);
    }
    Ok((outcome.object, outcome.warnings))
}

/// Whether the API server does not even ask: with `konductor.io/inject: "false"`, unless it was injected before.
fn is_switched_off(object: &Value) -> bool {
    let entry = |map: &str, key: &str| object.pointer(map).and_then(|map| map.get(key)).and_then(Value::as_str);
    entry("/metadata/annotations", names::INJECT) == Some("false") && entry("/metadata/labels", names::INJECTED_LABEL).is_none()
}

/// Whether the validating webhook is asked about objects of this kind.
fn is_validated(object: &Value) -> bool {
    let text = |field| object.get(field).and_then(Value::as_str).unwrap_or_default();
    matches!(
        (text("apiVersion"), text("kind")),
        ("v1", "ReplicationController")
            | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("batch/v1", "Job" | "CronJob")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fs;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: InjectArgs,
    }

    fn koncli(input: &str) -> (u8, String, String) {
        koncli_as(Format::Text, input)
    }

    fn koncli_as(format: Format, input: &str) -> (u8, String, String) {
        let file = std::env::temp_dir().join(format!("koncli-inject-{}-{:?}", std::process::id(), std::thread::current().id()));
        fs::write(&file, input).unwrap();
        let args = Only::parse_from(["koncli", "-f", file.to_str().unwrap()]).args;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = inject(&args, "default", format, &mut out, &mut err).unwrap();
        fs::remove_file(file).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {konductor.io/mutex: db}}\nspec: {containers: [{name: a, image: i}]}\n";

    #[test]
    fn every_document_comes_out_and_annotated_ones_are_injected() {
        let (code, out, err) = koncli(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n---\n{POD}"));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("kind: ConfigMap") && out.contains("konductor-acquire"), "{out}");
    }

    #[test]
    fn a_document_with_mistakes_is_named_and_keeps_all_from_being_applied() {
        let (code, out, err) = koncli(&format!("{POD}---\n# nothing\n---\n{}", POD.replace("konductor.io/mutex", "konductor.io/mutx")));
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(", line 8: ") && err.contains("konductor.io/mutx") && err.contains("konductor.io/mutex"), "{err}");
    }

    #[test]
    fn every_mistake_in_a_list_is_named() {
        let pod = |key: &str| -> Value { serde_saphyr::from_str(&POD.replace("konductor.io/mutex", key)).unwrap() };
        let items = [pod("konductor.io/mutx"), pod("konductor.io/mutex"), pod("konductor.io/lese")];
        let (code, out, err) = koncli(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("konductor.io/mutx") && err.contains("konductor.io/lese"), "{err}");
    }

    #[test]
    fn what_yaml_does_not_take_for_a_text_is_named() {
        let (code, _, err) = koncli(&POD.replace("mutex: db", "mutex: on"));
        assert_eq!(code, 1);
        assert!(err.contains("metadata.annotations[konductor.io/mutex]: is not a text; put it in quotes"), "{err}");
    }

    #[test]
    fn what_is_switched_off_is_admitted_without_asking() {
        let off = POD.replace("konductor.io/mutex: db", "konductor.io/mutx: db, konductor.io/inject: 'false'");
        let (code, out, err) = koncli(&off);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(!out.contains("konductor-acquire"), "{out}");
    }

    #[test]
    fn as_json_it_is_one_list() {
        let (code, out, _) = koncli_as(Format::Json, &format!("{POD}---\n{POD}"));
        assert_eq!(code, 0);
        let list: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((list["kind"].as_str(), list["items"].as_array().map(Vec::len)), (Some("List"), Some(2)));
    }

    #[test]
    fn a_forgotten_value_is_empty_as_it_is_for_the_api_server() {
        let (code, _, err) = koncli(&POD.replace("konductor.io/mutex: db", "konductor.io/mutex: "));
        assert_eq!(code, 1);
        assert!(err.contains("konductor.io/mutex: is an empty item"), "{err}");
    }

    #[test]
    fn what_is_no_object_comes_out_with_a_warning() {
        let (code, out, err) = koncli("replicas: 3\n");
        assert_eq!((code, out.as_str()), (0, "---\nreplicas: 3\n"));
        assert!(err.contains("is no Kubernetes object: it has no apiVersion and no kind"), "{err}");
    }

    #[test]
    fn templates_are_checked_where_the_webhook_checks_them() {
        let template = "spec: {template: {metadata: {annotations: {konductor.io/mutx: db}}, spec: {containers: []}}}";
        for (of, code) in [
            ("apiVersion: apps/v1\nkind: Deployment", 1),
            ("apiVersion: v1\nkind: ReplicationController", 1),
            ("apiVersion: serving.knative.dev/v1\nkind: Service", 0),
        ] {
            let (ended, _, err) = koncli(&format!("{of}\nmetadata: {{name: x}}\n{template}\n"));
            assert_eq!((ended, err.contains("konductor.io/mutex")), (code, code == 1), "{of}: {err}");
        }
    }

    #[test]
    fn the_items_of_a_list_are_injected() {
        let item: Value = serde_saphyr::from_str(POD).unwrap();
        let (_, out, _) = koncli(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [item]}).to_string());
        assert!(out.contains("konductor-acquire"), "{out}");
    }
}
