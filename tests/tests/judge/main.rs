//! The order of judgement, rule by rule and hole by hole, on the host.

mod clients;
mod datagrams;
mod flows;
mod inside;
mod table;
mod world;
