//! The embedded VMM's process.

fn main() {}
