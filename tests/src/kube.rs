//! The agent's cluster, in two forms: a real API server with its etcd, and a double that shows what
//! that server cannot.

pub mod cluster;
pub mod config;
pub mod double;
pub mod programs;
pub mod relay;
