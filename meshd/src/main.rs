//! The mesh daemon.
fn main() {}
