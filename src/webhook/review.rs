//! AdmissionReview in, AdmissionReview out. The objects inside stay raw JSON, so that no field of theirs is lost.

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use crate::{
    inject::{self, Outcome, Refusal, Request, Settings},
    plan::shortened,
};

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Longest identity of a review; API servers use 36 characters.
const LONGEST_UID: usize = 128;
/// Largest patch: with everything around it an answer stays below 1 MiB.
const LARGEST_PATCH: usize = 700 * 1024;
/// Most warnings that an answer carries.
const MOST_WARNINGS: usize = 20;

/// Why a body is not a question that can be answered. It comes from somebody who is not an API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReview {
    /// Another kind, or another version of it.
    #[error("expected an {KIND} of {VERSION}, got `{kind}` of `{version}`")]
    Kind {
        /// The kind that came.
        kind: String,
        /// The version that came.
        version: String,
    },
    /// A field is missing or of another type.
    #[error("the {KIND} has no usable `{0}`")]
    Field(&'static str),
}

/// Answers `/v1/mutate`.
///
/// # Errors
/// The review is not one.
pub fn mutate(settings: &Settings, review: &Value) -> Result<Value, BadReview> {
    answer(review, |request| {
        let Outcome { patch, object: _, warnings } = inject::inject(settings, request)?;
        let mut fields = Map::new();
        if !patch.0.is_empty()
            && let Ok(text) = serde_json::to_vec(&patch)
        {
            if text.len() > LARGEST_PATCH {
                let reason = format!("the changes have {} bytes, more than the {LARGEST_PATCH} that an answer has room for", text.len());
                return Err(Refusal::of(request, reason));
            }
            fields.insert("patchType".to_owned(), "JSONPatch".into());
            fields.insert("patch".to_owned(), json!(ByteString(text)));
        }
        Ok((fields, warnings))
    })
}

/// Answers `/v1/validate`.
///
/// # Errors
/// The review is not one.
pub fn validate(review: &Value) -> Result<Value, BadReview> {
    answer(review, |request| Ok((Map::new(), inject::validate(request)?)))
}

type Decision = Result<(Map<String, Value>, Vec<String>), Refusal>;

fn answer(review: &Value, decide: impl FnOnce(&Request<'_>) -> Decision) -> Result<Value, BadReview> {
    let (version, kind) = (text(review, "apiVersion"), text(review, "kind"));
    if version != VERSION || kind != KIND {
        return Err(BadReview::Kind { kind: shortened(kind), version: shortened(version) });
    }
    let request = review.get("request").filter(|request| request.is_object()).ok_or(BadReview::Field("request"))?;
    let uid = Some(text(request, "uid")).filter(|uid| (1..=LONGEST_UID).contains(&uid.len())).ok_or(BadReview::Field("request.uid"))?;
    let respond = |response: Value| {
        let mut fields = response;
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("uid".to_owned(), uid.into());
        }
        Ok(json!({ "apiVersion": VERSION, "kind": KIND, "response": fields }))
    };
    // What the configuration does not send is none of ours: deletions, connections, subresources.
    if !["CREATE", "UPDATE"].contains(&text(request, "operation")) || !text(request, "subResource").is_empty() {
        return respond(json!({ "allowed": true }));
    }
    let object = request.get("object").filter(|object| object.is_object()).ok_or(BadReview::Field("request.object"))?;
    let old = request.get("oldObject").filter(|old| old.is_object());
    let namespace =
        Some(text(request, "namespace")).filter(|namespace| !namespace.is_empty()).ok_or(BadReview::Field("request.namespace"))?;
    match decide(&Request { namespace, object, old }) {
        Ok((mut fields, warnings)) => {
            fields.insert("allowed".to_owned(), true.into());
            if !warnings.is_empty() {
                let warnings: Vec<String> = warnings.iter().take(MOST_WARNINGS).map(|warning| inject::brief(warning)).collect();
                fields.insert("warnings".to_owned(), warnings.into());
            }
            respond(Value::Object(fields))
        }
        Err(refusal) => {
            let reason = if refusal.code == 403 { "Forbidden" } else { "Invalid" };
            respond(json!({ "allowed": false, "status": { "code": refusal.code, "reason": reason, "message": refusal.to_string() } }))
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
