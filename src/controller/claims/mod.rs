//! Claims: how those ask, hold and act by hand who are not annotated Pods or Jobs.
//!
//! `picture` keeps them, `ask` makes facts of them, `look` reads again what must be seen live, `tell` writes their answers once the primitive itself is
//! written; `answer` says which, and `facts` what a Claim is to us. The truth is in the primitive: a Claim that was not told is told by the next turn.
//! Only that its time has passed is written on the Claim first, since a renewal may come at the same moment.

mod answer;
mod ask;
mod facts;
mod look;
mod picture;
mod tell;

pub use ask::{ask, examine, give_up, prove};
pub use facts::ClaimFacts;
pub use look::look;
pub use picture::Renewed;
pub use tell::{expire, expiring, say, tell};

#[cfg(test)]
mod tests;
