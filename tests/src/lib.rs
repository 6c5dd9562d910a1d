//! What the tests, the demo and the benches share: namespaces and the networks built of them.

pub mod generate;
pub mod http;
pub mod live;
pub mod netns;
pub mod ready;
pub mod topology;
