//! From the protocol's request to a checked description. Whatever the shim sends, nothing unchecked gets past
//! here: the shim and the agent trust each other as little as two programs across a network.

mod exec;
mod lives;
pub mod network;
mod process;
pub mod resources;
mod settings;

pub use exec::ExecSpec;
pub use process::window_size;

use std::ffi::CString;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use agent_protocol::{STREAM_PORT, agent};
use protobuf::MessageField;

use crate::container::limits::Resources;
use crate::container::namespaces::{Joined, Namespaces};
use crate::container::network::Network;
use crate::process::hooks::Hooks;
use crate::process::{Confinement, ProcessSpec};
use crate::rootfs::masks::Masks;
use crate::rootfs::mounts::{Mount, Source};
use crate::rootfs::nodes::Node;
use crate::rootfs::options::{MountOptions, OptionError};
use crate::rootfs::path::clean;
use crate::rootfs::propagation::Propagation;
use crate::rootfs::upper::Upper;
use crate::security::identity_map::IdentityMap;
use crate::security::seccomp::Filter;
use crate::security::sysctl::Sysctl;
use crate::security::user::valid;
use crate::sockets::HostSocket;

/// Of a container's id; a cgroup and a directory are named by it.
const LONGEST_ID: usize = 255;

/// Mounts of one container.
const MOST_MOUNTS: usize = 4096;

/// PATH_MAX (linux/limits.h).
const LONGEST_PATH: usize = 4095;

/// sethostname(2).
const LONGEST_HOSTNAME: usize = 64;

/// A container to be made, checked.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Letters, digits and `_.+-`.
    pub id: String,
    /// The workload.
    pub process: ProcessSpec,
    /// What every process is under.
    pub confinement: Arc<Confinement>,
    /// Below the share.
    pub root: String,
    /// Where what the workload changes of it goes, if not to the share.
    pub upper: Option<Upper>,
    /// Whether the workload may not write to it.
    pub readonly: bool,
    /// In their order.
    pub mounts: Vec<Mount>,
    /// Empty: unchanged.
    pub hostname: String,
    /// Empty: unchanged.
    pub domainname: String,
    /// New ones, and those of other containers.
    pub namespaces: Namespaces,
    /// Those of other containers.
    pub joined: Vec<Joined>,
    /// Of the user namespace.
    pub identities: Option<IdentityMap>,
    /// Of the time namespace, as `/proc/PID/timens_offsets` takes them.
    pub time_offsets: String,
    /// Run before the workload.
    pub hooks: Hooks,
    /// Of the root mount.
    pub propagation: Option<Propagation>,
    /// Limits.
    pub resources: Resources,
    /// Besides the default ones.
    pub devices: Vec<Node>,
    /// What of the root the workload must not see or write.
    pub masks: Masks,
    /// For the namespaces.
    pub sysctl: Vec<Sysctl>,
    /// For the network namespace.
    pub network: Network,
}

/// What is wrong with a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Absent.
    #[error("the request has no {0}")]
    Missing(&'static str),
    /// A value out of its range or of the wrong form.
    #[error("{field} {value:?} is not valid: {reason}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More than there can be.
    #[error("the request has too many {0}")]
    TooMany(&'static str),
    /// A mount option.
    #[error("mount on {destination:?}")]
    Option {
        /// Which mount.
        destination: String,
        /// Which option.
        #[source]
        source: OptionError,
    },
    /// Something that the agent does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
}

fn invalid(field: &'static str, value: &str, reason: &'static str) -> RequestError {
    RequestError::Invalid { field, value: value.to_owned(), reason }
}

impl ContainerSpec {
    /// Checks a request.
    ///
    /// # Errors
    ///
    /// [`RequestError`] names the field.
    pub fn from_request(request: agent::CreateContainerRequest) -> Result<Self, RequestError> {
        let process = required(request.process, "process")?;
        let root = required(request.root, "root")?;
        let (namespaces, joined) = namespaces(&request.namespaces)?;
        let named = !request.hostname.is_empty() || !request.domainname.is_empty();
        if named && !namespaces.uts {
            return Err(invalid(
                "hostname",
                &request.hostname,
                "it needs a UTS namespace of the container's own",
            ));
        }
        if request.mounts.len() > MOST_MOUNTS {
            return Err(RequestError::TooMany("mounts"));
        }
        let new = joined.iter().map(|one| one.namespaces).fold(namespaces, Namespaces::without);
        let offsets = lives::time_offsets(&request.time_offsets, new)?;
        let id = name("container id", request.container_id)?;
        Ok(Self {
            process: process::process_spec(process)?,
            confinement: Arc::new(confinement(&id, request.seccomp.as_ref(), request.personality)?),
            id,
            root: share_path(root.share_path)?,
            upper: NonZeroU64::new(root.tmpfs_upper_bytes)
                .map(|bytes| Upper { bytes, in_user_namespace: namespaces.user }),
            readonly: root.readonly,
            mounts: request.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
            hostname: hostname(request.hostname)?,
            domainname: hostname(request.domainname)?,
            namespaces,
            joined,
            identities: lives::identities(&request.uid_mappings, &request.gid_mappings, namespaces, new)?,
            time_offsets: offsets,
            hooks: lives::hooks(request.start_container_hooks, &request.state)?,
            propagation: propagation(&request.rootfs_propagation)?,
            resources: resources::resources(request.resources.unwrap_or_default())?,
            devices: resources::devices(&request.devices)?,
            masks: resources::masks(&request.masked_paths, &request.readonly_paths)?,
            sysctl: resources::sysctl(request.sysctl)?,
            network: network::network(request.network.unwrap_or_default(), new.network)?,
        })
    }
}

impl ContainerSpec {
    /// Whether it has limits of huge pages, or mounts them.
    pub fn wants_huge_pages(&self) -> bool {
        self.resources.settings.iter().any(|setting| setting.is_of("hugetlb"))
            || self
                .mounts
                .iter()
                .any(|mount| matches!(&mount.source, Source::FileSystem { kind, .. } if kind == "hugetlbfs"))
    }
}

fn required<T>(field: MessageField<T>, name: &'static str) -> Result<T, RequestError> {
    field.into_option().ok_or(RequestError::Missing(name))
}

/// Of a container or a process.
fn name(field: &'static str, id: String) -> Result<String, RequestError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    if id.is_empty()
        || id.len() > LONGEST_ID
        || !id.bytes().all(allowed)
        || id.bytes().all(|byte| byte == b'.')
    {
        return Err(invalid(field, &id, "1 to 255 of letters, digits and _.+- are allowed"));
    }
    Ok(id)
}

fn mount(mut mount: agent::Mount) -> Result<Mount, RequestError> {
    let socket = mount.socket.take().map(|socket| socket_of(&mount.destination, &socket)).transpose()?;
    if socket.is_some() {
        mount.options.clear();
    }
    let destination = absolute("mount destination", &mount.destination)?;
    if destination == Path::new("/") {
        return Err(invalid("mount destination", &mount.destination, "that is the root itself"));
    }
    let options = MountOptions::parse(&mount.options, mount.type_ == "bind")
        .map_err(|source| RequestError::Option { destination: mount.destination, source })?;
    let source = if let Some(socket) = socket {
        Source::Socket(socket)
    } else if options.remount {
        Source::Remount
    } else if options.bind.is_some() {
        Source::Share(share_path(mount.source)?)
    } else if mount.type_ == "cgroup" || mount.type_ == "cgroup2" {
        Source::Cgroup
    } else {
        c_string("mount type", mount.type_.clone())?;
        c_string("mount source", mount.source.clone())?;
        if options.copy_up && mount.type_ != "tmpfs" {
            return Err(invalid("mount option", "tmpcopyup", "only a tmpfs can have it"));
        }
        Source::FileSystem { kind: mount.type_, device: mount.source }
    };
    for option in &options.data {
        c_string("mount option", option.clone())?;
    }
    Ok(Mount { destination, source, options })
}

fn socket_of(destination: &str, socket: &agent::UnixSocket) -> Result<HostSocket, RequestError> {
    let is_valid =
        socket.port > STREAM_PORT && socket.mode <= 0o7777 && valid(socket.uid) && valid(socket.gid);
    if !is_valid {
        return Err(invalid("socket", destination, "its port, mode or owner cannot be"));
    }
    Ok(HostSocket { port: socket.port, mode: socket.mode, uid: socket.uid, gid: socket.gid })
}

/// All that are not the guest's, and those of them that are another container's.
fn namespaces(requested: &[agent::Namespace]) -> Result<(Namespaces, Vec<Joined>), RequestError> {
    use agent::namespace::Kind;
    let mut namespaces = Namespaces::default();
    let mut joined: Vec<Joined> = Vec::new();
    for namespace in requested {
        if !namespace.path.is_empty() {
            return Err(RequestError::Unsupported(format!("joining the namespace {:?}", namespace.path)));
        }
        let kind = namespace.kind.enum_value_or_default();
        add(&mut namespaces, kind)?;
        if namespace.container_id.is_empty() {
            continue;
        }
        if kind == Kind::KIND_MOUNT {
            return Err(RequestError::Unsupported(format!("joining a namespace of kind {kind:?}")));
        }
        let container = name("container id of a namespace", namespace.container_id.clone())?;
        let mut one = Joined { container, namespaces: Namespaces::default() };
        add(&mut one.namespaces, kind)?;
        joined.push(one);
    }
    // It would have no right to enter what is not of its user namespace.
    let joins_user = joined.iter().any(|one| one.namespaces.user);
    if namespaces.user && !joins_user && !joined.is_empty() {
        return Err(RequestError::Unsupported("joining namespaces with a new user namespace".to_owned()));
    }
    Ok((namespaces, joined))
}

fn add(namespaces: &mut Namespaces, kind: agent::namespace::Kind) -> Result<(), RequestError> {
    use agent::namespace::Kind;
    match kind {
        Kind::KIND_MOUNT => {}
        Kind::KIND_PID => namespaces.pid = true,
        Kind::KIND_IPC => namespaces.ipc = true,
        Kind::KIND_UTS => namespaces.uts = true,
        Kind::KIND_CGROUP => namespaces.cgroup = true,
        Kind::KIND_NETWORK => namespaces.network = true,
        Kind::KIND_USER => namespaces.user = true,
        Kind::KIND_TIME => namespaces.time = true,
        Kind::KIND_UNSPECIFIED => {
            return Err(RequestError::Unsupported("a namespace of unknown kind".to_owned()));
        }
    }
    Ok(())
}

fn confinement(
    id: &str,
    seccomp: Option<&agent::Seccomp>,
    personality: Option<u32>,
) -> Result<Confinement, RequestError> {
    let filter = |filter: &agent::Seccomp| {
        Filter::from_bytes(&filter.program, filter.flags).ok_or_else(|| {
            let size = format!("{} bytes", filter.program.len());
            invalid("linux.seccomp", &size, "1 to 4096 instructions of 8 bytes are allowed")
        })
    };
    // As runc names it.
    let keyring = c_string("container id", format!("_ses.{id}"))?;
    Ok(Confinement { seccomp: seccomp.map(filter).transpose()?, personality, keyring })
}

fn propagation(name: &str) -> Result<Option<Propagation>, RequestError> {
    match Propagation::from_name(name) {
        None if !name.is_empty() => Err(invalid("rootfsPropagation", name, "no such propagation")),
        propagation => Ok(propagation),
    }
}

fn hostname(name: String) -> Result<String, RequestError> {
    if name.len() > LONGEST_HOSTNAME || name.contains('\0') {
        return Err(invalid("hostname", &name, "at most 64 characters"));
    }
    Ok(name)
}

/// Below the share.
///
/// # Errors
///
/// [`RequestError`], if it is not below.
pub fn share_path(path: String) -> Result<String, RequestError> {
    relative("share path", path)
}

/// A path below something: relative, and nothing in it that climbs.
fn relative(field: &'static str, path: String) -> Result<String, RequestError> {
    let climbs = path.split('/').any(|name| name.is_empty() || name == "." || name == "..");
    if climbs || path.len() > LONGEST_PATH || path.contains('\0') {
        return Err(invalid(field, &path, "a relative path without empty names, . and .. is needed"));
    }
    Ok(path)
}

fn absolute(field: &'static str, path: &str) -> Result<std::path::PathBuf, RequestError> {
    if !path.starts_with('/') || path.len() > LONGEST_PATH || path.contains('\0') {
        return Err(invalid(field, path, "an absolute path is needed"));
    }
    Ok(clean(Path::new(path)))
}

fn c_string(field: &'static str, text: String) -> Result<CString, RequestError> {
    CString::new(text).map_err(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).into_owned();
        invalid(field, &text, "it contains a NUL character")
    })
}

#[cfg(test)]
mod tests;
