//! Where the other programs and the guest's files are.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

/// A part of the installation is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallationError {
    /// The path of this program itself.
    #[error("cannot find out where this program is installed")]
    Executable(#[source] io::Error),
    /// A file.
    #[error("cannot find {what} {name} (looked in {}); {remedy}", list(looked_in))]
    Missing {
        /// What the file is to the sandbox.
        what: &'static str,
        /// Its name.
        name: &'static str,
        /// The folders.
        looked_in: Vec<PathBuf>,
        /// What to do.
        remedy: &'static str,
    },
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The places of one installation.
#[derive(Debug)]
pub(crate) struct Installation {
    programs: Vec<PathBuf>,
    shared: Vec<PathBuf>,
}

impl Installation {
    /// The installation that this program belongs to.
    pub(crate) fn of_this_program() -> Result<Self, InstallationError> {
        let executable = env::current_exe().map_err(InstallationError::Executable)?;
        let folder = executable.parent().unwrap_or(Path::new("/"));
        let prefix = folder.parent().unwrap_or(Path::new("/"));
        Ok(Self {
            programs: vec![folder.to_owned(), prefix.join("libexec/runv")],
            shared: vec![
                prefix.join("share/runv"),
                PathBuf::from("/usr/local/share/runv"),
                PathBuf::from("/usr/share/runv"),
            ],
        })
    }

    /// The program that serves a sandbox's devices.
    pub(crate) fn device_program(&self) -> Result<PathBuf, InstallationError> {
        find(&self.programs, "the device program", "runv-devices", "install it beside this program")
    }

    /// The embedded virtual machine monitor.
    pub(crate) fn vmm_program(&self) -> Result<PathBuf, InstallationError> {
        find(&self.programs, "the virtual machine monitor", "runv-vmm", "install it beside this program")
    }

    /// The guest kernel that came with this program.
    pub(crate) fn kernel(&self) -> Result<PathBuf, InstallationError> {
        find(&self.shared, "the guest kernel", "vmlinux", "build it with `make kernel`, or say --kernel FILE")
    }

    /// The initrd that came with this program.
    pub(crate) fn initrd(&self) -> Result<PathBuf, InstallationError> {
        find(&self.shared, "the initrd", "initrd.cpio", "build it with `make initrd`, or say --initrd FILE")
    }
}

fn find(
    folders: &[PathBuf],
    what: &'static str,
    name: &'static str,
    remedy: &'static str,
) -> Result<PathBuf, InstallationError> {
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| InstallationError::Missing { what, name, looked_in: folders.to_vec(), remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_names_every_place_and_the_remedy() {
        let installation = Installation {
            programs: Vec::new(),
            shared: vec![PathBuf::from("/none/a"), PathBuf::from("/none/b")],
        };
        assert_eq!(
            installation.kernel().unwrap_err().to_string(),
            "cannot find the guest kernel vmlinux (looked in /none/a, /none/b); \
             build it with `make kernel`, or say --kernel FILE"
        );
    }
}
