//! What the tests, the demo and the benches share: namespaces and the networks built of them, frames,
//! tables and the BPF programs run on them.

pub mod bpf;
pub mod cpu;
pub mod flow_model;
pub mod frame;
pub mod generate;
pub mod http;
pub mod hygiene;
pub mod kube;
pub mod live;
pub mod netns;
pub mod prog_run;
pub mod ready;
pub mod redirector;
pub mod table_builder;
pub mod topology;
pub mod wire;
pub mod world;
