//! A client of konductor's servers that presents what it likes: the agent would never send somebody else's token, so tests cannot use it.

use std::{net::SocketAddr, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, Service},
};
use kube::Api;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::scene::{SYSTEM, Scene};

/// konductor's Services.
pub const WEBHOOK: &str = "konductor-webhook";
pub const COORDINATOR: &str = "konductor-coordinator";

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// The Secret with konductor's certificates.
pub async fn certificates(scene: &Scene) -> Option<Secret> {
    Api::<Secret>::namespaced(scene.client.clone(), SYSTEM).get_opt("konductor-certs").await.unwrap()
}

fn entry(secret: &Secret, key: &str) -> Vec<u8> {
    secret.data.as_ref().and_then(|data| data.get(key)).map(|ByteString(bytes)| bytes.clone()).unwrap_or_default()
}

/// The certificate that the Secret says is served; empty if it has none.
pub fn leaf(secret: &Secret) -> Vec<u8> {
    CertificateDer::from_pem_slice(&entry(secret, "tls.crt")).map(|leaf| leaf.to_vec()).unwrap_or_default()
}

/// Address and port of one of konductor's Services.
pub async fn address(scene: &Scene, service: &str) -> SocketAddr {
    let service = Api::<Service>::namespaced(scene.client.clone(), SYSTEM).get(service).await.unwrap();
    SocketAddr::new(service.spec.unwrap().cluster_ip.unwrap().parse().unwrap(), 443)
}

/// Connects to one of konductor's Services, trusting the CAs of the Secret. The tests run on the machine of the cluster, which reaches its Services.
pub async fn connect(scene: &Scene, service: &str) -> std::io::Result<TlsStream<TcpStream>> {
    connect_by(scene, service, rustls::DEFAULT_VERSIONS).await
}

/// The same with one of these versions of TLS.
pub async fn connect_by(
    scene: &Scene,
    service: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let secret = certificates(scene).await.ok_or_else(|| std::io::Error::other("there is no Secret now"))?;
    for ca in CertificateDer::pem_slice_iter(&entry(&secret, "ca.crt")) {
        roots.add(ca.unwrap()).unwrap();
    }
    let name = format!("{service}.{SYSTEM}.svc");
    let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address(scene, service).await).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), tcp).await
}

/// The certificate that a Service presents to a new connection.
pub async fn presented(scene: &Scene, service: &str) -> std::io::Result<Vec<u8>> {
    let stream = connect(scene, service).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default())
}

/// Sends a request to the coordinator with this bearer token, or without any, and reads the whole answer.
pub async fn ask(scene: &Scene, path: &str, token: Option<&str>) -> Answer {
    let mut stream = connect(scene, COORDINATOR).await.expect("the coordinator answers");
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("POST {path} HTTP/1.1\r\nHost: konductor\r\n{bearer}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap(); // or some of it may stay here
    let mut text = Vec::new();
    // A server that closes without TLS's goodbye is no concern here: the body is judged by what it says.
    let end = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no HTTP answer, {end:?}: {text}"));
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Answer { status, body }
}
