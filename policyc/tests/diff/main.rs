//! `policyc diff` and `compare`: what is told of small changes, and that nothing is missed and
//! nothing invented, tried on random ones against the oracle.

mod ambient;
mod cases;
mod command;
mod profiles;
mod properties;
#[path = "../properties/requests.rs"]
#[expect(dead_code, reason = "what other properties ask is not asked here")]
mod requests;
#[path = "../properties/world.rs"]
#[expect(dead_code, reason = "what other properties ask is not asked here")]
mod world;
