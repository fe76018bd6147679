//! Who waits, and when they were served: by this a fault is over.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Everybody must be served within this long of the end of a fault.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// After this long nobody is waited for any more.
const DESPAIR: Duration = Duration::from_secs(180);

#[derive(Clone, Default)]
pub struct Waiters(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    next: u64,
    waiting: HashMap<u64, Waiter>,
    served: BTreeMap<String, usize>,
}

struct Waiter {
    lane: String,
    name: String,
}

/// Somebody who waits, until this is served or dropped.
pub struct Waiting {
    id: u64,
    waiters: Waiters,
}

/// How those were served who waited when a fault ended.
pub struct Recovery {
    pub waited: usize,
    pub longest: Duration,
    /// Who was not served in time.
    pub starved: Vec<String>,
}

impl Waiters {
    /// Notes somebody who waits from now on, in a lane such as `mutexes/db`.
    pub fn begin(&self, lane: &str, name: &str) -> Waiting {
        let mut book = self.0.lock().unwrap();
        book.next += 1;
        let id = book.next;
        book.waiting.insert(id, Waiter { lane: lane.to_owned(), name: name.to_owned() });
        Waiting { id, waiters: self.clone() }
    }

    /// Waits until all who wait now are served, and each of these lanes has served somebody.
    pub async fn until_served(&self, lanes: &[String], counts: impl Fn(&str) -> bool) -> Recovery {
        let ended = Instant::now();
        let (mut pending, before) = {
            let book = self.0.lock().unwrap();
            let pending: HashSet<u64> = book.waiting.iter().filter(|(_, waiter)| counts(&waiter.lane)).map(|(id, _)| *id).collect();
            (pending, book.served.clone())
        };
        let mut recovery = Recovery { waited: pending.len(), longest: Duration::ZERO, starved: Vec::new() };
        let mut idle: HashSet<&String> = lanes.iter().collect();
        loop {
            let elapsed = ended.elapsed();
            {
                let book = self.0.lock().unwrap();
                let (waiting, lanes) = (pending.len(), idle.len());
                pending.retain(|id| book.waiting.contains_key(id));
                idle.retain(|lane| book.served.get(*lane) == before.get(*lane));
                if (pending.len(), idle.len()) != (waiting, lanes) {
                    recovery.longest = elapsed;
                }
                let done = pending.is_empty() && idle.is_empty();
                if recovery.starved.is_empty() && elapsed > PATIENCE && !done {
                    let named = |id: &u64| book.waiting.get(id).map(|waiter| format!("{} for {}", waiter.name, waiter.lane));
                    recovery.starved =
                        pending.iter().filter_map(named).chain(idle.iter().map(|lane| format!("anybody for {lane}"))).collect();
                    eprintln!("not served within {} s: {}", PATIENCE.as_secs(), recovery.starved.join(", "));
                }
                if done || elapsed > DESPAIR {
                    return recovery;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Waiting {
    pub fn served(self) {
        let mut book = self.waiters.0.lock().unwrap();
        if let Some(waiter) = book.waiting.get(&self.id) {
            let lane = waiter.lane.clone();
            *book.served.entry(lane).or_default() += 1;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.0.lock().unwrap().waiting.remove(&self.id);
    }
}
