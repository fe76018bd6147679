//! What is held: Mutex, RWMutex, Semaphore and Lease.

use std::time::Duration;

use super::{Error, Guard, Options, handle::Handle};
use crate::api::Mode;

/// What was not to be had at once.
fn unless_busy(outcome: Result<Guard, Error>) -> Result<Option<Guard>, Error> {
    match outcome {
        Err(Error::Timeout(_)) => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn at_once() -> Options {
    Options::default().timeout(Duration::ZERO)
}

/// One holder at a time.
#[derive(Clone)]
pub struct Mutex(pub(super) Handle);

impl Mutex {
    /// Waits until it is this one's turn, and holds.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let guard = client.mutex("db").lock(Default::default()).await?;
    /// println!("fencing token {}", guard.token());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it is not held.
    pub async fn lock(&self, options: Options) -> Result<Guard, Error> {
        self.0.hold(None, None, options).await
    }

    /// Holds if nobody does now.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let Some(guard) = client.mutex("report").try_lock().await? else { return Ok(()) };
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`lock`](Self::lock), but that it is held by somebody is none.
    pub async fn try_lock(&self) -> Result<Option<Guard>, Error> {
        unless_busy(self.lock(at_once()).await)
    }
}

/// Many readers, or one writer. A writer that waits stops new readers.
#[derive(Clone)]
pub struct RwMutex(pub(super) Handle);

impl RwMutex {
    /// Waits until it may be read.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let reading = client.rwmutex("cache").read(Default::default()).await?;
    /// reading.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it is not held.
    pub async fn read(&self, options: Options) -> Result<Guard, Error> {
        self.0.hold(None, Some(Mode::Read), options).await
    }

    /// Waits until it may be written. Who reads it must release that first.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let writing = client.rwmutex("cache").write(Default::default()).await?;
    /// writing.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it is not held.
    pub async fn write(&self, options: Options) -> Result<Guard, Error> {
        self.0.hold(None, Some(Mode::Write), options).await
    }
}

/// So many permits at a time.
#[derive(Clone)]
pub struct Semaphore(pub(super) Handle);

impl Semaphore {
    /// Waits for this many permits, and takes them together.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let two = client.semaphore("api-limit").acquire(2, Default::default()).await?;
    /// two.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why they are not held.
    pub async fn acquire(&self, permits: i32, options: Options) -> Result<Guard, Error> {
        self.0.hold(Some(permits), None, options).await
    }

    /// Takes them if they are free now, and nobody waits for them.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// if let Some(one) = client.semaphore("api-limit").try_acquire(1).await? {
    ///     one.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`acquire`](Self::acquire), but that they are not free is none.
    pub async fn try_acquire(&self, permits: i32) -> Result<Option<Guard>, Error> {
        unless_busy(self.acquire(permits, at_once()).await)
    }
}

/// One holder at a time, the highest priority first.
#[derive(Clone)]
pub struct Lease(pub(super) Handle);

impl Lease {
    /// Waits until it is this one's turn, and holds.
    ///
    /// ```no_run
    /// # use konductor::client::Options;
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let leading = client.lease("leader").acquire(Options::default().priority(5)).await?;
    /// leading.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it is not held.
    pub async fn acquire(&self, options: Options) -> Result<Guard, Error> {
        self.0.hold(None, None, options).await
    }

    /// Holds if nobody does now.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let leading = client.lease("leader").try_acquire().await?.is_some();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`acquire`](Self::acquire), but that it is held by somebody is none.
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        unless_busy(self.acquire(at_once()).await)
    }
}
