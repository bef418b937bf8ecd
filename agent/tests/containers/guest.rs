//! A stand-in for the guest: the agent's own parts with other places, and the shim's ends of the streams.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::container::request::{ContainerSpec, ExecSpec};
use agent::container::{Container, Containers, GuestPlaces};
use agent::failure::Failure;
use agent::process::executable;
use agent::process::lifeline::lifeline;
use agent::reaper::{Exit, Reaper};
use agent::streams::Streams;
use agent_protocol::agent as api;
use protobuf::MessageField;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, getpid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// Nothing here takes longer unless it hangs.
const HANGS: Duration = Duration::from_secs(30);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Enters a mount namespace of the tests' own, so that nothing they mount is left.
pub(crate) fn enter() {
    assert!(rustix::process::geteuid().is_root(), "these tests build containers: they need root");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    // Orphans of a container without a pid namespace come to this process, as to PID 1 in a guest.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// A guest with a share that holds a busybox root file system.
pub(crate) struct Guest {
    pub(crate) containers: Arc<Containers>,
    pub(crate) share: PathBuf,
    pub(crate) cgroups: PathBuf,
    streams: Arc<Streams>,
    folder: tempfile::TempDir,
}

/// How a workload ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `test` in a guest of its own, in an event loop as the agent's.
pub(crate) fn with_guest<F: Future<Output = ()>>(test: impl FnOnce(Arc<Guest>) -> F) {
    let runtime: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let guest = Arc::new(Guest::new());
        tokio::time::timeout(HANGS, test(Arc::clone(&guest))).await.expect("the test hangs");
        guest.assert_clean().await;
    });
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (share, root) = (folder.path().join("share"), folder.path().join("root"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&share).unwrap();
        // As the share of a real guest, a mount of its own.
        mount("share", &share, "tmpfs", MountFlags::empty(), None).unwrap();
        make_rootfs(&share.join("rootfs"));
        fs::create_dir(share.join("mounts")).unwrap();
        let cgroups =
            cgroup_mount().join(format!("agent-test-{}", folder.path().file_name().unwrap().display()));
        fs::create_dir(&cgroups).unwrap();
        let streams = Arc::new(Streams::default());
        let sockets = folder.path().join("sockets");
        let places = GuestPlaces { sockets, share: share.clone(), root, cgroups: cgroups.clone() };
        executable::remember_own(Path::new("/proc/self/exe"));
        let containers = Containers::new(places, Reaper::start().unwrap(), Arc::clone(&streams));
        Self { containers: Arc::new(containers), share, cgroups, streams, folder }
    }

    /// A place outside of the share and of every root.
    pub(crate) fn outside(&self) -> PathBuf {
        let outside = self.folder.path().join("outside");
        fs::create_dir_all(&outside).unwrap();
        outside
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.share.join("rootfs")
    }

    /// The shim's end of a new stream, and its token.
    pub(crate) async fn stream(&self) -> (UnixStream, u64) {
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        (self.stream_of(token).await, token)
    }

    /// The shim's end of a new stream with that token.
    pub(crate) async fn stream_of(&self, token: u64) -> UnixStream {
        let (mut shim, agent) = UnixStream::pair().unwrap();
        shim.write_all(&token.to_be_bytes()).await.unwrap();
        self.streams.accept(Box::new(agent));
        shim
    }

    pub(crate) async fn create(
        &self,
        request: api::CreateContainerRequest,
    ) -> Result<Arc<Container>, Failure> {
        self.containers.create(ContainerSpec::from_request(request).unwrap()).await
    }

    /// Runs a container to its end, without stdin.
    pub(crate) async fn run(&self, mut request: api::CreateContainerRequest) -> Result<Outcome, Failure> {
        let ((mut stdout, out), (mut stderr, err)) = (self.stream().await, self.stream().await);
        let streams = api::Streams { stdout: out, stderr: err, ..Default::default() };
        process(&mut request).streams = MessageField::some(streams);
        let container = self.create(request).await?;
        container.start().await?;
        let (mut text, mut errors) = (String::new(), String::new());
        let (exit, read, read_errors) = tokio::join!(
            container.wait(),
            stdout.read_to_string(&mut text),
            stderr.read_to_string(&mut errors)
        );
        read.unwrap();
        read_errors.unwrap();
        Ok(Outcome { exit: exit.unwrap(), stdout: text, stderr: errors })
    }

    /// Executes a program in a container, to its end, without stdin.
    pub(crate) async fn exec(
        &self,
        container: &Arc<Container>,
        mut request: api::ExecProcessRequest,
    ) -> Result<Outcome, Failure> {
        let ((mut stdout, out), (mut stderr, err)) = (self.stream().await, self.stream().await);
        let streams = api::Streams { stdout: out, stderr: err, ..Default::default() };
        request.process.mut_or_insert_default().streams = MessageField::some(streams);
        let (_holder, lifeline) = lifeline();
        let spec = ExecSpec::from_request(request).unwrap();
        let process = self.containers.exec(Arc::clone(container), spec, lifeline).await?;
        let (mut text, mut errors) = (String::new(), String::new());
        let (exit, read, read_errors) = tokio::join!(
            process.wait(),
            stdout.read_to_string(&mut text),
            stderr.read_to_string(&mut errors)
        );
        read.unwrap();
        read_errors.unwrap();
        Ok(Outcome { exit: exit.unwrap(), stdout: text, stderr: errors })
    }

    /// Runs a shell script to its end and returns what it wrote; it must succeed.
    pub(crate) async fn shell(&self, script: &str) -> String {
        self.run(shell(script)).await.unwrap().success()
    }

    /// No cgroup, no child, no mount of a container is left.
    async fn assert_clean(&self) {
        for container in self.containers.all() {
            container.signal_all(9).ok();
            container.wait().await;
        }
        fs::remove_dir(&self.cgroups).expect("a container's cgroup is left");
        let reaped = async {
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            while !matches!(waitid(WaitId::All, look), Err(rustix::io::Errno::CHILD)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(HANGS, reaped).await.expect("a child is left, alive or as a zombie");
        let root = self.folder.path().join("root");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(root.to_str().unwrap()), "a root is left mounted");
        rustix::mount::unmount(&self.share, rustix::mount::UnmountFlags::empty())
            .expect("the share is still in use");
    }
}

/// What a failed test has left would be taken for the next ones', each of which would wait for its end.
impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end_children();
            let _ = rustix::mount::unmount(&self.share, rustix::mount::UnmountFlags::DETACH);
            for cgroup in fs::read_dir(&self.cgroups).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(cgroup.path());
            }
            let _ = fs::remove_dir(&self.cgroups);
        }
    }
}

/// Kills them, and those that come to this process with their ends.
fn end_children() {
    use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, waitid};
    loop {
        for child in children() {
            // It may have ended.
            let _ = kill_process(child, Signal::KILL);
        }
        if waitid(WaitId::All, WaitIdOptions::EXITED).is_err() {
            return;
        }
    }
}

/// Of this process.
pub(crate) fn children() -> Vec<Pid> {
    let path = format!("/proc/self/task/{}/children", getpid().as_raw_nonzero());
    let children = fs::read_to_string(path).unwrap();
    children.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}

impl Outcome {
    /// What it wrote to stdout; it must have ended with status 0.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.exit, Exit::Code(0), "stdout {:?}, stderr {:?}", self.stdout, self.stderr);
        self.stdout
    }
}

/// `sh -c script` with what `runc spec` has, less the terminal.
pub(crate) fn shell(script: &str) -> api::CreateContainerRequest {
    command(&["sh", "-c", script])
}

pub(crate) fn command(args: &[&str]) -> api::CreateContainerRequest {
    use api::namespace::Kind;
    let namespaces = [Kind::KIND_MOUNT, Kind::KIND_PID, Kind::KIND_IPC, Kind::KIND_UTS, Kind::KIND_CGROUP];
    api::CreateContainerRequest {
        container_id: format!("box-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        process: MessageField::some(api::Process {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            cwd: "/".to_owned(),
            ..Default::default()
        }),
        root: MessageField::some(api::Root { share_path: "rootfs".to_owned(), ..Default::default() }),
        mounts: vec![
            mount_of("proc", "proc", "/proc", &[]),
            mount_of("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount_of(
                "devpts",
                "devpts",
                "/dev/pts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "gid=5"],
            ),
            mount_of("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount_of("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
            mount_of("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
            mount_of("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        namespaces: namespaces
            .iter()
            .map(|&kind| api::Namespace { kind: kind.into(), ..Default::default() })
            .collect(),
        ..Default::default()
    }
}

/// The request for another process.
pub(crate) fn exec_of(args: &[&str]) -> api::ExecProcessRequest {
    let process = command(args).process;
    let exec_id = format!("exec-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    api::ExecProcessRequest { exec_id, process, ..Default::default() }
}

pub(crate) fn mount_of(kind: &str, source: &str, destination: &str, options: &[&str]) -> api::Mount {
    api::Mount {
        destination: destination.to_owned(),
        type_: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Default::default()
    }
}

pub(crate) fn process(request: &mut api::CreateContainerRequest) -> &mut api::Process {
    request.process.mut_or_insert_default()
}

fn make_rootfs(rootfs: &Path) {
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is needed");
    for applet in [
        "sh", "cat", "echo", "id", "ls", "mount", "touch", "sleep", "head", "stat", "readlink", "hostname",
        "tty", "stty", "dd", "env", "grep", "yes", "true", "kill", "mkdir", "pwd", "ps", "umask", "wc", "df",
        "md5sum", "rm", "mknod", "ln", "seq",
    ] {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:100::/home/anna:/bin/sh\n",
    )
    .unwrap();
    fs::write(rootfs.join("etc/group"), "root:x:0:\nusers:x:100:\nwheel:x:10:root,anna\n").unwrap();
}

fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let place =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    PathBuf::from(place.expect("a cgroup v2 mount is needed")[1])
}
