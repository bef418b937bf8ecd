//! `checkpoint` and `restore`: not there yet, and said so. Engines ask by `checkpoint --help`, whose success would be
//! a promise; so these two take whatever they are given and fail.

use anyhow::anyhow;
use clap::Args;

use crate::failure::Failure;

/// Not supported yet
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<std::ffi::OsString>,
}

pub(super) fn refuse(arguments: &Arguments) -> Result<u8, Failure> {
    tracing::debug!(arguments = ?arguments.rest, "refused");
    Err(anyhow!("checkpoint and restore are not supported yet").into())
}
