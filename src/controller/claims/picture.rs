//! Claims in the leader's picture, and since when those that hold have not been renewed, by our own clock. Synchronous.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::ClaimFacts;
use crate::controller::{
    ask::At,
    object::Key,
    roll::Names,
    world::{State, forget},
};

/// Since when we have seen a Claim at this number of renewals, uninterrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// How often it was renewed, in all.
    pub renewals: i64,
    /// Since when, by our clock: what counts.
    pub since: Instant,
    /// Since when, by the API server's: what people are shown.
    pub time: Timestamp,
}

impl State {
    /// A Claim was seen. What is older than what we have is ignored.
    pub fn put_claim(&mut self, claim: ClaimFacts) {
        if self.claims.get(claim.uid()).is_some_and(|known| known.revision() >= claim.revision()) {
            return;
        }
        // A backup of etcd that is put back may bring a UID back: what is seen is not gone.
        self.gone.remove(claim.uid());
        let claim = Arc::new(claim);
        self.claims_of.entry(claim.key.clone()).or_default().insert(claim.uid().to_owned(), claim.clone());
        self.dirty.insert(claim.key.clone());
        self.claims.insert(claim.uid().to_owned(), claim);
    }

    /// A Claim was read or written by us. One that the watch does not know (any more) is left to the watch.
    pub fn refresh_claim(&mut self, claim: ClaimFacts) {
        if self.claims.contains_key(claim.uid()) {
            self.put_claim(claim);
        }
    }

    /// A Claim is not seen any more. That proves nothing yet: turns look for themselves.
    pub fn remove_claim(&mut self, uid: &str) {
        let Some(claim) = self.claims.remove(uid) else { return };
        forget(&mut self.claims_of, &claim.key, uid);
        self.renewed.remove(uid);
        self.said.remove(uid);
        self.dirty.insert(claim.key.clone());
    }

    /// A Claim of this UID was deleted, as the API server's own log of changes says: unlike an absence, that is proof.
    pub fn deleted_claim(&mut self, key: &Key, uid: &str) {
        if self.objects.get(key).is_some_and(|object| object.holds(uid) || object.applied().iter().any(|applied| applied == uid)) {
            self.remember_gone(uid);
            self.dirty.insert(key.clone());
        }
        self.remove_claim(uid);
    }

    /// Since when a Claim that holds has been at this number of renewals; since now, if we have not seen it so before.
    pub(super) fn renewed(&mut self, uid: &str, renewals: i64, at: At) -> Renewed {
        let new = Renewed { renewals, since: at.now, time: at.time };
        let seen = self.renewed.entry(uid.to_owned()).or_insert(new);
        if seen.renewals != renewals {
            *seen = new;
        }
        *seen
    }

    /// We did not look for a while, and perhaps nobody could be heard: all have their whole time again, from now on.
    pub fn forget_renewals(&mut self) {
        let held = self.renewed.keys().filter_map(|uid| self.claims.get(uid)).map(|claim| claim.key.clone());
        self.dirty.extend(held);
        self.renewed.clear();
    }
}
