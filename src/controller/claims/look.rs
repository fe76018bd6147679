//! What must be read live of Claims, after the object that the decision is written on was read: whether those that do something by hand are still
//! undecided, so that nothing is done twice; and which of those that a primitive remembers are gone, so that it may forget them.

use std::collections::HashSet;

use futures::{StreamExt, stream};

use super::ask::over;
use crate::{
    controller::{Context, gather::Gathered, object::Key},
    rules::ClaimEnd,
};

/// Reads that are on their way at the same time.
pub(super) const AT_ONCE: usize = 16;

/// Adds to the facts what is done by hand, and what is proven to be gone.
pub async fn look(context: &Context, key: &Key, gathered: &mut Gathered) -> Result<(), kube::Error> {
    let (steps, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut gathered.claims).into_iter().partition(|claim| claim.pending() && claim.is_step());
    gathered.claims = others;
    let mut seen = stream::iter(steps).map(async |step| (context.eye.claim(&step.who).await, step)).buffered(AT_ONCE);
    while let Some((live, step)) = seen.next().await {
        let mut state = context.world.lock();
        let Some(live) = live? else {
            state.remove_claim(step.uid());
            continue;
        };
        state.refresh_claim(live.clone());
        if live.pending() {
            match live.adjustment() {
                Some(adjustment) => gathered.facts.steps.push(adjustment),
                None => gathered.facts.arrivals.push(live.participant()),
            }
        }
        gathered.claims.push(live.into());
    }
    drop(seen);
    if gathered.unknown_claims.is_empty() {
        return Ok(());
    }
    let there: HashSet<String> = context.eye.claims(&key.namespace).await?;
    let mut state = context.world.lock();
    for uid in gathered.unknown_claims.iter().filter(|uid| !there.contains(*uid)) {
        state.remember_gone(uid);
        gathered.facts.evidence.push(over(uid, ClaimEnd::Gone));
    }
    Ok(())
}
