//! What the guest boots from, put into guest memory: kernel, initrd and command line.
//!
//! The files come from the host's administrator, but a wrong file is a common mistake: everything read from
//! them is checked and ends in an error that says what is wrong. Called once, before the guest runs.

pub(crate) mod cmdline;
pub(crate) mod elf;
pub(crate) mod initrd;
pub(crate) mod kernel;
