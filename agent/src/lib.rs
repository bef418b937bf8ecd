//! The agent: PID 1 of the guest. It builds, starts and watches containers, as runc does on a host.
//!
//! The program is `main.rs`; all else is here so that tests can build real containers without a VM.
//!
//! One thread serves everything (a current-thread tokio runtime). `process::spawn` depends on that: a child
//! that is forked from a single thread may use any library before it executes the workload.
//!
//! ```text
//!   main -> early            mounts of the guest
//!        -> vsock            listeners, ready signal
//!        -> service          ttrpc: decode, call, encode
//!             -> container   life cycle: create, start, signal, end
//!                  -> process    spawn (clone3) -> child (up to execve); relay of stdio, a process too
//!                  -> rootfs     what the child builds: mounts, devices, pivot
//!                  -> cgroup, security
//!        -> reaper           the one caller of waitpid
//! ```

pub mod cgroup;
pub mod container;
pub mod early;
pub mod failure;
pub mod kernel;
pub mod kmsg;
pub mod power;
pub mod process;
pub mod reaper;
pub mod resolver;
pub mod rootfs;
pub mod security;
pub mod service;
pub mod sockets;
pub mod streams;
pub mod sys;
pub mod vsock;
