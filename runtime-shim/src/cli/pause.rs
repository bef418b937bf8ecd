//! `pause` and `resume`: freezes and thaws every process of a container.

use agent_protocol::agent as proto;
use anyhow::anyhow;
use clap::Args;
use protobuf::MessageField;

use super::flags::Global;
use crate::container::id::ContainerId;
use crate::container::record::Status;
use crate::control::agent::Agent;
use crate::failure::Failure;

/// Freeze every process of a container
#[derive(Debug, Args)]
pub(super) struct PauseArguments {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

/// Thaw every process of a container
#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn pause(arguments: &PauseArguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    let status = record.status();
    if status != Status::Running && status != Status::Created {
        return Err(anyhow!("container not running").into());
    }
    let request = proto::PauseContainerRequest { container_id: record.guest_id(), ..Default::default() };
    refused(Agent::connect(&folder)?.call(&request)?.failure)?;
    folder.update(|record| {
        record.paused_from = Some(status);
        record.last_status = Status::Paused;
    })?;
    Ok(0)
}

pub(super) fn resume(arguments: &ResumeArguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    if record.status() != Status::Paused {
        return Err(anyhow!("container not paused").into());
    }
    let request = proto::ResumeContainerRequest { container_id: record.guest_id(), ..Default::default() };
    refused(Agent::connect(&folder)?.call(&request)?.failure)?;
    folder.update(|record| record.last_status = record.paused_from.take().unwrap_or(Status::Running))?;
    Ok(0)
}

/// The agent could not do it.
pub(super) fn refused(failure: MessageField<proto::Failure>) -> Result<(), Failure> {
    failure
        .into_option()
        .map_or(Ok(()), |failure| Err(anyhow!(failure.message.replace(|c: char| c.is_control(), " ")).into()))
}
