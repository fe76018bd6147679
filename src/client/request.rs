//! Single requests about Claims, none of which waits for ever, and the watch on one Claim.

use std::time::Duration;

use futures::{Stream, StreamExt, stream::BoxStream};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Error;
use crate::api::Claim;

/// How long one request may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a request is repeated that the API server did not answer.
pub(super) const REPEAT_FOR: Duration = Duration::from_secs(15);
/// The pause before that.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// The API server ends a watch after 290 s; one that is silent for longer may be broken without saying so.
const SILENT_FOR: Duration = Duration::from_secs(300);

/// What becomes of one Claim, by a watch on this one.
pub(crate) struct Events {
    claims: Api<Claim>,
    name: String,
    stream: BoxStream<'static, Result<Option<Claim>, watcher::Error>>,
    heard: Instant,
}

impl Events {
    pub(super) fn new(claims: Api<Claim>, name: String) -> Self {
        let stream = watched(claims.clone(), &name).boxed();
        Self { claims, name, stream, heard: Instant::now() }
    }

    /// The Claim at its next change, the first time at once; `None` if it is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<Claim>, watcher::Error> {
        loop {
            let next = timeout_at(self.heard + SILENT_FOR, self.stream.next()).await;
            self.heard = Instant::now();
            match next {
                Ok(Some(event)) => return event,
                Ok(None) | Err(_) => self.stream = watched(self.claims.clone(), &self.name).boxed(),
            }
        }
    }
}

fn watched(claims: Api<Claim>, name: &str) -> impl Stream<Item = Result<Option<Claim>, watcher::Error>> + Send + use<> {
    watcher::watch_object(claims, name).default_backoff()
}

pub(super) async fn made(claims: &Api<Claim>, wanted: &Claim) -> Result<Claim, kube::Error> {
    timed(claims.create(&PostParams::default(), wanted)).await
}

/// Deletes this very Claim, of this version if one is given; one that is gone is as good.
async fn delete(claims: &Api<Claim>, claim: &Claim, resource_version: Option<String>) -> Result<(), kube::Error> {
    // One that we do not know to exist has no UID, and a name that nobody else has.
    let preconditions = claim.metadata.uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version });
    let same = DeleteParams { preconditions, ..DeleteParams::default() };
    match timed(claims.delete(&claim.name_any(), &same)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Deletes this very Claim, in several attempts if it takes them.
pub(super) async fn remove_surely(claims: &Api<Claim>, claim: &Claim) -> Result<(), kube::Error> {
    let give_up = Instant::now() + REPEAT_FOR;
    loop {
        match delete(claims, claim, None).await {
            // Another one has its name by now.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(error) if Instant::now() < give_up && was_unanswered(&error) => sleep(AGAIN_AFTER).await,
            outcome => return outcome,
        }
    }
}

/// The same unless somebody relies on it by then.
pub(super) async fn remove_unless(claims: &Api<Claim>, claim: &Claim, relied_on: impl Fn(&Claim) -> bool) -> Result<(), kube::Error> {
    let give_up = Instant::now() + REPEAT_FOR;
    let mut known = claim.clone();
    while !relied_on(&known) {
        match delete(claims, &known, known.resource_version()).await {
            Err(error) if Instant::now() >= give_up => return Err(error),
            // It has changed meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => match timed(claims.get_opt(&known.name_any())).await {
                Ok(Some(now)) if now.metadata.uid == known.metadata.uid => known = now,
                Ok(_) => return Ok(()),
                Err(_) => sleep(AGAIN_AFTER).await,
            },
            Err(error) if was_unanswered(&error) => sleep(AGAIN_AFTER).await,
            outcome => return outcome,
        }
    }
    Ok(())
}

/// Whether asking again may help.
fn was_unanswered(error: &kube::Error) -> bool {
    matches!(Error::of(error, ""), Error::Unavailable(_))
}

/// No request of ours waits for ever, whatever the client was made to do.
pub(super) async fn timed<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    within(ANSWER_WITHIN, request).await
}

/// The same with another limit.
pub(super) async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    timeout(limit, request).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the API server did not answer in time");
        Err(kube::Error::Service(late.into()))
    })
}
