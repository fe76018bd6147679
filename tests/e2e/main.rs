//! What users do, on a real cluster: `make test` starts one, installs konductor and runs these. Each test has a namespace of its own and says what
//! it saw when it fails.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

mod admission;
mod alone;
mod app;
mod by_koncli;
mod claims;
mod docs;
mod ends;
mod examples;
mod hostile;
mod https;
mod identity;
mod interrupted;
mod jobs;
mod koncli;
mod limits;
mod order;
mod primitives;
mod scene;
mod schema;
mod showing;
mod strategies;
mod wrap;
