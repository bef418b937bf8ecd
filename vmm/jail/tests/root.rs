#![allow(clippy::unwrap_used, reason = "a test ends at its first surprise")]
//! The new root directory, on the real kernel. Needs root (`CAP_SYS_ADMIN`).
//!
//! Each test confines a thread of its own: a mount namespace and a root directory belong to threads, not to
//! processes, and vanish with the thread.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use jail::root::{RootError, enter};
use jail::{Bind, RootPlan};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A directory of the host, away from symbolic links.
fn host_directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn bind(source: &Path, destination: &str, read_only: bool) -> Bind {
    Bind { source: source.into(), destination: destination.into(), read_only, id_map: None }
}

fn plan(binds: Vec<Bind>) -> RootPlan {
    RootPlan { directories: vec!["share".into()], binds }
}

/// Runs `act` in a thread whose root is `plan`'s.
fn confined<T: Send + 'static>(plan: RootPlan, act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        enter(&plan).unwrap();
        act()
    });
    thread.join().unwrap()
}

/// The error of entering `plan`'s root.
fn refusal(plan: RootPlan) -> RootError {
    std::thread::spawn(move || enter(&plan).unwrap_err()).join().unwrap()
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Where the host has mounts, but for those of other tests' directories.
fn host_mounts(own: &Path) -> Vec<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = mountinfo.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
    let others = std::env::temp_dir();
    places
        .filter(|place| Path::new(place).starts_with(own) || !Path::new(place).starts_with(&others))
        .collect()
}

#[test]
fn root_holds_the_plan_and_nothing_else() {
    let (_guard, host) = host_directory();
    fs::write(host.join("file"), "content").unwrap();
    let seen = confined(plan(vec![bind(&host, "share/mounts/0", false)]), || {
        let parent = fs::canonicalize("/..").unwrap();
        (names("/"), names("/share"), fs::read_to_string("/share/mounts/0/file").unwrap(), parent)
    });

    let expected =
        (["share".to_owned()].into(), ["mounts".to_owned()].into(), "content".to_owned(), "/".into());
    assert_eq!(seen, expected);
}

#[test]
fn root_itself_cannot_be_written() {
    let error = confined(plan(vec![]), || fs::write("/share/x", "").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn writes_reach_the_host_but_not_through_a_read_only_bind() {
    let (_guard, host) = host_directory();
    fs::write(host.join("file"), "old").unwrap();
    let binds = vec![bind(&host, "rw", false), bind(&host, "ro", true)];
    let errors = confined(plan(binds), || {
        fs::write("/rw/new", "new").unwrap();
        [
            fs::write("/ro/other", "").unwrap_err(),
            fs::OpenOptions::new().append(true).open("/ro/file").unwrap_err(),
            fs::remove_file("/ro/file").unwrap_err(),
            fs::set_permissions("/ro/file", fs::Permissions::from_mode(0o600)).unwrap_err(),
        ]
    });

    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(fs::read_to_string(host.join("new")).unwrap(), "new");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "old");
}

#[test]
fn mounts_below_a_source_come_along_and_are_read_only_too() {
    let (_guard, host) = host_directory();
    let below = host.join("below");
    fs::create_dir(&below).unwrap();
    mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(below.join("file"), "below").unwrap();
    let (content, error) = confined(plan(vec![bind(&host, "ro", true)]), || {
        (fs::read_to_string("/ro/below/file").unwrap(), fs::write("/ro/below/file", "").unwrap_err())
    });
    // The namespace is gone, so it does not hold the mount.
    unmount(&below, UnmountFlags::empty()).unwrap();

    assert_eq!(content, "below");
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn single_file_shows_no_siblings() {
    let (_guard, host) = host_directory();
    fs::write(host.join("hosts"), "old").unwrap();
    fs::write(host.join("secret"), "").unwrap();
    let seen = confined(plan(vec![bind(&host.join("hosts"), "share/mounts/0", false)]), || {
        fs::OpenOptions::new().append(true).open("/share/mounts/0").unwrap().write_all(b"+new").unwrap();
        (names("/share/mounts"), fs::read_dir("/share/mounts/0/..").unwrap_err().kind())
    });

    assert_eq!(seen, (["0".to_owned()].into(), ErrorKind::NotADirectory));
    assert_eq!(fs::read_to_string(host.join("hosts")).unwrap(), "old+new");
}

#[test]
fn device_nodes_can_be_made_but_not_opened() {
    let (_guard, host) = host_directory();
    let error = confined(plan(vec![bind(&host, "rw", false)]), || {
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, "/rw/null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), null).unwrap();
        fs::File::open("/rw/null").unwrap_err()
    });

    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ACCESS.raw_os_error()));
    assert!(host.join("null").exists());
}

#[test]
fn set_user_id_bits_can_be_stored() {
    let (_guard, host) = host_directory();
    confined(plan(vec![bind(&host, "rw", false)]), || {
        fs::write("/rw/su", "").unwrap();
        fs::set_permissions("/rw/su", fs::Permissions::from_mode(0o6755)).unwrap();
    });

    assert_eq!(fs::metadata(host.join("su")).unwrap().permissions().mode() & 0o7777, 0o6755);
}

#[test]
fn symbolic_link_in_an_export_leads_nowhere_on_the_host() {
    let (_guard, host) = host_directory();
    let (_secret_guard, secret) = host_directory();
    fs::write(secret.join("secret"), "").unwrap();
    symlink(secret.join("secret"), host.join("absolute")).unwrap();
    symlink("../../../../../../etc/passwd", host.join("relative")).unwrap();
    let kinds = confined(plan(vec![bind(&host, "rw", false)]), || {
        ["/rw/absolute", "/rw/relative"].map(|link| fs::read(link).unwrap_err().kind())
    });

    assert_eq!(kinds, [ErrorKind::NotFound; 2]);
}

#[test]
fn symbolic_links_in_a_source_are_refused() {
    let (_guard, host) = host_directory();
    fs::create_dir_all(host.join("real/inner")).unwrap();
    symlink(host.join("real"), host.join("link")).unwrap();
    for source in [host.join("link"), host.join("link/inner")] {
        let error = refusal(plan(vec![bind(&source, "a", false)]));
        assert!(matches!(&error, RootError::Symlink(path) if *path == source), "{error}");
    }
}

#[test]
fn missing_source_and_device_source_are_named() {
    let (_guard, host) = host_directory();
    let missing = host.join("missing");
    let error = refusal(plan(vec![bind(&missing, "a", false)]));
    assert_eq!(error.to_string(), format!("cannot open {}", missing.display()));
    let error = refusal(plan(vec![bind(Path::new("/dev/null"), "a", false)]));
    assert_eq!(error.to_string(), "/dev/null: neither a directory nor a regular file");
}

#[test]
fn nothing_is_left_on_the_host() {
    let (_guard, host) = host_directory();
    let before = host_mounts(&host);
    confined(plan(vec![bind(&host, "share/a", false)]), || fs::create_dir("/share/a/made").unwrap());
    refusal(plan(vec![bind(&host, "share/a", false), bind(Path::new("/missing"), "share/b", false)]));

    assert_eq!(host_mounts(&host), before);
    assert_eq!(names(host.to_str().unwrap()), ["made".to_owned()].into());
}

#[test]
fn proc_self_fd_leads_to_descriptors_only() {
    let (_guard, host) = host_directory();
    fs::write(host.join("file"), "content").unwrap();
    let plan = plan(vec![bind(&host, "rw", false)]);
    let thread = std::thread::spawn(move || {
        use rustix::fd::AsRawFd;
        use rustix::fs::{OFlags, openat};
        let proc_self_fd = jail::root::clone_proc_self_fd().unwrap();
        enter(&plan).unwrap();
        let file = rustix::fs::open("/rw/file", OFlags::PATH, Mode::empty()).unwrap();
        let again = openat(&proc_self_fd, file.as_raw_fd().to_string(), OFlags::RDONLY, Mode::empty());
        let upwards = openat(&proc_self_fd, "../status", OFlags::RDONLY, Mode::empty());
        (again.is_ok(), upwards.unwrap_err())
    });

    assert_eq!(thread.join().unwrap(), (true, rustix::io::Errno::NOENT));
}

#[test]
fn owners_appear_as_they_are_mapped_and_are_stored_as_the_map_says() {
    let (_guard, host) = host_directory();
    // The file system of temporary directories need not be able to.
    mount("tmpfs", &host, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(host.join("file"), "").unwrap();
    let range = vec![jail::IdRange { stored: 0, shown: 5000, size: 10 }];
    let map = jail::IdMap { uids: range.clone(), gids: range, recursive: false };
    let binds = vec![Bind { id_map: Some(map), ..bind(&host, "mapped", false) }];
    let (owner, error) = confined(plan(binds), || {
        let owner = fs::metadata("/mapped/file").unwrap();
        chown("/mapped/file", Some(5003), Some(5004)).unwrap();
        ((owner.uid(), owner.gid()), chown("/mapped/file", Some(0), None).unwrap_err())
    });
    let stored = fs::metadata(host.join("file")).unwrap();
    unmount(&host, UnmountFlags::empty()).unwrap();

    assert_eq!(owner, (5000, 5000));
    assert_eq!((stored.uid(), stored.gid()), (3, 4));
    // Who is not mapped cannot own anything there.
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::OVERFLOW.raw_os_error()));
}

#[test]
fn ids_that_cannot_be_mapped_are_an_error() {
    let (_guard, host) = host_directory();
    let range = |size| vec![jail::IdRange { stored: 0, shown: 5000, size }];
    let map = |size| jail::IdMap { uids: range(size), gids: range(size), recursive: false };
    let refusal = |source: &Path, size| {
        refusal(plan(vec![Bind { id_map: Some(map(size)), ..bind(source, "mapped", false) }]))
    };
    assert!(matches!(refusal(&host, 0), RootError::MakeIdMap { .. }));
    // procfs has no owners of its own.
    assert!(matches!(refusal(Path::new("/proc/sys"), 1), RootError::MapIds { .. }));
}
