#![allow(clippy::unwrap_used, reason = "a test ends at its first surprise")]
//! The device process as the shim sees it. Needs root, for the jail.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use device_config::{CacheMode, DeviceProcessConfig, Export, FsConfig, RngConfig, VsockConfig};
use tempfile::TempDir;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const CONFIG: i32 = 10;
const STATUS: i32 = 11;
const LIFELINE: i32 = 12;
const FS: i32 = 13;
const VSOCK: i32 = 14;
const HOST: i32 = 15;
const DIRECTORY: i32 = 16;
const RNG: i32 = 17;

/// A sandbox directory with all sockets, and the near ends of what the process gets.
struct Sandbox {
    directory: TempDir,
    frontends: Vec<UnixStream>,
    lifeline: Option<UnixStream>,
}

/// A process, and the line that it said of itself.
struct Outcome {
    child: Child,
    status: String,
}

impl Sandbox {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), frontends: Vec::new(), lifeline: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    /// A listener with a frontend's connection pending.
    fn device(&mut self) -> OwnedFd {
        let path = self.directory.path().join("device");
        let listener = UnixListener::bind(&path).unwrap();
        self.frontends.push(UnixStream::connect(&path).unwrap());
        fs::remove_file(&path).unwrap();
        listener.into()
    }

    fn start(&mut self, config: &DeviceProcessConfig) -> Outcome {
        self.start_with(&serde_json::to_string(config).unwrap())
    }

    /// Starts the process; waits until it is ready or has failed.
    fn start_with(&mut self, config: &str) -> Outcome {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        file.rewind().unwrap();
        let (status, status_far) = std::io::pipe().unwrap();
        let (lifeline, lifeline_far) = UnixStream::pair().unwrap();
        self.lifeline = Some(lifeline);
        let host = UnixListener::bind(self.directory.path().join("vsock.sock")).unwrap();
        let directory = fs::File::open(self.directory.path()).unwrap();
        let fds: [(i32, OwnedFd); 8] = [
            (CONFIG, file.into()),
            (STATUS, status_far.into()),
            (LIFELINE, lifeline_far.into()),
            (FS, self.device()),
            (VSOCK, self.device()),
            (RNG, self.device()),
            (HOST, host.into()),
            (DIRECTORY, directory.into()),
        ];
        let mappings =
            fds.into_iter().map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_runv-devices"));
        command.args(["--config-fd", &CONFIG.to_string()]).stderr(Stdio::piped());
        command.fd_mappings(mappings).unwrap();
        let child = command.spawn().unwrap();
        // The command keeps the descriptors that it hands on.
        drop(command);
        let mut said = String::new();
        BufReader::new(status).read_line(&mut said).unwrap();
        Outcome { child, status: said }
    }

    fn config(&self, exports: Vec<Export>) -> DeviceProcessConfig {
        DeviceProcessConfig {
            status_fd: STATUS,
            lifeline_fd: LIFELINE,
            fs: Some(FsConfig {
                listener_fd: FS,
                exports,
                cache: CacheMode::Auto,
                xattr: true,
                posix_acl: true,
                writeback: false,
            }),
            vsock: Some(VsockConfig {
                listener_fd: VSOCK,
                host_listener_fd: HOST,
                directory_fd: DIRECTORY,
                guest_cid: 3,
            }),
            rng: Some(RngConfig { listener_fd: RNG }),
            console: None,
            balloon: None,
            net: Vec::new(),
        }
    }
}

impl Outcome {
    fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for the end, which must be a failure; returns the line that says why.
    fn failure(self) -> String {
        let line = self.status.clone();
        assert_eq!(self.wait().code(), Some(1), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        line.trim_end().to_owned()
    }
}

fn export(source: &Path, destination: &str) -> Export {
    Export { source: source.into(), destination: destination.into(), read_only: false, id_map: None }
}

#[test]
fn process_ends_well_when_the_frontends_are_gone() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let process = sandbox.start(&config);
    assert_eq!(process.status, "ready\n");
    sandbox.frontends.clear();

    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn process_ends_when_the_shim_is_gone() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let process = sandbox.start(&config);
    sandbox.lifeline = None;

    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn ready_process_has_a_root_of_its_own_and_no_descriptor_of_its_ancestors() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let stray = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let process = sandbox.start(&config);
    drop(stray);
    let proc = PathBuf::from(format!("/proc/{}", process.child.id()));

    let root: Vec<_> =
        fs::read_dir(proc.join("root")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(root, ["share"]);
    let mountinfo = fs::read_to_string(proc.join("mountinfo")).unwrap();
    let places: BTreeSet<_> = mountinfo.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(places, ["/", "/share/rootfs"].into());
    let open = fs::read_dir(proc.join("fd")).unwrap();
    assert!(
        !open
            .into_iter()
            .any(|fd| fs::read_link(fd.unwrap().path()).is_ok_and(|link| link == Path::new("/etc/passwd")))
    );
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"));
    sandbox.frontends.clear();
    process.wait();
}

#[test]
fn interrupt_from_the_terminal_does_not_end_it() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let process = sandbox.start(&config);
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    sandbox.frontends.clear();

    let status = process.wait();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[test]
fn frontend_that_breaks_the_protocol_is_an_error() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let process = sandbox.start(&config);
    for mut frontend in sandbox.frontends.drain(..) {
        frontend.write_all(&[0xff; 64]).unwrap();
    }

    assert_eq!(process.wait().code(), Some(1));
}

#[test]
fn configuration_that_cannot_work_is_refused_in_one_line() {
    type Change = fn(&mut DeviceProcessConfig, &Path);
    fn fs_config(config: &mut DeviceProcessConfig) -> &mut FsConfig {
        config.fs.as_mut().unwrap()
    }
    let table: [(Change, &str); 8] = [
        (
            |config, path| fs_config(config).exports.push(export(&path.join("missing"), "a")),
            "missing: No such file",
        ),
        (
            |config, path| fs_config(config).exports.push(export(&path.join("link"), "a")),
            "link: a symbolic link",
        ),
        (
            |config, _| fs_config(config).exports.push(export(Path::new("etc"), "a")),
            "etc: the source of a bind must",
        ),
        (|config, path| fs_config(config).exports.push(export(path, "../a")), "../a: a destination must"),
        (|config, path| fs_config(config).exports.push(export(path, "")), "a destination must"),
        (|config, path| fs_config(config).exports.push(export(path, "rootfs")), "rootfs: two binds"),
        (|config, _| config.vsock.as_mut().unwrap().guest_cid = 2, "2 cannot be a guest's context id"),
        (
            |config, _| fs_config(config).exports.push(export(Path::new("/dev/null"), "a")),
            "/dev/null: neither",
        ),
    ];
    for (change, expected) in table {
        let mut sandbox = Sandbox::new();
        let path = sandbox.path();
        std::os::unix::fs::symlink("/etc", path.join("link")).unwrap();
        let mut config = sandbox.config(vec![export(&path, "rootfs")]);
        change(&mut config, &path);
        let line = sandbox.start(&config).failure();
        assert!(line.contains(expected), "{line:?} does not say {expected:?}");
    }
}

#[test]
fn what_is_no_configuration_is_said_on_standard_error() {
    type Change = fn(String) -> String;
    let good = |sandbox: &Sandbox| serde_json::to_string(&sandbox.config(vec![])).unwrap();
    let table: [(Change, &str); 4] = [
        (|_| String::new(), "cannot parse the configuration"),
        (|text| text.replace("lifeline_fd", "lifelime_fd"), "unknown field `lifelime_fd`"),
        (|text| text.replace(":17", ":13"), "descriptor 13 is named twice"),
        (|text| text.replace(":17", ":99"), "cannot use inherited descriptor 99: Bad file descriptor"),
    ];
    for (change, expected) in table {
        let mut sandbox = Sandbox::new();
        let text = change(good(&sandbox));
        let mut process = sandbox.start_with(&text);
        let mut said = String::new();
        process.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        assert_eq!(process.wait().code(), Some(1));
    }
}

/// A vhost-user frontend with one queue of one descriptor: 4 KiB from the start of the second page.
fn offer_one_buffer(socket: UnixStream, call: &EventFd, kick: &EventFd) -> (Frontend, GuestMemoryMmap) {
    const SIZE: usize = 0x3000;
    let memfd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = fs::File::from(memfd);
    file.set_len(SIZE as u64).unwrap();
    let handle = file.as_raw_fd();
    let range = (GuestAddress(0), SIZE, Some(FileOffset::new(file, 0)));
    let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    memory.write_obj([0x1000_u64.to_le(), 0x1000 | 2 << 32], GuestAddress(0)).unwrap();
    memory.write_obj(1_u16, GuestAddress(0x2002)).unwrap();
    let userspace_addr = memory.get_host_address(GuestAddress(0)).unwrap() as u64;

    let mut frontend = Frontend::from_stream(socket, 1);
    frontend.set_owner().unwrap();
    let features = frontend.get_features().unwrap();
    assert_ne!(features & 1 << 32, 0, "virtio 1 is offered");
    frontend.set_features(1 << 32 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()).unwrap();
    let offered = frontend.get_protocol_features().unwrap();
    frontend.set_protocol_features(offered & VhostUserProtocolFeatures::REPLY_ACK).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: SIZE as u64,
        userspace_addr,
        mmap_offset: 0,
        mmap_handle: handle,
    };
    frontend.set_mem_table(&[region]).unwrap();
    let ring = VringConfigData {
        queue_max_size: 256,
        queue_size: 16,
        flags: 0,
        desc_table_addr: userspace_addr,
        avail_ring_addr: userspace_addr + 0x2000,
        used_ring_addr: userspace_addr + 0x2800,
        log_addr: None,
    };
    frontend.set_vring_num(0, 16).unwrap();
    frontend.set_vring_addr(0, &ring).unwrap();
    frontend.set_vring_base(0, 0).unwrap();
    frontend.set_vring_call(0, call).unwrap();
    frontend.set_vring_kick(0, kick).unwrap();
    frontend.set_vring_enable(0, true).unwrap();
    (frontend, memory)
}

#[test]
fn frontend_gets_what_its_guest_asks_for() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let process = sandbox.start(&config);
    let rng = sandbox.frontends.pop().unwrap();
    let (call, kick) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    let (frontend, memory) = offer_one_buffer(rng, &call, &kick);
    kick.write(1).unwrap();
    call.read().unwrap();

    let length: u32 = memory.read_obj(GuestAddress(0x2808)).unwrap();
    assert_eq!(length, 0x1000);
    let mut bytes = vec![0; 0x1000];
    memory.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
    assert!(bytes.chunks(64).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
    drop(frontend);
    sandbox.frontends.clear();
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn host_program_is_turned_away_while_no_guest_is_up() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.config(vec![export(&sandbox.path(), "rootfs")]);
    let process = sandbox.start(&config);
    let mut client = UnixStream::connect(sandbox.path().join("vsock.sock")).unwrap();

    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    sandbox.frontends.clear();
    process.wait();
}
