//! The ttrpc service: decode, call, encode. No logic.
//!
//! Each call runs as a task of the event loop; a call that has begun is finished even if its client goes.

mod container;
mod process;
mod resources;
mod sandbox;

pub use sandbox::{Power, Watched};

use std::sync::Arc;

use agent_protocol::agent as api;
use agent_protocol::server::Agent;
use async_trait::async_trait;
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, Error, get_status};

use crate::container::Containers;
use crate::failure::{Failure, FailureKind};

/// What the calls act on.
pub struct Service {
    /// The containers.
    pub containers: Arc<Containers>,
    /// The guest's power switch.
    pub power: Arc<Power>,
}

#[async_trait]
impl Agent for Service {
    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> ttrpc::Result<api::CreateContainerResponse> {
        container::create(&self.containers, request).await
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: api::StartContainerRequest,
    ) -> ttrpc::Result<api::StartContainerResponse> {
        container::start(&self.containers, &request).await
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: api::WaitProcessRequest,
    ) -> ttrpc::Result<api::WaitProcessResponse> {
        process::wait(&self.containers, &request).await
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: api::SignalProcessRequest,
    ) -> ttrpc::Result<api::SignalProcessResponse> {
        process::signal(&self.containers, &request)
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: api::ResizeTerminalRequest,
    ) -> ttrpc::Result<api::ResizeTerminalResponse> {
        process::resize(&self.containers, &request)
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: api::UpdateContainerRequest,
    ) -> ttrpc::Result<api::UpdateContainerResponse> {
        resources::update(&self.containers, request)
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: api::PauseContainerRequest,
    ) -> ttrpc::Result<api::PauseContainerResponse> {
        resources::pause(&self.containers, &request).await
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: api::ResumeContainerRequest,
    ) -> ttrpc::Result<api::ResumeContainerResponse> {
        resources::resume(&self.containers, &request).await
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: api::ListProcessesRequest,
    ) -> ttrpc::Result<api::ListProcessesResponse> {
        resources::list(&self.containers, &request)
    }

    async fn container_stats(
        &self,
        _: &TtrpcContext,
        request: api::ContainerStatsRequest,
    ) -> ttrpc::Result<api::ContainerStatsResponse> {
        resources::stats(&self.containers, &request)
    }

    async fn wait_oom(
        &self,
        _: &TtrpcContext,
        request: api::WaitOomRequest,
    ) -> ttrpc::Result<api::WaitOomResponse> {
        resources::wait_oom(&self.containers, &request).await
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        _: api::ShutdownRequest,
    ) -> ttrpc::Result<api::ShutdownResponse> {
        sandbox::shut_down(&self.containers, &self.power).await;
        Ok(api::ShutdownResponse::new())
    }
}

/// A failed call, its error with all sources.
fn status(code: Code, error: &dyn std::error::Error) -> Error {
    Error::RpcStatus(get_status(code, Failure::from_error(FailureKind::System, error).message))
}

/// A failure in the protocol's terms.
fn encode(failure: Failure) -> api::Failure {
    use api::failure::Kind;
    let kind = match failure.kind {
        FailureKind::ExecutableNotFound => Kind::KIND_EXECUTABLE_NOT_FOUND,
        FailureKind::ExecutableNotPermitted => Kind::KIND_EXECUTABLE_NOT_PERMITTED,
        FailureKind::InvalidRequest => Kind::KIND_INVALID_REQUEST,
        FailureKind::UnknownUser => Kind::KIND_UNKNOWN_USER,
        FailureKind::Mount => Kind::KIND_MOUNT,
        FailureKind::System => Kind::KIND_SYSTEM,
    };
    api::Failure { kind: kind.into(), message: failure.message, ..Default::default() }
}
