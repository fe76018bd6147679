//! What stands between konductor and the API server: it passes everything on, and can commit a write and drop its answer, hold a write back, hold a watch
//! back, and show a world whose clock is an hour off. It presents the API server's own certificate, as whoever runs the cluster may.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::SignedDuration;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex as Turn, oneshot, watch},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::shift::shift;

/// Where it listens: as the world is, and as it is for whose clock is an hour behind, or ahead.
pub const PORTS: [(u16, i64); 3] = [(7443, 0), (7444, 1), (7445, -1)];

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// What happens to watches.
#[derive(Clone, Copy, PartialEq)]
pub enum Watches {
    Pass,
    /// Nothing passes; what comes meanwhile comes later.
    Stalled,
    /// Those that are open end, and new ones get no answer until they pass again.
    Cut,
    /// The same, and each that asks for what is after a resource version is told once that this is too old.
    TooOld,
}

/// Where a write is held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hold {
    /// Before the API server has it.
    Request,
    /// When it is done, and konductor does not know.
    Answer,
}

/// A status write that the proxy holds.
pub struct Held {
    /// Lets it go on.
    pub release: oneshot::Sender<()>,
    /// What the API server answered, when it has.
    pub answered: oneshot::Receiver<StatusCode>,
}

pub struct Proxy {
    /// So many writes are done and not answered, from now on.
    pub to_drop: AtomicUsize,
    /// So many were.
    pub dropped: AtomicUsize,
    /// Status writes that the API server refused because somebody else's came first.
    pub conflicts: AtomicUsize,
    /// Watches that were told by the API server that their resource version is too old.
    pub too_old: AtomicUsize,
    /// Those that were told so in its name.
    pub said_too_old: AtomicUsize,
    /// How often events of a watch were held back.
    pub late: AtomicUsize,
    writes: AtomicU32,
    /// The tokens of those who hold, by the path of their primitive's status.
    tokens: Mutex<HashMap<String, Vec<i64>>>,
    watches: watch::Sender<Watches>,
    catch: Mutex<Option<(Hold, oneshot::Sender<Held>)>>,
    connector: TlsConnector,
    api: (String, u16),
}

/// The connection on which konductor's requests of one connection go on.
type Upstream = Arc<Turn<SendRequest<Full<Bytes>>>>;

impl Proxy {
    /// Listens on every port of [`PORTS`] at the API server's own address.
    pub async fn start(address: &str, pki: &Path) -> Arc<Self> {
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(pki.join("kube-apiserver.crt")).expect("a certificate").map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(pki.join("kube-apiserver.key")).expect("its key");
        let acceptor = TlsAcceptor::from(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.join("ca.crt")).expect("the cluster's CA")).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let proxy = Arc::new(Self {
            to_drop: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            conflicts: AtomicUsize::new(0),
            too_old: AtomicUsize::new(0),
            said_too_old: AtomicUsize::new(0),
            late: AtomicUsize::new(0),
            writes: AtomicU32::new(0),
            tokens: Mutex::default(),
            watches: watch::Sender::new(Watches::Pass),
            catch: Mutex::new(None),
            connector: TlsConnector::from(Arc::new(config)),
            api: (address.to_owned(), 6443),
        });
        for (port, hours) in PORTS {
            let listener = TcpListener::bind((address, port)).await.expect("an address for the proxy");
            let (proxy, acceptor) = (proxy.clone(), acceptor.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (proxy, acceptor) = (proxy.clone(), acceptor.clone());
                    tokio::spawn(async move { proxy.connection(stream, acceptor, SignedDuration::from_hours(hours)).await });
                }
            });
        }
        proxy
    }

    /// Sets what happens to watches.
    pub fn let_watches(&self, be: Watches) {
        self.watches.send_replace(be);
    }

    /// Holds the next status write that grants something, there.
    pub fn catch(&self, there: Hold) -> oneshot::Receiver<Held> {
        let (caught, receiver) = oneshot::channel();
        *self.catch.lock().unwrap() = Some((there, caught));
        receiver
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor, hours: SignedDuration) -> Option<()> {
        let _ = stream.set_nodelay(true);
        let client = acceptor.accept(stream).await.ok()?;
        let tcp = TcpStream::connect((self.api.0.as_str(), self.api.1)).await.ok()?;
        let _ = tcp.set_nodelay(true);
        let server = self.connector.connect(ServerName::try_from(self.api.0.clone()).ok()?, tcp).await.ok()?;
        let (upstream, work) = handshake(TokioIo::new(server)).await.ok()?;
        tokio::spawn(work);
        let upstream: Upstream = Arc::new(Turn::new(upstream));
        let service = service_fn(move |request| self.clone().pass(request, upstream.clone(), hours));
        http1::Builder::new().serve_connection(TokioIo::new(client), service).await.ok()
    }

    /// Passes one request on. An error closes the connection without an answer.
    async fn pass(
        self: Arc<Self>,
        request: Request<Incoming>,
        upstream: Upstream,
        hours: SignedDuration,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let body = shifted(body.collect().await?.to_bytes(), -hours);
        let path = parts.uri.path().to_owned();
        let is_write = parts.method != Method::GET && path.starts_with("/apis/konductor.io/");
        let is_status = is_write && path.ends_with("/status") && !path.contains("/claims/");
        let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch=1") || query.contains("watch=true"));
        let mut request = Request::new(Full::new(body.clone()));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (parts.method.clone(), parts.uri.clone(), parts.headers);
        request.headers_mut().remove(header::TRANSFER_ENCODING);
        request.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
        if is_watch {
            return self.watch(request, upstream, hours).await;
        }

        let tokens = if is_status { tokens(&body) } else { Vec::new() };
        let grants = {
            let known = self.tokens.lock().unwrap();
            let before = known.get(&path).map(Vec::as_slice).unwrap_or_default();
            tokens.iter().any(|token| !before.contains(token))
        };
        let mut hold = grants.then(|| self.catch.lock().unwrap().take()).flatten();
        let mut told = None;
        if let Some((Hold::Request, _)) = &hold {
            told = wait_for_release(hold.take()).await;
        }
        let answer = send(&upstream, request).await?;
        let status = answer.status();
        if is_status && status == StatusCode::CONFLICT {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        if is_status && status.is_success() {
            self.tokens.lock().unwrap().insert(path, tokens);
        }
        let (parts, body) = answer.into_parts();
        let body = shifted(body.collect().await?.to_bytes(), hours);
        if let Some(told) = told {
            let _ = told.send(status);
        }
        if let Some(told) = wait_for_release(hold.take()).await {
            let _ = told.send(status);
        }
        // Not every one: it goes on in between.
        let turn = is_write && status.is_success() && self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        if turn && self.to_drop.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Err("done, and not answered".into());
        }
        Ok(answer_of(parts, hours, Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()))
    }

    async fn watch(
        self: Arc<Self>,
        request: Request<Full<Bytes>>,
        upstream: Upstream,
        hours: SignedDuration,
    ) -> Result<Response<Body>, Failure> {
        let mut state = self.watches.subscribe();
        let now = *state.wait_for(|now| *now != Watches::Cut).await?;
        let after_a_version =
            request.uri().query().is_some_and(|query| query.contains("resourceVersion=") && !query.contains("resourceVersion=&"));
        if now == Watches::TooOld && after_a_version {
            self.said_too_old.fetch_add(1, Ordering::Relaxed);
            let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}"#;
            let event = format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n");
            return Ok(Response::builder().header(header::CONTENT_TYPE, "application/json").body(whole(event))?);
        }
        let answer = send(&upstream, request).await?;
        let (parts, body) = answer.into_parts();
        let lines = Lines { body, rest: Vec::new(), state, proxy: self, hours };
        let body = StreamBody::new(stream::unfold(Some(lines), |lines| async { lines?.next().await }).map(|bytes| bytes.map(Frame::data)))
            .boxed_unsync();
        Ok(answer_of(parts, hours, body))
    }
}

/// The tokens of those who hold by this status.
fn tokens(body: &[u8]) -> Vec<i64> {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    object["status"]["holders"].as_array().into_iter().flatten().filter_map(|holder| holder["token"].as_i64()).collect()
}

/// A watch, line by line: each is an event.
struct Lines {
    body: Incoming,
    rest: Vec<u8>,
    state: watch::Receiver<Watches>,
    proxy: Arc<Proxy>,
    hours: SignedDuration,
}

impl Lines {
    async fn next(mut self) -> Option<(Result<Bytes, Failure>, Option<Self>)> {
        loop {
            let mut ends = self.state.clone();
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                _ = ends.wait_for(|now| matches!(now, Watches::Cut | Watches::TooOld)) => return Some((Err("cut".into()), None)),
            };
            let data = match frame? {
                Ok(frame) => frame.into_data().ok()?,
                Err(error) => return Some((Err(error.into()), None)),
            };
            self.rest.extend_from_slice(&data);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = self.rest.split_off(end + 1);
            let lines = std::mem::replace(&mut self.rest, rest);
            if *self.state.borrow() == Watches::Stalled {
                self.proxy.late.fetch_add(1, Ordering::Relaxed);
            }
            let now = *self.state.wait_for(|now| *now != Watches::Stalled).await.ok()?;
            if now != Watches::Pass {
                return Some((Err("cut".into()), None));
            }
            if lines.starts_with(br#"{"type":"ERROR""#) && lines.windows(10).any(|word| word == br#""code":410"#) {
                self.proxy.too_old.fetch_add(1, Ordering::Relaxed);
            }
            return Some((Ok(shifted(lines.into(), self.hours)), Some(self)));
        }
    }
}

async fn send(upstream: &Upstream, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
    let mut upstream = upstream.lock().await;
    upstream.ready().await?;
    upstream.send_request(request).await
}

/// Tells who waits that a write is held, and waits until it may go on. Gives where the API server's answer is to be told.
async fn wait_for_release(hold: Option<(Hold, oneshot::Sender<Held>)>) -> Option<oneshot::Sender<StatusCode>> {
    let (_, caught) = hold?;
    let (release, released) = oneshot::channel();
    let (tell, answered) = oneshot::channel();
    caught.send(Held { release, answered }).ok()?;
    let _ = tokio::time::timeout(Duration::from_secs(120), released).await;
    Some(tell)
}

fn answer_of(mut parts: http::response::Parts, hours: SignedDuration, body: Body) -> Response<Body> {
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    if let Some(date) = parts.headers.get(header::DATE).and_then(|date| crate::shift::date(date.to_str().ok()?, hours)) {
        parts.headers.insert(header::DATE, date.parse().expect("a date is a header"));
    }
    Response::from_parts(parts, body)
}

fn shifted(text: Bytes, hours: SignedDuration) -> Bytes {
    if hours.is_zero() { text } else { shift(&text, hours).into() }
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}
