//! The workload's standard streams, the terminal and the guest's console.

pub(crate) mod console;
pub(crate) mod console_tail;
pub(crate) mod copy;
pub(crate) mod descriptors;
pub(crate) mod poll;
pub(crate) mod streams;
pub(crate) mod terminal;
