//! The judgement of one request or connection by what is left of the policies once source,
//! destination and port are known. The agent's proxy and `policyc eval` call the same functions.
//!
//! Read in the order in which data flows: `normalize` (the target as it is judged and forwarded),
//! `jwt` (tokens to claims), `matcher` (facts and one atom), `rules` (rules as flat code), `index`
//! (which rules can match at all), `engine` (the order of judgement), `answer` (what a refused
//! client is told). Nothing here knows of sockets, clocks or the kernel: time is an input.

pub mod answer;
pub mod engine;
mod index;
pub mod jwt;
mod matcher;
pub mod normalize;
pub mod request;
mod rules;
mod template;

pub use answer::Answer;
pub use engine::{
    AuthorizerSettings, CompileError, CompiledResidual, Engine, Looked, Outcome, Seen, Step,
    Upstream, View,
};
pub use jwt::{KeyRing, KeySet, KeySlot, KeySource};
pub use request::{Connection, HeaderLines, HttpRequest};
