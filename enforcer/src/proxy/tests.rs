//! The proxy on loopback, before a pod that writes down what reaches it.

mod http;
mod other;
mod smuggling;
mod world;
