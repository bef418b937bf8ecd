//! From the specification's terms to the agent's: a pure function.

use agent_protocol::agent as proto;
use oci_spec::runtime::{Hook, LinuxPersonality, LinuxPersonalityDomain, Mount, Process, Spec};
use protobuf::MessageField;

use super::place::Place;
use super::to_vm::{ROOTFS, mount_place};
use super::validate::SpecError;
use super::{devices, limits, mounts, namespaces, rights, seccomp, socket_binds};

/// The request that makes the container of a specification.
///
/// # Errors
///
/// [`SpecError`], unless the specification has been checked.
pub(crate) fn create_request(
    place: &Place,
    spec: &Spec,
    streams: proto::Streams,
) -> Result<proto::CreateContainerRequest, SpecError> {
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let masked = linux.and_then(|linux| linux.masked_paths().clone());
    let readonly = linux.and_then(|linux| linux.readonly_paths().clone());
    let namespaces = namespaces::to_agent(linux, &place.joined)?;
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    let mut init = spec.process().as_ref().map(|spec| process(spec, streams)).transpose()?;
    if let Some(init) = &mut init {
        // Of config.md, "execCPUAffinity": it is for the processes that are executed besides the init.
        init.cpus.clear();
    }
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    Ok(proto::CreateContainerRequest {
        container_id: place.container_id(),
        process: MessageField::from_option(init),
        root: MessageField::some(proto::Root {
            share_path: place.in_share(ROOTFS),
            readonly: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
            ..Default::default()
        }),
        mounts: spec
            .mounts()
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, spec)| mount(place, index, spec))
            .collect(),
        hostname: spec.hostname().clone().unwrap_or_default(),
        domainname: spec.domainname().clone().unwrap_or_default(),
        namespaces: namespaces.listed,
        uid_mappings: namespaces.uids,
        gid_mappings: namespaces.gids,
        time_offsets: namespaces.time_offsets,
        start_container_hooks: hooks.into_iter().flatten().map(hook).collect(),
        rootfs_propagation: linux.and_then(|linux| linux.rootfs_propagation().clone()).unwrap_or_default(),
        resources: MessageField::some(limits::of_new(linux.and_then(|linux| linux.resources().as_ref()))?),
        sysctl: linux.and_then(|linux| linux.sysctl().clone()).unwrap_or_default(),
        devices: devices::to_agent(devices)?,
        masked_paths: masked.unwrap_or_default(),
        readonly_paths: readonly.unwrap_or_default(),
        seccomp: MessageField::from_option(seccomp.map(seccomp::compile).transpose()?),
        personality: linux.and_then(|linux| linux.personality().as_ref()).map(personality).transpose()?,
        ..Default::default()
    })
}

/// A process of a specification, or one for `exec`.
///
/// # Errors
///
/// [`SpecError`], unless the process has been checked.
pub(crate) fn process(spec: &Process, streams: proto::Streams) -> Result<proto::Process, SpecError> {
    let user = spec.user();
    let mut process = proto::Process {
        args: spec.args().clone().unwrap_or_default(),
        env: spec.env().clone().unwrap_or_default(),
        cwd: spec.cwd().to_string_lossy().into_owned(),
        user: MessageField::some(proto::User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            username: user.username().clone().unwrap_or_default(),
            ..Default::default()
        }),
        terminal: spec.terminal().unwrap_or(false),
        console_size: MessageField::from_option(spec.console_size().map(|size| proto::WindowSize {
            columns: u32::try_from(size.width()).unwrap_or(0),
            rows: u32::try_from(size.height()).unwrap_or(0),
            ..Default::default()
        })),
        streams: MessageField::some(streams),
        ..Default::default()
    };
    rights::apply(spec, &mut process)?;
    Ok(process)
}

/// What hooks read is not of the specification: the caller adds it.
fn hook(hook: &Hook) -> proto::Hook {
    let args = hook.args().clone().unwrap_or_default();
    let timeout = hook.timeout().unwrap_or(0);
    proto::Hook {
        path: hook.path().to_string_lossy().into_owned(),
        args,
        env: hook.env().clone().unwrap_or_default(),
        timeout_seconds: u32::try_from(timeout).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

/// personality(2).
pub(super) fn personality(personality: &LinuxPersonality) -> Result<u32, SpecError> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(SpecError::PersonalityFlags);
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn mount(place: &Place, index: usize, spec: &Mount) -> proto::Mount {
    let (kind, source) = if mounts::is_bind(spec) {
        ("bind".to_owned(), place.in_share(&mount_place(index)))
    } else {
        let source = spec.source().as_ref().map(|source| source.to_string_lossy().into_owned());
        (spec.typ().clone().unwrap_or_default(), source.unwrap_or_default())
    };
    proto::Mount {
        destination: spec.destination().to_string_lossy().into_owned(),
        type_: kind,
        source,
        options: spec.options().clone().unwrap_or_default(),
        socket: socket_binds::to_agent(place, index, spec),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use proto::namespace::Kind;

    use super::*;

    #[test]
    fn everything_that_is_supported_reaches_the_agent() {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "h", "domainname": "d",
            "process": {
                "args": ["a", "b"], "env": ["X=1"], "cwd": "/w", "terminal": true,
                "consoleSize": {"height": 24, "width": 80},
                "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [3, 4]}
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/d", "type": "none", "source": "/host", "options": ["rbind", "ro"]}
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "uts"}], "rootfsPropagation": "slave",
                "resources": {"pids": {"limit": 5}}, "sysctl": {"kernel.domainname": "x"},
                "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
                "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]
            }
        }))
        .unwrap();
        let streams = proto::Streams { terminal: 9, ..Default::default() };
        let request = create_request(&Place::of_owner(), &spec, streams).unwrap();
        let process = &request.process;
        assert_eq!(
            (&process.args[..], &process.env[..], &*process.cwd),
            (&["a".into(), "b".into()][..], &["X=1".into()][..], "/w")
        );
        assert_eq!((process.user.uid, process.user.gid, process.user.umask), (1, 2, Some(63)));
        assert_eq!(process.user.additional_gids, [3, 4]);
        assert_eq!((process.console_size.columns, process.console_size.rows), (80, 24));
        assert!(process.terminal && process.streams.terminal == 9);
        assert!(request.root.readonly && request.root.share_path == "rootfs");
        assert_eq!(
            (&*request.hostname, &*request.domainname, &*request.rootfs_propagation),
            ("h", "d", "slave")
        );
        let namespaces: Vec<Kind> = request.namespaces.iter().map(|n| n.kind.enum_value().unwrap()).collect();
        assert_eq!(namespaces, [Kind::KIND_PID, Kind::KIND_UTS]);
        let mounts: Vec<(&str, &str)> = request.mounts.iter().map(|m| (&*m.type_, &*m.source)).collect();
        assert_eq!(mounts, [("proc", "proc"), ("bind", "mounts/1")]);
        assert_eq!(request.resources.cgroup[0].file, "pids.max");
        assert_eq!(request.sysctl["kernel.domainname"], "x");
        assert_eq!((&*request.devices[0].path, request.devices[0].minor), ("/dev/fuse", 229));
        assert_eq!(
            (&request.masked_paths[..], &request.readonly_paths[..]),
            (&["/proc/kcore".into()][..], &["/proc/sys".into()][..])
        );
    }
}
