//! Who holds what, and when: pure functions. No client, no clock, no async; time comes in as a fact.
//!
//! [`decide`] takes a primitive as one resource version showed it, the requests for it and the evidence about its holders, and says what the
//! next status is. The caller writes that status with the same resource version, in one compare-and-swap: a grant exists when that write has
//! succeeded, and not before. Simulator, property tests and the real controller call the same function.

pub mod evidence;
mod grant;
#[cfg(test)]
mod properties;
mod request;

pub use grant::{Decision, Grant, Primitive, Queued, Refusal, Release, Why, decide};
pub use request::{Evidence, Out, Patience, PodRef, Presence, Refused, Request, Who};
