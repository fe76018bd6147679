//! Reading raw JSON. A `null` is as good as a missing field, as it is for the API server.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::names::{STATUS_PREFIX, USER_PREFIX};

pub(super) type Path<'a> = [&'a str];

/// The field at a path.
pub(super) fn at<'a>(value: &'a Value, path: &Path<'_>) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| field(value, name)).filter(|value| !value.is_null())
}

/// A field of an object, or the entry of a list that has this index.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Array(list) => list.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    }
}

pub(super) fn text<'a>(value: &'a Value, path: &Path<'_>) -> Option<&'a str> {
    at(value, path)?.as_str()
}

pub(super) fn flag(value: &Value, path: &Path<'_>) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a path; empty where there is none.
pub(super) fn list<'a>(value: &'a Value, path: &Path<'_>) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map of texts at a path; empty where there is none. A key without a value has an empty one, as it has for the API server.
pub(super) fn texts(value: &Value, path: &Path<'_>) -> BTreeMap<String, String> {
    let map = at(value, path).and_then(Value::as_object);
    let text = |value: &Value| if value.is_null() { Some(String::new()) } else { value.as_str().map(str::to_owned) };
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

/// The annotations that a user writes for konductor.
pub(super) fn user_keys(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.iter().filter(|(key, _)| key.starts_with(USER_PREFIX)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The annotations that only konductor writes.
pub(super) fn status_keys(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.iter().filter(|(key, _)| key.starts_with(STATUS_PREFIX)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(super) fn name(container: &Value) -> &str {
    text(container, &["name"]).unwrap_or_default()
}

/// The API group of an object.
pub(super) fn group(object: &Value) -> &str {
    text(object, &["apiVersion"]).and_then(|version| version.split_once('/')).map_or("", |(group, _)| group)
}

/// Whether an object of this kind of group `batch` controls this one.
pub(super) fn controlled_by(object: &Value, kind: &str) -> bool {
    list(object, &["metadata", "ownerReferences"])
        .iter()
        .any(|owner| flag(owner, &["controller"]) && text(owner, &["kind"]) == Some(kind) && group(owner) == "batch")
}

/// The fields that are not of the type that they have in Kubernetes, in an object whose Pod (or pod template) is at this path. The API server
/// lets none of those through; a file on its way into `koncli inject` may have them.
pub(super) fn wrong_types(object: &Value, pod: &Path<'_>) -> Vec<String> {
    let is_objects = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_object));
    let is_list_of_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let mut wrong = Vec::new();
    let mut check = |place: String, value: Option<&Value>, right: fn(&Value) -> bool, what: &str| {
        if value.is_some_and(|value| !right(value)) {
            wrong.push(format!("{}: is not {what}", place.trim_start_matches('.')));
        }
    };
    for length in 0..=pod.len() {
        let Some(part) = pod.get(..length).filter(|part| part.last() != Some(&"spec")) else { continue };
        let Some(value) = at(object, part) else { continue };
        let place = part.join(".");
        check(if place.is_empty() { "object".to_owned() } else { place.clone() }, Some(value), Value::is_object, "an object");
        for field in ["metadata", "spec"] {
            check(format!("{place}.{field}"), at(value, &[field]), Value::is_object, "an object");
        }
        for field in ["annotations", "labels"] {
            let map = at(value, &["metadata", field]);
            let place = format!("{place}.metadata.{field}");
            for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
                // Of YAML, `true`, `on` and `5` are none.
                check(format!("{place}[{key}]"), Some(value), |value| value.is_string() || value.is_null(), "a text; put it in quotes");
            }
            check(place, map, Value::is_object, "a map of texts");
        }
        check(format!("{place}.metadata.ownerReferences"), at(value, &["metadata", "ownerReferences"]), is_objects, "a list of objects");
        check(format!("{place}.metadata.finalizers"), at(value, &["metadata", "finalizers"]), is_list_of_texts, "a list of texts");
    }
    let Some(spec) = at(object, pod).and_then(|pod| at(pod, &["spec"])) else { return wrong };
    let place = pod.join(".");
    check(format!("{place}.spec.schedulingGates"), at(spec, &["schedulingGates"]), is_objects, "a list of objects");
    for field in ["containers", "initContainers", "ephemeralContainers", "volumes"] {
        check(format!("{place}.spec.{field}"), at(spec, &[field]), is_objects, "a list of objects");
        for (index, container) in list(spec, &[field]).iter().enumerate().filter(|_| field != "volumes") {
            for inner in ["env", "volumeMounts"] {
                check(format!("{place}.spec.{field}[{index}].{inner}"), at(container, &[inner]), is_objects, "a list of objects");
            }
        }
    }
    wrong
}
