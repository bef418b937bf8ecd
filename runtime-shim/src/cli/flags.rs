//! Flags that several verbs share.

use std::env;
use std::path::PathBuf;

use clap::Args;

use crate::container::id::ContainerId;
use crate::container::record::Record;
use crate::container::store::{Folder, Store, StoreError};
use crate::failure::Failure;
use crate::preserved::{self, Preserved};
use crate::report::LogFormat;

/// Flags before the verb.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Where the state of containers is kept; a tmpfs [default: /run/runv, or $XDG_RUNTIME_DIR/runv]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// File for errors, instead of stderr
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Format of the lines in that file
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Log more
    #[arg(long)]
    pub(super) debug: bool,
    /// Have systemd make the host's cgroups; cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// For runc's sake; without effect
    #[arg(long, value_name = "auto|true|false")]
    rootless: Option<String>,
    /// For runc's sake; without effect
    #[arg(long, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// Who makes the host's cgroups: cgroupfs, or disabled for nobody
    #[arg(long, value_name = "cgroupfs|disabled")]
    pub(super) cgroup_manager: Option<String>,
    /// Configuration file [default: /etc/runv/config.toml, if there]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

impl Global {
    /// The containers of `--root`.
    pub(super) fn store(&self) -> Store {
        let runtime_directory = env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
        let root = match (&self.root, runtime_directory) {
            (Some(root), _) => root.clone(),
            (None, Some(directory)) if !rustix::process::geteuid().is_root() => {
                PathBuf::from(directory).join("runv")
            }
            (None, _) => PathBuf::from("/run/runv"),
        };
        Store::new(root)
    }

    /// A container that exists.
    pub(super) fn find(&self, id: &ContainerId) -> Result<(Folder, Record), StoreError> {
        self.store().find(id)
    }
}

/// Flags of the verbs that make a container.
#[derive(Debug, Args)]
pub(super) struct Making {
    /// The container's name
    #[arg(value_name = "ID")]
    pub(super) id: ContainerId,
    /// The bundle [default: the current directory]
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// Socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// File for the process id that is the container's on the host
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// For runc's sake: the root file system is the guest's affair
    #[arg(long)]
    no_pivot: bool,
    /// For runc's sake: session keyrings are the guest's
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors from 3 on, besides those of `LISTEN_FDS`, the workload has too: pipes, files, stream sockets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

impl Making {
    /// Those of this process that are the workload's.
    pub(super) fn take_descriptors(&self) -> Result<Preserved, Failure> {
        Preserved::take(preserved::listen_fds(), self.preserve_fds)
    }
}
