//! From an OCI bundle to what a sandbox needs: read it ([`load`]), check it ([`validate`]), find its sources on
//! the host ([`sources`]), and say the rest to the device process and the agent ([`to_vm`], [`to_agent`]).
//!
//! Nothing in here changes the host, and nothing has been started when something in here fails.

pub(crate) mod annotations;
pub(crate) mod cpu_set;
pub(crate) mod default_spec;
pub(crate) mod device_binds;
pub(crate) mod device_rules;
pub(crate) mod devices;
pub(crate) mod fields;
pub(crate) mod id_map;
mod kernel_words;
pub(crate) mod limits;
pub(crate) mod load;
pub(crate) mod machine_parts;
pub(crate) mod machine_size;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod place;
pub(crate) mod rights;
pub(crate) mod seccomp;
pub(crate) mod selinux;
pub(crate) mod socket_binds;
pub(crate) mod sources;
pub(crate) mod sysctl;
pub(crate) mod to_agent;
pub(crate) mod to_vm;
pub(crate) mod validate;
pub(crate) mod version;
pub(crate) mod vm_section;
