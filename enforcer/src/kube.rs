//! The cluster as its API server tells it, while the agent runs.
//!
//! Read in the order in which data flows: [`connect`] (who is asked), [`kind`] (for what), [`follow`]
//! (one kind: listed, then watched, again and again), [`wire`] (what the server sends), [`pods`] and
//! [`rest`] (what it comes to), [`policies`] (the program that policies compile to), [`source`] (all
//! of it together, towards the agent). [`health`] is how well each kind is known.
//!
//! What an object means is read by policyc's own code for manifests: there is one reader. Nothing of
//! an object is kept but what it comes to: a node hears of every pod of its cluster.

pub mod connect;
pub mod follow;
pub mod health;
pub mod kind;
pub mod pods;
pub mod policies;
pub mod rest;
pub mod source;
#[cfg(test)]
mod tests;
pub mod wire;

pub use health::{ClusterStatus, Health, KindStatus};
pub use kind::{Kind, MeshPlace};
pub use source::{First, Source};
