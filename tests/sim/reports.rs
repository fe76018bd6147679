//! What wraps a command speaks to the coordinator beside its session: it asks what its Pod still holds, and says which holds are over. What it says may be
//! lost, late, or said twice, also when it is itself long gone.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use konductor::coordinator::protocol::{Ended, Held, Token};
use tokio::{
    sync::oneshot,
    time::{Duration, sleep, timeout},
};

use crate::{
    agent::{ask, send},
    core::{Core, Sim},
    wrapped::REPORTS_WITHIN,
};

/// What will happen to a report.
struct Fate {
    lost: bool,
    late: Duration,
    twice: Option<Duration>,
}

impl Core {
    fn fate_of_report(&mut self, uid: &str) -> Fate {
        let cut_off = self.is_cut_off(uid);
        Fate {
            lost: self.strikes_agent(5) || cut_off,
            late: if self.strikes_agent(8) { self.chance.millis(100, 15_000) } else { self.chance.millis(0, 20) },
            twice: self.strikes_agent(8).then(|| self.chance.millis(0, 20_000)),
        }
    }
}

/// Says that holds are over; the answer is whether that was heard.
pub fn say(sim: &Arc<Sim>, uid: &str, bearer: String, ended: Ended) -> oneshot::Receiver<bool> {
    let (answered, answer) = oneshot::channel();
    let Fate { lost, late, twice } = sim.lock().fate_of_report(uid);
    let (sim, uid) = (sim.clone(), uid.to_owned());
    tokio::spawn(async move {
        if lost {
            return;
        }
        sleep(late).await;
        let _ = answered.send(deliver(&sim, &uid, &bearer, &ended).await);
        if let Some(later) = twice {
            sleep(later).await;
            deliver(&sim, &uid, &bearer, &ended).await;
        }
    });
    answer
}

async fn deliver(sim: &Arc<Sim>, uid: &str, bearer: &str, ended: &Ended) -> bool {
    let Some(way) = sim.lock().way() else { return false };
    let body = serde_json::to_vec(ended).unwrap_or_default();
    let request = Request::post("/v1/ended").header("authorization", bearer).body(Body::from(body));
    let Ok(request) = request else { return false };
    let heard = send(&way, request).await.is_some_and(|response| response.status() == 200);
    sim.lock().note((16, u64::from(heard)), |_| {
        let holds: Vec<String> = ended.holds.iter().map(|Token { target, token }| format!("{target}#{token}")).collect();
        format!("agent  {uid} says that it ended {:?} with {}: {heard}", ended.succeeded, holds.join(" "))
    });
    heard
}

/// What the Pod still holds.
async fn held(sim: &Arc<Sim>, uid: &str) -> Option<Vec<Token>> {
    let answer = ask(sim, uid, "/v1/held").await?;
    let delay = {
        let core = &mut *sim.lock();
        let slow = core.faults.slow;
        if core.strikes(slow) { core.chance.millis(1, 2000) } else { core.chance.millis(0, 3) }
    };
    sleep(delay).await;
    serde_json::from_slice::<Held>(&answer).ok().map(|held| held.holds)
}

/// Before a run asks for anything, of what an earlier one held; and before one ends well that leaves its command out.
pub async fn until_nothing_is_left(sim: &Arc<Sim>, uid: &str, succeeded: Option<bool>) {
    loop {
        if let Some(holds) = held(sim, uid).await {
            if holds.is_empty() {
                return;
            }
            let Some(bearer) = sim.lock().truth.pods.get(uid).map(crate::pod::Pod::bearer) else { return };
            let said = say(sim, uid, bearer, Ended { holds, succeeded });
            let _ = timeout(Duration::from_secs(10), said).await;
        }
        let pause = {
            let core = &mut *sim.lock();
            core.chance.millis(10, if core.chaos { 3000 } else { 500 })
        };
        sleep(pause).await;
    }
}

/// The command never ran under what the Pod holds now, and never will.
pub async fn give_back(sim: &Arc<Sim>, uid: &str) {
    let all = async {
        let holds = held(sim, uid).await?;
        let bearer = sim.lock().truth.pods.get(uid)?.bearer();
        say(sim, uid, bearer, Ended { holds, succeeded: Some(false) }).await.ok()
    };
    let _ = timeout(REPORTS_WITHIN, all).await;
}
