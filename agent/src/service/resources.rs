//! Calls about what a container uses, and may use.

use std::error::Error;
use std::sync::Arc;

use agent_protocol::agent as api;
use protobuf::MessageField;
use ttrpc::{Code, Result};

use super::{encode, status};
use crate::container::limits::LimitError;
use crate::container::pause::PauseError;
use crate::container::request::resources::resources;
use crate::container::{Container, Containers};
use crate::failure::{Failure, FailureKind};

pub(super) fn update(
    containers: &Containers,
    request: api::UpdateContainerRequest,
) -> Result<api::UpdateContainerResponse> {
    let container = find(containers, &request.container_id)?;
    let updated = match resources(request.resources.unwrap_or_default()) {
        Ok(resources) => container.update(&resources).map_err(|error| {
            let kind = match error {
                LimitError::NotRunning { .. } => FailureKind::InvalidRequest,
                _ => FailureKind::System,
            };
            Failure::from_error(kind, &error)
        }),
        Err(error) => Err(Failure::from_error(FailureKind::InvalidRequest, &error)),
    };
    Ok(api::UpdateContainerResponse { failure: failure(updated), ..Default::default() })
}

pub(super) async fn pause(
    containers: &Containers,
    request: &api::PauseContainerRequest,
) -> Result<api::PauseContainerResponse> {
    let paused = find(containers, &request.container_id)?.pause().await;
    let failure = failure(paused.map_err(|error| explain(&error)));
    Ok(api::PauseContainerResponse { failure, ..Default::default() })
}

pub(super) async fn resume(
    containers: &Containers,
    request: &api::ResumeContainerRequest,
) -> Result<api::ResumeContainerResponse> {
    let resumed = find(containers, &request.container_id)?.resume().await;
    let failure = failure(resumed.map_err(|error| explain(&error)));
    Ok(api::ResumeContainerResponse { failure, ..Default::default() })
}

pub(super) fn list(
    containers: &Containers,
    request: &api::ListProcessesRequest,
) -> Result<api::ListProcessesResponse> {
    let container = find(containers, &request.container_id)?;
    let processes = container.processes().map_err(|error| refuse(&error))?;
    Ok(api::ListProcessesResponse { processes, ..Default::default() })
}

pub(super) fn stats(
    containers: &Containers,
    request: &api::ContainerStatsRequest,
) -> Result<api::ContainerStatsResponse> {
    find(containers, &request.container_id)?.stats().map_err(|error| refuse(&error))
}

pub(super) async fn wait_oom(
    containers: &Containers,
    request: &api::WaitOomRequest,
) -> Result<api::WaitOomResponse> {
    let container = find(containers, &request.container_id)?;
    let (oom_kills, ended) = container.wait_oom(request.seen).await.map_err(|error| refuse(&error))?;
    Ok(api::WaitOomResponse { oom_kills, ended, ..Default::default() })
}

fn find(containers: &Containers, id: &str) -> Result<Arc<Container>> {
    containers.find(id).map_err(|error| status(Code::NOT_FOUND, &error))
}

fn failure(result: std::result::Result<(), Failure>) -> MessageField<api::Failure> {
    MessageField::from_option(result.err().map(encode))
}

fn explain(error: &PauseError) -> Failure {
    let kind = match error {
        PauseError::NotRunning { .. } => FailureKind::InvalidRequest,
        PauseError::Cgroup(_) => FailureKind::System,
    };
    Failure::from_error(kind, error as &dyn Error)
}

fn refuse(error: &PauseError) -> ttrpc::Error {
    let code = match error {
        PauseError::NotRunning { .. } => Code::FAILED_PRECONDITION,
        PauseError::Cgroup(_) => Code::INTERNAL,
    };
    status(code, error)
}
