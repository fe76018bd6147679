//! Room for a number of strangers. When one comes who does not fit, whoever takes the most room gives some back: a flood from one address pushes out
//! itself and nobody else. Synchronous; no sockets here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Those who are inside, by the address that they come from.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    count: usize,
    next: u64,
    by_peer: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

/// A place in the crowd; dropping it, or whoever pushes it out, frees it.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    peer: IpAddr,
    id: u64,
    pushed_out: CancellationToken,
}

impl Crowd {
    /// Room for so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, inside: Mutex::default() })
    }

    /// Lets somebody in. If it is full, the oldest of the address that has the most inside is pushed out, which may be this very address.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Place {
        let (peer, pushed_out) = (network(peer), CancellationToken::new());
        let mut inside = self.lock();
        if inside.count >= self.most {
            inside.push_out();
        }
        let id = inside.next;
        inside.next += 1;
        inside.count += 1;
        inside.by_peer.entry(peer).or_default().insert(id, pushed_out.clone());
        drop(inside);
        Place { crowd: self.clone(), peer, id, pushed_out }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn push_out(&mut self) {
        let fullest = self.by_peer.iter().max_by_key(|(_, places)| (places.len(), places.keys().next().map(Reverse)));
        let Some((peer, id)) = fullest.and_then(|(peer, places)| Some((*peer, *places.keys().next()?))) else { return };
        if let Some(pushed_out) = self.remove(&peer, id) {
            pushed_out.cancel();
        }
    }

    fn remove(&mut self, peer: &IpAddr, id: u64) -> Option<CancellationToken> {
        let places = self.by_peer.get_mut(peer)?;
        let removed = places.remove(&id)?;
        if places.is_empty() {
            self.by_peer.remove(peer);
        }
        self.count -= 1;
        Some(removed)
    }
}

impl Place {
    /// Where its owner comes from.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Gives the place back before the end: whoever it is, is no stranger any more.
    pub fn leave(&self) {
        self.crowd.lock().remove(&self.peer, self.id);
    }

    /// Waits until somebody else needs the place.
    pub async fn pushed_out(&self) {
        self.pushed_out.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whoever has one IPv6 address has the other ones of its /64 too.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_inside(place: &Place) -> bool {
        !place.pushed_out.is_cancelled()
    }

    #[test]
    fn a_flood_pushes_out_itself_and_nobody_else() {
        let crowd = Crowd::new(10);
        let others: Vec<Place> = (1..=4).map(|n| crowd.enter(peer(&format!("10.0.0.{n}")))).collect();
        let flood: Vec<Place> = (0..1000).map(|_| crowd.enter(peer("10.0.0.99"))).collect();
        assert!(others.iter().all(is_inside));
        assert_eq!(flood.iter().filter(|place| is_inside(place)).count(), 6);
        let newcomer = crowd.enter(peer("10.0.0.5"));
        assert!(is_inside(&newcomer) && others.iter().all(is_inside));
        assert_eq!(flood.iter().filter(|place| is_inside(place)).count(), 5);
        assert_eq!(crowd.lock().count, 10);
    }

    #[test]
    fn a_place_is_free_when_it_is_left_dropped_or_taken() {
        let crowd = Crowd::new(2);
        let (one, two) = (crowd.enter(peer("10.0.0.1")), crowd.enter(peer("10.0.0.1")));
        one.leave();
        let three = crowd.enter(peer("10.0.0.1"));
        assert!(is_inside(&one) && is_inside(&two) && is_inside(&three));
        drop(one);
        drop(two);
        let four = crowd.enter(peer("10.0.0.2"));
        assert!(is_inside(&three) && is_inside(&four));
        let five = crowd.enter(peer("10.0.0.3"));
        assert!(!is_inside(&three) && is_inside(&four) && is_inside(&five), "of equals the one goes that came first");
        drop((three, four, five));
        let inside = crowd.lock();
        assert!(inside.count == 0 && inside.by_peer.is_empty());
    }

    #[test]
    fn addresses_that_one_machine_can_have_are_one() {
        assert_eq!(network(peer("fd00::1:2:3:4")), network(peer("fd00::5:6:7:8")));
        assert_ne!(network(peer("fd00:0:0:1::1")), network(peer("fd00:0:0:2::1")));
        assert_eq!(network(peer("::ffff:10.0.0.1")), peer("10.0.0.1"));
    }
}
