//! Calls about processes.

use std::sync::Arc;

use agent_protocol::agent as api;
use protobuf::MessageField;
use ttrpc::{Code, Result};

use super::{encode, status};
use crate::container::kill::KillError;
use crate::container::request::{ExecSpec, window_size};
use crate::container::{Container, Containers};
use crate::failure::{Failure, FailureKind};
use crate::process::lifeline::Lifeline;
use crate::reaper::Exit;

pub(super) async fn wait(
    containers: &Containers,
    request: &api::WaitProcessRequest,
) -> Result<api::WaitProcessResponse> {
    let container = find(containers, &request.container_id)?;
    let process = container.process(&request.exec_id).map_err(|error| status(Code::NOT_FOUND, &error))?;
    let mut response = api::WaitProcessResponse::new();
    match process.wait().await {
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
    let container = find(containers, &request.container_id)?;
    let sent = if request.all {
        container.signal_all(request.signal)
    } else if request.exec_id.is_empty() {
        container.signal(request.signal)
    } else {
        let process = container.process(&request.exec_id).map_err(|error| status(Code::NOT_FOUND, &error))?;
        container.signal_other(&process, request.signal)
    };
    sent.map_err(|error| {
        let code = match error {
            KillError::NotASignal(_) => Code::INVALID_ARGUMENT,
            KillError::NotRunning { .. } | KillError::Ended => Code::FAILED_PRECONDITION,
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
    let container = find(containers, &request.container_id)?;
    let process = container.process(&request.exec_id).map_err(|error| status(Code::NOT_FOUND, &error))?;
    let size = request.size.clone().unwrap_or_default();
    let size = window_size(&size).map_err(|error| status(Code::INVALID_ARGUMENT, &error))?;
    let Some(terminal) = process.terminal() else {
        let message = format!("the process of container {:?} has no terminal", request.container_id);
        return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(Code::FAILED_PRECONDITION, message)));
    };
    terminal.resize(size).map_err(|error| status(Code::INTERNAL, &error))?;
    Ok(api::ResizeTerminalResponse::new())
}

pub(super) async fn exec(
    containers: &Arc<Containers>,
    lifeline: &Lifeline,
    request: api::ExecProcessRequest,
) -> Result<api::ExecProcessResponse> {
    let container = find(containers, &request.container_id)?;
    let started = match ExecSpec::from_request(request) {
        Ok(spec) => {
            // A task of its own, so that a client that goes away does not leave a half-made process.
            let (containers, lifeline) = (Arc::clone(containers), lifeline.clone());
            let task = tokio::spawn(async move { containers.exec(container, spec, lifeline).await });
            task.await.map_err(|error| status(Code::INTERNAL, &error))?
        }
        Err(error) => Err(Failure::from_error(FailureKind::InvalidRequest, &error)),
    };
    let mut response = api::ExecProcessResponse::new();
    match started {
        Ok(process) => response.pid = process.pid().as_raw_nonzero().get().unsigned_abs(),
        Err(failure) => response.failure = MessageField::some(encode(failure)),
    }
    Ok(response)
}

fn find(containers: &Containers, id: &str) -> Result<Arc<Container>> {
    containers.find(id).map_err(|error| status(Code::NOT_FOUND, &error))
}
