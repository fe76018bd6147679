//! The admission webhook: HTTPS around [`crate::inject`].
//!
//! ```text
//! POST /v1/mutate     Pods, Jobs, CronJobs      AdmissionReview in, AdmissionReview with a JSON Patch out
//! POST /v1/validate   templates of workloads    AdmissionReview in, AdmissionReview with warnings or a refusal out
//! ```
//!
//! [`review`] is the whole of it as pure functions; [`server`] is the HTTP around them.

pub mod review;
pub mod server;

pub use server::{SettingsReceiver, router};
