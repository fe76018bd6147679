//! What the webhook adds to the creation of a Pod, and to that of one that is none of its business. Nothing is stored: the API server is asked to pretend.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;

use crate::{numbers::Times, paper, report::Figure, stage::Cluster};

const SECONDS: &str = "apiserver_admission_webhook_admission_duration_seconds_sum";
const COUNT: &str = "apiserver_admission_webhook_admission_duration_seconds_count";

pub async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let stage = cluster.stage("webhook").await?;
    let pods = stage.api::<Pod>();
    let pretend = PostParams { dry_run: true, ..PostParams::default() };
    let ours = ["type=\"admit\"", "name=\"pods.konductor.io\""];
    let seen = async || anyhow::Ok((cluster.counted(SECONDS, &ours).await?, cluster.counted(COUNT, &ours).await?));
    let (mut with, mut without) = (Times::default(), Times::default());
    let before = seen().await?;
    for number in 0..cluster.pick(400, 100) {
        for (annotation, times) in [(Some(("konductor.io/mutex", "db")), &mut with), (None, &mut without)] {
            let pod = paper::manifest(&format!("p-{number}"), annotation);
            let began = Instant::now();
            pods.create(&pretend, &pod).await?;
            times.push(began.elapsed());
        }
    }
    let after = seen().await?;
    stage.close().await?;
    let difference = |part| with.quantile(part) - without.quantile(part);
    Ok(vec![
        Figure::new("an annotated Pod is created (dry run): p50", with.quantile(0.5), "ms").beside("any other", without.quantile(0.5)),
        Figure::new("an annotated Pod is created (dry run): p99", with.quantile(0.99), "ms").beside("any other", without.quantile(0.99)),
        Figure::new("what that adds: p50", difference(0.5), "ms"),
        Figure::new("what that adds: p99", difference(0.99), "ms").demand("<= 3"),
        Figure::new("the webhook, as the API server sees it: mean", (after.0 - before.0) / (after.1 - before.1) * 1e3, "ms"),
    ])
}
