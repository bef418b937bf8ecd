//! End-to-end tests: the built `sandbox` on real bundles, with a real kernel and a real hypervisor.
//!
//! One binary for all subjects, as it is also run in the nested KVM host; `tests/run` does both. What it needs
//! to know comes from the environment, see [`e2e::Setup`].

mod bad_input;
mod commands;
mod exit;
mod files;
mod hostile;
mod hosts;
mod id_map;
mod isolation;
mod kernel_features;
mod kernels;
mod kill;
mod many;
mod memory;
mod mounts;
mod namespaces;
mod net;
mod net_changes;
mod net_faults;
mod net_hostile;
mod net_kinds;
mod net_limits;
mod net_queues;
mod net_vhost;
mod pods;
mod process;
mod resources;
mod rights;
mod runv_bad_bundles;
mod runv_descriptors;
mod runv_exec;
mod runv_flags;
mod runv_hooks;
mod runv_kill;
mod runv_lifecycle;
mod runv_limits;
mod runv_many;
mod runv_steps;
mod runv_terminal;
mod selinux;
mod share_options;
mod signals;
mod streams;
mod terminal;
mod upper;
