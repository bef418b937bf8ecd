//! The host's cgroups of a container, for its monitor and its machine: engines read their figures and kill by them.
//!
//! Version 1 hierarchies are used as they are mounted, a folder in each; version 2 has one folder. What is made
//! here is removed by [`remove`], children first, once no process is left.

pub(crate) mod limits;
pub(crate) mod properties;
pub(crate) mod systemd;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::path_error::{PathError, failed};
use systemd::Scope;

/// Where the kernel shows what is mounted (proc(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// A cgroup could not be made, joined or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// The path.
    #[error("linux.cgroupsPath `{0}` must not contain `..`")]
    Path(String),
    /// No path.
    #[error("linux.cgroupsPath `{0}` names the root of the hierarchy, not a cgroup")]
    Root(String),
    /// The driver.
    #[error(
        "linux.cgroupsPath `{0}` is of the systemd cgroup driver; say --systemd-cgroup, or choose cgroupfs"
    )]
    Systemd(String),
    /// The other driver. In runc's words.
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead"
    )]
    NotSystemd(String),
    /// Whose limits would be changed, and whose end would be waited for. In runc's words.
    #[error(
        "container's cgroup is not empty: {count} process(es) found in {}; choose another linux.cgroupsPath",
        folder.display()
    )]
    Taken {
        /// The cgroup.
        folder: PathBuf,
        /// How many.
        count: usize,
    },
    /// The kernel's files.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// A hierarchy as it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Version 1 with its controllers, or with a name.
    V1(Vec<String>),
    /// Version 2.
    V2,
}

/// The folders of a container's cgroup, one for each hierarchy, not made yet.
pub(crate) fn plan(cgroups_path: Option<&Path>, id: &str) -> Result<Vec<PathBuf>, CgroupError> {
    let text = cgroups_path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let path = if text.is_empty() { PathBuf::from(id) } else { PathBuf::from(&text) };
    if path.components().any(|component| component == std::path::Component::ParentDir) {
        return Err(CgroupError::Path(text));
    }
    if path.components().all(|component| component == std::path::Component::RootDir) {
        return Err(CgroupError::Root(text));
    }
    if !text.contains('/') && text.matches(':').count() == 2 {
        return Err(CgroupError::Systemd(text));
    }
    let all = mounted()?;
    Ok(used(&all).map(|hierarchy| hierarchy.mount.join(path.strip_prefix("/").unwrap_or(&path))).collect())
}

/// The same for the systemd driver, with the scope that has to be started.
pub(crate) fn plan_scope(
    cgroups_path: Option<&Path>,
    id: &str,
) -> Result<(Scope, Vec<PathBuf>), CgroupError> {
    let text = cgroups_path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let scope = Scope::parse(&text, id)?;
    let mut all = mounted()?;
    // Where both versions are, systemd has no controllers in version 2, but its units. Limits are those of version 1.
    all.sort_by_key(|hierarchy| hierarchy.kind == Kind::V2);
    let folders = all.iter().map(|hierarchy| hierarchy.mount.join(scope.path())).collect();
    Ok((scope, folders))
}

fn mounted() -> Result<Vec<Hierarchy>, CgroupError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(failed("read", Path::new(MOUNTS)))?;
    Ok(hierarchies(&mounts))
}

/// Whether folders, which need not be there yet, are of version 2.
pub(crate) fn is_version_2(folders: &[PathBuf]) -> bool {
    let mut parents = folders.first().into_iter().flat_map(|folder| folder.ancestors());
    parents.any(|parent| parent.join("cgroup.controllers").exists())
}

/// A container's cgroup is its own: what is there already must not be anybody's.
pub(crate) fn refuse_taken(folders: &[PathBuf]) -> Result<(), CgroupError> {
    for folder in folders {
        // One that cannot be read is not there, or is of threads (cgroups(7)) and cannot be joined.
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let count = processes.lines().count();
        if count > 0 {
            return Err(CgroupError::Taken { folder: folder.clone(), count });
        }
    }
    Ok(())
}

/// Makes the folders and takes this process, and with it its future children, into them.
pub(crate) fn join(folders: &[PathBuf]) -> Result<(), CgroupError> {
    for folder in folders {
        make(folder)?;
        let file = folder.join("cgroup.procs");
        fs::write(&file, std::process::id().to_string()).map_err(failed("write", &file))?;
    }
    Ok(())
}

/// How long processes that end may keep a cgroup from being removed: proxies of a container that was killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes the folders and what an engine made below them.
pub(crate) fn remove(folders: &[PathBuf]) -> Result<(), CgroupError> {
    let deadline = Instant::now() + PATIENCE;
    folders.iter().try_for_each(|folder| remove_tree(folder, deadline))
}

/// How long systemd may take to notice that a cgroup is empty.
const NOTICE: Duration = Duration::from_secs(1);

/// Waits for systemd to notice that a scope's processes have ended, and to remove its folders: it hears of a cgroup that
/// becomes empty, but not of one that somebody else removes first, and would keep the scope for ever.
pub(crate) fn await_removal(folders: &[PathBuf]) {
    let deadline = Instant::now() + NOTICE;
    while folders.iter().all(|folder| folder.exists()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_tree(folder: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", folder)(error).into()),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path(), deadline)?;
    }
    loop {
        match fs::remove_dir(folder) {
            // The kernel tells nobody when the last process has left a cgroup of version 1.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", folder)(error).into());
            }
            _ => return Ok(()),
        }
    }
}

/// Makes a folder with its parents. A new cpuset takes no process until it is told its CPUs and memory nodes.
fn make(folder: &Path) -> Result<(), CgroupError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make", folder)(error).into());
            }
            _ => {}
        }
        enable_controllers(parent);
        for name in ["cpuset.cpus", "cpuset.mems"] {
            inherit(parent, folder, name)?;
        }
    }
    Ok(())
}

/// A version 2 cgroup hands its controllers on as it is told to. One that has processes of its own cannot, and what is
/// missing then shows when a limit needs it.
fn enable_controllers(parent: &Path) {
    let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) else { return };
    for controller in controllers.split_whitespace() {
        // One at a time, as one that is refused takes the others along.
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn inherit(parent: &Path, folder: &Path, name: &str) -> Result<(), CgroupError> {
    let file = folder.join(name);
    // Version 2 inherits by itself.
    if !file.exists() || folder.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let own = fs::read_to_string(&file).map_err(failed("read", &file))?;
    let parents = fs::read_to_string(parent.join(name)).unwrap_or_default();
    if own.trim().is_empty() && !parents.trim().is_empty() {
        fs::write(&file, parents.trim()).map_err(failed("write", &file))?;
    }
    Ok(())
}

/// On hosts with both versions, the controllers are version 1's and the empty version 2 mount is left alone.
fn used(all: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let has_v1 = all.iter().any(|hierarchy| matches!(hierarchy.kind, Kind::V1(_)));
    all.iter().filter(move |hierarchy| !(has_v1 && hierarchy.kind == Kind::V2))
}

/// Of the lines of mountinfo (proc(5)), those of cgroups; each set of controllers once.
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
    for hierarchy in mounts.lines().filter_map(hierarchy) {
        if !all.iter().any(|other| other.kind == hierarchy.kind) {
            all.push(hierarchy);
        }
    }
    all
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount = PathBuf::from(mount.split(' ').nth(4)?);
    let mut fields = file_system.split(' ');
    let kind = match fields.next()? {
        "cgroup2" => Kind::V2,
        "cgroup" => {
            let options = fields.nth(1).unwrap_or_default().split(',');
            Kind::V1(options.filter(|option| *option != "rw").map(str::to_owned).collect())
        }
        _ => return None,
    };
    Some(Hierarchy { mount, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
34 23 0:27 / /srv/again rw,relatime - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn version_1_wins_where_both_are_and_each_hierarchy_counts_once() {
        let mounted: Vec<_> = used(&hierarchies(V1)).map(|one| one.mount.clone()).collect();
        assert_eq!(mounted, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd"].map(PathBuf::from));
        let only = |is_kept: fn(&&str) -> bool| V1.lines().filter(is_kept).collect::<Vec<_>>().join("\n");
        let v1 = hierarchies(&only(|line| !line.contains("cgroup2")));
        assert_eq!(used(&v1).count(), 2);
        assert!(used(&v1).all(|one| one.kind != Kind::V2));
        let v2 = hierarchies(&only(|line| line.contains("cgroup2")));
        assert_eq!(used(&v2).map(|one| one.kind.clone()).collect::<Vec<_>>(), [Kind::V2]);
    }

    #[test]
    fn folders_are_made_with_their_parents_and_removed_with_what_is_below() {
        let mount = tempfile::tempdir().unwrap();
        let folders = ["memory", "cpuset"].map(|name| mount.path().join(name).join("a/b"));
        folders.iter().for_each(|folder| make(folder).unwrap());
        assert!(folders.iter().all(|folder| folder.is_dir()) && !is_version_2(&folders));
        fs::create_dir(folders[0].join("below")).unwrap();
        remove(&folders).unwrap();
        assert!(folders.iter().all(|folder| !folder.exists() && folder.parent().unwrap().exists()));
    }

    #[test]
    fn a_cgroup_with_processes_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        refuse_taken(&[path.join("none"), path.clone()]).unwrap();
        fs::write(path.join("cgroup.procs"), "").unwrap();
        refuse_taken(std::slice::from_ref(&path)).unwrap();
        fs::write(path.join("cgroup.procs"), "1\n2\n").unwrap();
        let error = refuse_taken(&[path]).unwrap_err().to_string();
        assert!(error.contains("not empty: 2 process(es) found in /"), "{error}");
    }

    #[test]
    fn paths_stay_below_the_hierarchy_and_systemds_are_refused() {
        let plan = |path: &str| super::plan(Some(Path::new(path)), "id");
        assert!(matches!(plan("/a/../../b"), Err(CgroupError::Path(_))));
        assert!(matches!(plan("/"), Err(CgroupError::Root(_))));
        assert!(matches!(plan("system.slice:docker:abc"), Err(CgroupError::Systemd(_))));
        assert!(plan("/docker/abc").unwrap().iter().all(|folder| folder.ends_with("docker/abc")));
        assert!(plan("").unwrap().iter().all(|folder| folder.ends_with("id")));
    }
}
