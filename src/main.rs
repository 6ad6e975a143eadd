//! The binary: see `cli` and `server`.
fn main() {}
