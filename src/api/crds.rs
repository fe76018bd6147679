//! The CustomResourceDefinitions, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

use super::{Barrier, Claim, Gate, Lease, Mutex, Once, RWMutex, Semaphore, WaitGroup};

/// Every CustomResourceDefinition that konductor installs, in the order of the documentation.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        optional_spec(Mutex::crd()),
        optional_spec(RWMutex::crd()),
        Semaphore::crd(),
        optional_spec(Lease::crd()),
        Barrier::crd(),
        optional_spec(Gate::crd()),
        optional_spec(Once::crd()),
        optional_spec(WaitGroup::crd()),
        Claim::crd(),
    ]
}

/// Lets people leave out a spec whose fields are all optional: the API server then fills in an empty one, so that readers always find it.
fn optional_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else { continue };
        root.required = root.required.take().map(|fields| fields.into_iter().filter(|field| field != "spec").collect());
        if let Some(spec) = root.properties.as_mut().and_then(|fields| fields.get_mut("spec")) {
            spec.default = Some(JSON(json!({})));
        }
    }
    crd
}
