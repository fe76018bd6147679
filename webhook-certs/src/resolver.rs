//! The leaf in rustls's hands: swapped while connections are open, seen by the next handshake.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;

use crate::contents::Contents;

/// What the keeper keeps and servers use. Clones share one state.
#[derive(Clone)]
pub struct Certificates {
    served: Arc<Served>,
    bundle: watch::Sender<Arc<str>>,
    ready: watch::Sender<bool>,
    expires: watch::Sender<Option<Timestamp>>,
}

impl Certificates {
    /// Nothing to serve yet.
    pub fn new() -> Self {
        Self {
            served: Arc::new(Served(ArcSwapOption::empty())),
            bundle: watch::Sender::new(Arc::from("")),
            ready: watch::Sender::new(false),
            expires: watch::Sender::new(None),
        }
    }

    /// For `rustls::ServerConfig`: answers every name with the current leaf.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.served) as Arc<dyn ResolvesServerCert>
    }

    /// The PEM bundle that clients are to trust; empty until it is known.
    pub fn ca_bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// True once a leaf is served and every webhook configuration that exists carries its bundle. It stays true: a configuration
    /// that cannot be written later does not make this replica's leaf worse.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns when [`Certificates::is_ready`].
    pub async fn ready(&self) {
        // An error means that the sender is gone, which `self` holds.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// When the served leaf ends, for a metric.
    pub fn expires(&self) -> Option<Timestamp> {
        *self.expires.borrow()
    }

    /// Serves what `contents` has. A broken leaf changes nothing: the last good one is served on.
    pub(crate) fn adopt(&self, contents: &Contents) {
        let Ok(leaf) = &contents.leaf else { return };
        self.served.0.store(Some(Arc::clone(&leaf.certified)));
        self.expires.send_replace(Some(leaf.validity.not_after));
        let bundle: Arc<str> = contents.bundle_pem().into();
        self.bundle.send_if_modified(|known| {
            let changed = *known != bundle;
            if changed {
                *known = bundle;
            }
            changed
        });
    }

    pub(crate) fn set_ready(&self) {
        if self.served.0.load().is_some() {
            self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

struct Served(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.write_str("Served")
    }
}
