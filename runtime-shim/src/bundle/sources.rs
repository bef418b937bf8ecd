//! Where on the host the root file system and the bind mounts of a bundle are.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::mounts;

/// Canonical paths on the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// The root file system.
    pub(crate) rootfs: PathBuf,
    /// Each bind mount's source, with the mount's place in the bundle's list.
    pub(crate) binds: Vec<(usize, PathBuf)>,
}

impl Sources {
    /// Whether the n-th mount shows one file.
    pub(crate) fn is_file(&self, index: usize) -> bool {
        self.binds.iter().any(|(bind, source)| *bind == index && source.is_file())
    }
}

/// A path of the bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The root file system.
    #[error("cannot use the root file system {} (root.path)", path.display())]
    Rootfs {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A bind mount's source.
    #[error("cannot use {} (mounts[{index}].source, for {destination})", path.display())]
    Bind {
        /// Place in the bundle's list.
        index: usize,
        /// Where it should be.
        path: PathBuf,
        /// Where it should appear.
        destination: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Finds the sources of a bundle in `directory`; relative paths are relative to it.
pub(crate) fn find(spec: &Spec, directory: &Path) -> Result<Sources, SourceError> {
    let rootfs = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
    let rootfs = directory.join(rootfs);
    let rootfs =
        existing_directory(&rootfs).map_err(|source| SourceError::Rootfs { path: rootfs, source })?;
    let mut binds = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if !mounts::is_bind(mount) {
            continue;
        }
        let path = directory.join(mount.source().as_deref().unwrap_or(Path::new("")));
        let failed = |source| {
            let destination = mount.destination().display().to_string();
            SourceError::Bind { index, path: path.clone(), destination, source }
        };
        binds.push((index, shareable(&path).map_err(failed)?));
    }
    Ok(Sources { rootfs, binds })
}

fn existing_directory(path: &Path) -> io::Result<PathBuf> {
    let path = path.canonicalize()?;
    if fs::metadata(&path)?.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Devices, sockets and pipes are doors into the host's kernel and processes, which a file share cannot hand
/// to another kernel.
fn shareable(path: &Path) -> io::Result<PathBuf> {
    let path = path.canonicalize()?;
    let kind = fs::metadata(&path)?.file_type();
    if kind.is_dir() || kind.is_file() {
        return Ok(path);
    }
    let what = match () {
        () if kind.is_socket() => "a socket",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_block_device() => "a block device",
        () => "a device",
    };
    Err(io::Error::other(format!("it is {what} of the host, which the guest's kernel cannot reach")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    fn spec(source: &str) -> Spec {
        let mounts = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": source}
        ]);
        serde_json::from_value(json!({"root": {"path": "rootfs"}, "mounts": mounts})).unwrap()
    }

    #[test]
    fn relative_sources_are_the_bundles() {
        let bundle = tempfile::tempdir().unwrap();
        let directory = bundle.path().canonicalize().unwrap();
        fs::create_dir_all(directory.join("rootfs")).unwrap();
        fs::write(directory.join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", directory.join("link")).unwrap();
        let sources = find(&spec("link"), &directory).unwrap();
        let expected = Sources { rootfs: directory.join("rootfs"), binds: vec![(1, directory.join("file"))] };
        assert_eq!(sources, expected);
    }

    #[test]
    fn errors_name_the_mount_and_the_path() {
        let bundle = tempfile::tempdir().unwrap();
        let directory = bundle.path().canonicalize().unwrap();
        assert!(matches!(find(&spec("/"), &directory), Err(SourceError::Rootfs { .. })));
        fs::create_dir_all(directory.join("rootfs")).unwrap();
        let _listener = UnixListener::bind(directory.join("socket")).unwrap();
        for (source, reason) in [("none", ""), ("/dev/null", "it is a device"), ("socket", "it is a socket")]
        {
            let error = find(&spec(source), &directory).unwrap_err();
            assert!(error.to_string().contains("mounts[1].source, for /data"), "{error}");
            let SourceError::Bind { source, .. } = error else { unreachable!("a bind's error") };
            assert!(source.to_string().contains(reason), "{source}");
        }
    }
}
