//! The request for another process in a container.

use std::path::PathBuf;

use agent_protocol::agent;

use super::process::process_spec;
use super::{RequestError, name, relative, required};
use crate::process::ProcessSpec;

/// A process to be made in a container, checked.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// Names the process; formed as a container's id.
    pub id: String,
    /// What is executed.
    pub process: ProcessSpec,
    /// Below the container's cgroup; empty is that itself.
    pub cgroup: PathBuf,
    /// Whether a paused container will do.
    pub ignore_paused: bool,
}

impl ExecSpec {
    /// Checks a request, but for the container, which only the table of containers knows.
    ///
    /// # Errors
    ///
    /// [`RequestError`] names the field.
    pub fn from_request(request: agent::ExecProcessRequest) -> Result<Self, RequestError> {
        // As runc, which takes "/sub" for "sub".
        let cgroup = request.cgroup.trim_matches('/');
        Ok(Self {
            id: name("exec id", request.exec_id)?,
            process: process_spec(required(request.process, "process")?)?,
            cgroup: match cgroup {
                "" => PathBuf::new(),
                below => relative("cgroup", below.to_owned())?.into(),
            },
            ignore_paused: request.ignore_paused,
        })
    }
}
