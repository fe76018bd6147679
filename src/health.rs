//! Liveness and readiness over plain HTTP, for the kubelet. Each answer lists its checks, so that a person sees which one failed.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::time::Instant;

/// A check: `Ok`, or why not.
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A loop that must not stand still while it runs.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// The loop came round.
    pub fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The loop has ended, in order.
    pub fn rest(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Fails if the loop runs and has not come round for this long.
    pub fn within(&self, limit: Duration) -> Result<(), String> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(last) if last.elapsed() > limit => Err(format!("stands still for {} s", last.elapsed().as_secs())),
            _ => Ok(()),
        }
    }
}

/// What is checked.
#[derive(Default)]
pub struct Health {
    live: Vec<(&'static str, Check)>,
    ready: Vec<(&'static str, Check)>,
}

impl Health {
    /// The process should be restarted when this fails.
    #[must_use]
    pub fn live(mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.live.push((name, Box::new(check)));
        self
    }

    /// Requests should go to other replicas while this fails.
    #[must_use]
    pub fn ready(mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready.push((name, Box::new(check)));
        self
    }

    /// `GET /livez` and `GET /readyz`.
    pub fn router(self) -> Router {
        let livez = |State(health): State<Arc<Self>>| async move { answer(&health.live) };
        let readyz = |State(health): State<Arc<Self>>| async move { answer(&health.ready) };
        Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(Arc::new(self))
    }
}

fn answer(checks: &[(&'static str, Check)]) -> (StatusCode, String) {
    let mut text = String::new();
    let mut code = StatusCode::OK;
    for (name, check) in checks {
        let line = match check() {
            Ok(()) => "ok".to_owned(),
            Err(why) => {
                code = StatusCode::SERVICE_UNAVAILABLE;
                format!("failed: {why}")
            }
        };
        let _ = writeln!(text, "{name}: {line}");
    }
    (code, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_found_and_one_that_rests_is_left_alone() {
        let pulse = Pulse::default();
        let limit = Duration::from_secs(60);
        tokio::time::advance(limit * 2).await;
        assert!(pulse.within(limit).is_ok(), "it never began");
        pulse.beat();
        tokio::time::advance(limit * 2).await;
        assert!(pulse.within(limit).unwrap_err().contains("120 s"));
        pulse.rest();
        assert!(pulse.within(limit).is_ok());
    }

    #[tokio::test]
    async fn one_failed_check_fails_the_answer_and_is_named() {
        let router = Health::default().live("loop", || Ok(())).ready("a", || Ok(())).ready("b", || Err("not yet".into())).router();
        let get = |path: &str| router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
        assert_eq!(get("/livez").await.unwrap().status(), StatusCode::OK);
        let response = get("/readyz").await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&body), "a: ok\nb: failed: not yet\n");
    }
}
