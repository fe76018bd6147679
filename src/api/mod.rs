//! The custom resources of `konductor.io/v1`: types and their schema, nothing else.
//!
//! One file per kind; [`CommonStatus`] is the part that all share. `manifests/crds` is generated from these types.

mod crds;
mod duration;
mod gate;
mod mutex;
pub mod names;
mod schema;
mod semaphore;
mod shared;

pub use crds::crds;
pub use duration::{Duration, DurationError};
pub use gate::{GateState, GateType};
pub use mutex::{Mutex, MutexPhase, MutexSpec, MutexStatus};
pub use semaphore::{Semaphore, SemaphorePhase, SemaphoreSpec, SemaphoreStatus};
pub use shared::{Admitted, AllowedNamespaces, CommonStatus, Holder, HolderKind, MAX_HOLDERS, Mode};
