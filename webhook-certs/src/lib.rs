//! Certificates of an admission webhook, kept without anybody's help.
//!
//! One CA and one leaf live in one Secret. Every replica serves the leaf; whichever replica sees first that something is due writes the
//! next state with the `resourceVersion` it read, and the others follow. A client that knows the published bundle can always verify what is served:
//!
//! ```text
//!   time ------------------------------------------------------------------------------>
//!   bundle   | A          | A B                         | A B          | B
//!   leaf     | by A       | by A (renewed as usual)     | by B         | by B
//!            CreateAll    PublishNewCa   <- overlap ->  SwitchLeaf     DropOldCa
//! ```
//!
//! In reading order:
//! - [`authority`] makes a CA and a leaf. Pure but for randomness.
//! - [`contents`] reads what the Secret holds, each part on its own, and makes the contents that follow a step.
//! - [`rotation`] decides the next step from facts and the time. Pure.
//! - [`resolver`] hands the leaf to rustls, and swaps it without a restart.
//! - [`configurations`] puts the bundle where the API server reads it.
//! - [`keeper`] does the reading and writing.
//!
//! A Secret that is deleted while a replica runs comes back with its CA and a new leaf: clients could not follow to another CA at once.
//!
//! Everything that the rotation needs to know is in the certificates themselves: there is no annotation that could disagree with them.

pub mod authority;
pub mod configurations;
pub mod contents;
pub mod keeper;
pub mod resolver;
pub mod rotation;
#[cfg(test)]
mod tests;

pub use keeper::{Settings, run};
pub use resolver::Certificates;
pub use rotation::Policy;
