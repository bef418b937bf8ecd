//! `state`: what is known of a container, as JSON.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;

use super::flags::Global;
use crate::container::id::ContainerId;
use crate::container::state::State;
use crate::failure::Failure;

/// Print the state of a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let (_, record) = global.find(&arguments.id)?;
    let text = serde_json::to_string_pretty(&State::of(&record)).context("cannot write JSON")?;
    writeln!(io::stdout(), "{text}").context("cannot write to stdout")?;
    Ok(0)
}
