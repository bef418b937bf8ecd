//! The machine's processors and interrupt controllers: all that talks to `/dev/kvm`.
//!
//! Knows nothing of devices but a bus to hand accesses to. Threads: [`vm::Vm`] is used by the main thread
//! while the machine is put together; each [`vcpu::Vcpu`] then belongs to its thread alone, and
//! [`vcpu::VcpuThreads`] is the main thread's handle on them.
#![allow(unsafe_code, reason = "KVM takes addresses of guest memory")]

pub(crate) mod capabilities;
pub(crate) mod exit;
pub(crate) mod vcpu;
pub(crate) mod vm;

#[cfg(test)]
mod tests;
