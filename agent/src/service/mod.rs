//! The ttrpc service: decode, call, encode. No logic.
//!
//! Each call runs as a task of the event loop; a call that has begun is finished even if its client goes.

mod container;
mod network;
mod process;
mod resources;
mod sandbox;

pub use sandbox::{Power, Watched};

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use agent_protocol::agent as api;
use agent_protocol::server::{Agent, create_agent};
use async_trait::async_trait;
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use ttrpc::r#async::TtrpcContext;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;
use ttrpc::{Code, Error, get_status};

use crate::container::Containers;
use crate::failure::{Failure, FailureKind};
use crate::process::lifeline::{Lifeline, lifeline};

/// What the calls of one connection act on.
pub struct Service {
    /// The containers.
    pub containers: Arc<Containers>,
    /// The guest's power switch.
    pub power: Arc<Power>,
    /// Cut when the connection closes.
    lifeline: Lifeline,
}

impl Service {
    /// Serves one connection.
    ///
    /// # Errors
    ///
    /// Never in practice: those of a server without a listener.
    pub async fn serve<C>(connection: C, containers: Arc<Containers>, power: Arc<Power>) -> ttrpc::Result<()>
    where
        C: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let (holder, mut lifeline) = lifeline();
        let watched = Watched::new(connection, Arc::clone(&power), holder);
        let service = Self { containers, power, lifeline: lifeline.clone() };
        let mut server = Server::new()
            .add_listener(Listener::new(Once(Some(watched))))
            .register_service(create_agent(Arc::new(service)));
        server.start().await?;
        lifeline.cut().await;
        Ok(())
    }
}

/// A listener that has one connection and ends.
struct Once<C>(Option<C>);

impl<C: Unpin> Stream for Once<C> {
    type Item = io::Result<C>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
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

    async fn update_network(
        &self,
        _: &TtrpcContext,
        request: api::UpdateNetworkRequest,
    ) -> ttrpc::Result<api::UpdateNetworkResponse> {
        network::update(&self.containers, request)
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

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::ExecProcessResponse> {
        process::exec(&self.containers, &self.lifeline, request).await
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: api::RemoveContainerRequest,
    ) -> ttrpc::Result<api::RemoveContainerResponse> {
        container::remove(&self.containers, request).await
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
