//! Limits, devices, masks and kernel parameters of a request, checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agent_protocol::agent;

use super::{RequestError, absolute, invalid};
use crate::cgroup::devices::{DeviceKind, MKNOD, READ, Rule, Rules, WRITE};
use crate::cgroup::settings::Setting;
use crate::container::limits::Resources;
use crate::rootfs::masks::Masks;
use crate::rootfs::nodes::{Node, NodeKind};
use crate::security::sysctl::Sysctl;
use crate::security::user::valid;

/// Of each kind of thing in one request.
const MOST: usize = 4096;

/// Checks limits, of a container to be made or of one that runs.
///
/// # Errors
///
/// [`RequestError`] names the limit.
pub fn resources(resources: agent::Resources) -> Result<Resources, RequestError> {
    bounded(&resources.cgroup, "limits")?;
    let setting = |one: agent::CgroupSetting| {
        let name = one.file.clone();
        Setting::new(one.file, one.value).map_err(|reason| invalid("limit", &name, reason))
    };
    let rules = resources.devices.into_option().map(|devices| {
        bounded(&devices.rules, "device rules")?;
        Ok(Rules::new(devices.rules.iter().map(rule).collect::<Result<_, _>>()?))
    });
    Ok(Resources {
        settings: resources.cgroup.into_iter().map(setting).collect::<Result<_, _>>()?,
        devices: rules.transpose()?,
        check_memory: resources.check_memory,
        cpus: resources.cpus,
    })
}

fn rule(rule: &agent::DeviceRule) -> Result<Rule, RequestError> {
    use agent::device_rule::Type;
    let kind = match rule.type_.enum_value() {
        Ok(Type::TYPE_ANY) => None,
        Ok(Type::TYPE_BLOCK) => Some(DeviceKind::Block),
        Ok(Type::TYPE_CHARACTER) => Some(DeviceKind::Character),
        Err(other) => return Err(invalid("device rule", &other.to_string(), "no such type")),
    };
    let access = [(rule.mknod, MKNOD), (rule.read, READ), (rule.write, WRITE)];
    let access = access.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
    Ok(Rule { allow: rule.allow, kind, major: rule.major, minor: rule.minor, access })
}

pub(super) fn devices(devices: &[agent::Device]) -> Result<Vec<Node>, RequestError> {
    bounded(devices, "devices")?;
    devices.iter().map(device).collect()
}

fn device(device: &agent::Device) -> Result<Node, RequestError> {
    use agent::device::Type;
    let path = absolute("device path", &device.path)?;
    let refuse = |reason| Err(invalid("device", &device.path, reason));
    let kind = match device.type_.enum_value_or_default() {
        Type::TYPE_BLOCK => NodeKind::Block(device.major, device.minor),
        Type::TYPE_CHARACTER => NodeKind::Character(device.major, device.minor),
        Type::TYPE_FIFO => NodeKind::Fifo,
        Type::TYPE_UNSPECIFIED => return refuse("it has no type"),
    };
    if path == Path::new("/") {
        return refuse("that is the root itself");
    }
    if device.mode > 0o7777 {
        return refuse("its mode has more than permission bits");
    }
    if !valid(device.uid) || !valid(device.gid) {
        return refuse("its owner means no user");
    }
    Ok(Node { path, kind, mode: device.mode, uid: device.uid, gid: device.gid })
}

pub(super) fn masks(masked: &[String], readonly: &[String]) -> Result<Masks, RequestError> {
    let paths = |field, paths: &[String]| {
        bounded(paths, field)?;
        paths.iter().map(|path| absolute(field, path)).collect::<Result<Vec<PathBuf>, _>>()
    };
    Ok(Masks { masked: paths("masked path", masked)?, readonly: paths("read-only path", readonly)? })
}

pub(super) fn sysctl(parameters: HashMap<String, String>) -> Result<Vec<Sysctl>, RequestError> {
    let new = |(name, value): (String, String)| {
        Sysctl::new(name.clone(), value).map_err(|reason| invalid("sysctl", &name, reason))
    };
    let mut parameters: Vec<(String, String)> = parameters.into_iter().collect();
    parameters.sort_unstable();
    parameters.into_iter().map(new).collect()
}

fn bounded<T>(list: &[T], name: &'static str) -> Result<(), RequestError> {
    if list.len() > MOST { Err(RequestError::TooMany(name)) } else { Ok(()) }
}
