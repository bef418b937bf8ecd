//! The device with a driver that speaks FUSE, on the real kernel. Needs root, for the jail.

use std::path::{Path, PathBuf};

use device_config::{CacheMode, Export, FsConfig};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use virtiofsd::fuse::{KERNEL_MINOR_VERSION, KERNEL_VERSION};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::fake_guest::{Buffer, FakeGuest, LOW_SIZE, WRITE};

const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;
const REPLY_SIZE: u32 = 8192;
const QUEUE: usize = 1;
const HEADER_SIZE: usize = 40;
const OUT_HEADER_SIZE: usize = 16;
const ROOT: u64 = 1;

struct Rig(FakeGuest<FsDevice>);

/// Runs `act` against a share of `exports`, in a thread that is confined to it.
fn with_share<T: Send + 'static>(
    exports: Vec<Export>,
    act: impl FnOnce(&mut Rig) -> T + Send + 'static,
) -> T {
    let config = FsConfig {
        listener_fd: 0,
        exports,
        cache: CacheMode::Auto,
        xattr: true,
        posix_acl: true,
        writeback: false,
    };
    let confined = move || {
        let proc_self_fd = jail::root::clone_proc_self_fd().unwrap();
        jail::root::enter(&share::root_plan(&config.exports)).unwrap();
        let file_system = options::open(&config, proc_self_fd, 10_000).unwrap();
        let mut rig = Rig(FakeGuest::new(FsDevice::new(file_system, options::lifetime(config.cache)), 64));
        rig.init(0);
        act(&mut rig)
    };
    std::thread::spawn(confined).join().unwrap()
}

impl Rig {
    fn write_request(&self, opcode: u32, node: u64, body: &[u8]) -> u32 {
        let length = u32::try_from(HEADER_SIZE + body.len()).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(length.to_le_bytes());
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        self.0.ram.write_slice(&bytes, GuestAddress(REQUEST)).unwrap();
        length
    }

    /// Offers one chain; returns how many bytes of it came back filled.
    fn offer(&mut self, buffers: &[Buffer]) -> u32 {
        let queue = &mut self.0.queues[QUEUE];
        let head = queue.add(&self.0.ram, buffers);
        self.0.kick(QUEUE);
        let (returned, length) = self.0.queues[QUEUE].take_used(&self.0.ram).unwrap();
        assert_eq!(returned, head);
        length
    }

    /// A request as Linux sends it; returns the error number and the reply's body.
    fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let length = self.write_request(opcode, node, body);
        let filled = self.offer(&[(REQUEST, length, 0), (REPLY, REPLY_SIZE, WRITE)]) as usize;
        let mut reply = vec![0; filled];
        self.0.ram.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        let error = i32::from_le_bytes(reply[4..8].try_into().unwrap());
        (-error, reply.split_off(OUT_HEADER_SIZE))
    }

    /// The node of `name` in `parent`, or the error.
    fn lookup(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        match self.request(Opcode::Lookup as u32, parent, format!("{name}\0").as_bytes()) {
            (0, reply) => match u64::from_le_bytes(reply[..8].try_into().unwrap()) {
                0 => Err(libc::ENOENT),
                node => Ok(node),
            },
            (error, _) => Err(error),
        }
    }

    /// Begins anew, offering the features of `flags`; returns those that are wanted.
    fn init(&mut self, flags: u32) -> u32 {
        let words = [KERNEL_VERSION, KERNEL_MINOR_VERSION, 0, flags].map(u32::to_le_bytes);
        let (error, reply) = self.request(Opcode::Init as u32, 0, words.as_flattened());
        assert_eq!(error, 0);
        u32::from_le_bytes(reply[12..16].try_into().unwrap())
    }

    /// Opens a file; returns the open flags of the reply.
    fn open(&mut self, node: u64, flags: i32) -> u32 {
        let words = [flags.cast_unsigned(), 0].map(u32::to_le_bytes);
        let (error, reply) = self.request(Opcode::Open as u32, node, words.as_flattened());
        assert_eq!(error, 0);
        u32::from_le_bytes(reply[8..12].try_into().unwrap())
    }

    /// Makes a file; returns the error number.
    fn create(&mut self, parent: u64, name: &str) -> i32 {
        let mut body = Vec::new();
        for word in [libc::O_WRONLY.unsigned_abs(), 0o644, 0, 0] {
            body.extend(word.to_le_bytes());
        }
        body.extend(format!("{name}\0").as_bytes());
        self.request(Opcode::Create as u32, parent, &body).0
    }
}

fn export(source: &Path, destination: &str, read_only: bool) -> Export {
    Export { source: source.into(), destination: destination.into(), read_only, id_map: None }
}

fn host_directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

#[test]
fn exports_are_served_and_read_only_ones_refuse_writes() {
    let (_guard, host) = host_directory();
    let exports = vec![export(&host, "rootfs", false), export(&host, "mounts/0", true)];
    let errors = with_share(exports, |rig| {
        let rootfs = rig.lookup(ROOT, "rootfs").unwrap();
        let mounts = rig.lookup(ROOT, "mounts").unwrap();
        let read_only = rig.lookup(mounts, "0").unwrap();
        [rig.create(rootfs, "new"), rig.create(read_only, "other"), rig.create(ROOT, "x")]
    });

    assert_eq!(errors, [0, libc::EROFS, libc::EROFS]);
    assert!(host.join("new").exists());
}

#[test]
fn names_with_ways_out_are_refused() {
    let (_guard, host) = host_directory();
    std::os::unix::fs::symlink("/proc/self/root", host.join("link")).unwrap();
    let errors = with_share(vec![export(&host, "rootfs", false)], |rig| {
        let rootfs = rig.lookup(ROOT, "rootfs").unwrap();
        let link = rig.lookup(rootfs, "link").unwrap();
        ["../x", "/etc/passwd", "a/b"]
            .map(|name| rig.lookup(rootfs, name).unwrap_err())
            .into_iter()
            .chain([rig.lookup(link, "etc").unwrap_err()])
            .collect::<Vec<_>>()
    });

    assert!(errors.iter().all(|&error| error != 0), "{errors:?}");
}

#[test]
fn absence_is_remembered_for_as_long_as_presence() {
    let (_guard, host) = host_directory();
    let lifetimes = with_share(vec![export(&host, "rootfs", false)], |rig| {
        let rootfs = rig.lookup(ROOT, "rootfs").unwrap();
        rig.create(rootfs, "present");
        ["present\0", "absent\0"].map(|name| {
            let (error, reply) = rig.request(Opcode::Lookup as u32, rootfs, name.as_bytes());
            let words: Vec<_> =
                reply.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
            (error, words[0] == 0, words[2])
        })
    });

    assert_eq!(lifetimes, [(0, false, 1), (0, true, 1)]);
}

#[test]
fn absence_that_finds_no_room_is_an_error() {
    let (_guard, host) = host_directory();
    with_share(vec![export(&host, "rootfs", false)], |rig| {
        let length = rig.write_request(Opcode::Lookup as u32, ROOT, b"absent\0");
        assert_eq!(rig.offer(&[(REQUEST, length, 0), (REPLY, 60, WRITE)]), 16);
        let error: i32 = rig.0.ram.read_obj(GuestAddress(REPLY + 4)).unwrap();
        assert_eq!(error, -libc::ENOENT);
    });
}

#[test]
fn closing_what_was_only_read_asks_nothing() {
    const NOFLUSH: u32 = 1 << 5;
    let (_guard, host) = host_directory();
    let spared = with_share(vec![export(&host, "rootfs", false)], |rig| {
        let rootfs = rig.lookup(ROOT, "rootfs").unwrap();
        rig.create(rootfs, "file");
        let file = rig.lookup(rootfs, "file").unwrap();
        [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR].map(|flags| rig.open(file, flags) & NOFLUSH != 0)
    });

    assert_eq!(spared, [true, false, false]);
}

#[test]
fn symbolic_links_are_kept_by_guests_that_can() {
    const CACHE_SYMLINKS: u32 = 1 << 23;
    let (_guard, host) = host_directory();
    let wanted = with_share(vec![export(&host, "rootfs", false)], |rig| {
        [0, CACHE_SYMLINKS].map(|offered| rig.init(offered) & CACHE_SYMLINKS)
    });

    assert_eq!(wanted, [0, CACHE_SYMLINKS]);
}

#[test]
fn chains_that_are_no_requests_are_returned_empty() {
    const OUTSIDE: u64 = LOW_SIZE as u64;
    let table: [(&str, u32, &[Buffer]); 8] = [
        ("no room for a reply", Opcode::Lookup as u32, &[(REQUEST, 47, 0)]),
        ("little room for a reply", Opcode::Read as u32, &[(REQUEST, 80, 0), (REPLY, 15, WRITE)]),
        ("little room for a listing", Opcode::Readdir as u32, &[(REQUEST, 80, 0), (REPLY, 1, WRITE)]),
        ("short header", Opcode::Lookup as u32, &[(REQUEST, 39, 0), (REPLY, 100, WRITE)]),
        ("no request", Opcode::Lookup as u32, &[(REPLY, 100, WRITE)]),
        ("request outside memory", Opcode::Lookup as u32, &[(OUTSIDE, 100, 0), (REPLY, 100, WRITE)]),
        ("reply outside memory", Opcode::Lookup as u32, &[(REQUEST, 100, 0), (OUTSIDE, 100, WRITE)]),
        ("unknown operation without room", 9999, &[(REQUEST, 100, 0)]),
    ];
    let (_guard, host) = host_directory();
    with_share(vec![export(&host, "rootfs", false)], move |rig| {
        for (what, opcode, buffers) in table {
            rig.write_request(opcode, ROOT, b"rootfs\0");
            assert_eq!(rig.offer(buffers), 0, "{what}");
            assert!(rig.lookup(ROOT, "rootfs").is_ok(), "{what}");
        }
    });
}

#[test]
fn requests_without_a_reply_need_no_room() {
    let (_guard, host) = host_directory();
    with_share(vec![export(&host, "rootfs", false)], |rig| {
        let node = rig.lookup(ROOT, "rootfs").unwrap();
        let length = rig.write_request(Opcode::Forget as u32, node, &1_u64.to_le_bytes());
        assert_eq!(rig.offer(&[(REQUEST, length, 0)]), 0);
        // Forgotten: the node is not known any more.
        assert_eq!(rig.lookup(node, "x"), Err(libc::EBADF));
    });
}

#[test]
fn guest_that_opens_without_end_gets_an_error_and_the_host_keeps_descriptors() {
    let (_guard, host) = host_directory();
    for index in 0..10_000 {
        std::fs::write(host.join(index.to_string()), "").unwrap();
    }
    let error = with_share(vec![export(&host, "rootfs", false)], |rig| {
        let rootfs = rig.lookup(ROOT, "rootfs").unwrap();
        (0..10_000).find_map(|index| rig.lookup(rootfs, &index.to_string()).err())
    });

    assert!(matches!(error, Some(libc::EMFILE | libc::ENFILE)), "{error:?}");
    assert!(std::fs::File::open("/dev/null").is_ok());
}

#[test]
fn any_requests_leave_the_device_alive() {
    let (_guard, host) = host_directory();
    let field = prop_oneof![Just(0_u64), Just(1), 0..20_u64, any::<u64>()];
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let request = (0..60_u32, field.clone(), prop::collection::vec(field, 0..8), body, 0..300_u32);
    let sequences = prop::collection::vec(request, 1..40);
    with_share(vec![export(&host, "rootfs", false)], move |rig| {
        // Its own way to a seed leads through /dev, which is not here.
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).unwrap();
        let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let rig = std::cell::RefCell::new(rig);
        runner
            .run(&sequences, |sequence| {
                let mut rig = rig.borrow_mut();
                for (opcode, node, words, tail, room) in sequence {
                    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    body.extend(tail);
                    let length = rig.write_request(opcode, node, &body);
                    rig.offer(&[(REQUEST, length, 0), (REPLY, room, WRITE)]);
                }
                Ok(())
            })
            .unwrap();
        let mut init = vec![0; 16];
        init[0] = 7;
        init[4] = 31;
        rig.borrow_mut().request(Opcode::Init as u32, 0, &init);
        assert!(rig.borrow_mut().lookup(ROOT, "rootfs").is_ok());
    });
}
