//! An agent as the coordinator hears it: HTTPS, the Pod's own token, the same requests. The real one opens a connection for each request; this one keeps one, so that
//! the TLS handshakes of a thousand nodes are not all paid by this machine while it measures.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, bail, ensure};
use http::{
    Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use konductor::{
    agent::settings::Settings,
    coordinator::protocol::{Ended, Progress, Token},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

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

/// A connection of one Pod.
pub struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
    bearer: String,
    _driver: AbortOnDropHandle<()>,
}

impl Line {
    pub async fn open(way: &Way, token: &str) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(way.address).await.context("connecting to the coordinator")?;
        tcp.set_nodelay(true)?;
        let tls = way.tls.connect(way.name.clone(), tcp).await.context("TLS with the coordinator")?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { sender, host: way.name.to_str().into_owned(), bearer: format!("Bearer {token}"), _driver: driver })
    }

    /// Asks for all that the Pod's annotations say.
    pub async fn acquire(&mut self) -> anyhow::Result<Wait> {
        Ok(Wait { body: self.post("/v1/acquire", Bytes::new()).await?.into_body(), buffer: Vec::new() })
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
        self.post(path, body).await?.into_body().collect().await?;
        Ok(())
    }

    async fn post(&mut self, path: &'static str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let request = Request::post(path)
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.bearer)
            .header(CONTENT_LENGTH, body.len())
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let words = response.into_body().collect().await?.to_bytes();
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&words));
        }
        Ok(response)
    }
}

/// An open acquire session.
pub struct Wait {
    body: Incoming,
    buffer: Vec<u8>,
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
                Progress::Granted { tokens } => {
                    // To the end of the answer, so that the connection can be used again.
                    while self.body.frame().await.transpose()?.is_some() {}
                    return Ok(tokens);
                }
                other => bail!("not granted: {other:?}"),
            }
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let frame = self.body.frame().await.context("the coordinator ended the session")??;
        ensure!(self.buffer.len() < 1 << 20, "a line without an end");
        if let Some(data) = frame.data_ref() {
            self.buffer.extend_from_slice(data);
        }
        Ok(())
    }
}
