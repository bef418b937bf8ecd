//! Where QEMU is, and which one it is.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::Access;

use super::stderr::one_line;

const NAME: &str = "qemu-system-x86_64";

/// Where programs are for callers that give no environment, as engines may.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// QEMU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is in no folder of PATH.
    #[error("cannot find {NAME} in PATH; install it (Debian: apt install qemu-system-x86)")]
    NotInPath,
    /// The program is not there or cannot be executed.
    #[error("cannot use {} as QEMU", program.display())]
    Unusable {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program does not answer as QEMU does.
    #[error("{} does not say that it is QEMU, but {answer:?}", program.display())]
    NotQemu {
        /// The program.
        program: PathBuf,
        /// Its answer to `--version`.
        answer: String,
    },
}

/// The configured program if it can be executed, else `qemu-system-x86_64` of the environment's PATH, or where distributions have it if
/// there is no PATH.
///
/// # Errors
/// When there is none. A configured program that is unusable is never replaced by another.
pub fn find_program(configured: Option<&Path>) -> Result<PathBuf, ProgramError> {
    match configured {
        Some(program) => check_executable(program)
            .map(|()| program.to_owned())
            .map_err(|source| ProgramError::Unusable { program: program.to_owned(), source }),
        None => find_in(&env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
    }
}

fn find_in(search_path: &OsStr) -> Result<PathBuf, ProgramError> {
    env::split_paths(search_path)
        // An empty entry means the current folder, from which nothing should be run by chance.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(NAME))
        .find(|program| check_executable(program).is_ok())
        .ok_or(ProgramError::NotInPath)
}

fn check_executable(program: &Path) -> io::Result<()> {
    if !std::fs::metadata(program)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(rustix::fs::access(program, Access::EXEC_OK)?)
}

/// The version of QEMU, such as `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`. Runs the program.
///
/// # Errors
/// When the program cannot be run or is not QEMU.
pub fn version(program: &Path) -> Result<String, ProgramError> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|source| ProgramError::Unusable { program: program.to_owned(), source })?;
    let end = output.stdout.iter().position(|byte| *byte == b'\n').unwrap_or(output.stdout.len());
    let answer = one_line(output.stdout.get(..end).unwrap_or_default());
    match answer.strip_prefix("QEMU emulator version ") {
        Some(version) => Ok(version.to_owned()),
        None => Err(ProgramError::NotQemu { program: program.to_owned(), answer }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_program_is_checked_and_not_replaced() {
        assert_eq!(find_program(Some(Path::new("/bin/sh"))).unwrap(), Path::new("/bin/sh"));
        for wrong in ["/no/qemu", "/etc/passwd", "/bin"] {
            let error = find_program(Some(Path::new(wrong))).unwrap_err();
            assert!(matches!(error, ProgramError::Unusable { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn path_without_qemu_is_an_error_with_the_remedy() {
        let error = find_in(OsStr::new("/proc:/no/folder:")).unwrap_err();
        assert!(error.to_string().contains("apt install qemu-system-x86"));
        assert!(matches!(find_in(OsStr::new("")), Err(ProgramError::NotInPath)));
    }

    #[test]
    fn program_that_is_not_qemu_has_no_version() {
        let error = version(Path::new("/bin/echo")).unwrap_err();
        assert!(matches!(error, ProgramError::NotQemu { .. }), "{error}");
    }
}
