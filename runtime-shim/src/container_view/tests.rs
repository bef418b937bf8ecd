//! The view, on the real kernel. Needs root. Each view is a thread's, and ends with it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::bundle::sources;

/// A bundle with a root file system and a folder of the host beside it.
fn bundle() -> tempfile::TempDir {
    let bundle = tempfile::tempdir().unwrap();
    for folder in ["rootfs/data", "rootfs/proc", "rootfs/etc", "rootfs/dev", "outside"] {
        fs::create_dir_all(bundle.path().join(folder)).unwrap();
    }
    fs::write(bundle.path().join("rootfs/etc/hosts"), "image").unwrap();
    fs::write(bundle.path().join("outside/file"), "outside").unwrap();
    bundle
}

/// What `look` finds in the view of a bundle.
fn inside<T: Send + 'static>(
    bundle: &Path,
    root: &Value,
    mounts: &Value,
    look: impl FnOnce() -> T + Send + 'static,
) -> T {
    let spec: Spec = serde_json::from_value(json!({"root": root, "mounts": mounts})).unwrap();
    let sources = sources::find(&spec, &bundle.canonicalize().unwrap()).unwrap();
    let view = ContainerView::open(&spec, &sources, false).unwrap();
    let folder = bundle.join("folder");
    fs::create_dir_all(&folder).unwrap();
    let folder = Folder::open(folder).unwrap();
    let thread = std::thread::spawn(move || {
        view.enter(folder).unwrap();
        look()
    });
    thread.join().unwrap()
}

fn writable() -> Value {
    json!({"path": "rootfs"})
}

#[test]
fn it_has_the_containers_files_and_nothing_of_the_host() {
    let bundle = bundle();
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "outside", "options": ["rbind", "ro"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "outside/file"}
    ]);
    let seen = inside(bundle.path(), &writable(), &mounts, || {
        fs::write("/etc/new", "from the host").unwrap();
        (
            fs::read_to_string("/data/file").unwrap(),
            fs::write("/data/x", "").unwrap_err().kind(),
            fs::read_to_string("/etc/hosts").unwrap(),
            fs::read_dir("/proc").unwrap().filter(Result::is_ok).count(),
            fs::write("/proc/x", "").is_err(),
            Path::new("/..").canonicalize().unwrap().join("usr").exists(),
        )
    });
    let read_only = ErrorKind::ReadOnlyFilesystem;
    assert_eq!(seen, ("outside".into(), read_only, "outside".into(), 0, true, false));
    assert_eq!(fs::read_to_string(bundle.path().join("rootfs/etc/new")).unwrap(), "from the host");
    assert_eq!(fs::read_dir(bundle.path().join("rootfs/proc")).unwrap().count(), 0);
}

#[test]
fn a_read_only_root_refuses_writes_but_its_mounts_do_not() {
    let bundle = bundle();
    let mounts = json!([{"destination": "/data", "type": "bind", "source": "outside"}]);
    let root = json!({"path": "rootfs", "readonly": true});
    let errors = inside(bundle.path(), &root, &mounts, || {
        (fs::write("/x", "").unwrap_err().kind(), fs::write("/data/x", "").is_ok())
    });
    assert_eq!(errors, (ErrorKind::ReadOnlyFilesystem, true));
}

#[test]
fn links_of_the_image_lead_nowhere_outside() {
    let bundle = bundle();
    let rootfs = bundle.path().join("rootfs");
    symlink("../../../../../../data", rootfs.join("up")).unwrap();
    symlink(bundle.path().join("outside"), rootfs.join("away")).unwrap();
    symlink("/proc/self/root", rootfs.join("magic")).unwrap();
    let bind = |destination: &str| json!({"destination": destination, "type": "bind", "source": "outside"});
    let mounts = json!([bind("/up"), bind("/away"), bind("/magic/srv")]);
    let seen = inside(bundle.path(), &writable(), &mounts, || {
        (fs::read_to_string("/data/file").ok(), Path::new("/away").exists())
    });
    assert_eq!(seen, (Some("outside".into()), false));
}

#[test]
fn a_mount_point_that_only_the_guest_has_is_made_beside_the_hosts_files() {
    let bundle = bundle();
    let mounts = json!([
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/dev/shm", "type": "bind", "source": "outside"},
        {"destination": "/dev/a/file", "type": "bind", "source": "outside/file"},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
        {"destination": "/missing/one", "type": "bind", "source": "outside"}
    ]);
    let seen = inside(bundle.path(), &writable(), &mounts, || {
        (
            fs::read_to_string("/dev/shm/file").unwrap(),
            fs::read_to_string("/dev/a/file").unwrap(),
            Path::new("/dev/pts").exists(),
            Path::new("/missing").exists(),
        )
    });
    assert_eq!(seen, ("outside".into(), "outside".into(), false, false));
    assert_eq!(fs::read_dir(bundle.path().join("rootfs/dev")).unwrap().count(), 0);
}

#[test]
fn nothing_of_the_image_is_executed() {
    let bundle = bundle();
    fs::copy("/bin/true", bundle.path().join("rootfs/true")).unwrap();
    let error = inside(bundle.path(), &writable(), &json!([]), || {
        std::process::Command::new("/true").status().unwrap_err().kind()
    });
    assert_eq!(error, ErrorKind::PermissionDenied);
}
