//! What is finished once in a round: Once, Barrier, Gate and WaitGroup.

use super::{Ask, Error, Guard, Options, handle::Handle};
use crate::api::Operation;

/// Executed by one of all who would: one at a time, until one has succeeded.
#[derive(Clone)]
pub struct Once(pub(super) Handle);

impl Once {
    /// Waits for its turn; `None` when somebody has executed it.
    ///
    /// ```no_run
    /// # async fn migrate() -> bool { true }
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// if let Some(execution) = client.once("migrate").execute(Default::default()).await? {
    ///     let succeeded = migrate().await;
    ///     execution.finish(succeeded).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it is neither executed nor to be executed now.
    pub async fn execute(&self, options: Options) -> Result<Option<Execution>, Error> {
        self.0.client.execute(&self.0.acquire(options)).await
    }

    /// Runs this if nobody has; `None` if somebody has. Its success is on record before this returns; its failure gives the turn to the next. It is dropped
    /// when the turn is lost.
    ///
    /// ```no_run
    /// # async fn migrate() -> Result<(), std::io::Error> { Ok(()) }
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// let outcome = client.once("migrate").run(Default::default(), async || migrate().await).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Lost`] beside the reasons of [`execute`](Self::execute). What the work itself failed with is in the outcome.
    pub async fn run<T, E>(&self, options: Options, work: impl AsyncFnOnce() -> Result<T, E>) -> Result<Option<Result<T, E>>, Error> {
        let Some(execution) = self.execute(options).await? else { return Ok(None) };
        let outcome = tokio::select! {
            outcome = work() => outcome,
            why = execution.guard().lost() => return Err(Error::Lost(why)),
        };
        execution.finish(outcome.is_ok()).await?;
        Ok(Some(outcome))
    }

    /// Waits until somebody has executed it.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.once("migrate").wait(Default::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it goes on too early.
    pub async fn wait(&self, options: Options) -> Result<(), Error> {
        self.0.step(Operation::Wait, options).await
    }

    /// Starts a new round: it can be executed again.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.once("migrate").reset().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not done.
    pub async fn reset(&self) -> Result<(), Error> {
        self.0.step(Operation::Reset, Options::default()).await
    }
}

/// The turn to execute a Once. Dropped, it counts as failed, and the turn passes to the next.
#[must_use = "an execution that is dropped has failed"]
pub struct Execution {
    pub(super) guard: Guard,
}

impl Execution {
    /// The hold behind it: its token, and whether it is lost.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Says how it came out, whether or not anybody waits for that, and waits until it is on record. After a success nobody executes it again.
    ///
    /// # Errors
    /// [`Error::Lost`] if the turn was lost: somebody else may have executed it. [`Error::Unavailable`] if it is not on record after a minute; what was said
    /// still counts when konductor is back.
    pub fn finish(self, succeeded: bool) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.guard.finish(succeeded)
    }
}

/// Opens when enough have arrived, and stays open.
#[derive(Clone)]
pub struct Barrier(pub(super) Handle);

impl Barrier {
    /// Arrives: once in a round for each [holder](Client::holder), and each time without one.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.holder("extract-7").barrier("extracted").arrive().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the arrival was not counted.
    pub async fn arrive(&self) -> Result<(), Error> {
        self.0.step(Operation::Arrive, Options::default()).await
    }

    /// Waits until it is open.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.barrier("extracted").wait(Default::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`], also when the Barrier itself has failed, and the other reasons why it goes on too early.
    pub async fn wait(&self, options: Options) -> Result<(), Error> {
        self.0.step(Operation::Wait, options).await
    }

    /// Starts a new round: nobody has arrived.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.barrier("extracted").reset().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not done.
    pub async fn reset(&self) -> Result<(), Error> {
        self.0.step(Operation::Reset, Options::default()).await
    }
}

/// Opens when its conditions are met, or by hand.
#[derive(Clone)]
pub struct Gate(pub(super) Handle);

impl Gate {
    /// Waits until it is open.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use konductor::client::Options;
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.gate("data-ready").wait(Options::default().timeout(Duration::from_secs(3600))).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`], also when the Gate itself has failed, and the other reasons why it goes on too early.
    pub async fn wait(&self, options: Options) -> Result<(), Error> {
        self.0.step(Operation::Wait, options).await
    }

    /// Opens it by hand, whatever its conditions say.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.holder("ann").gate("data-ready").open().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not done.
    pub async fn open(&self) -> Result<(), Error> {
        self.0.step(Operation::Open, Options::default()).await
    }

    /// Closes it by hand, whatever its conditions say.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.holder("ann").gate("data-ready").close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not done.
    pub async fn close(&self) -> Result<(), Error> {
        self.0.step(Operation::Close, Options::default()).await
    }

    /// Starts a new round: its conditions count anew, and nobody's hand.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.gate("data-ready").reset().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not done.
    pub async fn reset(&self) -> Result<(), Error> {
        self.0.step(Operation::Reset, Options::default()).await
    }
}

/// Done when as many are done as were added.
#[derive(Clone)]
pub struct WaitGroup(pub(super) Handle);

impl WaitGroup {
    /// Counts it up.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.waitgroup("workers").add(3).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not counted.
    pub async fn add(&self, delta: i64) -> Result<(), Error> {
        let ask = Ask { delta: Some(delta), ..self.0.ask(Operation::Add, Options::default()) };
        self.0.done(&ask).await
    }

    /// Counts it down by one.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.waitgroup("workers").done().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not counted.
    pub async fn done(&self) -> Result<(), Error> {
        self.0.step(Operation::Done, Options::default()).await
    }

    /// Waits until all are done.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.waitgroup("workers").wait(Default::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] and the other reasons why it goes on too early.
    pub async fn wait(&self, options: Options) -> Result<(), Error> {
        self.0.step(Operation::Wait, options).await
    }

    /// Starts a new round: nothing has been added.
    ///
    /// ```no_run
    /// # async fn example(client: konductor::client::Client) -> Result<(), konductor::client::Error> {
    /// client.waitgroup("workers").reset().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it was not done.
    pub async fn reset(&self) -> Result<(), Error> {
        self.0.step(Operation::Reset, Options::default()).await
    }
}
