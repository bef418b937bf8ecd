//! System calls that no library of ours wraps. With `process::child`, the agent's only unsafe code.
//!
//! Each function here is safe to call: what a caller has to keep is checked or is part of a type.

pub mod bpf;
pub mod clone3;
pub mod event_loop;
pub mod keyring;
pub mod mount_api;
pub mod namespaces;
pub mod netlink;
pub mod network;
pub mod pass;
pub mod port;
pub mod scheduling;
pub mod seccomp;
pub mod signals;
pub mod time;
