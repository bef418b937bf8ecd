//! Checks that need nothing but the configuration itself (OCI runtime specification, `config.md` and
//! `config-linux.md`).

use agent_protocol::agent as proto;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::devices::{self, DeviceError};
use super::id_map::{self, IdMapError};
use super::limits::{self, LimitError};
use super::namespaces::{self, NamespaceError};
use super::place::Joined;
use super::rights::{self, RightsError};
use super::seccomp::{self, SeccompError};
use super::selinux::{self, SeLinuxError};
use super::sysctl::{self, SysctlError};
use super::vm_section::{self, VmSectionError};
use super::{mounts, to_agent, version};

/// What the specification forbids. Fields are spelt as it spells them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    /// Another version.
    #[error("ociVersion `{0}` is not supported; supported are {supported}", supported = version::SUPPORTED)]
    Version(String),
    /// Something required is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// Something required is there and empty.
    #[error("{0} is empty")]
    Empty(String),
    /// A path that must not depend on where somebody stands.
    #[error("{field} `{path}` is not an absolute path")]
    Relative {
        /// Where.
        field: String,
        /// The path.
        path: String,
    },
    /// C strings cannot hold it.
    #[error("{0} contains a NUL character")]
    Nul(String),
    /// An environment variable.
    #[error("process.env[{index}] `{variable}` is not of the form NAME=VALUE")]
    Environment {
        /// Place in the list.
        index: usize,
        /// What is there.
        variable: String,
    },
    /// A mount option that is known and not done.
    #[error("mounts[{index}].options `{option}` is not supported")]
    MountOption {
        /// Place in the list.
        index: usize,
        /// Which.
        option: String,
    },
    /// Ids of a mount.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// A name that would be set for more than the container.
    #[error("{0} needs a new uts namespace in linux.namespaces")]
    NameWithoutNamespace(&'static str),
    /// A hook.
    #[error("hooks.{list}[{index}]: {reason}")]
    Hook {
        /// Which list.
        list: &'static str,
        /// Place in it.
        index: usize,
        /// Why not.
        reason: &'static str,
    },
    /// Propagation of mounts.
    #[error("linux.rootfsPropagation `{0}` is none of shared, slave, private and unbindable")]
    Propagation(String),
    /// Nobody could ask for it.
    #[error("annotations has an empty key")]
    AnnotationKey,
    /// The specification defines none.
    #[error("linux.personality.flags must be empty")]
    PersonalityFlags,
    /// Rights of a process.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// A label for what is on the host.
    #[error(transparent)]
    SeLinux(#[from] SeLinuxError),
    /// A filter.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel parameter.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The machine.
    #[error(transparent)]
    VmSection(#[from] VmSectionError),
}

/// Checks all of it; the first error counts.
pub(crate) fn check(spec: &Spec) -> Result<(), SpecError> {
    if spec.version().is_empty() {
        return Err(SpecError::Missing("ociVersion".into()));
    }
    if !version::is_supported(spec.version()) {
        return Err(SpecError::Version(spec.version().clone()));
    }
    let root = spec.root().as_ref().ok_or_else(|| SpecError::Missing("root".into()))?;
    if root.path().as_os_str().is_empty() {
        return Err(SpecError::Empty("root.path".into()));
    }
    no_nul("root.path", &root.path().to_string_lossy())?;
    check_process(spec.process().as_ref().ok_or_else(|| SpecError::Missing("process".into()))?)?;
    check_mounts(spec)?;
    namespaces::to_agent(spec.linux().as_ref(), &Joined::new())?;
    check_names(spec)?;
    check_hooks(spec)?;
    check_propagation(spec)?;
    check_linux(spec)?;
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(SpecError::AnnotationKey);
    }
    vm_section::check(spec)?;
    Ok(sysctl::check(spec)?)
}

/// What is converted for the agent is checked by that.
fn check_linux(spec: &Spec) -> Result<(), SpecError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    limits::of_new(linux.resources().as_ref())?;
    devices::to_agent(linux.devices().as_deref().unwrap_or_default())?;
    linux.seccomp().as_ref().map(seccomp::check).transpose()?;
    linux.personality().as_ref().map(to_agent::personality).transpose()?;
    selinux::labels(spec)?;
    for (field, paths) in
        [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        for (index, path) in paths.iter().flatten().enumerate() {
            absolute(&format!("{field}[{index}]"), path)?;
        }
    }
    Ok(())
}

/// Checks a process, that of a configuration or one for `exec`.
pub(crate) fn check_process(process: &Process) -> Result<(), SpecError> {
    let args = process.args().as_deref().unwrap_or_default();
    match args.first() {
        None => return Err(SpecError::Empty("process.args".into())),
        Some(program) if program.is_empty() => return Err(SpecError::Empty("process.args[0]".into())),
        Some(_) => {}
    }
    for (index, arg) in args.iter().enumerate() {
        no_nul(&format!("process.args[{index}]"), arg)?;
    }
    for (index, variable) in process.env().iter().flatten().enumerate() {
        no_nul(&format!("process.env[{index}]"), variable)?;
        match variable.find('=') {
            None | Some(0) => {
                return Err(SpecError::Environment { index, variable: variable.clone() });
            }
            Some(_) => {}
        }
    }
    absolute("process.cwd", &process.cwd().to_string_lossy())?;
    no_nul("process.user.username", process.user().username().as_deref().unwrap_or_default())?;
    Ok(rights::apply(process, &mut proto::Process::default())?)
}

/// Of later versions of the specification.
const UNSUPPORTED_OPTIONS: [&str; 1] = ["copy-symlink"];

fn check_mounts(spec: &Spec) -> Result<(), SpecError> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = |name| format!("mounts[{index}].{name}");
        absolute(&field("destination"), &mount.destination().to_string_lossy())?;
        let source = mount.source().as_deref().unwrap_or(std::path::Path::new("")).to_string_lossy();
        no_nul(&field("source"), &source)?;
        no_nul(&field("type"), mount.typ().as_deref().unwrap_or_default())?;
        for option in mounts::options(mount) {
            no_nul(&field("options"), option)?;
            if UNSUPPORTED_OPTIONS.contains(&option) {
                return Err(SpecError::MountOption { index, option: option.to_owned() });
            }
        }
        id_map::of_mount(spec, index, mount)?;
        if mounts::is_bind(mount) && source.is_empty() {
            return Err(SpecError::Missing(field("source")));
        }
        let needs_type = !mounts::is_bind(mount) && !mounts::is_remount(mount);
        if needs_type && mount.typ().as_deref().unwrap_or_default().is_empty() {
            return Err(SpecError::Missing(field("type")));
        }
    }
    Ok(())
}

fn check_names(spec: &Spec) -> Result<(), SpecError> {
    let has_uts = spec
        .linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten())
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let name = name.as_deref().unwrap_or_default();
        no_nul(field, name)?;
        if !name.is_empty() && !has_uts {
            return Err(SpecError::NameWithoutNamespace(field));
        }
    }
    Ok(())
}

fn check_hooks(spec: &Spec) -> Result<(), SpecError> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    let lists = [
        ("prestart", all.prestart()),
        ("createRuntime", all.create_runtime()),
        ("createContainer", all.create_container()),
        ("startContainer", all.start_container()),
        ("poststart", all.poststart()),
        ("poststop", all.poststop()),
    ];
    for (list, hooks) in lists {
        for (index, hook) in hooks.iter().flatten().enumerate() {
            let refuse = |reason| Err(SpecError::Hook { list, index, reason });
            if !hook.path().is_absolute() {
                return refuse("its path is not absolute");
            }
            for text in hook.args().iter().flatten().chain(hook.env().iter().flatten()) {
                if text.contains('\0') {
                    return refuse("it contains a NUL character");
                }
            }
            if hook.env().iter().flatten().any(|variable| matches!(variable.find('='), None | Some(0))) {
                return refuse("its environment is not of the form NAME=VALUE");
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return refuse("its timeout is not greater than zero");
            }
        }
    }
    Ok(())
}

fn check_propagation(spec: &Spec) -> Result<(), SpecError> {
    let propagation = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    match propagation.unwrap_or_default() {
        "" | "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" | "unbindable"
        | "runbindable" => Ok(()),
        other => Err(SpecError::Propagation(other.into())),
    }
}

fn absolute(field: &str, path: &str) -> Result<(), SpecError> {
    no_nul(field, path)?;
    if path.is_empty() {
        return Err(SpecError::Empty(field.into()));
    }
    if !path.starts_with('/') {
        return Err(SpecError::Relative { field: field.into(), path: path.into() });
    }
    Ok(())
}

fn no_nul(field: &str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') { Err(SpecError::Nul(field.into())) } else { Ok(()) }
}
