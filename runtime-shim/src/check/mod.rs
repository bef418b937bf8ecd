//! What this host offers to sandboxes, and what to do about what it lacks.
//!
//! Each file looks at one subject and returns [`Finding`]s; none changes the host. Called by `sandbox check`.

mod cgroup;
mod choices;
mod guest;
mod hypervisors;
mod memory;
mod network;
mod privileges;
mod verdict;

use serde::Serialize;

use crate::config::Config;
use crate::sandbox::installation::Installation;
pub(crate) use verdict::Verdict;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be, or not needed.
    Ok,
    /// Sandboxes run, but slower or with less.
    Warn,
    /// No sandbox runs.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) status: Status,
    pub(crate) name: &'static str,
    /// What is there.
    pub(crate) found: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<&'static str>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { status: Status::Ok, name, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: &'static str) -> Self {
        Self { status: Status::Warn, name, found: found.into(), remedy: Some(remedy) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: &'static str) -> Self {
        Self { status: Status::Fail, name, found: found.into(), remedy: Some(remedy) }
    }
}

/// All that was found, and what follows from it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) checks: Vec<Finding>,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
}

/// Looks at everything.
pub(crate) fn look(config: &Config, installation: &Installation) -> Report {
    let facts = hypervisors::facts(config.qemu.path.as_deref());
    let mut checks = vec![privileges::check()];
    checks.extend(hypervisors::check(&facts));
    checks.extend(network::check(config.network.vhost));
    checks.push(cgroup::check());
    checks.push(memory::check(config.memory));
    checks.extend(guest::check(config, installation));
    checks.push(choices::check(config));
    let verdict = verdict::of(config, &facts, &checks);
    Report { checks, verdict }
}
