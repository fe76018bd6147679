//! The coordinator: the sessions of waiting Pods, and who may speak for which Pod.

pub mod identity;
pub mod protocol;
pub mod server;
pub mod session;
