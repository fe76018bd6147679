//! The eight kinds: handles whose methods each make one Claim.

use std::time::Duration;

use super::{Ask, Client, Error, Guard, Options};
use crate::api::{ClaimKind, Mode, Operation};

/// How long a hold in a holder's own name outlives its last renewal if nothing else is said: another run of the program must know it.
const LASTING_TTL: Duration = Duration::from_secs(300);

/// One primitive, and in whose name it is used.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) client: Client,
    pub(super) kind: ClaimKind,
    pub(super) name: String,
}

impl Handle {
    fn ask(&self, operation: Operation, options: Options) -> Ask {
        let holder = self.client.holder.clone();
        Ask { holder, options, ..Ask::new(self.kind, self.name.as_str(), operation) }
    }

    fn acquire(&self, mut options: Options) -> Ask {
        let lasting = self.client.holder.is_some();
        if lasting {
            options.ttl.get_or_insert(LASTING_TTL);
        }
        Ask { lasting, ..self.ask(Operation::Acquire, options) }
    }

    async fn hold(&self, permits: Option<i32>, mode: Option<Mode>, options: Options) -> Result<Guard, Error> {
        self.client.hold(&Ask { permits, mode, ..self.acquire(options) }).await
    }

    /// Does it, and leaves nothing behind.
    async fn done(&self, ask: &Ask) -> Result<(), Error> {
        self.client.ask(ask).await?.end().await
    }

    async fn step(&self, operation: Operation, options: Options) -> Result<(), Error> {
        self.done(&self.ask(operation, options)).await
    }
}

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

    /// Says how it came out; returns when that is on record. After a success nobody executes it again.
    ///
    /// # Errors
    /// [`Error::Lost`] if the turn was lost: somebody else may have executed it.
    pub async fn finish(self, succeeded: bool) -> Result<(), Error> {
        self.guard.finish(succeeded).await
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
