//! A process of a container: from its description to its end.
//!
//! ```text
//!   agent                                   container's init
//!   spawn: pipes, clone3 into the cgroup -> child: namespaces, root, devices, terminal, user, lookup
//!   create answers        <- control: ready (with the pty's master) | failure
//!   start                 -> control: go
//!   start answers         <- control: closed by a successful execve | failure
//! ```
//!
//! Any other process of the container (`exec`) goes the same way, but joins the init's namespaces instead of making
//! some, and is let go at once.

pub mod birth;
pub mod child;
pub mod console;
pub mod control;
pub mod descriptors;
pub mod executable;
pub mod files;
pub mod hooks;
pub mod join;
pub mod lifeline;
pub mod list;
mod newcomer;
pub(crate) mod relay;
mod relay_sockets;
pub mod running;
pub mod settings;
pub mod spawn;
pub mod stdio;
pub mod workload;

use std::ffi::CString;

use crate::process::console::WindowSize;
use crate::process::descriptors::Descriptor;
use crate::process::settings::Settings;
use crate::process::stdio::Tokens;
use crate::security::capabilities::Capabilities;
use crate::security::seccomp::Filter;
use crate::security::user::User;

/// What is to be executed and as whom, checked.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// At least one.
    pub args: Vec<CString>,
    /// `NAME=value`, each name once.
    pub env: Vec<CString>,
    /// Clean and absolute, in the container.
    pub cwd: std::path::PathBuf,
    /// Who it runs as.
    pub user: User,
    /// File mode creation mask.
    pub umask: u32,
    /// The terminal's first size, if it has a terminal.
    pub terminal: Option<WindowSize>,
    /// Its stdio.
    pub tokens: Tokens,
    /// What it has open from 3 on.
    pub descriptors: Vec<Descriptor>,
    /// What of root's rights it has; all if absent.
    pub capabilities: Option<Capabilities>,
    /// Whether execve gives it no rights that it has not (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// Limits and priorities.
    pub settings: Settings,
}

/// What every process of a container is under.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// Over its system calls.
    pub seccomp: Option<Filter>,
    /// Execution domain of personality(2).
    pub personality: Option<u32>,
    /// Name of their session keyring.
    pub keyring: CString,
}
