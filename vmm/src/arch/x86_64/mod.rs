//! x86-64: where things are in guest-physical memory, and the contents of tables and registers with which
//! Linux starts. Data in, data out; `machine` writes it to where it belongs.

pub(crate) mod boot_params;
pub(crate) mod cpuid;
pub(crate) mod layout;
pub(crate) mod mp_table;
pub(crate) mod msrs;
pub(crate) mod registers;
