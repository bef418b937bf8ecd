#![allow(clippy::unwrap_used, reason = "a test ends at its first surprise")]
//! What is attached to a confined process's root while it runs, on the real kernel. Needs root (`CAP_SYS_ADMIN`).
//!
//! The confined "process" is a thread of this one: a mount namespace belongs to a thread, and the descriptor of a
//! namespace will do where that of a process is asked for.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use jail::root::{RootError, enter};
use jail::tree::{attach, build, detach};
use jail::{Bind, RootPlan};
use tempfile::TempDir;

/// A thread in a root directory of its own, which does what it is told.
struct Confined {
    namespace: File,
    acts: Option<Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl Confined {
    fn new() -> Self {
        let (acts, work) = channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero();
            enter(&RootPlan { directories: vec!["share".into()], binds: Vec::new() }).unwrap();
            tell.send(id).unwrap();
            work.into_iter().for_each(|act| act());
        });
        let id = told.recv().unwrap();
        let namespace = File::open(format!("/proc/self/task/{id}/ns/mnt")).unwrap();
        Self { namespace, acts: Some(acts), thread: Some(thread) }
    }

    fn run<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.acts.as_ref().unwrap().send(Box::new(move || tell.send(act()).unwrap())).unwrap();
        told.recv().unwrap()
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        drop(self.acts.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn source() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    fs::write(path.join("file"), "content").unwrap();
    (directory, path)
}

fn plan(source: &Path, read_only: bool) -> RootPlan {
    let bind = |source: PathBuf, destination: &str| Bind {
        source,
        destination: destination.into(),
        read_only,
        id_map: None,
    };
    let binds = vec![bind(source.into(), "rootfs"), bind(source.join("file"), "mounts/0")];
    RootPlan { directories: Vec::new(), binds }
}

#[test]
fn a_tree_appears_and_goes_again_and_the_root_stays_read_only() {
    let (_guard, source) = source();
    let confined = Confined::new();
    let tree = build(&plan(&source, false)).unwrap();
    let place = Path::new("share/members/1");
    attach(confined.namespace.as_fd(), place, &tree).unwrap();
    drop(tree);
    let (content, file, made) = confined.run(|| {
        fs::write("/share/members/1/rootfs/new", "").unwrap();
        let file = fs::read_to_string("/share/members/1/mounts/0").unwrap();
        let made = ["/x", "/share/members/1/x", "/share/members/x"]
            .map(|path| fs::create_dir(path).unwrap_err().kind());
        (fs::read_to_string("/share/members/1/rootfs/file").unwrap(), file, made)
    });
    assert_eq!((content.as_str(), file.as_str()), ("content", "content"));
    assert_eq!(made, [ErrorKind::ReadOnlyFilesystem; 3]);
    assert!(source.join("new").exists());

    detach(confined.namespace.as_fd(), place).unwrap();
    assert_eq!(confined.run(|| fs::read_dir("/share/members").unwrap().count()), 0);
    assert!(matches!(detach(confined.namespace.as_fd(), place), Err(RootError::Detach { .. })));
}

#[test]
fn read_only_is_the_hosts_business() {
    let (_guard, source) = source();
    let confined = Confined::new();
    attach(confined.namespace.as_fd(), Path::new("share/1"), &build(&plan(&source, true)).unwrap()).unwrap();
    let errors = confined.run(|| {
        ["/share/1/rootfs/new", "/share/1/mounts/0"].map(|path| fs::write(path, "").unwrap_err().kind())
    });
    assert_eq!(errors, [ErrorKind::ReadOnlyFilesystem; 2]);
}

#[test]
fn nothing_of_it_is_seen_by_the_host_and_bad_sources_are_refused() {
    let (_guard, source) = source();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tree = build(&plan(&source, false)).unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    for place in ["", "/etc", "share/../x"] {
        let confined = Confined::new();
        let refused = attach(confined.namespace.as_fd(), Path::new(place), &tree);
        assert!(matches!(refused, Err(RootError::Plan(_))), "{place}");
    }
    std::os::unix::fs::symlink("/", source.join("link")).unwrap();
    assert!(matches!(build(&plan(&source.join("link"), false)), Err(RootError::Symlink(_))));
}
