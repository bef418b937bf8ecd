//! The seccomp filter of a container: the shim has compiled it, the kernel checks it.

use std::io;

use crate::sys::seccomp::{Instruction, set_filter};

/// `BPF_MAXINSNS` (linux/bpf_common.h).
pub const MOST_INSTRUCTIONS: usize = 4096;

/// Of a `struct sock_filter`, in bytes.
const SIZE: usize = 8;

/// A filter of seccomp(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// At most [`MOST_INSTRUCTIONS`].
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Filter {
    /// From the form of the protocol; `None` if the length is not that of a program.
    pub fn from_bytes(program: &[u8], flags: u32) -> Option<Self> {
        let chunks = program.chunks_exact(SIZE);
        let fits = chunks.remainder().is_empty() && (1..=MOST_INSTRUCTIONS).contains(&chunks.len());
        let instructions = chunks.filter_map(|bytes| Some(Instruction::from_bytes(bytes.try_into().ok()?)));
        fits.then(|| Self { program: instructions.collect(), flags })
    }

    /// Puts the filter over the calling process, for good.
    ///
    /// # Errors
    ///
    /// Those of seccomp(2): `EINVAL` for a program that the kernel does not take, `EACCES` without CAP_SYS_ADMIN
    /// and `no_new_privs`.
    pub fn install(&self) -> io::Result<()> {
        set_filter(&self.program, self.flags)
    }
}
