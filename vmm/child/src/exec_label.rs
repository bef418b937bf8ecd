//! The SELinux context in which a child executes its program.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;

use rustix::fs::{Mode, OFlags};

/// Where a thread says in which context its next execve(2) puts the process. It applies once, as setexeccon(3) has it.
const EXEC_ATTRIBUTE: &CStr = c"/proc/thread-self/attr/exec";

/// The kernel takes no more than a page (`proc_pid_attr_write`).
const LONGEST: usize = 4095;

/// A security context, such as `system_u:system_r:container_kvm_t:s0:c1,c2`. Whether the host's policy knows it, the
/// kernel says when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecLabel(CString);

impl ExecLabel {
    /// `None` for what no kernel takes: no text, one with a NUL character, and one of more than a page.
    #[must_use]
    pub fn new(context: &str) -> Option<Self> {
        let is_possible = !context.is_empty() && context.len() <= LONGEST;
        CString::new(context).ok().filter(|_| is_possible).map(Self)
    }

    /// Has the calling thread's next execve(2) be in this context. Allocates nothing, so that the child of a fork(2)
    /// may call it.
    ///
    /// Errors are those of the kernel: `EINVAL` for a context that the policy does not know, `EACCES` where it does
    /// not let the process choose one.
    pub(crate) fn set(&self) -> io::Result<()> {
        self.write_to(EXEC_ATTRIBUTE)
    }

    fn write_to(&self, attribute: &CStr) -> io::Result<()> {
        let file = rustix::fs::open(attribute, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        let context = self.0.to_bytes();
        // The kernel takes it by one call or not at all.
        match rustix::io::write(&file, context)? {
            written if written == context.len() => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

impl fmt::Display for ExecLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    const CONTEXT: &str = "system_u:system_r:container_kvm_t:s0:c1,c2";

    fn c_path(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn the_context_is_written_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        ExecLabel::new(CONTEXT).unwrap().write_to(&c_path(file.path())).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), CONTEXT.as_bytes());
    }

    #[test]
    fn what_does_not_take_it_is_an_error() {
        let label = ExecLabel::new(CONTEXT).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let missing = label.write_to(&c_path(&folder.path().join("exec"))).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let full = label.write_to(c"/dev/full").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn what_no_kernel_takes_is_no_label() {
        for context in ["", "a\0b", &"a".repeat(4096)] {
            assert_eq!(ExecLabel::new(context), None);
        }
        assert_eq!(ExecLabel::new(CONTEXT).unwrap().to_string(), CONTEXT);
    }
}
