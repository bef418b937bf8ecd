//! What the guest's architecture prescribes, as data: nothing in here does I/O or knows KVM's handles.

pub(crate) mod x86_64;
