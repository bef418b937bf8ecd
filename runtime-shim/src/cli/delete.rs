//! `delete`: removes a container that has stopped, or, with `--force`, any.

use anyhow::anyhow;
use clap::Args;

use super::flags::Global;
use crate::container::id::ContainerId;
use crate::container::record::Status;
use crate::container::remove;
use crate::container::store::StoreError;
use crate::failure::Failure;

/// Delete a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Kill it first if it runs; no error if there is none
    #[arg(short, long)]
    force: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let folder = match global.store().folder(&arguments.id) {
        Ok(folder) => folder,
        Err(StoreError::NotFound) if arguments.force => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    if !arguments.force {
        // As with runc, one that was never started needs no force.
        match folder.read()?.status() {
            Status::Stopped | Status::Created => {}
            other => {
                let (id, status) = (&arguments.id, other.as_str());
                return Err(anyhow!("cannot delete container {id} that is not stopped: {status}").into());
            }
        }
    }
    remove::clear(&folder)?;
    Ok(0)
}
