//! Live looks: what is proven by asking the API server itself. Everything here reads, nothing decides.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::{Api, Client, api::ListParams};

use super::{
    claims::{self, ClaimFacts},
    examine::Suspect,
    facts::{self, JobFacts, Outage, PodFacts},
    gather::Unknown,
    object::Key,
};
use crate::{
    api::{Claim, Holder, HolderKind, names},
    planted,
    rules::{
        Evidence, Out, Who,
        evidence::{self, AcquireStep},
    },
};

/// Reads without a resource version are answered from the latest state, not from a cache of the past.
#[derive(Clone)]
pub struct Eye {
    client: Client,
}

impl Eye {
    /// Looks through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A Pod of this name and UID as it is now; `None` if it is gone.
    pub async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<PodFacts>, kube::Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        #[cfg(feature = "planted-bugs")]
        if planted::bug("looks-at-a-cache") {
            return planted::look_at_a_cache(&api, name, uid).await;
        }
        let pod = api.get_opt(name).await?;
        Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)).map(|pod| PodFacts::of(&pod)))
    }

    /// A Job of this name and UID as it is now; `None` if it is gone.
    pub async fn job(&self, unknown: &Unknown) -> Result<Option<JobFacts>, kube::Error> {
        let Unknown { namespace, name, uid } = unknown;
        let job = Api::<Job>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
        Ok(job.filter(|job| job.metadata.uid.as_ref() == Some(uid)).map(|job| JobFacts::of(&job)))
    }

    /// A Claim of this name and UID as it is now; `None` if it is gone.
    pub async fn claim(&self, who: &Who) -> Result<Option<ClaimFacts>, kube::Error> {
        let claim = Api::<Claim>::namespaced(self.client.clone(), &who.namespace).get_opt(&who.name).await?;
        Ok(claim.filter(|claim| claim.metadata.uid.as_ref() == Some(&who.uid)).map(ClaimFacts::of))
    }

    /// The UIDs of all Claims of a namespace.
    pub async fn claims(&self, namespace: &str) -> Result<HashSet<String>, kube::Error> {
        let claims = Api::<Claim>::namespaced(self.client.clone(), namespace).list_metadata(&ListParams::default()).await?;
        Ok(claims.items.into_iter().filter_map(|claim| claim.metadata.uid).collect())
    }

    /// What a live look proves about a suspect; nothing, if it can still run. Nodes that turn out to be in another state than was counted go into `nodes`.
    pub async fn prove(&self, suspect: &Suspect, nodes: &mut Vec<(String, Option<Outage>)>) -> Result<Vec<Evidence>, kube::Error> {
        match suspect {
            Suspect::Pod { namespace, name, uid, key, token, over, lost_node } => {
                let pod = self.pod(namespace, name, uid).await?;
                let succeeded = pod.as_ref().and_then(|pod| pod.came_out(key, *token));
                let how = match pod {
                    None => Some(Out::Gone),
                    Some(pod) if *over || pod.is_out(key, *token) => Some(Out::Ended),
                    Some(_) => match lost_node {
                        Some((node, outage)) if self.still(node, *outage, nodes).await? => Some(Out::Lost),
                        _ => None,
                    },
                };
                let mut proven: Vec<Evidence> = how.map(|how| Evidence::PodOut { uid: uid.clone(), how }).into_iter().collect();
                if how.is_some() {
                    proven.push(Evidence::Outcome { uid: uid.clone(), succeeded });
                }
                Ok(proven)
            }
            Suspect::Job { holder, lost_nodes, key } => self.prove_job_over(holder, lost_nodes, key, nodes).await,
            Suspect::Claim { holder, .. } => {
                let Holder { namespace, name, uid, .. } = holder.clone();
                let live = self.claim(&Who { kind: HolderKind::Claim, namespace, name, uid }).await?;
                Ok(claims::prove(holder, live.as_ref()))
            }
        }
    }

    /// A Job's hold may end when the Job is terminal, suspended or gone (see [`JobFacts::lets_go`]) and no Pod of it can still run, but for Pods on lost nodes. The order matters:
    /// first the Job, which then makes no more Pods, then its Pods. (One that is resumed in between makes Pods, but each is let in by a write of its own,
    /// and that one and the release exclude each other.)
    async fn prove_job_over(
        &self,
        holder: &Holder,
        lost_nodes: &HashMap<String, Outage>,
        key: &Key,
        nodes: &mut Vec<(String, Option<Outage>)>,
    ) -> Result<Vec<Evidence>, kube::Error> {
        let Holder { namespace, name, uid, .. } = holder;
        let job = self.job(&Unknown { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }).await?;
        if job.as_ref().is_some_and(|job| !job.lets_go(key)) {
            return Ok(Vec::new());
        }
        let succeeded = job.and_then(|job| job.outcome).map(|outcome| outcome.succeeded);
        let over = vec![Evidence::JobOver { uid: uid.clone() }, Evidence::Outcome { uid: uid.clone(), succeeded }];
        if planted::bug("job-over-without-its-pods") {
            return Ok(over);
        }
        let selector = format!("{}={uid}", names::JOB_UID_LABEL);
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace).list(&ListParams::default().labels(&selector)).await?;
        for pod in pods.items {
            let let_in = holder.pods.iter().any(|admitted| pod.metadata.uid.as_deref() == Some(&admitted.uid));
            // One that was never let in stands before its acquire step, and nobody lets it in any more.
            let started = let_in || evidence::acquire_step(&pod) == AcquireStep::Passed;
            if evidence::pod_ended(&pod) || !started {
                continue;
            }
            let lost = pod.spec.and_then(|spec| spec.node_name).and_then(|node| lost_nodes.get_key_value(&node));
            match lost {
                Some((node, outage)) if self.still(node, *outage, nodes).await? => {}
                _ => return Ok(Vec::new()),
            }
        }
        Ok(over)
    }

    /// Whether the node is still in the outage that we have been counting. In another one means that it was back in between: a watch that stalled
    /// does not say so in time.
    async fn still(&self, node: &str, counted: Outage, nodes: &mut Vec<(String, Option<Outage>)>) -> Result<bool, kube::Error> {
        let live = Api::<Node>::all(self.client.clone()).get_opt(node).await?;
        let outage = live.map_or(Some(Outage::Removed), |node| facts::outage(&node));
        let still = outage == Some(counted);
        if !still {
            nodes.push((node.to_owned(), outage));
        }
        Ok(still || planted::bug("any-outage-counts"))
    }
}
