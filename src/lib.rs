//! konductor: coordination for Kubernetes Jobs, CronJobs and Pods, by annotation.
pub mod api;
#[cfg(feature = "server")]
pub mod controller;
#[cfg(feature = "server")]
pub mod coordinator;
pub mod plan;
pub mod rules;
