//! Serving HTTP over TLS: one loop for the webhook and the coordinator, and how it leaves without a lost request.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware::map_response,
    response::Response,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long a client may take for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may be silent between two requests. API servers keep idle connections for 90 s: they must be the ones that close them, or a
/// request that is on its way to a connection that closes fails.
const SILENT_FOR: Duration = Duration::from_secs(120);
/// A peer that has acknowledged nothing for this long is gone. A waiting agent itself gives a silent connection up after as long.
const PEER_GONE_AFTER: Duration = Duration::from_secs(15);
/// How long requests are still taken after the end was announced: until every kube-proxy has heard that this Pod leaves, and clients have been told to
/// use no connection again.
const LEAVE_AFTER: Duration = Duration::from_secs(8);
/// How long the last requests may go on after that.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// A configuration that serves what the resolver has, to clients of TLS 1.2 or later. HTTP/1.1 only: API servers speak nothing else to webhooks, nor do
/// agents.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Serves `router` until some seconds after `leaving`; then accepts nothing new and lets open requests finish.
pub async fn serve(listener: TcpListener, config: Arc<ServerConfig>, router: Router, leaving: CancellationToken) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(config);
    let graceful = GracefulShutdown::new();
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
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait until some are back.
                debug!(%error, "could not accept a connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let Ok(Ok(tls)) = timeout(HANDSHAKE_WITHIN, acceptor.accept(tuned(stream))).await else { return };
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(SILENT_FOR);
            let connection = server.serve_connection(TokioIo::new(tls), TowerToHyperService::new(router));
            if let Err(error) = watcher.watch(connection).await {
                debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    let _ = timeout(DRAIN_WITHIN, graceful.shutdown()).await;
    Ok(())
}

/// Makes this response the last one of its connection.
fn and_no_more(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
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
    use axum::routing::get;
    use jiff::Timestamp;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        sign::SingleCertAndKey,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
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

    async fn serving() -> (JoinHandle<io::Result<()>>, CancellationToken, impl AsyncFn() -> Client) {
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
        let server = tokio::spawn(serve(listener, config, router, leaving.clone()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(contents.bundle_pem().as_bytes()).unwrap()).unwrap();
        let connector = TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()));
        let connect = async move || {
            let stream = TcpStream::connect(address).await.unwrap();
            Client(connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap())
        };
        (server, leaving, connect)
    }

    #[tokio::test]
    async fn a_server_that_leaves_answers_whoever_comes_and_asks_them_to_come_on_new_connections() {
        let (server, leaving, connect) = serving().await;
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
