//! An agent as the coordinator hears it: HTTPS, the Pod's own token, the same requests, a connection for each. What is measured can have its connection opened
//! before, so that a TLS handshake on this busy machine is not taken for konductor's time.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, bail, ensure};
use http::{
    Request, Response, StatusCode,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, UPGRADE},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use konductor::{
    agent::settings::Settings,
    coordinator::protocol::{Ended, LINES, Progress, Token},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

const ACQUIRE: &str = "/v1/acquire";

/// How to get to the coordinator, as the webhook has written it into a Pod.
#[derive(Clone)]
pub struct Way {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Way {
    pub fn written_in(pod: &Pod) -> anyhow::Result<Self> {
        let spec = pod.spec.as_ref().context("a Pod has a spec")?;
        let steps = spec.init_containers.iter().flatten().find(|container| container.name.starts_with("konductor-"));
        let environment = steps.and_then(|step| step.env.as_ref()).context("the webhook has injected nothing")?;
        let variable = |name: &str| environment.iter().find(|variable| variable.name == name)?.value.clone();
        let Settings { address, server_name, roots, .. } =
            Settings::from_environment(variable).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { address, name: server_name, tls: TlsConnector::from(Arc::new(tls)) })
    }
}

/// A connection, good for one request.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    async fn open(way: &Way) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(way.address).await.context("connecting to the coordinator")?;
        tcp.set_nodelay(true)?;
        let tls = way.tls.connect(way.name.clone(), tcp).await.context("TLS with the coordinator")?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.with_upgrades().await) }));
        Ok(Self { sender, _driver: driver })
    }
}

/// What one Pod says.
pub struct Line {
    way: Way,
    bearer: String,
    ready: Option<Connection>,
}

impl Line {
    pub fn new(way: &Way, token: &str) -> Self {
        Self { way: way.clone(), bearer: format!("Bearer {token}"), ready: None }
    }

    /// Opens the connection of the next request. It is given up if that does not come within some seconds.
    pub async fn prepare(&mut self) -> anyhow::Result<()> {
        self.ready = Some(Connection::open(&self.way).await?);
        Ok(())
    }

    /// Asks for all that the Pod's annotations say.
    pub async fn acquire(&mut self) -> anyhow::Result<Wait> {
        let (response, connection) = self.post(ACQUIRE, Bytes::new()).await?;
        let lines = TokioIo::new(hyper::upgrade::on(response).await?);
        Ok(Wait { lines, buffer: Vec::new(), _connection: connection })
    }

    /// Says that the Pod has ended: a reason to look.
    pub async fn release(&mut self) -> anyhow::Result<()> {
        self.say("/v1/release", Bytes::new()).await
    }

    /// Says that the wrapped command has ended: evidence.
    pub async fn ended(&mut self, holds: Vec<Token>) -> anyhow::Result<()> {
        let body = serde_json::to_vec(&Ended { holds, succeeded: Some(true) })?;
        self.say("/v1/ended", body.into()).await
    }

    async fn say(&mut self, path: &'static str, body: Bytes) -> anyhow::Result<()> {
        let (response, _connection) = self.post(path, body).await?;
        response.into_body().collect().await?;
        Ok(())
    }

    async fn post(&mut self, path: &'static str, body: Bytes) -> anyhow::Result<(Response<Incoming>, Connection)> {
        let mut connection = match self.ready.take() {
            Some(ready) => ready,
            None => Connection::open(&self.way).await?,
        };
        let mut request = Request::post(path)
            .header(HOST, self.way.name.to_str().as_ref())
            .header(AUTHORIZATION, &self.bearer)
            .header(CONTENT_LENGTH, body.len());
        if path == ACQUIRE {
            request = request.header(CONNECTION, "upgrade").header(UPGRADE, LINES);
        }
        let response = connection.sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        if status != if path == ACQUIRE { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK } {
            let words = response.into_body().collect().await?.to_bytes();
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&words));
        }
        Ok((response, connection))
    }
}

/// An open acquire session.
pub struct Wait {
    lines: TokioIo<Upgraded>,
    buffer: Vec<u8>,
    _connection: Connection,
}

impl Wait {
    /// Until the coordinator has said something: that it waits, or more.
    pub async fn told(&mut self) -> anyhow::Result<()> {
        while !self.buffer.contains(&b'\n') {
            self.more().await?;
        }
        Ok(())
    }

    /// Until the Pod holds all that it asked for, or may go on.
    pub async fn granted(mut self) -> anyhow::Result<Vec<Token>> {
        loop {
            self.told().await?;
            let end = self.buffer.iter().position(|byte| *byte == b'\n').unwrap_or_default();
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                Progress::Waiting { .. } | Progress::Heartbeat => {}
                Progress::Granted { tokens } => return Ok(tokens),
                other => bail!("not granted: {other:?}"),
            }
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(self.lines.read_buf(&mut self.buffer).await? > 0, "the coordinator ended the session");
        ensure!(self.buffer.len() < 1 << 20, "a line without an end");
        Ok(())
    }
}
