//! Calls about containers.

use std::sync::Arc;

use agent_protocol::agent as api;
use protobuf::MessageField;
use ttrpc::Code;

use super::{encode, status};
use crate::container::Containers;
use crate::container::request::{ContainerSpec, share_path};
use crate::failure::{Failure, FailureKind};
use crate::kmsg;

pub(super) async fn create(
    containers: &Arc<Containers>,
    request: api::CreateContainerRequest,
) -> ttrpc::Result<api::CreateContainerResponse> {
    let created = match ContainerSpec::from_request(request) {
        Ok(spec) => {
            // A task of its own, so that a client that goes away does not leave a half-built container.
            let containers = Arc::clone(containers);
            let task = tokio::spawn(async move { containers.create(spec).await });
            task.await.map_err(|error| status(Code::INTERNAL, &error))?
        }
        Err(error) => Err(Failure::from_error(FailureKind::InvalidRequest, &error)),
    };
    let mut response = api::CreateContainerResponse::new();
    match created {
        Ok(container) => {
            kmsg::debug(|| format!("container {:?}: created", container.id()));
            response.pid = container.pid().as_raw_nonzero().get().unsigned_abs();
        }
        Err(failure) => {
            kmsg::debug(|| format!("no container: {failure}"));
            response.failure = MessageField::some(encode(failure));
        }
    }
    Ok(response)
}

pub(super) async fn remove(
    containers: &Containers,
    request: api::RemoveContainerRequest,
) -> ttrpc::Result<api::RemoveContainerResponse> {
    let path = share_path(request.share_path).map_err(|error| status(Code::INVALID_ARGUMENT, &error))?;
    containers.remove(&request.container_id).await.map_err(|error| status(Code::INTERNAL, &error))?;
    containers.forget_share(&path);
    Ok(api::RemoveContainerResponse::new())
}

pub(super) async fn start(
    containers: &Containers,
    request: &api::StartContainerRequest,
) -> ttrpc::Result<api::StartContainerResponse> {
    let container =
        containers.find(&request.container_id).map_err(|error| status(Code::NOT_FOUND, &error))?;
    let mut response = api::StartContainerResponse::new();
    kmsg::debug(|| format!("container {:?}: starting", container.id()));
    if let Err(failure) = container.start().await {
        kmsg::debug(|| format!("container {:?}: {failure}", container.id()));
        response.failure = MessageField::some(encode(failure));
    }
    Ok(response)
}
