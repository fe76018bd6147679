//! Tests that break what all others rely on: konductor itself, the API server, a node, or flood it. Each has the cluster for itself while it runs, so `make test` runs
//! them one after the other on clusters of their own, beside the one where all others share.

mod certificates;
mod floods;
mod leaders;
pub mod nodes;
mod outages;
mod system;
