//! How the agent is linked: each MiB of it costs a boot 2.6 M instructions.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=without_unwinding.ld");
    // The addresses that a position-independent program corrects at its start: 3 KB instead of 80.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Release profiles abort on a panic, so that nothing reads the tables for unwinding: 170 KB.
    if env::var("PROFILE").as_deref() == Ok("release") {
        let directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{directory}/without_unwinding.ld");
    }
}
