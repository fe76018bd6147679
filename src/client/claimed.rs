//! One Claim from its creation (`making`) to its end: asked for once, waited for by a watch, renewed by count, withdrawn when nobody wants it any more.

mod making;

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation, TestOperation, jsonptr::PointerBuf};
use kube::{
    ResourceExt,
    api::{Patch as Patching, PatchParams},
};
use serde_json::json;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::DropGuard;

use super::{
    Ask, Error, Inner, Options,
    request::{AGAIN_AFTER, ANSWER_WITHIN, Events, REPEAT_FOR, remove_surely, remove_unless, timed, within},
};
use crate::api::{Claim, ClaimPhase, denied};

/// An API server that is well may take this long.
const QUICKEST: Duration = Duration::from_millis(500);
/// An execution is on record this much after it was reported, or konductor is away.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);
/// konductor answers when the timeout of a Claim is over; this much later it is taken for away.
const ANSWERS_LATE_BY: Duration = Duration::from_secs(15);

/// A Claim of ours. Dropped, it is withdrawn, unless it was left in place or the same holder held it before.
pub struct Claimed {
    pub(super) inner: Arc<Inner>,
    pub(super) runtime: Handle,
    claim: Claim,
    target: String,
    /// When we asked for it, or first may have: it was not granted earlier.
    pub(crate) asked: Instant,
    resumed: bool,
    /// `None`: it stays when it is dropped.
    withdraws: Option<Withdraws>,
    /// While somebody uses it.
    pub(super) in_use: Option<DropGuard>,
    /// Its name is that of a holder, and no other Claim of this process may have it meanwhile.
    lasting: Option<DropGuard>,
    /// How often this one renewed it.
    renewed: i64,
    answer_within: Duration,
}

/// When a Claim that is dropped is withdrawn. One in a holder's name may be used by another process, too, which takes its grant for its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdraws {
    Always,
    /// Who joins renews it before it relies on it.
    UnlessRenewed,
    /// Who made it may rely on it as soon as it is granted.
    UnlessGranted,
}

impl Claimed {
    /// The Claim of this holder that exists; it is not withdrawn when this is dropped.
    pub(crate) async fn existing(inner: &Arc<Inner>, ask: &Ask) -> Result<Option<Self>, Error> {
        let Some(name) = ask.lasting_name() else { return Ok(None) };
        let doing = format!("looking for the hold of {}", ask.target());
        let found = timed(inner.claims.get_opt(&name)).await.map_err(|error| Error::of(&error, &doing))?;
        let ours = |claim: &Claim| claim.spec.holder == ask.holder && claim.spec.kind == ask.kind && claim.spec.name == ask.name;
        Ok(found.filter(ours).map(|claim| {
            let mut claimed = Self::new(inner, ask, claim);
            claimed.resumed = true;
            claimed
        }))
    }

    /// One that stays when it is dropped.
    fn new(inner: &Arc<Inner>, ask: &Ask, claim: Claim) -> Self {
        Self {
            inner: Arc::clone(inner),
            runtime: Handle::current(),
            claim,
            target: ask.target(),
            asked: Instant::now(),
            resumed: false,
            withdraws: None,
            in_use: None,
            lasting: None,
            renewed: 0,
            answer_within: ANSWER_WITHIN,
        }
    }

    /// Waits until it is granted.
    pub(crate) async fn granted(&mut self, options: &Options) -> Result<(), Error> {
        let limit = options.timeout.map(|timeout| Instant::now() + timeout + ANSWERS_LATE_BY);
        let mut events = self.events();
        let mut last_told = String::new();
        loop {
            if phase(&self.claim) == ClaimPhase::Granted {
                return Ok(());
            }
            let next = match limit {
                Some(limit) => timeout_at(limit, events.next())
                    .await
                    .map_err(|_| Error::Unavailable(format!("{}: konductor has not answered; is it running?", self.doing())))?,
                None => events.next().await,
            };
            match next {
                Ok(seen) => self.look(seen)?,
                Err(error) => match Error::of_watch(&error, &self.doing()) {
                    Some(error) => return Err(error),
                    None => tracing::debug!(%error, claim = self.claim.name_any(), "the watch is begun again"),
                },
            }
            match phase(&self.claim) {
                ClaimPhase::Pending | ClaimPhase::Granted => {}
                ClaimPhase::Denied => return Err(refusal(&self.claim)),
                ClaimPhase::Expired | ClaimPhase::Released => return Err(Error::Lost(format!("{}: {}", self.doing(), ended(&self.claim)))),
            }
            if let (Some(told), Some(message)) = (&options.told, message(&self.claim))
                && message != last_told
                && phase(&self.claim) == ClaimPhase::Pending
            {
                told(message);
                last_told = message.to_owned();
            }
        }
    }

    /// Takes over what a watch shows.
    fn look(&mut self, seen: Option<Claim>) -> Result<(), Error> {
        match seen.filter(|seen| seen.metadata.uid == self.claim.metadata.uid && !is_deleted(seen)) {
            Some(seen) => {
                self.claim = seen;
                Ok(())
            }
            None => Err(Error::Lost(format!("{}: somebody deleted its Claim, {}", self.doing(), self.claim.name_any()))),
        }
    }

    /// Counts its renewals up by one.
    ///
    /// # Errors
    /// [`Error::Lost`] if it does not hold any more; the others leave open whether the renewal was done, and asking again is right.
    pub async fn renew(&mut self) -> Result<(), Error> {
        let doing = format!("renewing {}", self.target);
        // Somebody else may count too, and an answer may be lost.
        for _ in 0..3 {
            let renewals = self.claim.spec.renewals;
            let patch = Patch(vec![
                self.is_same(),
                PatchOperation::Test(TestOperation { path: field("renewals"), value: json!(renewals) }),
                PatchOperation::Replace(ReplaceOperation { path: field("renewals"), value: json!(renewals + 1) }),
            ]);
            match self.patched(patch).await {
                Ok(claim) => {
                    self.claim = claim;
                    self.renewed += 1;
                }
                Err(kube::Error::Api(status)) if status.is_invalid() || status.code == 404 => {
                    let name = self.claim.name_any();
                    let seen = within(self.answer_within, self.inner.claims.get_opt(&name)).await;
                    self.look(seen.map_err(|error| Error::of(&error, &doing))?)?;
                    if self.claim.spec.renewals == renewals && phase(&self.claim) == ClaimPhase::Granted {
                        return Err(Error::Denied(format!("{doing}: {}", status.message)));
                    }
                    self.holds()?;
                    continue;
                }
                Err(error) => return Err(Error::of(&error, &doing)),
            }
            return self.holds();
        }
        Err(Error::Unavailable(format!("{doing}: others renew it all the time")))
    }

    /// Says how the execution of a Once came out, which it executes until then for sure, waits until that is on record, and ends the Claim.
    pub(crate) async fn finish(mut self, succeeded: bool, until: Instant) -> Result<(), Error> {
        let add = PatchOperation::Add(AddOperation { path: field("succeeded"), value: json!(succeeded) });
        let patch = Patch(vec![self.is_same(), add]);
        let doing = format!("reporting the execution of {}", self.target);
        let give_up = until.max(Instant::now() + REPEAT_FOR);
        let said = loop {
            match self.patched(patch.clone()).await {
                Err(kube::Error::Api(status)) if status.code == 404 || status.is_invalid() => {
                    break Err(Error::Lost(format!("{doing}: its Claim is gone")));
                }
                Err(error) => match Error::of(&error, &doing) {
                    Error::Unavailable(_) | Error::Forbidden(_) if Instant::now() < give_up => sleep(AGAIN_AFTER).await,
                    error => break Err(error),
                },
                Ok(claim) => {
                    self.claim = claim;
                    break Ok(());
                }
            }
        };
        // What is said, but not on record yet, must not be withdrawn.
        self.withdraws = None;
        said?;
        let mut events = self.events();
        let give_up = Instant::now() + RECORDED_WITHIN;
        loop {
            match phase(&self.claim) {
                ClaimPhase::Released => return self.end().await,
                ClaimPhase::Granted | ClaimPhase::Pending => {}
                ClaimPhase::Expired | ClaimPhase::Denied => return Err(Error::Lost(format!("{doing}: {}", ended(&self.claim)))),
            }
            match timeout_at(give_up, events.next()).await {
                Ok(Ok(seen)) => self.look(seen)?,
                Ok(Err(error)) => tracing::debug!(%error, claim = self.claim.name_any(), "the watch is begun again"),
                Err(_) => return Err(Error::Unavailable(format!("{doing}: it is said, but konductor has not answered; is it running?"))),
            }
        }
    }

    /// Deletes it, whether or not anybody waits for that: what it holds ends, what it asks for is withdrawn.
    ///
    /// # Errors
    /// If the API server does not do it; a hold then ends `ttl` after its last renewal.
    pub fn end(mut self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.withdraws = None;
        self.in_use = None;
        let (inner, runtime) = (Arc::clone(&self.inner), self.runtime.clone());
        let deleting = async move {
            remove_surely(&self.inner.claims, &self.claim).await.map_err(|error| Error::of(&error, &format!("releasing {}", self.target)))
        };
        inner.to_its_end(&runtime, deleting)
    }

    /// Drops it, and waits until what follows is done.
    pub(super) async fn withdrawn(mut self) {
        self.in_use = None;
        if let Some(withdrawal) = self.withdrawal() {
            withdrawal.await;
        }
    }

    /// What is to be done when it is dropped.
    fn withdrawal(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (withdraws, renewed) = (self.withdraws.take()?, self.renewed);
        let (claims, claim, lasting) = (self.inner.claims.clone(), self.claim.clone(), self.lasting.take());
        let removing = async move {
            let removed = match withdraws {
                Withdraws::Always => remove_surely(&claims, &claim).await,
                Withdraws::UnlessGranted => remove_unless(&claims, &claim, is_granted).await,
                Withdraws::UnlessRenewed => remove_unless(&claims, &claim, |now| is_granted(now) && now.spec.renewals > renewed).await,
            };
            if let Err(error) = removed {
                tracing::warn!(%error, claim = claim.name_any(), "could not be withdrawn; it ends with its ttl");
            }
            drop(lasting);
        };
        Some(self.inner.to_its_end(&self.runtime, removing.map(Ok)).map(|_| ()))
    }

    /// Whether another process may hold by it, too: it is to be renewed before it is relied on.
    pub fn joined(&self) -> bool {
        self.resumed || self.withdraws == Some(Withdraws::UnlessGranted)
    }

    /// From now on it is withdrawn when dropped, whoever asked for it before.
    pub(super) fn take_over(&mut self) {
        self.withdraws = Some(Withdraws::Always);
    }

    /// From now on it stays when it is dropped, and ends with its ttl: what it protects may still be going on.
    pub(super) fn keep(&mut self) {
        self.withdraws = None;
    }

    /// Leaves it in place for a later command or process.
    #[must_use]
    pub fn leave(mut self) -> Claim {
        self.withdraws = None;
        self.claim.clone()
    }

    /// The Claim as it was last seen.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Whether it was there already, granted to the same holder.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What people call the primitive.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// How far it is.
    pub fn phase(&self) -> ClaimPhase {
        phase(&self.claim)
    }

    /// Fails if it does not hold any more.
    pub(crate) fn holds(&self) -> Result<(), Error> {
        match phase(&self.claim) {
            ClaimPhase::Granted if !is_deleted(&self.claim) => Ok(()),
            _ => Err(Error::Lost(format!("{}: {}", self.target, ended(&self.claim)))),
        }
    }

    /// How long it holds after a renewal, which konductor says in the status where the Claim does not.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        let said = || {
            let status = self.claim.status.as_ref().filter(|_| self.claim.spec.renewals == 0)?;
            let (from, to) = (status.granted_at.as_ref()?.0, status.expires_at.as_ref()?.0);
            // Both are rounded down to the second.
            let shown = Duration::try_from(to.duration_since(from)).ok()?;
            Some(shown.saturating_sub(Duration::from_secs(1)).max(Duration::from_millis(500)))
        };
        self.claim.spec.ttl.map(|ttl| ttl.as_std()).or_else(said)
    }

    /// From now on a request is given up, to be repeated, while there is time for several: the hold lasts this long after a renewal.
    pub(crate) fn hurry(&mut self, ttl: Duration) {
        self.answer_within = (ttl / 10).clamp(QUICKEST, ANSWER_WITHIN);
    }

    pub(crate) fn events(&self) -> Events {
        Events::new(self.inner.claims.clone(), self.claim.name_any())
    }

    fn doing(&self) -> String {
        format!("asking for {}", self.target)
    }

    fn is_same(&self) -> PatchOperation {
        let path = PointerBuf::from_tokens(["metadata", "uid"]);
        PatchOperation::Test(TestOperation { path, value: json!(self.claim.metadata.uid) })
    }

    async fn patched(&self, patch: Patch) -> Result<Claim, kube::Error> {
        let patching = Patching::Json::<Claim>(patch);
        within(self.answer_within, self.inner.claims.patch(&self.claim.name_any(), &PatchParams::default(), &patching)).await
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        drop(self.withdrawal());
    }
}

fn field(name: &str) -> PointerBuf {
    PointerBuf::from_tokens(["spec", name])
}

fn phase(claim: &Claim) -> ClaimPhase {
    claim.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn is_granted(claim: &Claim) -> bool {
    phase(claim) == ClaimPhase::Granted
}

/// Whether somebody has deleted it. The Claim of an execution stays until its outcome is on record; it counts as given back all the same.
fn is_deleted(claim: &Claim) -> bool {
    claim.metadata.deletion_timestamp.is_some()
}

/// Whether it will never hold again.
pub(crate) fn is_over(claim: &Claim) -> bool {
    is_deleted(claim) || matches!(phase(claim), ClaimPhase::Denied | ClaimPhase::Expired | ClaimPhase::Released)
}

fn message(claim: &Claim) -> Option<&str> {
    claim.status.as_ref()?.message.as_deref()
}

/// Why it does not hold any more.
pub(crate) fn ended(claim: &Claim) -> String {
    let how = match phase(claim) {
        ClaimPhase::Pending | ClaimPhase::Granted if is_deleted(claim) => "somebody deleted its Claim",
        ClaimPhase::Pending => "it does not hold yet",
        ClaimPhase::Granted => "it holds",
        ClaimPhase::Denied => "it was denied",
        ClaimPhase::Expired => "its hold has expired",
        ClaimPhase::Released => "its hold has ended",
    };
    message(claim).map_or_else(|| how.to_owned(), |message| format!("{how}: {message}"))
}

/// Why it was not granted: konductor says it in the reason of the condition `Granted`.
fn refusal(claim: &Claim) -> Error {
    let reason = claim.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == "Granted");
    let said = message(claim).unwrap_or("it was denied").to_owned();
    match reason.map(|condition| condition.reason.as_str()) {
        Some(denied::TIMED_OUT | denied::NOT_FREE | denied::FAILED) => Error::Timeout(said),
        Some(denied::EXECUTED) => Error::Executed(said),
        _ => Error::Denied(said),
    }
}
