//! The custom resources of `konductor.io/v1`: types and their schema, nothing else.
//!
//! One file per kind; [`CommonStatus`] is the part that all share, [`RoundStatus`] that of the kinds that can be finished. `manifests/crds` is generated
//! from these types.

mod barrier;
mod claim;
mod crds;
mod duration;
mod gate;
mod lease;
mod mutex;
pub mod names;
mod once;
mod promises;
mod rounds;
mod rwmutex;
mod schema;
mod semaphore;
mod shared;
mod waitgroup;

pub use barrier::{Barrier, BarrierPhase, BarrierSpec, BarrierStatus};
pub use claim::{Claim, ClaimKind, ClaimPhase, ClaimSpec, ClaimStatus, Operation, denied};
pub use crds::crds;
pub use duration::{Duration, DurationError};
pub use gate::{Gate, GateByHand, GateCondition, GateConditionStatus, GatePhase, GateSpec, GateState, GateStatus, GateType};
pub use lease::{Lease, LeasePhase, LeaseSpec, LeaseStatus};
pub use mutex::{Mutex, MutexPhase, MutexSpec, MutexStatus};
pub use once::{Once, OncePhase, OnceSpec, OnceStatus};
pub use rounds::RoundStatus;
pub use rwmutex::{RWMutex, RWMutexPhase, RWMutexSpec, RWMutexStatus};
pub use semaphore::{Semaphore, SemaphorePhase, SemaphoreSpec, SemaphoreStatus};
pub use shared::{Admitted, AllowedNamespaces, Arrival, CommonStatus, Executor, Holder, HolderKind, MAX_HOLDERS, Mode};
pub use waitgroup::{WaitGroup, WaitGroupPhase, WaitGroupSpec, WaitGroupStatus};
