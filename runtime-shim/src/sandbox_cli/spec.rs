//! `sandbox spec`: writes a `config.json` to start from.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::bundle::default_spec;
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
    default_spec::write(bundle)
}
