//! Finding the program, with the words that runc has for it when it cannot: engines look for them.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::failure::{Failure, FailureKind};

/// Resolves `name` as execvp(3) would, but once and before anything depends on it: a name with a slash is a
/// path, any other is looked for in the directories of PATH in `env`. Called as the user that will execute
/// it, in its root and working directory.
///
/// # Errors
///
/// A [`Failure`] worded as runc's: not found, or found and not executable.
pub fn find(name: &CStr, env: &[CString]) -> Result<CString, Failure> {
    let text = name.to_string_lossy();
    if name.to_bytes().contains(&b'/') {
        return match check(Path::new(OsStr::from_bytes(name.to_bytes()))) {
            Ok(()) => Ok(name.to_owned()),
            Err(refusal) => Err(refusal.explain(&text)),
        };
    }
    let not_found = || {
        Failure::new(
            FailureKind::ExecutableNotFound,
            format!("exec: {text:?}: executable file not found in $PATH"),
        )
    };
    if name.is_empty() {
        return Err(not_found());
    }
    for directory in path_of(env).split(|&byte| byte == b':') {
        // An empty entry means the working directory, from which nothing is executed by mere name.
        if !directory.starts_with(b"/") {
            continue;
        }
        let candidate = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name.to_bytes()));
        if check(&candidate).is_ok() {
            return CString::new(candidate.into_os_string().as_encoded_bytes()).map_err(|_nul| not_found());
        }
    }
    Err(not_found())
}

/// The program of this process, by its file: set before the first container is made.
static OWN: OnceLock<(u64, u64)> = OnceLock::new();

/// Remembers which program the agent is, so that no container executes it: the one at `path`, or else what procfs
/// says, which takes longer to find.
pub fn remember_own(path: &Path) {
    if let Some(identity) = identity(path).or_else(|| identity(Path::new("/proc/self/exe"))) {
        OWN.get_or_init(|| identity);
    }
}

/// Refuses the agent's own program, to which `/proc/self/exe` of an image's entry point leads: what is executed in a
/// container can be traced and written there (CVE-2019-5736).
///
/// # Errors
///
/// A [`Failure`] as for a file that may not be executed.
pub fn refuse_own(program: &CStr) -> Result<(), Failure> {
    match (OWN.get(), identity(Path::new(OsStr::from_bytes(program.to_bytes())))) {
        (Some(own), Some(other)) if *own == other => {
            let text = format!("exec: {:?}: permission denied", program.to_string_lossy());
            Err(Failure::new(FailureKind::ExecutableNotPermitted, text))
        }
        _ => Ok(()),
    }
}

fn identity(program: &Path) -> Option<(u64, u64)> {
    rustix::fs::stat(program).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// The failure of execve(2) itself: the file was there a moment ago.
pub fn explain_execve(program: &CStr, error: &io::Error) -> Failure {
    let kind = match error.raw_os_error() {
        // The interpreter of a script, or the dynamic loader.
        Some(libc::ENOENT | libc::ENOTDIR) => FailureKind::ExecutableNotFound,
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR | libc::ETXTBSY) => {
            FailureKind::ExecutableNotPermitted
        }
        _ => FailureKind::System,
    };
    Failure::new(kind, format!("exec {}: {}", program.to_string_lossy(), describe(error)))
}

enum Refusal {
    Stat(PathBuf, io::Error),
    Directory,
    NotExecutable,
}

impl Refusal {
    fn explain(&self, name: &str) -> Failure {
        match self {
            Self::Stat(path, error) => {
                let kind = match error.raw_os_error() {
                    Some(libc::EACCES) => FailureKind::ExecutableNotPermitted,
                    _ => FailureKind::ExecutableNotFound,
                };
                Failure::new(kind, format!("exec: {name:?}: stat {}: {}", path.display(), describe(error)))
            }
            Self::Directory => {
                Failure::new(FailureKind::ExecutableNotPermitted, format!("exec: {name:?}: is a directory"))
            }
            Self::NotExecutable => Failure::new(
                FailureKind::ExecutableNotPermitted,
                format!("exec: {name:?}: permission denied"),
            ),
        }
    }
}

fn check(path: &Path) -> Result<(), Refusal> {
    let metadata = fs::metadata(path).map_err(|error| Refusal::Stat(path.to_owned(), error))?;
    if metadata.is_dir() {
        return Err(Refusal::Directory);
    }
    // The mode decides for root, whom access(2) allows nearly everything; access(2) knows the user, ACLs and
    // file systems mounted noexec.
    let executable = metadata.permissions().mode() & 0o111 != 0
        && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    if executable { Ok(()) } else { Err(Refusal::NotExecutable) }
}

fn path_of(env: &[CString]) -> &[u8] {
    env.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH=")).unwrap_or_default()
}

/// The kernel's words alone, in lower case as Go writes them: `no such file or directory`.
fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, Permissions};

    fn find_in(directories: &str, name: &str) -> Result<CString, Failure> {
        find(&CString::new(name).unwrap(), &[CString::new(format!("PATH={directories}")).unwrap()])
    }

    /// A directory with `run` (executable), `text` (not) and `folder`.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("run", 0o755), ("text", 0o644)] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(folder.path().join("folder")).unwrap();
        folder
    }

    #[test]
    fn a_bare_name_is_looked_for_in_path_in_order() {
        let folder = folder();
        let place = folder.path().display();
        let found = find_in(&format!("/nonexistent:relative::{place}"), "run").unwrap();
        assert_eq!(found.to_str().unwrap(), format!("{place}/run"));
    }

    #[test]
    fn what_path_does_not_have_is_not_found_in_runcs_words() {
        let folder = folder();
        for name in ["foo", "text", "folder", ""] {
            let failure = find_in(&folder.path().display().to_string(), name).unwrap_err();
            assert_eq!(failure.kind, FailureKind::ExecutableNotFound);
            assert_eq!(failure.message, format!("exec: \"{name}\": executable file not found in $PATH"));
        }
    }

    #[test]
    fn without_path_no_bare_name_is_found() {
        assert_eq!(find(c"sh", &[]).unwrap_err().kind, FailureKind::ExecutableNotFound);
    }

    #[test]
    fn a_path_is_explained_in_runcs_words() {
        let folder = folder();
        let place = folder.path().display();
        for (name, kind, text) in [
            (
                "none",
                FailureKind::ExecutableNotFound,
                format!("stat {place}/none: no such file or directory"),
            ),
            ("text", FailureKind::ExecutableNotPermitted, "permission denied".to_owned()),
            ("folder", FailureKind::ExecutableNotPermitted, "is a directory".to_owned()),
            ("text/x", FailureKind::ExecutableNotFound, format!("stat {place}/text/x: not a directory")),
        ] {
            let failure = find_in("", &format!("{place}/{name}")).unwrap_err();
            assert_eq!(failure.message, format!("exec: \"{place}/{name}\": {text}"));
            assert_eq!(failure.kind, kind);
        }
    }
}
