//! Serving HTTP over TLS: one loop for the webhook and the coordinator.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long a client may take for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take for its request line and headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long open requests may go on after the end was announced.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes at the same time: more wait in the kernel's queue, so that strangers cannot take all memory.
const HANDSHAKES_AT_ONCE: usize = 512;

/// A configuration that serves what the resolver has, to clients of TLS 1.2 or later.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Serves `router` until `shutdown`; then accepts nothing new and lets open requests finish.
pub async fn serve(listener: TcpListener, config: Arc<ServerConfig>, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(config);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
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
        let Ok(permit) = handshakes.clone().acquire_owned().await else { break };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let tls = timeout(HANDSHAKE_WITHIN, acceptor.accept(nodelay(stream))).await;
            drop(permit);
            let Ok(Ok(tls)) = tls else { return };
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
            let connection = server.serve_connection(TokioIo::new(tls), TowerToHyperService::new(router)).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!(error, "connection ended");
            }
        });
    }
    drop(listener);
    let _ = timeout(DRAIN_WITHIN, graceful.shutdown()).await;
    Ok(())
}

/// Answers are small and somebody waits for each.
fn nodelay(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}
