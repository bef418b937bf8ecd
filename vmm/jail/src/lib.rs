//! Confinement of the processes that a guest may come to own.
//!
//! The VMM process and the device process call this before the guest runs its first instruction, while they
//! are still single-threaded. What each of them needs is a [`RootPlan`]; nothing in here knows devices or KVM.
//!
//! | module | what it confines |
//! |---|---|
//! | [`root`] | files: a mount namespace with a new, empty root that holds the plan's binds and nothing else |
//! | [`tree`] | the same for what such a process gets to see, or loses, while it runs |
//! | [`fds`] | descriptors: which inherited ones are taken over, all others closed |
//! | [`process`] | privileges, limits and signals |
//!
//! Seccomp filters and the change of user are further modules beside these; their place in the order is after
//! [`root::enter`] (which needs `CAP_SYS_ADMIN`) and before the first byte from the guest is read.

pub mod fds;
mod mount_attributes;
mod plan;
pub mod process;
pub mod root;
pub mod tree;
mod user_namespace;

pub use mount_attributes::MountAttributes;
pub use plan::{Bind, IdMap, IdRange, PlanError, RootPlan};
