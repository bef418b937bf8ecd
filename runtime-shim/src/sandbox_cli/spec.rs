//! `sandbox spec`: writes a `config.json` to start from.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::bundle::default_spec;
use crate::bundle::load::CONFIG_FILE;
use crate::failure::Failure;

/// Write a default config.json
///
/// Writes the configuration that `runc spec` would write: a shell in ./rootfs, read-only, with a terminal.
/// An existing config.json is never overwritten.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mkdir -p bundle/rootfs
  sandbox spec bundle                then edit bundle/config.json, e.g. process.args")]
pub(super) struct Arguments {
    /// The bundle's folder [default: the current one]
    #[arg(value_name = "BUNDLE")]
    directory: Option<PathBuf>,
    /// The same, as runc has it
    #[arg(short, long, value_name = "DIR", conflicts_with = "directory")]
    bundle: Option<PathBuf>,
}

pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let bundle = arguments.directory.as_deref().or(arguments.bundle.as_deref()).unwrap_or(Path::new("."));
    let path = bundle.join(CONFIG_FILE);
    let mut file = File::create_new(&path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!("{} exists; remove it first", path.display()),
        _ => anyhow::Error::new(error).context(format!("cannot make {}", path.display())),
    })?;
    file.write_all(default_spec::TEXT.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
