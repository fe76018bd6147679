//! When primitives need a turn although nothing happens to them. There may be one for each of very many, so the next is found without looking at all of
//! them. Synchronous.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use super::object::Key;

/// At most one alarm a primitive: the earliest that was set.
#[derive(Debug, Default)]
pub struct Alarms {
    of: HashMap<Key, Instant>,
    in_order: BTreeSet<(Instant, Key)>,
}

impl Alarms {
    /// Rings for this primitive at this time, unless it rings before.
    pub fn set(&mut self, key: &Key, at: Instant) {
        if self.of.get(key).is_none_or(|earlier| at < *earlier) {
            self.remove(key);
            self.of.insert(key.clone(), at);
            self.in_order.insert((at, key.clone()));
        }
    }

    /// Rings no more for this primitive.
    pub fn remove(&mut self, key: &Key) {
        if let Some(at) = self.of.remove(key) {
            self.in_order.remove(&(at, key.clone()));
        }
    }

    /// When it rings next.
    pub fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Takes out the primitives whose time has come.
    pub fn due(&mut self, now: Instant) -> Vec<Key> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now) {
            let Some((_, key)) = self.in_order.pop_first() else { break };
            self.of.remove(&key);
            due.push(key);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::Kind;

    #[test]
    fn the_earliest_alarm_of_each_rings_once() {
        let key = |name: &str| Key { kind: Kind::Mutex, namespace: "ns".to_owned(), name: name.to_owned() };
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut alarms = Alarms::default();
        alarms.set(&key("a"), after(3));
        alarms.set(&key("b"), after(2));
        alarms.set(&key("a"), after(1));
        alarms.set(&key("a"), after(4));
        alarms.set(&key("c"), after(1));
        alarms.remove(&key("c"));
        assert_eq!((alarms.due(now), alarms.next()), (Vec::new(), Some(after(1))));
        assert_eq!((alarms.due(after(1)), alarms.next()), (vec![key("a")], Some(after(2))));
        assert_eq!((alarms.due(after(9)), alarms.next()), (vec![key("b")], None));
    }
}
