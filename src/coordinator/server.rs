//! The HTTP face of the coordinator. Every replica listens; only the leader has answers, the others say so and agents come back.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout},
};
use tracing::warn;

use super::{
    identity::{Identities, Identity, IdentityError},
    protocol::{Ended, Held, LINES, Problem, Progress, Verified},
    session::{Place, Waits},
};
use crate::{
    controller::{Context, PodFacts, SessionGuard},
    pace::Pace,
    tls::{Guest, and_no_more},
};

/// How often a session says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long to wait before writing fencing tokens again after an error.
const TOKENS_AGAIN: Duration = Duration::from_millis(500);

/// How long an answer, or the first line of one, may take; agents give up a little later.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// How often a Pod may ask: each request may cost a live read for each of its holds. An agent asks a few times, and again when a connection breaks.
const POD_PACE: (u32, Duration) = (60, Duration::from_millis(500));
/// How often tokens from one address may be refused: each costs the API server a look. Several Pods may share an address.
const REFUSED_PACE: (u32, Duration) = (200, Duration::from_millis(100));

/// What the handlers share.
pub struct Coordinator {
    identities: Identities,
    pods: Pace<String>,
    refused: Pace<IpAddr>,
    /// Set while this replica leads and its picture is complete.
    pub leading: ArcSwapOption<Context>,
}

/// An error answer.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

impl Refusal {
    fn too_fast(who: &str) -> Self {
        Self(StatusCode::TOO_MANY_REQUESTS, format!("{who} asks too often; try again in a few seconds"))
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        let code = match error {
            IdentityError::Refused(_) => StatusCode::UNAUTHORIZED,
            IdentityError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(code, error.to_string())
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("the API server could not be asked: {error}"))
    }
}

impl Coordinator {
    /// A coordinator that does not lead yet.
    pub fn new(identities: Identities) -> Arc<Self> {
        let (pods, refused) = (Pace::new(POD_PACE.0, POD_PACE.1), Pace::new(REFUSED_PACE.0, REFUSED_PACE.1));
        Arc::new(Self { identities, pods, refused, leading: ArcSwapOption::empty() })
    }

    /// Its routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/acquire", post(acquire))
            .route("/v1/verify", post(verify))
            .route("/v1/release", post(release))
            .route("/v1/held", post(held))
            .route("/v1/ended", post(ended))
            // What a Pod may ask stands in its annotations: a request has little to say.
            .layer(DefaultBodyLimit::max(16 * 1024))
            .layer(from_fn(in_time))
            .with_state(self)
    }

    /// The Pod that is speaking, as far as there is one, and the leader's work.
    async fn caller(&self, sender: &Sender, headers: &HeaderMap) -> Result<(Arc<Context>, Arc<PodFacts>), Refusal> {
        let unavailable = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "this replica does not lead; try again".to_owned());
        let context = self.leading.load_full().ok_or_else(unavailable)?;
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Identity { namespace, name, uid } = self.identity(sender, bearer.unwrap_or_default()).await?;
        if self.pods.is_spent(&uid) {
            return Err(Refusal::too_fast("this Pod"));
        }
        self.pods.count(uid.clone());
        let pod = context.find_pod(&namespace, &name, &uid).await?;
        let pod =
            pod.ok_or_else(|| Refusal(StatusCode::FORBIDDEN, format!("pod {namespace}/{name} of UID {uid} does not exist any more")))?;
        if pod.who.namespace != namespace || pod.who.name != name {
            return Err(Refusal(StatusCode::FORBIDDEN, "the token names another Pod than its UID belongs to".to_owned()));
        }
        if pod.asks.is_none() {
            return Err(Refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the annotations of this Pod ask for nothing that konductor has".to_owned(),
            ));
        }
        Ok((context, pod))
    }

    async fn identity(&self, sender: &Sender, token: &str) -> Result<Identity, Refusal> {
        let peer = sender.as_ref().map(|Extension(guest)| guest.peer());
        if let Some(known) = self.identities.recall(token) {
            return Ok(known);
        }
        if peer.is_some_and(|peer| self.refused.is_spent(&peer)) {
            return Err(Refusal::too_fast("this address"));
        }
        let asked = self.identities.of(token).await;
        if let (Err(IdentityError::Refused(_)), Some(peer)) = (&asked, peer) {
            self.refused.count(peer);
        }
        Ok(asked?)
    }
}

/// Who sends the request, if it came by a network.
type Sender = Option<Extension<Guest>>;

/// A request takes no longer than somebody waits for its answer, and is the only one of its connection: what a Pod is given for itself is one session.
async fn in_time(request: Request, next: Next) -> Response {
    let late = |_| Refusal(StatusCode::SERVICE_UNAVAILABLE, "the request took too long".to_owned()).into_response();
    and_no_more(timeout(ANSWER_WITHIN, next.run(request)).await.unwrap_or_else(late))
}

async fn acquire(State(coordinator): State<Arc<Coordinator>>, sender: Sender, mut request: Request) -> Result<Response, Refusal> {
    let (context, pod) = coordinator.caller(&sender, request.headers()).await?;
    let (guard, place) = context.open_session(&pod);
    if let Some(Extension(guest)) = sender {
        guest.leave(); // each Pod has one session, whatever the crowd of strangers is
    }
    let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let line = Line { context, pod, guard, place, beat, said: None, done: false };
    let asked = request.headers().get(header::UPGRADE).is_some_and(|to| to == LINES);
    // Without it there is no connection to be had, whatever was asked: then the lines are the body.
    if let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked) {
        tokio::spawn(async move {
            if let Ok(connection) = upgrade.await {
                line.speak(TokioIo::new(connection)).await;
            }
        });
        let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, LINES)];
        return Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response());
    }
    let lines = stream::unfold(line, |mut line| async move { Some((Ok::<_, Infallible>(line.text().await?), line)) });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn verify(State(coordinator): State<Arc<Coordinator>>, sender: Sender, headers: HeaderMap) -> Result<Json<Verified>, Refusal> {
    let (context, pod) = coordinator.caller(&sender, &headers).await?;
    Ok(Json(context.verify(&pod).await?))
}

async fn release(
    State(coordinator): State<Arc<Coordinator>>,
    sender: Sender,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Refusal> {
    let (context, pod) = coordinator.caller(&sender, &headers).await?;
    context.hint_ended(&pod);
    Ok(Json(serde_json::json!({})))
}

async fn held(State(coordinator): State<Arc<Coordinator>>, sender: Sender, headers: HeaderMap) -> Result<Json<Held>, Refusal> {
    let (context, pod) = coordinator.caller(&sender, &headers).await?;
    Ok(Json(Held { holds: context.held(&pod).await? }))
}

async fn ended(
    State(coordinator): State<Arc<Coordinator>>,
    sender: Sender,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<serde_json::Value>, Refusal> {
    let (context, pod) = coordinator.caller(&sender, &headers).await?;
    if pod.wrapped.is_none() {
        let words = "no command of this Pod is wrapped: when its containers have ended, konductor sees it";
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, words.to_owned()));
    }
    let ended: Ended = serde_json::from_slice(&body).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))?;
    context.run_ended(&pod, &ended);
    Ok(Json(serde_json::json!({})))
}

/// An open session, from line to line.
struct Line {
    context: Arc<Context>,
    pod: Arc<PodFacts>,
    /// Keeps the session open for as long as the connection lasts.
    guard: SessionGuard,
    place: watch::Receiver<Place>,
    beat: Interval,
    said: Option<Waits>,
    done: bool,
}

impl Line {
    /// Says all lines, until the last one or until the other side is gone.
    async fn speak(mut self, mut connection: impl AsyncRead + AsyncWrite + Unpin) {
        loop {
            let text = tokio::select! {
                text = self.text() => text,
                // An agent says nothing after its request: this is the end of its connection.
                _ = connection.read_u8() => return,
            };
            let Some(text) = text else { break };
            if connection.write_all(&text).await.is_err() || connection.flush().await.is_err() {
                return;
            }
        }
        let _ = connection.shutdown().await;
    }

    /// The next line as it is sent.
    async fn text(&mut self) -> Option<Vec<u8>> {
        let mut text = serde_json::to_vec(&self.next().await?).unwrap_or_default();
        text.push(b'\n');
        Some(text)
    }

    /// The next line; `None` ends the stream, which makes the agent come back unless it was told how it ended.
    async fn next(&mut self) -> Option<Progress> {
        if self.done {
            return None;
        }
        loop {
            let beat = tokio::select! {
                biased; // in this order, so that a simulated run can be repeated
                () = self.context.until().cancelled() => return None,
                changed = self.place.changed() => {
                    changed.ok()?;
                    false
                }
                _ = self.beat.tick() => true,
            };
            let place = self.place.borrow().clone();
            match place {
                Place::Waiting(waits) if self.said.as_ref() != Some(&waits) => {
                    let message = waits.to_string();
                    self.said = Some(waits);
                    return Some(Progress::Waiting { message });
                }
                Place::Granted(tokens) => {
                    // Both are boxed: everybody who waits would keep room for them.
                    // The first of several steps may be long ago: it counts if it is held now.
                    if self.pod.steps().count() > 1 && !Box::pin(self.context.verify(&self.pod)).await.is_ok_and(|verified| verified.held) {
                        return None;
                    }
                    if self.pod.plan().is_some_and(|plan| plan.fencing && !plan.wraps()) {
                        while let Err(error) = Box::pin(self.context.publish_tokens(&self.pod, &tokens)).await {
                            warn!(pod = self.pod.who.in_full(), %error, "could not write the fencing tokens yet");
                            sleep(TOKENS_AGAIN).await;
                        }
                    }
                    self.done = true;
                    self.guard.let_in = true;
                    return Some(Progress::Granted { tokens });
                }
                Place::Skipped(message) => {
                    self.done = true;
                    return Some(Progress::Skipped { message });
                }
                Place::Refused { reason, message } => {
                    self.done = true;
                    return Some(Progress::Refused { reason, message });
                }
                Place::Waiting(_) | Place::Unknown if beat => return Some(Progress::Heartbeat),
                Place::Waiting(_) | Place::Unknown => {}
            }
        }
    }
}
