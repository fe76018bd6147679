//! Primitives as objects, whatever their kind: create, delete, list, status. What is shown are the columns that the kinds' definitions have for kubectl.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceColumnDefinition, CustomResourceDefinition};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::{ApiResource, GroupVersionKind},
    runtime::wait::{await_condition, conditions::is_deleted},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    output::{Code, Failure, table},
    session::Session,
};
use crate::{
    api::{self, ClaimKind, names},
    client::{Error, word},
};

/// How long `delete` waits for what nobody holds: konductor needs a moment, unless it does not run.
const UNTIL_GONE: Duration = Duration::from_secs(30);

/// A kind, as the API server knows it.
pub struct Definition {
    /// Which one.
    pub kind: ClaimKind,
    crd: CustomResourceDefinition,
}

impl Definition {
    /// The definition of this kind.
    pub fn of(kind: ClaimKind) -> Option<Self> {
        let crd = api::crds().into_iter().find(|crd| crd.spec.names.kind == format!("{kind:?}"))?;
        Some(Self { kind, crd })
    }

    /// Of all kinds, in canonical order.
    pub fn all() -> Vec<Self> {
        ClaimKind::ALL.into_iter().filter_map(Self::of).collect()
    }

    fn resource(&self) -> ApiResource {
        let names = &self.crd.spec.names;
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(names::GROUP, names::VERSION, &names.kind), &names.plural)
    }

    fn api(&self, session: &Session) -> Api<DynamicObject> {
        Api::namespaced_with(session.kube.clone(), &session.namespace, &self.resource())
    }

    /// Those columns that kubectl shows by default, or all but the age.
    fn columns(&self, wide: bool) -> Vec<&CustomResourceColumnDefinition> {
        let columns = self.crd.spec.versions.iter().flat_map(|version| version.additional_printer_columns.iter().flatten());
        columns.filter(|column| wide || column.priority.unwrap_or_default() == 0).collect()
    }
}

/// Makes a primitive.
///
/// # Errors
/// If there is one of that name, or the API server refuses it.
pub async fn create(session: &Session, kind: ClaimKind, name: &str, spec: Value) -> Result<(), Failure> {
    let definition = definition(kind)?;
    let object = json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": format!("{kind:?}"),
        "metadata": { "name": name, "namespace": session.namespace },
        "spec": spec,
    });
    let object = serde_json::from_value(object).map_err(anyhow::Error::from)?;
    let doing = format!("creating {}/{name}", word(kind));
    let made = definition.api(session).create(&PostParams::default(), &object).await.map_err(|error| Error::of(&error, &doing))?;
    session.format.print(&format!("{}/{name} is created in namespace {}", word(kind), session.namespace), &made)
}

/// Deletes a primitive, and waits until it is gone if nobody holds it.
///
/// # Errors
/// If there is none.
pub async fn delete(session: &Session, kind: ClaimKind, name: &str) -> Result<(), Failure> {
    let doing = format!("deleting {}/{name}", word(kind));
    let api = definition(kind)?.api(session);
    let deleted = api.delete(name, &DeleteParams::default()).await.map_err(|error| Error::of(&error, &doing))?;
    // What has been held has a finalizer, which konductor takes off when nobody holds it.
    let left = deleted.left();
    let holders = left.as_ref().and_then(|object| object.data.pointer("/status/holders").and_then(Value::as_array).map(Vec::len));
    let held = holders.is_some_and(|count| count > 0);
    let gone = match left.and_then(|object| object.metadata.uid) {
        Some(_) if held => false,
        Some(uid) => matches!(timeout(UNTIL_GONE, await_condition(api, name, is_deleted(&uid))).await, Ok(Ok(_))),
        None => true,
    };
    let how = match (gone, held) {
        (true, _) => "is deleted",
        (false, true) => "is being deleted: it goes when its last holder has ended",
        (false, false) => "is being deleted: it goes when konductor has seen that nobody holds it; if it stays, see `koncli check`",
    };
    let value = json!({ "kind": kind, "namespace": session.namespace, "name": name, "held": held, "gone": gone });
    session.format.print(&format!("{}/{name} {how}", word(kind)), &value)
}

/// Lists the primitives of some kinds.
///
/// # Errors
/// If they cannot be read.
pub async fn list(session: &Session, kinds: &[Definition], all_namespaces: bool) -> Result<(), Failure> {
    let now = Timestamp::now();
    let (mut items, mut tables) = (Vec::new(), Vec::new());
    for definition in kinds {
        let resource = definition.resource();
        let api = if all_namespaces { Api::<DynamicObject>::all_with(session.kube.clone(), &resource) } else { definition.api(session) };
        let doing = format!("listing {}", resource.plural);
        let found = api.list(&ListParams::default()).await.map_err(|error| Error::of(&error, &doing))?.items;
        let values = found.into_iter().map(|mut object| {
            object
                .types
                .get_or_insert_with(|| kube::core::TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
            serde_json::to_value(object)
        });
        let values: Vec<Value> = values.collect::<Result<_, _>>().map_err(anyhow::Error::from)?;
        if !values.is_empty() {
            tables.push(listed(definition, &values, all_namespaces, kinds.len() > 1, now));
        }
        items.extend(values);
    }
    let nothing = if all_namespaces { "there are none".to_owned() } else { format!("there are none in namespace {}", session.namespace) };
    let text = if tables.is_empty() { nothing } else { tables.join("\n") };
    session.format.print(&text, &json!({ "apiVersion": "v1", "kind": "List", "items": items }))
}

fn listed(definition: &Definition, objects: &[Value], namespaces: bool, with_kind: bool, now: Timestamp) -> String {
    let columns = definition.columns(false);
    let mut headings: Vec<String> = if namespaces { vec!["NAMESPACE".to_owned()] } else { Vec::new() };
    headings.push("NAME".to_owned());
    headings.extend(columns.iter().map(|column| column.name.to_uppercase()));
    let row = |object: &Value| {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let mut cells = if namespaces { vec![text("/metadata/namespace").to_owned()] } else { Vec::new() };
        let name = text("/metadata/name");
        cells.push(if with_kind { format!("{}/{name}", word(definition.kind)) } else { name.to_owned() });
        cells.extend(columns.iter().map(|column| cell(object, column, now)));
        cells
    };
    table(&headings, &objects.iter().map(row).collect::<Vec<_>>())
}

/// Shows one primitive.
///
/// # Errors
/// If there is none.
pub async fn status(session: &Session, kind: ClaimKind, name: &str) -> Result<(), Failure> {
    let definition = definition(kind)?;
    let object = get(session, &definition, name).await?;
    session.format.print(&described(&definition, &object, Timestamp::now()), &object)
}

/// Whether a Once was executed: the exit code says it.
///
/// # Errors
/// [`Code::Error`] if it was not.
pub async fn check_once(session: &Session, name: &str) -> Result<(), Failure> {
    let object = get(session, &definition(ClaimKind::Once)?, name).await?;
    let executed = object.pointer("/status/executed").and_then(Value::as_bool).unwrap_or_default();
    let by = object.pointer("/status/executor").and_then(Value::as_str);
    let text = match (executed, by) {
        (true, by) => format!("once/{name} has been executed by {}", by.unwrap_or("somebody")),
        (false, Some(by)) => format!("once/{name} is being executed by {by}"),
        (false, None) => format!("once/{name} has not been executed"),
    };
    session
        .format
        .print(&text, &json!({ "kind": "Once", "namespace": session.namespace, "name": name, "executed": executed, "executor": by }))?;
    if executed { Ok(()) } else { Err(Failure::new(Code::Error, "")) }
}

async fn get(session: &Session, definition: &Definition, name: &str) -> Result<Value, Failure> {
    let target = format!("{}/{name}", word(definition.kind));
    let found = definition.api(session).get_opt(name).await.map_err(|error| Error::of(&error, &format!("reading {target}")))?;
    let object = found.ok_or_else(|| Failure::new(Code::NotFound, format!("there is no {target} in namespace {}", session.namespace)))?;
    Ok(serde_json::to_value(object).map_err(anyhow::Error::from)?)
}

fn definition(kind: ClaimKind) -> Result<Definition, Failure> {
    Definition::of(kind).ok_or_else(|| Failure::new(Code::Error, format!("there is no definition of {kind:?}")))
}

/// One primitive in words: its columns, then who holds it, who has arrived, its conditions.
fn described(definition: &Definition, object: &Value, now: Timestamp) -> String {
    let text = |object: &Value, field: &str| match object.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let columns = definition.columns(true).into_iter().map(|column| (format!("{}:", column.name), cell(object, column, now)));
    let rows: Vec<Vec<String>> = columns.filter(|(_, cell)| !cell.is_empty()).map(|(name, cell)| vec![name, cell]).collect();
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let mut parts = vec![table(&[format!("{}/{name}", word(definition.kind)), String::new()], &rows)];
    let mut list = |path: &str, fields: &[(&str, &str)]| {
        let items = object.pointer(path).and_then(Value::as_array).filter(|items| !items.is_empty());
        let rows: Vec<Vec<String>> =
            items.into_iter().flatten().map(|item| fields.iter().map(|(_, field)| text(item, field)).collect()).collect();
        if !rows.is_empty() {
            parts.push(table(&fields.iter().map(|(heading, _)| (*heading).to_owned()).collect::<Vec<_>>(), &rows));
        }
    };
    list(
        "/status/holders",
        &[
            ("HELD BY", "kind"),
            ("NAMESPACE", "namespace"),
            ("NAME", "name"),
            ("TOKEN", "token"),
            ("PERMITS", "permits"),
            ("SINCE", "since"),
            ("EXPIRES", "expiresAt"),
        ],
    );
    list("/status/arrivals", &[("ARRIVED", "kind"), ("NAMESPACE", "namespace"), ("NAME", "name"), ("AT", "at")]);
    list("/status/conditionStatuses", &[("WAITS FOR", "type"), ("NAME", "name"), ("MET", "met"), ("SEEN", "message")]);
    list("/status/conditions", &[("CONDITION", "type"), ("STATUS", "status"), ("REASON", "reason"), ("MESSAGE", "message")]);
    parts.join("\n")
}

/// What a column shows of an object. The phase alone would not say that it is on its way out.
fn cell(object: &Value, column: &CustomResourceColumnDefinition, now: Timestamp) -> String {
    let value = object.pointer(&column.json_path.replace('.', "/"));
    let deleting = object.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string);
    match value {
        Some(Value::String(phase)) if deleting && column.json_path == ".status.phase" => format!("{phase}, being deleted"),
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if column.type_ == "date" => {
            text.parse().map_or_else(|_| text.clone(), |since: Timestamp| ago(now.duration_since(since).as_secs()))
        }
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// A length of time as kubectl shows it: its largest unit, and the next one while that says much.
pub fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds @ 120..10_800 => format!("{}m", seconds / 60),
        seconds @ 10_800..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn semaphore() -> Value {
        json!({
            "metadata": { "name": "api", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "permits": 3 },
            "status": { "phase": "Ready", "inUse": 1, "waiting": 0, "heldBy": "claim/a", "holders": [
                { "kind": "Claim", "namespace": "shop", "name": "a", "token": 7, "permits": 1, "since": "2026-01-01T00:00:10Z" },
            ] },
        })
    }

    #[test]
    fn a_list_has_the_columns_of_kubectl() {
        let definition = Definition::of(ClaimKind::Semaphore).unwrap();
        let now = "2026-01-01T00:05:30Z".parse().unwrap();
        let text = listed(&definition, &[semaphore()], true, false, now);
        assert_eq!(
            text,
            "NAMESPACE   NAME   PERMITS   IN USE   WAITING   HELD BY   PHASE   AGE\n\
             shop        api    3         1        0         claim/a   Ready   5m30s\n"
        );
    }

    #[test]
    fn what_is_being_deleted_is_shown_as_such() {
        let definition = Definition::of(ClaimKind::Semaphore).unwrap();
        let now = "2026-01-01T00:05:30Z".parse().unwrap();
        let mut object = semaphore();
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:05:00Z".into();
        for text in [listed(&definition, &[object.clone()], false, false, now), described(&definition, &object, now)] {
            assert!(text.contains("Ready, being deleted"), "{text}");
        }
    }

    #[test]
    fn a_status_names_the_holders_and_their_tokens() {
        let definition = Definition::of(ClaimKind::Semaphore).unwrap();
        let text = described(&definition, &semaphore(), "2026-01-01T00:05:30Z".parse().unwrap());
        assert!(text.starts_with("semaphore/api\n") && text.contains("In Use:") && text.contains("Claim"), "{text}");
        assert!(text.lines().any(|line| line.contains("Claim") && line.contains('7')), "{text}");
    }

    #[test]
    fn every_kind_has_a_definition() {
        assert_eq!(Definition::all().len(), ClaimKind::ALL.len());
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (3600, "60m"), (10_800, "3h"), (172_800, "2d")] {
            assert_eq!(ago(seconds), text);
        }
    }
}
