//! The policy compiler.
fn main() {}
