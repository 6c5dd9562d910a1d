//! The proxy on loopback, before a pod that writes down what reaches it.

mod authorizer;
mod change;
mod http;
mod judged;
mod other;
mod silence;
mod smuggling;
mod taking;
mod world;
