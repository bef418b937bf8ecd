//! `sandbox run`: one bundle in the foreground, from its configuration to its exit status.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use vmm::hypervisor::select::Choice;

use crate::bundle::load;
use crate::config::{self, Config, Cpus, Fixed, MemorySize};
use crate::container::membership;
use crate::failure::Failure;
use crate::host_cgroup;
use crate::host_namespace::{HostNetwork, join_network};
use crate::io::terminal;
use crate::monitor::signals::Signals;
use crate::monitor::{machine, relay};
use crate::sandbox::inherited_fds::withhold_inherited_fds;
use crate::sandbox::prepare::prepare;

/// Run a bundle in a virtual machine of its own
///
/// Runs in the foreground: stdin, stdout and stderr are the workload's (one terminal with process.terminal),
/// signals are passed on to it, and its exit status becomes this program's: 128+n when signal n ended it,
/// 127 when its executable was not found, 126 when it could not be executed, 1 for errors of the sandbox.
/// When this program is killed (SIGKILL), everything of the sandbox goes with it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sandbox run bundle                 run it with the best driver that this host has
  sandbox run --memory 1G --cpus 2 bundle
  sandbox run --debug bundle         show how the guest boots
  echo hello | sandbox run bundle >output 2>errors")]
pub(super) struct Arguments {
    /// The bundle: a folder with config.json and the root file system that it names
    bundle: PathBuf,
    /// Who runs the virtual machine [default: auto]: builtin is the embedded VMM on /dev/kvm, qemu is QEMU, and
    /// auto takes builtin where KVM runs kernels at hardware speed
    #[arg(long, value_name = "DRIVER", value_parser = driver_names())]
    hypervisor: Option<Choice>,
    /// Guest kernel, an uncompressed ELF vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk with the agent as /init
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words for the guest kernel's command line, separated by white space, after all others
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    kernel_parameters: Option<String>,
    /// Guest memory in MiB, or with a suffix K, M or G [default: what the bundle's limit needs, or 256M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// Number of vCPUs [default: what the bundle's limits need, or 1]
    #[arg(long, value_name = "N")]
    cpus: Option<Cpus>,
    /// Show the guest's console and this program's log on stderr
    #[arg(long)]
    debug: bool,
    /// Configuration file; its keys are the options above and more [default: /etc/runv/config.toml, if there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn driver_names() -> impl TypedValueParser<Value = Choice> {
    PossibleValuesParser::new(["auto", "builtin", "qemu"]).try_map(|name| name.parse::<Choice>())
}

impl Arguments {
    /// The configuration file with the command line over it.
    fn configuration(&self) -> Result<Config, config::LoadError> {
        let mut config = config::load(self.config.as_deref())?;
        let words = self.kernel_parameters.as_deref().unwrap_or_default();
        config.fixed = Fixed {
            hypervisor: self.hypervisor,
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            kernel_parameters: words.split_ascii_whitespace().map(str::to_owned).collect(),
            memory: self.memory,
            cpus: self.cpus,
        };
        config.debug |= self.debug;
        Ok(config)
    }
}

pub(super) fn main(arguments: &Arguments) -> Result<u8, Failure> {
    withhold_inherited_fds()?;
    let config = arguments.configuration()?;
    if config.debug {
        crate::report::show_log();
    }
    let bundle = load::load(&arguments.bundle)?;
    membership::refuse(&bundle.spec)?;
    if bundle.has_hooks() {
        return Err(anyhow::anyhow!(
            "config.json has hooks, which `sandbox run` does not run; use `runv run`"
        )
        .into());
    }
    if bundle.wants_terminal() {
        terminal::check()?;
    }
    let linux = bundle.spec.linux().as_ref();
    if let Some(block_io) = linux.and_then(|linux| linux.resources().as_ref()?.block_io().as_ref()) {
        host_cgroup::limits::need_cgroup(block_io)?;
    }
    let hosts = HostNetwork::here()?;
    join_network(&bundle.spec)?;
    let is_own = hosts.is_left()?;
    let prepared = prepare(&config, &bundle)?;
    // Signals wait from here on, so that none can end this process past its clean-up.
    let signals = Signals::block()?;
    let machine = machine::start(prepared, &bundle.spec, is_own)?;
    relay::run(machine, &signals, &bundle.spec).map_err(Failure::of_monitor)
}
