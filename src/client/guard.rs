//! A hold that is kept: renewed in the background, released when dropped, and known to be lost before anybody else can hold.
//!
//! konductor takes a hold away when it has not seen a renewal for `ttl`, and looks at the Claim itself before it does. So a renewal that was answered in
//! time was seen; and who has had no such answer for four fifths of the `ttl` since the last one was *sent* counts the hold as lost, and has the last
//! fifth to stop what it does.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Claimed, Error, Inner,
    claimed::{ended, is_over},
    request::REPEAT_FOR,
};

/// The shortest pause before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// A hold. It is renewed until it is released or dropped; what only it protects must stop when it is [lost](Guard::lost).
///
/// A process that is stopped as a whole (SIGSTOP, a machine that sleeps) learns of the loss when it goes on: whatever it writes to should look at the
/// [token](Guard::token).
#[must_use = "a hold that is dropped is released"]
pub struct Guard {
    token: i64,
    resumed: bool,
    ttl: Duration,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    inner: Arc<Inner>,
    runtime: Handle,
    /// While the holder's name is in use.
    in_use: Option<DropGuard>,
    /// Taken when it is stopped.
    keeper: Option<JoinHandle<Claimed>>,
}

#[derive(Clone, Debug)]
struct State {
    /// Until when it certainly holds, if nobody deletes its Claim.
    until: Instant,
    lost: Option<String>,
}

impl Guard {
    /// Keeps what was granted.
    pub(crate) async fn keep(mut claimed: Claimed) -> Result<Self, Error> {
        let token = claimed.claim().status.as_ref().and_then(|status| status.token).unwrap_or_default();
        let (ttl, sent) = match confirmed(&mut claimed).await {
            Ok(confirmed) => confirmed,
            Err(error) => {
                claimed.withdrawn().await;
                return Err(error);
            }
        };
        let (write, state) = watch::channel(State { until: sent + certain(ttl), lost: None });
        let (stop, resumed) = (CancellationToken::new(), claimed.resumed());
        let (inner, runtime, in_use) = (Arc::clone(&claimed.inner), claimed.runtime.clone(), claimed.in_use.take());
        let keeper = Some(runtime.spawn(keep(claimed, ttl, write, stop.clone())));
        Ok(Self { token, resumed, ttl, state, stop, inner, runtime, in_use, keeper })
    }

    /// The fencing token: larger than that of every earlier hold of the same primitive. Whoever is written to can refuse smaller ones.
    pub fn token(&self) -> i64 {
        self.token
    }

    /// Whether the same holder, by name, had it already: an earlier run of this program, which did not release it.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// How much longer it certainly holds without another renewal; zero once it is lost.
    pub fn remaining(&self) -> Duration {
        let State { until, lost } = self.state.borrow().clone();
        if lost.is_some() { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) }
    }

    /// How long after [`lost`](Guard::lost) nobody else holds yet, if it is lost because it could not be renewed: the time to stop what must not go on.
    pub fn grace(&self) -> Duration {
        self.ttl - certain(self.ttl)
    }

    /// Resolves when the hold is lost, and says why: somebody deleted its Claim, or it could not be renewed. In the second case it resolves before anybody else can
    /// hold, whether or not the API server can be reached. It does not borrow the guard, and never resolves for one that was released.
    ///
    /// ```no_run
    /// # async fn work() {}
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let guard = client.mutex("db").lock(Default::default()).await?;
    /// tokio::select! {
    ///     () = work() => guard.release().await?,
    ///     why = guard.lost() => eprintln!("stopped: {why}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let (mut state, stop) = (self.state.clone(), self.stop.clone());
        async move {
            if let Ok(seen) = state.wait_for(|state| state.lost.is_some()).await
                && let Some(why) = &seen.lost
            {
                return why.clone();
            }
            if stop.is_cancelled() {
                return std::future::pending().await;
            }
            "nothing renews it any more".to_owned()
        }
    }

    /// Gives it back, whether or not anybody waits for that, and waits until the API server has taken note.
    ///
    /// # Errors
    /// If the API server cannot be reached: the hold then ends `ttl` after its last renewal. [`Error::Lost`] if it was lost before.
    pub fn release(mut self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (inner, runtime) = self.unused();
        let releasing = async move {
            let (claimed, state) = self.stopped().await?;
            claimed.end().await?;
            state.lost.map_or(Ok(()), |why| Err(Error::Lost(why)))
        };
        inner.to_its_end(&runtime, releasing)
    }

    /// Says how the execution of a Once came out, whether or not anybody waits for that, and gives it back.
    pub(super) fn finish(mut self, succeeded: bool) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (inner, runtime) = self.unused();
        let finishing = async move {
            let (claimed, state) = self.stopped().await?;
            match state.lost {
                None => claimed.finish(succeeded, state.until).await,
                Some(why) => Err(Error::Lost(why)),
            }
        };
        inner.to_its_end(&runtime, finishing)
    }

    fn unused(&mut self) -> (Arc<Inner>, Handle) {
        self.in_use = None;
        (Arc::clone(&self.inner), self.runtime.clone())
    }

    async fn stopped(mut self) -> Result<(Claimed, State), Error> {
        self.stop.cancel();
        let claimed = match self.keeper.take() {
            Some(keeper) => keeper.await.ok(),
            None => None,
        };
        let state = self.state.borrow().clone();
        Ok((claimed.ok_or_else(|| Error::Unavailable("the runtime is ending".to_owned()))?, state))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.take() {
            // The Claim that the keeper gives back is dropped, and so withdrawn.
            self.inner.endings.spawn_on(async { drop(keeper.await) }, &self.runtime);
        }
    }
}

/// How long after a renewal that failed it is tried again.
fn pause(ttl: Duration) -> Duration {
    (ttl / 15).clamp(RETRY, Duration::from_secs(5))
}

/// How long after a renewal was sent it certainly holds.
fn certain(ttl: Duration) -> Duration {
    ttl * 4 / 5
}

/// For how long it holds after a renewal, and since when.
async fn confirmed(claimed: &mut Claimed) -> Result<(Duration, Instant), Error> {
    let Some(ttl) = claimed.ttl() else {
        return Err(Error::Denied(format!("{}: it is held without a ttl of its own; release it first", claimed.target())));
    };
    claimed.hurry(ttl);
    // When it was granted we do not know, but that it was not before we asked.
    if !claimed.joined() && claimed.asked.elapsed() <= ttl / 10 {
        return Ok((ttl, claimed.asked));
    }
    let give_up = Instant::now() + certain(ttl).min(REPEAT_FOR);
    loop {
        let sent = Instant::now();
        match claimed.renew().await {
            Err(Error::Unavailable(why)) if sent < give_up => {
                tracing::debug!(why, "could not be renewed; trying again");
                sleep(pause(ttl)).await;
            }
            outcome => return outcome.map(|()| (ttl, sent)),
        }
    }
}

/// Renews it until it is stopped or lost. Should this end otherwise, the Claim stays and ends with its ttl, since what it protects may still be going on.
async fn keep(mut claimed: Claimed, ttl: Duration, state: watch::Sender<State>, stop: CancellationToken) -> Claimed {
    claimed.keep();
    renew(&mut claimed, ttl, &state, &stop).await;
    claimed.take_over();
    claimed
}

async fn renew(claimed: &mut Claimed, ttl: Duration, state: &watch::Sender<State>, stop: &CancellationToken) {
    let mut events = claimed.events();
    let uid = claimed.claim().metadata.uid.clone();
    let until = state.borrow().until;
    let mut next = until - certain(ttl) + ttl / 3;
    let lost = 'held: loop {
        let until = state.borrow().until;
        let (outcome, sent) = {
            let mut renewal = pin!(async {
                sleep_until(next).await;
                let sent = Instant::now();
                (claimed.renew().await, sent)
            });
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = sleep_until(until) => break 'held Error::Lost("it could not be renewed in time".to_owned()),
                    renewed = &mut renewal => break renewed,
                    seen = events.next() => match seen {
                        Ok(Some(seen)) if seen.metadata.uid == uid && !is_over(&seen) => {}
                        Ok(Some(seen)) if seen.metadata.uid == uid => break 'held Error::Lost(ended(&seen)),
                        Ok(_) => break 'held Error::Lost("somebody deleted its Claim".to_owned()),
                        // The renewals tell whether it still holds.
                        Err(error) => tracing::debug!(%error, "the watch is begun again"),
                    },
                }
            }
        };
        match outcome {
            Ok(()) => {
                next = sent + ttl / 3;
                state.send_modify(|state| state.until = sent + certain(ttl));
            }
            Err(Error::Unavailable(why) | Error::Forbidden(why)) => {
                tracing::warn!(why, "could not be renewed; trying again");
                next = Instant::now() + pause(ttl);
            }
            Err(error) => break error,
        }
    };
    let why = format!("{} is lost: {lost}", claimed.target());
    state.send_modify(|state| state.lost = Some(why));
}
