//! The device process of a sandbox.

fn main() {}
