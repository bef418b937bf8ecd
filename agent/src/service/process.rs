//! Calls about processes.

use std::sync::Arc;

use agent_protocol::agent as api;
use ttrpc::{Code, Result};

use super::status;
use crate::container::kill::KillError;
use crate::container::request::window_size;
use crate::container::{Container, Containers, LookupError};
use crate::reaper::Exit;

pub(super) async fn wait(
    containers: &Containers,
    request: &api::WaitProcessRequest,
) -> Result<api::WaitProcessResponse> {
    let container = find(containers, &request.container_id, &request.exec_id)?;
    let mut response = api::WaitProcessResponse::new();
    match container.wait().await {
        Some(Exit::Code(code)) => response.set_exited(code),
        Some(Exit::Signal(signal)) => response.set_signaled(signal),
        None => {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(Code::UNAVAILABLE, "the agent is ending")));
        }
    }
    Ok(response)
}

pub(super) fn signal(
    containers: &Containers,
    request: &api::SignalProcessRequest,
) -> Result<api::SignalProcessResponse> {
    let container = find(containers, &request.container_id, &request.exec_id)?;
    let sent =
        if request.all { container.signal_all(request.signal) } else { container.signal(request.signal) };
    sent.map_err(|error| {
        let code = match error {
            KillError::NotASignal(_) => Code::INVALID_ARGUMENT,
            KillError::NotRunning { .. } => Code::FAILED_PRECONDITION,
            KillError::Cgroup(_) | KillError::Send { .. } => Code::INTERNAL,
        };
        status(code, &error)
    })?;
    Ok(api::SignalProcessResponse::new())
}

pub(super) fn resize(
    containers: &Containers,
    request: &api::ResizeTerminalRequest,
) -> Result<api::ResizeTerminalResponse> {
    let container = find(containers, &request.container_id, &request.exec_id)?;
    let size = request.size.clone().unwrap_or_default();
    let size = window_size(&size).map_err(|error| status(Code::INVALID_ARGUMENT, &error))?;
    let Some(terminal) = container.terminal() else {
        let message = format!("container {:?} has no terminal", request.container_id);
        return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(Code::FAILED_PRECONDITION, message)));
    };
    terminal.resize(size).map_err(|error| status(Code::INTERNAL, &error))?;
    Ok(api::ResizeTerminalResponse::new())
}

fn find(containers: &Containers, id: &str, exec_id: &str) -> Result<Arc<Container>> {
    let container = containers.find(id).map_err(|error| status(Code::NOT_FOUND, &error))?;
    if exec_id.is_empty() {
        return Ok(container);
    }
    let error = LookupError::NoProcess(id.to_owned(), exec_id.to_owned());
    Err(status(Code::NOT_FOUND, &error))
}
