//! `sandbox check`: whether and how this host can run sandboxes.

use clap::Args;

use super::Failure;

/// Say whether and how this host can run sandboxes
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

pub(super) fn main(_arguments: &Arguments) -> Result<u8, Failure> {
    Ok(0)
}
