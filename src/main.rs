//! The server and the agent: `konductor serve`, `konductor agent`.
fn main() {}
