//! konductor: coordination for Kubernetes Jobs, CronJobs and Pods, by annotation.
pub mod api;
pub mod rules;
#[cfg(feature = "server")]
pub mod coordinator;
