//! Serving HTTP, mostly over TLS: one loop for all ports, how many strangers it has room for, and how it leaves without a lost request.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Request, StatusCode, header},
    middleware::map_response,
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::debug;

use crate::crowd::{Crowd, Place};

/// How long a client may take for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A peer that has acknowledged nothing for this long is gone. A waiting agent itself gives a silent connection up after as long.
const PEER_GONE_AFTER: Duration = Duration::from_secs(15);
/// How long requests are still taken after the end was announced: until every kube-proxy has heard that this Pod leaves, and clients have been told to
/// use no connection again.
const LEAVE_AFTER: Duration = Duration::from_secs(8);
/// How long the last requests may go on after that.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a request. A token has some kilobytes.
const LARGEST_HEAD: usize = 32 * 1024;

/// What a port takes from strangers. Each connection costs some tens of kilobytes at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections of those who have not shown who they are.
    pub strangers: usize,
    /// How long a client may take for the head of a request, and be silent before it.
    pub silent_for: Duration,
}

impl Limits {
    /// API servers keep idle connections for 90 s: they must be the ones that close them, or a request that is on its way to a connection that closes
    /// fails.
    pub const WEBHOOK: Self = Self { strangers: 1024, silent_for: Duration::from_secs(120) };
    /// An agent asks at once, and once on each connection. All of them may come at the same time, after a change of leader.
    pub const COORDINATOR: Self = Self { strangers: 2048, silent_for: Duration::from_secs(10) };
    /// The kubelet and whoever collects metrics.
    pub const HEALTH: Self = Self { strangers: 64, silent_for: Duration::from_secs(10) };
}

/// Whose request it is: stands in its extensions. Who has shown who it is leaves, and is not pushed out any more.
pub type Guest = Arc<Place>;

/// A configuration that serves what the resolver has, to clients of TLS 1.2 or later. HTTP/1.1 only: API servers speak nothing else to webhooks, nor do
/// agents.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Agents resume no connection, and API servers keep theirs: nobody would use a ticket.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// Serves `router` until some seconds after `leaving`; then accepts nothing new and lets open requests finish. Upgraded connections are not waited for: whoever
/// speaks on them ends them. Without a configuration of TLS, without TLS.
pub async fn serve(
    listener: TcpListener,
    config: Option<Arc<ServerConfig>>,
    limits: Limits,
    router: Router,
    leaving: CancellationToken,
) -> io::Result<()> {
    let acceptor = config.map(TlsAcceptor::from);
    let (open, last_request) = (TaskTracker::new(), CancellationToken::new());
    let strangers = Crowd::new(limits.strangers);
    let router = router.layer(map_response({
        let leaving = leaving.clone();
        move |response| {
            let last = leaving.is_cancelled();
            async move { if last { and_no_more(response) } else { response } }
        }
    }));
    let mut left = pin!(async {
        leaving.cancelled().await;
        sleep(LEAVE_AFTER).await;
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut left => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: wait until some are back.
                debug!(%error, "could not accept a connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let guest: Guest = Arc::new(strangers.enter(address.ip()));
        let (acceptor, router, last_request) = (acceptor.clone(), router.clone(), last_request.clone());
        open.spawn(async move {
            let place = guest.clone();
            let served = async {
                let stream = tuned(stream);
                let stream = match acceptor {
                    None => Either::Right(stream),
                    Some(acceptor) => match timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                        Ok(Ok(tls)) => Either::Left(tls),
                        _ => return,
                    },
                };
                let router = router.map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(guest.clone());
                    request
                });
                let connection = http(limits).serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades();
                let mut connection = pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = last_request.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
            };
            tokio::select! {
                () = served => {}
                () = place.pushed_out() => debug!(peer = %place.peer(), "connection ended: others need its place"),
            }
        });
    }
    drop(listener);
    last_request.cancel();
    open.close();
    let _ = timeout(DRAIN_WITHIN, open.wait()).await;
    Ok(())
}

/// HTTP as it is spoken on a port of these limits.
pub fn http(limits: Limits) -> http1::Builder {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.silent_for).max_buf_size(LARGEST_HEAD);
    server
}

/// Makes this response the last one of its connection, which an upgrade is in any case.
pub fn and_no_more(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers are small and somebody waits for each; and a session whose Pod has lost its network must end.
fn tuned(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(&stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_GONE_AFTER).with_interval(Duration::from_secs(5)));
    let _ = socket.set_tcp_user_timeout(Some(PEER_GONE_AFTER));
    stream
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{
        body::Body,
        response::IntoResponse,
        routing::{get, post},
    };
    use jiff::Timestamp;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        sign::SingleCertAndKey,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
        task::JoinHandle,
    };
    use tokio_rustls::{TlsConnector, client::TlsStream};
    use webhook_certs::{
        Policy,
        contents::{Contents, Data},
        rotation::Step,
    };

    use super::*;

    const NAME: &str = "konductor-webhook.konductor-system.svc";

    struct Client(TlsStream<TcpStream>);

    impl Client {
        /// A request as API servers send it: on a connection that is kept, and without trying again.
        async fn ask(&mut self) -> io::Result<String> {
            self.0.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"answer") {
                if self.0.read_buf(&mut answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(String::from_utf8_lossy(&answer).into_owned())
        }
    }

    async fn serving(limits: Limits) -> (JoinHandle<io::Result<()>>, CancellationToken, SocketAddr, impl AsyncFn() -> Client) {
        let nothing = Data::new();
        let made =
            Contents::read(&nothing).advance(&nothing, Step::CreateAll, "test", &[NAME.to_owned()], Timestamp::now(), &Policy::default());
        let contents = Contents::read(&made.unwrap());
        let leaf = contents.leaf.as_ref().map(|leaf| (*leaf.certified).clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leaving = CancellationToken::new();
        let _ = ring::default_provider().install_default();
        let config = server_config(Arc::new(SingleCertAndKey::from(leaf)));
        let router = Router::new().route("/", get(async || "answer"));
        let server = tokio::spawn(serve(listener, Some(config), limits, router, leaving.clone()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(contents.bundle_pem().as_bytes()).unwrap()).unwrap();
        let connector = TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()));
        let connect = async move || {
            let stream = TcpStream::connect(address).await.unwrap();
            Client(connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap())
        };
        (server, leaving, address, connect)
    }

    /// Comes from this address of the loopback network, says this and nothing more.
    async fn slow_client(from: &str, to: SocketAddr, says: &[u8]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        stream.write_all(says).await.unwrap();
        stream
    }

    /// Whether the server has ended it, waiting until it does if it must.
    async fn is_ended(client: &mut TcpStream, must: bool) -> bool {
        let end = async { matches!(client.read(&mut [0; 64]).await, Ok(0) | Err(_)) };
        if must { end.await } else { futures::FutureExt::now_or_never(end).unwrap_or(false) }
    }

    #[tokio::test]
    async fn those_who_flood_push_out_each_other() {
        let (server, leaving, address, connect) = serving(Limits { strangers: 4, silent_for: Duration::from_secs(60) }).await;
        let mut good = connect().await;
        good.ask().await.unwrap();
        let mut flood = Vec::new();
        for _ in 0..20 {
            flood.push(slow_client("127.0.0.2", address, b"").await);
        }
        let (out, rest) = flood.split_at_mut(17);
        for client in out {
            assert!(is_ended(client, true).await);
        }
        for client in rest {
            assert!(!is_ended(client, false).await, "there is room for them beside the good one");
        }
        assert!(!good.ask().await.unwrap().contains("connection: close"));
        assert!(connect().await.ask().await.is_ok(), "there is always room for one more who is alone");
        leaving.cancel();
        drop((flood, good));
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_to_an_end_is_not_waited_for() {
        let limits = Limits { strangers: 10, silent_for: Duration::from_millis(50) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leaving = CancellationToken::new();
        let server = tokio::spawn(serve(listener, None, limits, Router::new(), leaving.clone()));
        for says in [&b""[..], b"GET / HTTP/1.1\r\nhost: te", b"GET / HTTP/1.1\r\nx: "] {
            let mut client = slow_client("127.0.0.1", address, says).await;
            let mut said = Vec::new();
            let _ = client.read_to_end(&mut said).await;
            assert!(!String::from_utf8_lossy(&said).contains("200"), "{said:?}");
        }
        let mut endless = slow_client("127.0.0.1", address, b"GET / HTTP/1.1\r\n").await;
        let line = [b"x: ".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
        let mut sent = 0;
        while sent < 100 * LARGEST_HEAD && endless.write_all(&line).await.is_ok() {
            sent += line.len();
        }
        assert!(sent < 100 * LARGEST_HEAD, "it takes heads of any size");
        leaving.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_server_that_leaves_neither_waits_for_an_upgraded_connection_nor_ends_it() {
        let speak = async |mut request: Request<Body>| {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut connection = TokioIo::new(upgrade.await.unwrap());
                connection.write_all(b"line\n").await.unwrap();
                let _ = connection.read_u8().await;
            });
            and_no_more((StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "lines")]).into_response())
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leaving = CancellationToken::new();
        let server = tokio::spawn(serve(listener, None, Limits::COORDINATOR, Router::new().route("/", post(speak)), leaving.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"POST / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: lines\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"line\n") {
            assert!(client.read_buf(&mut said).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
        }
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.starts_with("HTTP/1.1 101 ") && said.contains("connection: upgrade\r\n") && !said.contains("content-length"),
            "{said}"
        );
        leaving.cancel();
        server.await.unwrap().unwrap();
        assert!(!is_ended(&mut client, false).await, "whoever speaks on it should have ended it");
    }

    #[tokio::test]
    async fn a_server_that_leaves_answers_whoever_comes_and_asks_them_to_come_on_new_connections() {
        let (server, leaving, _, connect) = serving(Limits::WEBHOOK).await;
        let (mut early, mut silent) = (connect().await, connect().await);
        assert!(!early.ask().await.unwrap().contains("connection: close"));
        leaving.cancel();
        assert!(early.ask().await.unwrap().contains("connection: close"));
        assert!(early.ask().await.is_err(), "it said that it would close");
        assert!(silent.ask().await.unwrap().contains("connection: close"), "the connection was open and had said nothing yet");
        assert!(connect().await.ask().await.unwrap().contains("connection: close"), "somebody has not heard yet that this server leaves");
        server.await.unwrap().unwrap();
    }
}
