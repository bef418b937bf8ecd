//! The container's root file system, built by the container's init in its own mount namespace.
//!
//! Everything below the root comes from an image that may be hostile: a path in it is opened inside the root
//! only (`path`), once, and from then on named by that descriptor; mounts are made detached and attached to
//! such descriptors (the mount API of Linux 5.2 and 5.12). So no symbolic link, planted or swapped in at the
//! right moment, makes anything happen outside the root (CVE-2021-30465, CVE-2025-31133, CVE-2025-52565,
//! CVE-2025-52881, and `/dev`, `/proc` or `/etc` that are links).

pub mod copy_up;
pub mod devices;
pub mod masks;
pub mod mounts;
pub mod nodes;
pub mod options;
pub mod path;
pub mod pivot;
pub mod propagation;
pub mod upper;
