//! How a Claim comes about: made once, or found. Requests may be carried out without an answer, and whoever asks may give up at any moment.

use std::sync::Arc;

use kube::ResourceExt;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Claimed, Withdraws, is_deleted, is_granted, phase};
use crate::{
    api::{Claim, ClaimPhase},
    client::{
        Ask, Error, Inner, name,
        request::{AGAIN_AFTER, REPEAT_FOR, made, remove_unless, timed},
    },
};

impl Claimed {
    /// Makes the Claim, or finds the one of the same holder.
    pub(in crate::client) async fn begin(inner: &Arc<Inner>, ask: &Ask) -> Result<Self, Error> {
        let given_up = CancellationToken::new();
        let in_use = given_up.clone().drop_guard();
        let lasting = match ask.lasting_name() {
            None => None,
            Some(name) => {
                let taken = Self::take(inner, ask, &name, &given_up).await?;
                Some((name, taken))
            }
        };
        let making = Self::make(Arc::clone(inner), ask.clone(), lasting, given_up);
        let mut claimed = inner.to_its_end(&Handle::current(), making).await?;
        claimed.in_use = Some(in_use);
        Ok(claimed)
    }

    async fn take(inner: &Inner, ask: &Ask, name: &str, given_up: &CancellationToken) -> Result<DropGuard, Error> {
        let doing = format!("asking for {}", ask.target());
        let taking = inner.names.take(name, given_up);
        let taken = match ask.options.timeout {
            None => taking.await,
            Some(limit) => timeout(limit, taking)
                .await
                .map_err(|_| Error::Timeout(format!("{doing}: what the same holder had before is still being given back")))?,
        };
        taken.ok_or_else(|| Error::Denied(format!("{doing}: this process does so already in the name of the same holder")))
    }

    async fn make(inner: Arc<Inner>, ask: Ask, lasting: Option<(String, DropGuard)>, given_up: CancellationToken) -> Result<Self, Error> {
        let doing = format!("asking for {}", ask.target());
        let (name, lasting) = lasting.map_or_else(|| (name::unique(ask.kind, &ask.name), None), |(name, taken)| (name, Some(taken)));
        let wanted = Claim::new(&name, ask.spec());
        let mut claimed = Self::new(&inner, &ask, wanted.clone());
        claimed.lasting = lasting;
        if given_up.is_cancelled() {
            return Err(Error::Unavailable(format!("{doing}: it was given up")));
        }
        // Nobody else uses a name that is no holder's: what has it is withdrawn, whether or not we know that it was made.
        let alone = claimed.lasting.is_none().then_some(Withdraws::Always);
        claimed.withdraws = alone;
        let give_up = claimed.asked + REPEAT_FOR;
        let mut unanswered = None;
        loop {
            let sent = Instant::now();
            // After that it only matters whether an earlier request was carried out after all.
            let asks = !given_up.is_cancelled() && sent < give_up;
            let outcome = if asks {
                match made(&inner.claims, &wanted).await {
                    Err(kube::Error::Api(status)) if status.is_already_exists() => claimed.find(&ask, &doing).await,
                    Err(error) => Err(Error::of(&error, &doing)),
                    Ok(claim) => {
                        claimed.asked = sent;
                        Ok(Some((claim, Some(Withdraws::UnlessRenewed))))
                    }
                }
            } else {
                claimed.find(&ask, &doing).await
            };
            match outcome {
                Ok(Some((claim, withdraws))) => {
                    (claimed.claim, claimed.withdraws) = (claim, alone.or(withdraws));
                    return Ok(claimed);
                }
                Err(Error::Unavailable(message)) if sent >= give_up => return Err(Error::Unavailable(message)),
                Err(Error::Unavailable(message)) => unanswered = Some(message),
                // Nothing was made: the namespace is missing, say.
                Err(error) => {
                    claimed.withdraws = None;
                    return Err(error);
                }
                Ok(None) if asks => {}
                Ok(None) => {
                    claimed.withdraws = None;
                    let stuck = || format!("{doing}: an earlier Claim, {name}, does not go away");
                    return Err(Error::Unavailable(unanswered.unwrap_or_else(stuck)));
                }
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// The Claim that stands in the way: ours from before, and when it is withdrawn if its name is a holder's; or one that is over and goes. `None`: try again.
    async fn find(&mut self, ask: &Ask, doing: &str) -> Result<Option<(Claim, Option<Withdraws>)>, Error> {
        let found = timed(self.inner.claims.get_opt(&self.claim.name_any())).await.map_err(|error| Error::of(&error, doing))?;
        let Some(found) = found else { return Ok(None) };
        if let Some(why) = ask.differs(&found.spec) {
            return Err(Error::Denied(format!("{doing}: {why}")));
        }
        if is_deleted(&found) {
            return Ok(None);
        }
        match phase(&found) {
            // An execution that is reported, and soon on record.
            ClaimPhase::Granted if found.spec.succeeded.is_some() => Ok(None),
            ClaimPhase::Granted => {
                // Of a name that nobody else has, it is our own request that was answered too late.
                self.resumed = self.lasting.is_some();
                Ok(Some((found, None)))
            }
            // It keeps its place; the time of one that has a timeout would go on from its creation.
            ClaimPhase::Pending if found.spec == ask.spec() && ask.options.timeout.is_none_or(|_| self.lasting.is_none()) => {
                Ok(Some((found, Some(Withdraws::UnlessGranted))))
            }
            ClaimPhase::Pending | ClaimPhase::Denied | ClaimPhase::Expired | ClaimPhase::Released => {
                remove_unless(&self.inner.claims, &found, is_granted).await.map_err(|error| Error::of(&error, doing))?;
                Ok(None)
            }
        }
    }
}
