//! `spec`: writes a `config.json` to start from.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::flags::Global;
use crate::bundle::default_spec;
use crate::failure::Failure;

/// Write a default config.json
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Not supported: a sandbox needs root
    #[arg(long)]
    rootless: bool,
}

pub(super) fn main(arguments: &Arguments, _global: &Global) -> Result<u8, Failure> {
    if arguments.rootless {
        return Err(anyhow!("--rootless is not supported: a sandbox needs root").into());
    }
    default_spec::write(&arguments.bundle).map(|()| 0)
}
