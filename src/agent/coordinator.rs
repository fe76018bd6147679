//! The connection to the coordinator. One request a connection: a session lasts as long as the wait, and the others are rare.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, UPGRADE, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, client::Resumption, crypto::ring, pki_types::ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::settings::{Mistakes, Settings};
use crate::coordinator::protocol::{Ended, Held, LINES, Problem, Progress, Reason, Token, Verified};

/// For the TCP and TLS handshakes together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Three heartbeats: after this much silence the session is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// The request that is answered with lines.
const ACQUIRE: &str = "/v1/acquire";
/// No line and no error is longer; a server that sends more is not ours.
const LONGEST_MESSAGE: usize = 256 * 1024;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody answered, or not to the end: try again.
    #[error("{0}")]
    Unavailable(String),
    /// The server did not accept the token (401, 403). It may have been too new or too old: try again with a fresh one, a few times.
    #[error("{0}")]
    NotRecognized(String),
    /// The server understood and says no (400, 422): trying again would not help.
    #[error("{0}")]
    Denied(String),
}

/// How to get there.
enum Way {
    Address(SocketAddr),
    /// In memory, because a test's paused clock runs ahead of real sockets.
    #[cfg(test)]
    Memory(tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>),
}

/// Whom to ask, and as whom.
pub struct Coordinator {
    way: Way,
    name: ServerName<'static>,
    host: HeaderValue,
    token_file: PathBuf,
    tls: TlsConnector,
}

/// A line of an acquire session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line that this version knows.
    Progress(Progress),
    /// A line of a newer server that changes nothing for us: as good as a heartbeat.
    Unknown,
}

/// An HTTP connection and the task that drives it.
type Connection = (http1::SendRequest<Full<Bytes>>, AbortOnDropHandle<()>);

/// An open acquire session. Dropping it closes the connection.
pub struct Session {
    lines: Lines,
    buffer: Vec<u8>,
    _connection: AbortOnDropHandle<()>,
}

/// Where the lines come from.
enum Lines {
    /// A connection that was upgraded to bare lines.
    Plain(TokioIo<Upgraded>),
    /// The body of a response, by a server that knows no better.
    Body(Incoming),
}

impl Lines {
    /// Adds more of them to the buffer; says whether there were any.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Failure> {
        let lost = |error: &dyn std::fmt::Display| unavailable("the connection was lost", error);
        match self {
            Self::Plain(connection) => {
                let read = connection.read_buf(buffer).await.map_err(|error| lost(&error))?;
                Ok(read > 0)
            }
            Self::Body(body) => {
                let Some(frame) = body.frame().await else { return Ok(false) };
                if let Some(data) = frame.map_err(|error| lost(&error))?.data_ref() {
                    buffer.extend_from_slice(data);
                }
                Ok(true)
            }
        }
    }
}

impl Coordinator {
    /// Prepares; connects to nothing.
    pub fn new(settings: &Settings) -> Result<Self, Mistakes> {
        let mistake = |what: &str, error: &dyn std::fmt::Display| Mistakes(vec![format!("{what}: {error}")]);
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| mistake("TLS", &error))?;
        let mut tls = tls.with_root_certificates(settings.roots.clone()).with_no_client_auth();
        // Reconnecting is rare, and the cache would be the largest thing in this process.
        tls.resumption = Resumption::disabled();
        let host =
            HeaderValue::try_from(settings.server_name.to_str().as_ref()).map_err(|error| mistake("KONDUCTOR_SERVER_NAME", &error))?;
        Ok(Self {
            way: Way::Address(settings.address),
            name: settings.server_name.clone(),
            host,
            token_file: settings.token_file.clone(),
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }

    /// Asks for all that the Pod's annotations say. The server speaks until it is granted or refused.
    pub async fn acquire(&self) -> Result<Session, Failure> {
        let (response, connection) = self.post(ACQUIRE, Bytes::new()).await?;
        let lines = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let connection = hyper::upgrade::on(response).await.map_err(|error| unavailable("the connection was lost", &error))?;
            Lines::Plain(TokioIo::new(connection))
        } else {
            Lines::Body(response.into_body())
        };
        Ok(Session { lines, buffer: Vec::new(), _connection: connection })
    }

    /// Whether the Pod holds all that its annotations say.
    pub async fn verify(&self) -> Result<Verified, Failure> {
        let (response, _connection) = self.post("/v1/verify", Bytes::new()).await?;
        read_json(response).await
    }

    /// A hint that the Pod's app has ended. Evidence is for the controller to find.
    pub async fn release(&self) -> Result<(), Failure> {
        let (response, _connection) = self.post("/v1/release", Bytes::new()).await?;
        read_json::<Value>(response).await.map(drop)
    }

    /// What the Pod holds.
    pub async fn held(&self) -> Result<Vec<Token>, Failure> {
        let (response, _connection) = self.post("/v1/held", Bytes::new()).await?;
        read_json::<Held>(response).await.map(|held| held.holds)
    }

    /// Says that the wrapped command does not run under these holds, and never will again.
    pub async fn ended(&self, ended: &Ended) -> Result<(), Failure> {
        let body = serde_json::to_vec(ended).map_err(|error| unavailable("making the request failed", &error))?;
        let (response, _connection) = self.post("/v1/ended", body.into()).await?;
        read_json::<Value>(response).await.map(drop)
    }

    /// Sends, and returns the response if it is 200, or to [`ACQUIRE`] an upgrade.
    async fn post(&self, path: &'static str, body: Bytes) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), Failure> {
        // Read anew every time: the kubelet replaces it before it expires.
        let token = std::fs::read_to_string(&self.token_file).map_err(|error| unavailable("reading the Pod's token failed", &error))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|error| unavailable("the Pod's token is malformed", &error))?;
        bearer.set_sensitive(true);
        let length = body.len();
        let mut request = Request::post(path).body(Full::new(body)).map_err(|error| unavailable("making the request failed", &error))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(CONTENT_LENGTH, length.into());
        if path == ACQUIRE {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(LINES));
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("konductor-agent/", env!("CARGO_PKG_VERSION"))));

        let (mut sender, connection) = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| Failure::Unavailable(format!("connecting took longer than {} s", CONNECT_TIMEOUT.as_secs())))??;
        let response = timeout(SILENCE, sender.send_request(request))
            .await
            .map_err(|_| silence())?
            .map_err(|error| unavailable("the connection was lost", &error))?;
        match response.status() {
            StatusCode::OK => Ok((response, connection)),
            StatusCode::SWITCHING_PROTOCOLS if path == ACQUIRE => Ok((response, connection)),
            status => Err(refusal(status, response).await),
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        match &self.way {
            Way::Address(address) => {
                let tcp = TcpStream::connect(address).await.map_err(|error| unavailable("connecting failed", &error))?;
                // One small request and then only answers: nothing to gather.
                let _ = tcp.set_nodelay(true);
                self.handshake(tcp).await
            }
            #[cfg(test)]
            Way::Memory(server) => {
                let (ours, theirs) = tokio::io::duplex(4096);
                server.send(theirs).map_err(|error| unavailable("connecting failed", &error))?;
                self.handshake(ours).await
            }
        }
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Connection, Failure> {
        let tls = self.tls.connect(self.name.clone(), stream).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(reason)) => Failure::Unavailable(format!(
                    "this Pod does not trust the server's certificate ({reason:?}); if konductor was installed anew since the Pod was made, make the Pod anew"
                )),
                _ => unavailable("the TLS handshake failed", &error),
            }
        })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|error| unavailable("the connection was lost", &error))?;
        // Whatever ends the connection shows in the response, its body, or what it was upgraded to.
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.with_upgrades().await) }));
        Ok((sender, driver))
    }

    /// The same coordinator, reached through memory.
    #[cfg(test)]
    pub(super) fn in_memory(self, server: tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>) -> Self {
        Self { way: Way::Memory(server), ..self }
    }
}

impl Session {
    /// The next line; an error if the session ends or is silent for [`SILENCE`].
    pub async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse(&line);
            }
            if self.buffer.len() > LONGEST_MESSAGE {
                return Err(Failure::Unavailable("the server's answer makes no sense: a line without an end".to_owned()));
            }
            if !timeout(SILENCE, self.lines.read(&mut self.buffer)).await.map_err(|_| silence())?? {
                return Err(Failure::Unavailable("the server ended the session".to_owned()));
            }
        }
    }
}

/// A Pod may wait through an upgrade of the server, so a newer server's words must not break it. Only a grant must be understood exactly.
fn parse(line: &[u8]) -> Result<Event, Failure> {
    let value: Value = serde_json::from_slice(line).map_err(|error| unavailable("the server's answer makes no sense", &error))?;
    if let Ok(progress) = serde_json::from_value(value.clone()) {
        return Ok(Event::Progress(progress));
    }
    match value.get("event").and_then(Value::as_str) {
        Some("refused") => {
            let message =
                value.get("message").and_then(Value::as_str).unwrap_or("refused for a reason that this version does not know").to_owned();
            Ok(Event::Progress(Progress::Refused { reason: Reason::Denied, message }))
        }
        Some("granted") | None => Err(Failure::Unavailable("the server's answer makes no sense to this version".to_owned())),
        Some(_) => Ok(Event::Unknown),
    }
}

async fn refusal(status: StatusCode, response: Response<Incoming>) -> Failure {
    let words = match read_json::<Problem>(response).await {
        Ok(Problem { error }) => error,
        // A proxy or another server stands there.
        Err(_) => format!("the server answered {status}"),
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::NotRecognized(words),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Failure::Denied(words),
        _ => Failure::Unavailable(words),
    }
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Failure> {
    let body = timeout(SILENCE, Limited::new(response.into_body(), LONGEST_MESSAGE).collect()).await.map_err(|_| silence())?;
    let body = body.map_err(|error| unavailable("the connection was lost", &error))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| unavailable("the server's answer makes no sense", &error))
}

fn silence() -> Failure {
    Failure::Unavailable(format!("nothing was heard for {} s", SILENCE.as_secs()))
}

fn unavailable(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Unavailable(format!("{what}: {error}"))
}
