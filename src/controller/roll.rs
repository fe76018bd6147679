//! Who a primitive names: who holds it, who is let in by those holds, who has arrived. One name is looked for in the object itself; where many who ask meet
//! many who are named, a [`Roll`] is made first, so that not all are searched for each.

use std::collections::{HashMap, HashSet};

use super::object::Object;
use crate::{
    api::{Holder, HolderKind},
    rules::Latch,
};

/// What is asked about a name, which is always a UID.
pub trait Names {
    /// The token that a Pod or Claim was let in with: its own, or one under its Job's hold.
    fn token_of(&self, uid: &str) -> Option<i64>;

    /// Whether it is a holder.
    fn holds(&self, uid: &str) -> bool;

    /// Whether it has arrived at a Barrier, or is late for it.
    fn has_arrived(&self, uid: &str) -> bool;

    /// Whether those who wait for the primitive may go on.
    fn latch(&self) -> Latch;
}

impl Names for Object {
    fn token_of(&self, uid: &str) -> Option<i64> {
        self.holders().iter().flat_map(let_in).find(|(named, _)| *named == uid).map(|(_, token)| token)
    }

    fn holds(&self, uid: &str) -> bool {
        self.holders().iter().any(|holder| holder.uid == uid)
    }

    fn has_arrived(&self, uid: &str) -> bool {
        matches!(self, Self::Barrier(_)) && (Self::latch(self) != Latch::Shut || self.arrivals().iter().any(|arrival| arrival.uid == uid))
    }

    fn latch(&self) -> Latch {
        Self::latch(self)
    }
}

/// All that a primitive names, if there is one, at one moment.
#[derive(Default)]
pub struct Roll<'a> {
    let_in: HashMap<&'a str, (i64, &'a Holder)>,
    holders: HashSet<&'a str>,
    arrived: HashSet<&'a str>,
    object: Option<&'a Object>,
}

impl<'a> Roll<'a> {
    /// Of this primitive.
    pub fn of(object: Option<&'a Object>) -> Self {
        let mut roll = Self { object, ..Self::default() };
        for holder in object.into_iter().flat_map(Object::holders) {
            roll.let_in.extend(let_in(holder).map(|(uid, token)| (uid, (token, holder))));
            roll.holders.insert(&holder.uid);
        }
        roll.arrived = object.into_iter().flat_map(Object::arrivals).map(|arrival| arrival.uid.as_str()).collect();
        roll
    }

    /// The Job under whose hold a Pod was let in.
    pub fn job_of(&self, uid: &str) -> Option<&'a Holder> {
        self.let_in.get(uid).map(|(_, holder)| *holder).filter(|holder| holder.kind == HolderKind::Job)
    }
}

impl Names for Roll<'_> {
    fn token_of(&self, uid: &str) -> Option<i64> {
        self.let_in.get(uid).map(|(token, _)| *token)
    }

    fn holds(&self, uid: &str) -> bool {
        self.holders.contains(uid)
    }

    fn has_arrived(&self, uid: &str) -> bool {
        matches!(self.object, Some(Object::Barrier(_))) && (self.latch() != Latch::Shut || self.arrived.contains(uid))
    }

    fn latch(&self) -> Latch {
        self.object.map(Object::latch).unwrap_or_default()
    }
}

/// Who is let in by a hold, each with its token: the holder itself, or the Pods of a Job.
fn let_in(holder: &Holder) -> impl Iterator<Item = (&str, i64)> {
    let itself = (holder.kind != HolderKind::Job).then_some((holder.uid.as_str(), holder.token));
    itself.into_iter().chain(holder.pods.iter().map(|pod| (pod.uid.as_str(), pod.token)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Barrier, Semaphore};

    /// Both ways to ask give the same answers.
    #[test]
    fn a_roll_says_what_its_object_says() {
        let holder = |kind: &str, uid: &str, token: i64, pods: serde_json::Value| json!({ "kind": kind, "uid": uid, "namespace": "ns", "name": uid, "token": token, "since": "2026-01-01T00:00:00Z", "pods": pods });
        let holders = json!([holder("Pod", "p", 7, json!([])), holder("Job", "j", 8, json!([{ "uid": "jp", "name": "jp", "token": 9 }]))]);
        let mut semaphore = Semaphore::new("s", serde_json::from_value(json!({ "permits": 3 })).unwrap());
        semaphore.status.get_or_insert_default().common.holders = serde_json::from_value(holders).unwrap();
        let barrier = |phase: &str| -> Object {
            let arrival = json!({ "kind": "Pod", "uid": "p", "namespace": "ns", "name": "p", "at": "2026-01-01T00:00:00Z" });
            let barrier: Barrier = serde_json::from_value(json!({
                "apiVersion": "konductor.io/v1", "kind": "Barrier", "metadata": { "name": "b", "namespace": "ns" }, "spec": { "expected": 2 },
                "status": { "phase": phase, "arrivals": [arrival] },
            }))
            .unwrap();
            barrier.into()
        };
        let answers = |names: &dyn Names| {
            let of = |uid| (names.token_of(uid), names.holds(uid), names.has_arrived(uid));
            (["p", "j", "jp", "nobody"].map(of), names.latch())
        };
        for (object, expected) in [
            (
                Object::from(semaphore),
                ([(Some(7), true, false), (None, true, false), (Some(9), false, false), (None, false, false)], Latch::Shut),
            ),
            (barrier("Waiting"), ([(None, false, true), (None, false, false), (None, false, false), (None, false, false)], Latch::Shut)),
            (barrier("Open"), ([(None, false, true); 4], Latch::Open)),
            (barrier("Failed"), ([(None, false, true); 4], Latch::Failed)),
        ] {
            assert_eq!(answers(&object), expected);
            assert_eq!(answers(&Roll::of(Some(&object))), expected);
        }
        assert_eq!(answers(&Roll::of(None)), ([(None, false, false); 4], Latch::Shut));
    }
}
