//! Generates the messages once, and the service for each side.

use std::path::Path;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize};

const PROTO: &str = "proto/agent.proto";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={PROTO}");
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    generate(&Path::new(&out).join("sync"), false)?;
    generate(&Path::new(&out).join("async"), true)
}

fn generate(directory: &Path, async_all: bool) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    Codegen::new()
        .out_dir(directory)
        .input(PROTO)
        .include("proto")
        .rust_protobuf()
        .customize(Customize { async_all, ..Default::default() })
        .run()?;
    for file in ["agent.rs", "agent_ttrpc.rs"] {
        drop_inner_attributes(&directory.join(file))?;
    }
    Ok(())
}

/// `include!` takes no inner attributes or docs; lib.rs puts them on the modules instead.
fn drop_inner_attributes(file: &Path) -> io::Result<()> {
    let generated = fs::read_to_string(file)?;
    let kept: Vec<&str> =
        generated.lines().filter(|line| !line.starts_with("#![") && !line.starts_with("//!")).collect();
    fs::write(file, kept.join("\n"))
}
