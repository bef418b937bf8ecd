//! The state of a container as engines read it: runc's `state` and `list`, and what hooks get.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::record::{Record, Status};

/// Field for field what runc prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    /// Version of the specification.
    pub(crate) oci_version: String,
    /// Name.
    pub(crate) id: String,
    /// 0 when there is no process any more.
    pub(crate) pid: u32,
    /// As the specification spells it.
    pub(crate) status: &'static str,
    /// Absolute.
    pub(crate) bundle: PathBuf,
    /// Absolute.
    pub(crate) rootfs: PathBuf,
    /// RFC 3339.
    pub(crate) created: String,
    /// Of the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// User who made it.
    pub(crate) owner: String,
}

impl State {
    /// The state now.
    pub(crate) fn of(record: &Record) -> Self {
        Self::with_status(record, record.status())
    }

    /// The state with another status, for hooks: they are told where in its life the container is, which the
    /// record may be about to say.
    pub(crate) fn with_status(record: &Record, status: Status) -> Self {
        Self {
            oci_version: record.oci_version.clone(),
            id: record.id.to_string(),
            pid: if status == Status::Stopped { 0 } else { record.monitor.pid },
            status: status.as_str(),
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: record.annotations.clone(),
            owner: "root".to_owned(),
        }
    }

    /// The document for hooks: what the specification's state has, and no more.
    pub(crate) fn for_hooks(&self) -> String {
        let mut state = json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": self.status,
            "bundle": self.bundle,
        });
        if self.pid != 0 {
            state["pid"] = json!(self.pid);
        }
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state.to_string()
    }
}
