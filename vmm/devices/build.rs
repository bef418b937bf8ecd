//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The addresses that a position-independent program corrects at its start, which is each time that it runs: a
    // twentieth of their size, and a third of the work.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
