//! Pods on paper: made through the API server and the webhook like all others, each with a token of its own; but no scheduler takes them, and what a kubelet would
//! write in their statuses is written here. So thousands of them wait on a machine that could not run them.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use konductor::api::names;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    line::{Line, Way},
    stage::Stage,
};

/// Requests that are on their way at once while Pods are made.
const AT_ONCE: usize = 32;

/// A Pod, and the connection of its agent.
pub struct Paper {
    pub name: String,
    pub line: Line,
    pods: Api<Pod>,
}

/// Makes so many Pods with this annotation, in no order.
pub async fn pods(stage: &Stage, count: usize, key: &str, value: impl Fn(usize) -> String) -> anyhow::Result<Vec<Paper>> {
    let made = (0..count).map(|number| Paper::make(stage, format!("p-{number}"), key, value(number)));
    stream::iter(made).buffer_unordered(AT_ONCE).try_collect().await
}

/// The kubelets of all of these report something. More at once, and the API server has no time for anybody else.
pub async fn all(pods: &[Paper], report: impl AsyncFn(&Paper) -> anyhow::Result<()>) -> anyhow::Result<()> {
    stream::iter(pods).map(|pod| report(pod)).buffer_unordered(AT_ONCE).try_collect().await
}

impl Paper {
    async fn make(stage: &Stage, name: String, key: &str, value: String) -> anyhow::Result<Self> {
        let pods = stage.api::<Pod>();
        let pod = pods.create(&PostParams::default(), &manifest(&name, Some((key, &value)))).await?;
        let bound = BoundObjectReference {
            kind: Some("Pod".to_owned()),
            api_version: Some("v1".to_owned()),
            name: Some(name.clone()),
            uid: pod.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec {
            audiences: vec![names::TOKEN_AUDIENCE.to_owned()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(7200),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let token = stage.api::<ServiceAccount>().create_token_request("default", &PostParams::default(), &request).await?;
        let line = Line::new(&Way::written_in(&pod)?, &token.status.map(|status| status.token).unwrap_or_default());
        Ok(Self { name, line, pods })
    }

    /// Its kubelet says that the acquire step runs.
    pub async fn waits(&self) -> anyhow::Result<()> {
        let step = status(names::ACQUIRE_CONTAINER, json!({ "running": { "startedAt": Timestamp::now() } }));
        self.report(json!({ "phase": "Pending", "initContainerStatuses": [step] })).await
    }

    /// Its kubelet says that the app runs, or what wraps it and waits.
    pub async fn runs(&self) -> anyhow::Result<()> {
        let app = status("app", json!({ "running": { "startedAt": Timestamp::now() } }));
        self.report(json!({ "phase": "Running", "initContainerStatuses": [passed()], "containerStatuses": [app] })).await
    }

    /// Its kubelet says that the app has ended.
    pub async fn ends(&self) -> anyhow::Result<()> {
        let app = status("app", json!({ "terminated": { "exitCode": 0, "finishedAt": Timestamp::now() } }));
        self.report(json!({ "initContainerStatuses": [passed()], "containerStatuses": [app] })).await
    }

    async fn report(&self, status: Value) -> anyhow::Result<()> {
        self.pods.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?;
        Ok(())
    }
}

/// What users write.
pub fn manifest(name: &str, annotation: Option<(&str, &str)>) -> Pod {
    let annotations: serde_json::Map<_, _> = annotation.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let pod = json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": {
            "schedulerName": "paper", "restartPolicy": "Never", "automountServiceAccountToken": false,
            "containers": [{ "name": "app", "image": "konductor.local/busybox:1", "command": ["true"] }],
        },
    });
    serde_json::from_value(pod).unwrap()
}

fn passed() -> Value {
    status(names::ACQUIRE_CONTAINER, json!({ "terminated": { "exitCode": 0, "finishedAt": Timestamp::now() } }))
}

fn status(name: &str, state: Value) -> Value {
    json!({ "name": name, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0 })
}
