//! Watches one sandbox from before its boot to its end: in the foreground for `sandbox run` ([`relay`]), as a process
//! of its own for the OCI commands ([`detached`]). [`member`] watches a container in the sandbox of another process.
//!
//! One thread waits for everything at once ([`events`]): the agent's answers, signals, the ends of the machine
//! and the device process, the console. The workload's streams have threads of their own (`io::streams`), and so
//! has the control socket (`control::server`).

pub(crate) mod boot;
pub(crate) mod death;
pub(crate) mod detached;
pub(crate) mod ending;
pub(crate) mod events;
pub(crate) mod launch;
pub(crate) mod machine;
pub(crate) mod member;
pub(crate) mod plan;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod signals;
pub(crate) mod workload;

use agent_protocol::agent::failure;

use crate::bundle::validate::SpecError;
use crate::container_view::ViewError;
use crate::exit_code;
use crate::io::terminal::TerminalError;
use crate::sandbox::agent_client::AgentError;
use crate::sandbox::vsock::ConnectError;
use death::Death;

/// The workload did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    /// A part of the sandbox ended first.
    #[error(transparent)]
    Died(#[from] Death),
    /// The machine that it was in, which was another's.
    #[error("container {0}, in whose sandbox this one is, has ended, and the sandbox with it")]
    SandboxEnded(String),
    /// A signal came before the workload ran.
    #[error("interrupted by {} before the workload ran", signals::describe((*.0).cast_signed()))]
    Interrupted(u32),
    /// The agent did not say hello.
    #[error(
        "the guest was not ready within {seconds} seconds; see its console with --debug, or raise boot_timeout_seconds"
    )]
    BootTimeout {
        /// How long it had.
        seconds: u64,
    },
    /// The agent did not answer.
    #[error("the agent did not answer {call} within {seconds} seconds")]
    Unresponsive {
        /// What it was asked.
        call: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// What connected on the agent's behalf is not this version's agent.
    #[error(
        "the guest's agent speaks another protocol: `{0}`; kernel, initrd and programs must be of one build"
    )]
    ForeignAgent(String),
    /// The bundle, if it had not been checked.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A connection to the guest.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent's protocol.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The container could not be made, or the workload not executed.
    #[error("unable to start container process: {message}")]
    NotStarted {
        /// Why, for the exit status.
        kind: failure::Kind,
        /// Why, in the agent's words.
        message: String,
    },
    /// What the host sees of the container's files.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The user's terminal.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// This process itself.
    #[error("cannot {step}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl MonitorError {
    /// The status with which this process ends.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted(signal) => exit_code::of_signal(*signal),
            Self::NotStarted { kind, .. } => exit_code::of_failure(*kind),
            _ => exit_code::OWN_ERROR,
        }
    }

    /// Whether it is what the end of the machine or of the device process can look like from here.
    pub(crate) fn may_follow_a_death(&self) -> bool {
        matches!(self, Self::ForeignAgent(_) | Self::Connect(_) | Self::Agent(_) | Self::Host { .. })
    }
}

/// For `map_err`: a step of this process itself failed.
pub(crate) fn host<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> MonitorError {
    move |source| MonitorError::Host { step, source: source.into() }
}
