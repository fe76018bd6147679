//! Schemas of the Kubernetes types that our statuses contain: k8s-openapi's own would cost every build the schemas of all of Kubernetes.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A point in time, RFC 3339.
pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// The same where the field may be missing.
pub(super) fn optional_time(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = time(generator);
    schema.insert("nullable".into(), true.into());
    schema
}

/// A DNS label: the name of a namespace, or a part of that of something else.
const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// The name of an object, as Kubernetes wants it.
pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": format!("^{LABEL}(\\.{LABEL})*$") })
}

/// The name of a namespace, where one may be named.
pub(super) fn optional_namespace(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "nullable": true, "minLength": 1, "maxLength": 63, "pattern": format!("^{LABEL}$") })
}

/// A list of `metav1.Condition`, one of each type.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
            },
        },
    })
}

/// Names of namespaces, or `*` for all.
pub(super) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": { "type": "string", "maxLength": 63, "pattern": format!("^(\\*|{LABEL})$") },
    })
}

/// A set of UIDs.
pub(super) fn uids(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "set",
        "items": { "type": "string", "maxLength": 64 },
    })
}
