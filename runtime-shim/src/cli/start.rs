//! `start`: lets a created container execute its workload.

use anyhow::anyhow;
use clap::Args;

use super::flags::Global;
use crate::container::id::ContainerId;
use crate::container::record::{Record, Status};
use crate::container::remove;
use crate::container::store::Folder;
use crate::control::client::{self, ControlError};
use crate::failure::Failure;
use crate::hooks::{self, Moment};

/// Start a created container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    start(&folder, &record).map(|()| 0)
}

/// The same for `run`.
pub(super) fn start(folder: &Folder, record: &Record) -> Result<(), Failure> {
    match record.status() {
        Status::Created => {}
        Status::Stopped => return Err(anyhow!("cannot start a container that has stopped").into()),
        Status::Running => return Err(anyhow!("cannot start an already running container").into()),
        other => return Err(anyhow!("cannot start a container in the {} state", other.as_str()).into()),
    }
    client::start(folder).map_err(of_control)?;
    if let Err(error) = hooks::run(Moment::Poststart, record) {
        return Err(Failure::from(error).after(remove::end(record)));
    }
    Ok(())
}

fn of_control(error: ControlError) -> Failure {
    match error {
        ControlError::Refused { message, exit_code } => Failure::new(anyhow!(message), exit_code),
        other => other.into(),
    }
}
