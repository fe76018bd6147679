//! `koncli release --force HOLDER`: ends what somebody holds, for the person on call. It deletes the holder, and writes no status: the hold of a Pod or a Job
//! ends, as always, when none of its containers can run any more.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    output::{Code, Failure},
    session::Session,
};
use crate::{
    api::{Claim, HolderKind},
    client::Error,
    controller::object::{Object, called, of_kind},
    plan::Kind,
};

/// Whose holds end.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "A Claim is deleted, and what it held is free at once. A Pod or a Job is deleted, and what it held is free when its containers have ended. konductor \
                        leaves an Event, and the next holder gets a larger token.\n\nExample:\n  koncli release --force job/stuck"
)]
pub struct ReleaseArgs {
    /// pod/NAME, job/NAME, claim/NAME, or the holder that a Claim names.
    #[arg(value_name = "HOLDER")]
    holder: String,
    /// Without it nothing is done: holders end by themselves, or by `unlock` and `release` of their own.
    #[arg(long, required = true)]
    force: bool,
    /// Does not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Somebody who holds.
struct Found {
    kind: HolderKind,
    name: String,
    uid: String,
    holds: Vec<String>,
}

/// Asks, and deletes.
///
/// # Errors
/// [`Code::NotFound`] if nobody of that name holds anything in the namespace.
pub async fn release(session: &Session, args: &ReleaseArgs) -> Result<(), Failure> {
    let found = holders(session, &args.holder).await?;
    if found.is_empty() {
        return Err(Failure::new(Code::NotFound, format!("{} holds nothing in namespace {}", args.holder, session.namespace)));
    }
    if !args.yes {
        confirm(&found)?;
    }
    let mut lines = Vec::new();
    for Found { kind, name, uid, holds } in &found {
        match kind {
            HolderKind::Claim => delete::<Claim>(session, name, uid).await?,
            HolderKind::Pod => delete::<Pod>(session, name, uid).await?,
            HolderKind::Job => delete::<Job>(session, name, uid).await?,
        }
        let when = if *kind == HolderKind::Claim { "free now" } else { "free when its containers have ended" };
        lines.push(format!("{}/{name} is deleted; {when}: {}", kind.word(), holds.join(", ")));
    }
    let value: Vec<_> =
        found.iter().map(|found| json!({ "kind": found.kind, "name": found.name, "uid": found.uid, "held": found.holds })).collect();
    session.format.print(&lines.join("\n"), &json!({ "namespace": session.namespace, "deleted": value }))
}

fn confirm(found: &[Found]) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Code::Usage, "there is nobody to ask; say --yes"));
    }
    let mut err = io::stderr();
    for Found { kind, name, holds, .. } in found {
        writeln!(err, "{}/{name} holds {}", kind.word(), holds.join(", "))?;
    }
    write!(err, "Delete {}? [y/N] ", if found.len() == 1 { "it" } else { "them" })?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) { Ok(()) } else { Err(Failure::new(Code::Error, "nothing was done")) }
}

/// Who is meant, and what they hold in this namespace.
async fn holders(session: &Session, meant: &str) -> Result<Vec<Found>, Failure> {
    let claims = Api::<Claim>::namespaced(session.kube.clone(), &session.namespace);
    let claims = claims.list(&ListParams::default()).await.map_err(|error| Error::of(&error, "listing claims"))?.items;
    let named =
        |uid: &str| claims.iter().any(|claim| claim.metadata.uid.as_deref() == Some(uid) && claim.spec.holder.as_deref() == Some(meant));
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for kind in Kind::ALL {
        let objects: Vec<Object> = of_kind!(kind, K => {
            let list = Api::<K>::namespaced(session.kube.clone(), &session.namespace).list(&ListParams::default()).await;
            list.map_err(|error| Error::of(&error, "listing primitives"))?.items.into_iter().map(Object::from).collect()
        });
        for object in &objects {
            // Those of other namespaces are theirs to end.
            for holder in object.holders().iter().filter(|holder| holder.namespace == session.namespace) {
                if called(holder.kind, &holder.namespace, &holder.name, &session.namespace) == meant || named(&holder.uid) {
                    let known = found.entry(holder.uid.clone()).or_insert_with(|| Found {
                        kind: holder.kind,
                        name: holder.name.clone(),
                        uid: holder.uid.clone(),
                        holds: Vec::new(),
                    });
                    known.holds.push(object.key().seen_from(&session.namespace));
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Deletes this very object. Of a Job, its Pods go with it.
async fn delete<K>(session: &Session, name: &str, uid: &str) -> Result<(), Failure>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let same = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(same), ..DeleteParams::background() };
    let doing = format!("deleting {name}");
    Api::<K>::namespaced(session.kube.clone(), &session.namespace)
        .delete(name, &parameters)
        .await
        .map_err(|error| Error::of(&error, &doing))?;
    Ok(())
}
