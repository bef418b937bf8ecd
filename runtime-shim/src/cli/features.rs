//! `features`: what this runtime knows, for engines that ask (runtime specification, `features.md`).

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::flags::Global;
use crate::bundle::version;
use crate::failure::Failure;

/// Print what this runtime supports, as JSON
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn main(_arguments: &Arguments, _global: &Global) -> Result<u8, Failure> {
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": version::IMPLEMENTED,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false },
            "mountExtensions": { "idmap": { "enabled": true } },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
        },
        "annotations": {
            "io.runv.version": env!("CARGO_PKG_VERSION"),
        },
    });
    let text = serde_json::to_string_pretty(&features).context("cannot write JSON")?;
    writeln!(io::stdout(), "{text}").context("cannot write to stdout")?;
    Ok(0)
}
