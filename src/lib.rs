//! konductor: coordination for Kubernetes Jobs, CronJobs and Pods, by annotation.
pub mod api;
