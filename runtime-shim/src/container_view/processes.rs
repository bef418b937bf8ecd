//! A read-only file system in place of procfs, of the container's processes: who looks at `/proc` in the monitor's mount
//! namespace, such as `podman top`, sees what runs in the guest. Each look asks the agent anew.
//!
//! It has what ps(1) needs and no more. A guest that does not answer is an I/O error for the one who looks. Two threads
//! serve it, which end with the monitor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agent_protocol::agent as proto;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request, Session, SessionACL,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::procfs::{self, File, Snapshot};
use crate::container::store::Folder;
use crate::control::agent::Agent;

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One look reads many files: it is one answer of the agent.
const FRESH: Duration = Duration::from_millis(500);

/// Nothing of it is remembered by the kernel.
const LIFETIME: Duration = Duration::ZERO;

/// Places in an inode number that say which file of a process it is.
const KINDS: u64 = 16;

/// Mounts it nowhere yet, and serves it to the end of this process. The folder is the container's.
pub(super) fn serve(folder: Folder) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "runv")?;
    fsconfig_set_string(context.as_fd(), "fd", device.as_raw_fd().to_string())?;
    for (key, value) in [("rootmode", "40555"), ("user_id", "0"), ("group_id", "0")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let inert = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, inert)?;
    let file_system = Processes { folder, last: Mutex::new(None) };
    let session = Session::from_fd(file_system, device, SessionACL::Owner, Config::default())?;
    thread::Builder::new().name("processes".into()).spawn(move || {
        if let Err(error) = session.run() {
            tracing::warn!(%error, "the processes are not shown any more");
        }
    })?;
    Ok(mount)
}

/// The file system.
#[derive(Debug)]
struct Processes {
    folder: Folder,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

/// What has an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Root,
    System,
    Own,
    AuxiliaryVector,
    Process(u32),
    File(u32, File),
    Namespaces(u32),
    PidNamespace(u32),
}

impl Node {
    fn inode(self) -> INodeNo {
        let of = |number: u32, kind: u64| u64::from(number) * KINDS + kind;
        INodeNo(match self {
            Self::Root => 1,
            Self::System => 2,
            Self::Own => 3,
            Self::AuxiliaryVector => 4,
            Self::Process(number) => of(number, 0),
            Self::File(number, File::Stat) => of(number, 1),
            Self::File(number, File::Status) => of(number, 2),
            Self::File(number, File::CmdLine) => of(number, 3),
            Self::File(number, File::Comm) => of(number, 4),
            Self::Namespaces(number) => of(number, 5),
            Self::PidNamespace(number) => of(number, 6),
        })
    }

    fn of_inode(inode: INodeNo) -> Option<Self> {
        let inode = inode.0;
        if inode < KINDS {
            let fixed = [Self::Root, Self::System, Self::Own, Self::AuxiliaryVector];
            return fixed.into_iter().find(|node| node.inode().0 == inode);
        }
        let number = u32::try_from(inode / KINDS).ok()?;
        std::iter::once(Self::Process(number))
            .chain(Self::of_process(number).map(|(_, node)| node))
            .chain([Self::PidNamespace(number)])
            .find(|node| node.inode().0 == inode)
    }

    fn of_process(number: u32) -> impl Iterator<Item = (&'static str, Self)> {
        [
            ("stat", Self::File(number, File::Stat)),
            ("status", Self::File(number, File::Status)),
            ("cmdline", Self::File(number, File::CmdLine)),
            ("comm", Self::File(number, File::Comm)),
            ("ns", Self::Namespaces(number)),
        ]
        .into_iter()
    }

    /// The process that it belongs to.
    fn process(self) -> Option<u32> {
        match self {
            Self::Root | Self::System | Self::Own | Self::AuxiliaryVector => None,
            Self::Process(number)
            | Self::File(number, _)
            | Self::Namespaces(number)
            | Self::PidNamespace(number) => Some(number),
        }
    }

    fn kind(self) -> FileType {
        match self {
            Self::Root | Self::Own | Self::Process(_) | Self::Namespaces(_) => FileType::Directory,
            Self::System | Self::AuxiliaryVector | Self::File(..) => FileType::RegularFile,
            Self::PidNamespace(_) => FileType::Symlink,
        }
    }

    fn attributes(self) -> FileAttr {
        let kind = self.kind();
        FileAttr {
            ino: self.inode(),
            size: 0,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: if kind == FileType::RegularFile { 0o444 } else { 0o555 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Processes {
    fn snapshot(&self) -> Result<Arc<Snapshot>, Errno> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, snapshot)) = last.as_ref()
            && when.elapsed() < FRESH
        {
            return Ok(Arc::clone(snapshot));
        }
        let container_id = match self.folder.read() {
            Ok(record) => record.guest_id(),
            // It is being deleted.
            Err(_) => return Err(Errno::EIO),
        };
        let request = proto::ListProcessesRequest { container_id, ..Default::default() };
        let asked =
            Agent::connect(&self.folder).and_then(|mut agent| agent.call_within(&request, Some(PATIENCE)));
        let listed = asked.map_err(|error| {
            tracing::warn!(%error, "cannot list the processes");
            Errno::EIO
        })?;
        let snapshot = Arc::new(Snapshot::new(listed.processes));
        *last = Some((Instant::now(), Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// The node, if its process is still there.
    fn node(&self, inode: INodeNo) -> Result<Node, Errno> {
        let node = Node::of_inode(inode).ok_or(Errno::ENOENT)?;
        match node.process() {
            Some(number) if !self.snapshot()?.has(number) => Err(Errno::ENOENT),
            _ => Ok(node),
        }
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<Node, Errno> {
        let mut children = self.children(self.node(parent)?)?.into_iter();
        children.find(|(child, _)| name == child.as_str()).map(|(_, node)| node).ok_or(Errno::ENOENT)
    }

    fn children(&self, parent: Node) -> Result<Vec<(String, Node)>, Errno> {
        let named = |(name, node): (&str, Node)| (name.to_owned(), node);
        Ok(match parent {
            Node::Root => {
                let processes = self.snapshot()?;
                let fixed = [("stat", Node::System), ("self", Node::Own)].map(named);
                let numbered = processes.numbers().map(|number| (number.to_string(), Node::Process(number)));
                fixed.into_iter().chain(numbered).collect()
            }
            Node::Own => vec![named(("auxv", Node::AuxiliaryVector))],
            Node::Process(number) => Node::of_process(number).map(named).collect(),
            Node::Namespaces(number) => vec![named(("pid", Node::PidNamespace(number)))],
            _ => return Err(Errno::ENOTDIR),
        })
    }

    fn content(&self, inode: INodeNo) -> Result<Vec<u8>, Errno> {
        match self.node(inode)? {
            Node::System => Ok(self.snapshot()?.system()),
            Node::AuxiliaryVector => Ok(procfs::auxiliary_vector()),
            Node::File(number, file) => self.snapshot()?.file(number, file).ok_or(Errno::ENOENT),
            Node::PidNamespace(_) => Ok(b"pid:[1]".to_vec()),
            _ => Err(Errno::EISDIR),
        }
    }
}

impl Filesystem for Processes {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent, name) {
            Ok(node) => reply.entry(&LIFETIME, &node.attributes(), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode) {
            Ok(node) => reply.attr(&LIFETIME, &node.attributes()),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.content(inode) {
            Ok(content) => reply.data(&content),
            Err(error) => reply.error(error),
        }
    }

    /// Files have no length until they are read.
    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.content(inode) {
            Ok(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                let rest = content.get(start..).unwrap_or_default();
                let length = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
                reply.data(rest.get(..length).unwrap_or_default());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let children = match self.node(inode).and_then(|node| self.children(node)) {
            Ok(children) => children,
            Err(error) => return reply.error(error),
        };
        let own = [".", ".."].map(|name| (name.to_owned(), inode, FileType::Directory));
        let entries = children.into_iter().map(|(name, node)| (name, node.inode(), node.kind()));
        let all = own.into_iter().chain(entries).zip(1..);
        for ((name, inode, kind), next) in all.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_found_by_its_inode() {
        let mut nodes = vec![Node::Root, Node::System, Node::Own, Node::AuxiliaryVector];
        for number in [1, 2, 4_194_304] {
            nodes.extend([Node::Process(number), Node::PidNamespace(number)]);
            nodes.extend(Node::of_process(number).map(|(_, node)| node));
        }
        for node in nodes {
            assert_eq!(Node::of_inode(node.inode()), Some(node));
        }
        for inode in [0, 5, 16 + 7, u64::MAX] {
            assert_eq!(Node::of_inode(INodeNo(inode)), None, "{inode}");
        }
    }
}
