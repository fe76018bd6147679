//! The Rust SDK: what annotations do for Pods, for programs. Everything goes through [Claims](crate::api::Claim), so a program needs no rights but those on
//! Claims in its own namespace, and no address but the API server's.
//!
//! ```no_run
//! use konductor::client::{Client, Options};
//!
//! # async fn migrate(token: i64) {}
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(kube::Client::try_default().await?, "shop");
//! client.gate("data-ready").wait(Options::default()).await?;
//! let guard = client.mutex("db-migrate").lock(Options::default()).await?;
//! tokio::select! {
//!     () = migrate(guard.token()) => guard.release().await?,
//!     why = guard.lost() => eprintln!("stopped: {why}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Waiting is a watch on one Claim; nothing polls. A future that is dropped while it waits withdraws its Claim; a [`Guard`] that is dropped releases.

mod ask;
mod claimed;
mod error;
mod guard;
mod handle;
mod holds;
mod name;
mod request;
mod rounds;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kube::{Api, Config};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::task::TaskTracker;

use crate::api::{Claim, ClaimKind};

#[cfg(feature = "server")]
pub(crate) use ask::word;
pub use ask::{Ask, Options};
pub use claimed::Claimed;
pub use error::Error;
pub use guard::Guard;
pub use holds::{Lease, Mutex, RwMutex, Semaphore};
use name::Names;
pub use rounds::{Barrier, Execution, Gate, Once, WaitGroup};

/// Uses the primitives of one namespace. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    holder: Option<String>,
}

pub(crate) struct Inner {
    claims: Api<Claim>,
    names: Names,
    /// What is done to its end: Claims that are being made, released or withdrawn.
    endings: TaskTracker,
}

impl Client {
    /// Uses the primitives of this namespace.
    ///
    /// kube's client repeats by itself what the API server was too busy for. That is safe here, but [`connect`](Self::connect) makes one that leaves repeating
    /// to this module, which knows for how long it makes sense.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        let endings = TaskTracker::new();
        // What is begun later is waited for all the same, by those who ask then.
        endings.close();
        Self { inner: Arc::new(Inner { claims: Api::namespaced(client, namespace), names: Names::default(), endings }), holder: None }
    }

    /// Connects as the environment says: inside a cluster as the Pod's service account, in its namespace; outside by kubeconfig, in its context's namespace.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), konductor::client::Error> {
    /// let client = konductor::client::Client::connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is neither.
    pub async fn connect() -> Result<Self, Error> {
        let mut config =
            Config::infer().await.map_err(|error| Error::Unavailable(format!("there is no cluster to connect to: {error}")))?;
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config).map_err(|error| Error::of(&error, "connecting"))?;
        Ok(Self::new(client, &namespace))
    }

    /// The same in the name of this holder, which must be nobody else's at the time: the name of a Pod of a StatefulSet, say. A program that is started again
    /// under its name gets back what it held ([`Guard::resumed`]), and arrives at a Barrier once. Without a name every call is a holder of its own.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let guard = client.holder("worker-0").mutex("db").lock(Default::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn holder(mut self, name: impl Into<String>) -> Self {
        self.holder = Some(name.into());
        self
    }

    /// One holder at a time.
    pub fn mutex(&self, name: &str) -> Mutex {
        Mutex(self.handle(ClaimKind::Mutex, name))
    }

    /// Many readers, or one writer.
    pub fn rwmutex(&self, name: &str) -> RwMutex {
        RwMutex(self.handle(ClaimKind::RWMutex, name))
    }

    /// So many permits at a time.
    pub fn semaphore(&self, name: &str) -> Semaphore {
        Semaphore(self.handle(ClaimKind::Semaphore, name))
    }

    /// One holder at a time, by priority.
    pub fn lease(&self, name: &str) -> Lease {
        Lease(self.handle(ClaimKind::Lease, name))
    }

    /// Executed by one of all who would.
    pub fn once(&self, name: &str) -> Once {
        Once(self.handle(ClaimKind::Once, name))
    }

    /// Opens when enough have arrived.
    pub fn barrier(&self, name: &str) -> Barrier {
        Barrier(self.handle(ClaimKind::Barrier, name))
    }

    /// Opens when its conditions are met, or by hand.
    pub fn gate(&self, name: &str) -> Gate {
        Gate(self.handle(ClaimKind::Gate, name))
    }

    /// Done when all of its members are.
    pub fn waitgroup(&self, name: &str) -> WaitGroup {
        WaitGroup(self.handle(ClaimKind::WaitGroup, name))
    }

    /// Asks, and waits until it is granted; dropped while it waits, it is withdrawn. The Claim that comes of it is neither renewed nor ended by anybody
    /// but the caller.
    ///
    /// # Errors
    /// Why it was not granted; nothing is left of it then, but for what the same [holder](Self::holder) held before.
    pub async fn ask(&self, ask: &Ask) -> Result<Claimed, Error> {
        let mut claimed = Claimed::begin(&self.inner, ask).await?;
        match claimed.granted(&ask.options).await {
            Ok(()) => Ok(claimed),
            Err(error) => {
                claimed.withdrawn().await;
                Err(error)
            }
        }
    }

    /// The same for what is held: it is renewed, and released when dropped.
    ///
    /// # Errors
    /// Why it is not held; nothing is left of it then, but for what the same [holder](Self::holder) held before.
    pub async fn hold(&self, ask: &Ask) -> Result<Guard, Error> {
        Guard::keep(self.ask(ask).await?).await
    }

    /// The same for a Once; `None` if somebody has executed it.
    ///
    /// # Errors
    /// Why it is neither executed nor to be executed now.
    pub async fn execute(&self, ask: &Ask) -> Result<Option<Execution>, Error> {
        match self.hold(ask).await {
            Ok(guard) => Ok(Some(Execution { guard })),
            Err(Error::Executed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The Claim that this holder made before, if it is still there. Dropping it changes nothing.
    ///
    /// # Errors
    /// If the API server does not say.
    pub async fn find(&self, ask: &Ask) -> Result<Option<Claimed>, Error> {
        Claimed::existing(&self.inner, ask).await
    }

    /// Waits until what was dropped is withdrawn or released, and what was begun to be released or reported is; to be called before the program ends.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// drop(client.mutex("db").lock(Default::default()).await?);
    /// client.settled().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn settled(&self) {
        // Whoever waits may be told late of a moment at which nothing was left, and something has begun since.
        while !self.inner.endings.is_empty() {
            self.inner.endings.wait().await;
        }
    }

    fn handle(&self, kind: ClaimKind, name: &str) -> handle::Handle {
        handle::Handle { client: self.clone(), kind, name: name.to_owned() }
    }
}

impl Inner {
    /// Does this to its end, even if nobody waits for it any more. What nobody takes is dropped, and so withdrawn, before [`Client::settled`] returns: a task
    /// would drop it only after it has ended.
    fn to_its_end<T, W>(&self, runtime: &Handle, work: W) -> impl Future<Output = Result<T, Error>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        self.endings.spawn_on(async move { drop(done.send(work.await)) }, runtime);
        async { outcome.await.unwrap_or_else(|_| Err(Error::Unavailable("the runtime is ending".to_owned()))) }
    }
}

/// The page about it: its program is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
mod page {}
