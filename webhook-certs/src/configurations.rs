//! The bundle in the webhook configurations, where the API server reads it.

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
};
use serde_json::{Value, json};

use crate::contents::certificates;

/// The two kinds of webhook configuration, as far as they are alike.
pub trait Configuration {
    /// For messages.
    const KIND: &'static str;

    /// Name and caBundle of each webhook, in order.
    fn webhooks(&self) -> Vec<(&str, Option<&ByteString>)>;
}

impl Configuration for MutatingWebhookConfiguration {
    const KIND: &'static str = "MutatingWebhookConfiguration";

    fn webhooks(&self) -> Vec<(&str, Option<&ByteString>)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), webhook.client_config.ca_bundle.as_ref())).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    const KIND: &'static str = "ValidatingWebhookConfiguration";

    fn webhooks(&self) -> Vec<(&str, Option<&ByteString>)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), webhook.client_config.ca_bundle.as_ref())).collect()
    }
}

/// The JSON Patch that makes every webhook carry `bundle`; `None` if all do. It applies only to the object that was read: the API server
/// refuses it (422) when the resourceVersion or a webhook's place has changed. A patch and not a PUT, because a PUT of our types would
/// drop fields of a newer Kubernetes.
pub fn patch_for<C: Configuration>(configuration: &C, resource_version: &str, bundle: &str) -> Option<Value> {
    let mut operations = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": resource_version})];
    let wanted = ByteString(bundle.as_bytes().to_vec());
    for (index, (name, present)) in configuration.webhooks().into_iter().enumerate() {
        if present.is_some_and(|present| same(&present.0, bundle)) {
            continue;
        }
        operations.push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": name}));
        operations.push(json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": wanted}));
    }
    (operations.len() > 1).then_some(Value::Array(operations))
}

/// The same certificates, however they are laid out: somebody else (cert-manager's injector) may write them too, and two writers that
/// disagree about a line break would never rest.
fn same(present: &[u8], bundle: &str) -> bool {
    if present == bundle.as_bytes() {
        return true;
    }
    let Ok(present) = str::from_utf8(present) else { return false };
    let (present, wanted) = (certificates(present), certificates(bundle));
    present.len() == wanted.len() && wanted.iter().all(|wanted| present.iter().any(|present| present.der == wanted.der))
}
