//! The API server's clock, seen through the `Date` header of its answers. Deadlines are counted on it, because the timestamps that they start
//! from are its own; our clock may be off by an hour without any harm.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response, header::DATE};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use tokio::time::Instant;
use tower::{Layer, Service};

/// How long an observation counts; older ones may come from before a clock step.
const WINDOW: Duration = Duration::from_secs(120);

/// A lower bound of the API server's time: never ahead of it by more than it was stepped back in the last minutes.
#[derive(Clone, Debug, Default)]
pub struct ServerClock(Arc<Mutex<Observed>>);

/// The observation that was furthest ahead, in the present window and in the one before. `Date` has whole seconds only, so the largest of many
/// observations is the closest.
#[derive(Debug, Default)]
struct Observed {
    best: Option<Observation>,
    previous: Option<Observation>,
    window_began: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    at: Instant,
    server: Timestamp,
}

impl Observation {
    fn project(self, now: Instant) -> Timestamp {
        let elapsed = SignedDuration::try_from(now.saturating_duration_since(self.at)).unwrap_or_default();
        self.server.checked_add(elapsed).unwrap_or(self.server)
    }
}

impl ServerClock {
    /// The time of the API server now, at the least. Before its first answer: our own time.
    pub fn now(&self) -> Timestamp {
        let observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        [observed.best, observed.previous].into_iter().flatten().map(|seen| seen.project(now)).max().unwrap_or_else(Timestamp::now)
    }

    /// The API server answered with this time.
    pub fn observe(&self, server: Timestamp) {
        let mut observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if observed.window_began.is_none_or(|began| now.saturating_duration_since(began) > WINDOW) {
            observed.previous = observed.best.take();
            observed.window_began = Some(now);
        }
        if observed.best.is_none_or(|best| server > best.project(now)) {
            observed.best = Some(Observation { at: now, server });
        }
    }
}

impl<S> Layer<S> for ServerClock {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, clock: self.clone() }
    }
}

/// A client service whose answers set the clock.
#[derive(Clone, Debug)]
pub struct Watched<S> {
    inner: S,
    clock: ServerClock,
}

impl<S, A, B> Service<Request<A>> for Watched<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let clock = self.clock.clone();
        let answer = self.inner.call(request);
        async move {
            let response = answer.await?;
            let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
            if let Some(date) = date.and_then(|text| rfc2822::parse(text).ok()) {
                clock.observe(date.timestamp());
            }
            Ok(response)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_server_and_not_us() {
        let clock = ServerClock::default();
        clock.observe(at(1000));
        assert_eq!(clock.now(), at(1000));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(clock.now(), Timestamp::from_millisecond(1_001_500).unwrap());
        clock.observe(at(1002));
        assert_eq!(clock.now(), at(1002), "a second that began earlier than we thought");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_stepped_back_is_followed_after_two_windows() {
        let clock = ServerClock::default();
        clock.observe(at(10_000));
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(100)).await;
            clock.observe(at(5_000));
        }
        assert!(clock.now() < at(6_000), "{}", clock.now());
    }
}
