//! What the handles of all kinds do: each makes one Claim.

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
    pub(super) fn ask(&self, operation: Operation, options: Options) -> Ask {
        let holder = self.client.holder.clone();
        Ask { holder, options, ..Ask::new(self.kind, self.name.as_str(), operation) }
    }

    pub(super) fn acquire(&self, mut options: Options) -> Ask {
        let lasting = self.client.holder.is_some();
        if lasting {
            options.ttl.get_or_insert(LASTING_TTL);
        }
        Ask { lasting, ..self.ask(Operation::Acquire, options) }
    }

    pub(super) async fn hold(&self, permits: Option<i32>, mode: Option<Mode>, options: Options) -> Result<Guard, Error> {
        self.client.hold(&Ask { permits, mode, ..self.acquire(options) }).await
    }

    /// Does it, and leaves nothing behind.
    pub(super) async fn done(&self, ask: &Ask) -> Result<(), Error> {
        self.client.ask(ask).await?.end().await
    }

    pub(super) async fn step(&self, operation: Operation, options: Options) -> Result<(), Error> {
        self.done(&self.ask(operation, options)).await
    }
}
