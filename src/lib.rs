//! konductor: coordination for Kubernetes Jobs, CronJobs and Pods, by annotation.
//!
//! ```text
//!    annotated Pod / Job / CronJob
//!          |  kubectl apply
//!    API server --admission--> webhook --> plan, inject           text in, JSON Patch out; pure
//!          |
//!    [konductor-acquire init container: agent] --HTTPS--> coordinator
//!                                                            | sessions
//!    Pods, Jobs, nodes --watch--> controller: the picture -> rules -> ONE compare-and-swap -> grants
//! ```
//!
//! What always holds: a grant exists when the write of a primitive's status, on the resource version it was decided on, has succeeded. A hold ends
//! on evidence only. Tokens only grow.
//!
//! In reading order: [`api`] (the custom resources), [`plan`] (annotations), [`rules`] (who holds what, when), [`inject`] (what is written on
//! Pods), [`client`] (the SDK), then the parts with a network: `controller`, `coordinator`, `webhook`, `agent`, put together by `serve` and
//! run by `process`.

pub mod api;
pub mod client;
pub mod inject;
pub mod plan;
pub mod planted;
pub mod rules;

#[cfg(feature = "server")]
pub mod agent;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod connect;
#[cfg(feature = "server")]
pub mod controller;
#[cfg(feature = "server")]
pub mod coordinator;
#[cfg(feature = "server")]
pub mod crowd;
#[cfg(feature = "server")]
pub mod health;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod pace;
#[cfg(feature = "server")]
pub mod process;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod tls;
#[cfg(feature = "server")]
pub mod uninstall;
#[cfg(feature = "server")]
pub mod webhook;
