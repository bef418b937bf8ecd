//! `linux.sysctl`: only parameters of namespaces that are the container's own, as with runc. Pure.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// A parameter that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SysctlError {
    /// It would change more than the container.
    #[error("linux.sysctl `{name}` needs a {namespace} namespace in linux.namespaces")]
    Namespace {
        /// Which parameter.
        name: String,
        /// Which type.
        namespace: &'static str,
    },
    /// It is no namespace's.
    #[error("linux.sysctl `{0}` is not in a separate kernel namespace")]
    NotNamespaced(String),
    /// The specification has a field for it.
    #[error("linux.sysctl `kernel.hostname` is not allowed: it is the field hostname")]
    Hostname,
    /// C strings cannot hold it.
    #[error("linux.sysctl `{0}` contains a NUL character")]
    Nul(String),
}

/// Parameters of an IPC namespace (ipc_namespaces(7)); those of message queues are `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks all of them.
pub(crate) fn check(spec: &Spec) -> Result<(), SysctlError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let mut names: Vec<(&String, &String)> = linux.sysctl().iter().flatten().collect();
    names.sort_unstable();
    for (name, value) in names {
        if name.contains('\0') || value.contains('\0') {
            return Err(SysctlError::Nul(name.clone()));
        }
        let (kind, namespace) = namespace_of(name)?;
        let has = linux.namespaces().iter().flatten().any(|one| one.typ() == kind);
        if !has {
            return Err(SysctlError::Namespace { name: name.clone(), namespace });
        }
    }
    Ok(())
}

/// Its type, and that by name.
fn namespace_of(name: &str) -> Result<(LinuxNamespaceType, &'static str), SysctlError> {
    // sysctl(8): with a slash first, slashes separate the parts.
    let slashes = name.find(['.', '/']).is_some_and(|place| name.as_bytes().get(place) == Some(&b'/'));
    let dotted = if slashes { name.replace('/', ".") } else { name.to_owned() };
    match dotted.as_str() {
        "kernel.hostname" => Err(SysctlError::Hostname),
        "kernel.domainname" => Ok((LinuxNamespaceType::Uts, "uts")),
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Ok((LinuxNamespaceType::Ipc, "ipc")),
        name if name.starts_with("net.") => Ok((LinuxNamespaceType::Network, "network")),
        _ => Err(SysctlError::NotNamespaced(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(name: &str, namespace: &str) -> Result<(), String> {
        let linux = json!({"sysctl": {name: "1"}, "namespaces": [{"type": namespace}]});
        let spec: Spec = serde_json::from_value(json!({"linux": linux})).unwrap();
        check(&spec).map_err(|error| error.to_string())
    }

    #[test]
    fn each_needs_its_namespace() {
        for (name, namespace) in [
            ("net.ipv4.ip_forward", "network"),
            ("net/ipv4/conf/eth0.1/forwarding", "network"),
            ("kernel.shmmax", "ipc"),
            ("fs.mqueue.msg_max", "ipc"),
            ("fs/mqueue/msg_max", "ipc"),
            ("kernel.domainname", "uts"),
        ] {
            assert_eq!(checked(name, namespace), Ok(()), "{name}");
            let error = checked(name, "pid").unwrap_err();
            assert_eq!(
                error,
                format!("linux.sysctl `{name}` needs a {namespace} namespace in linux.namespaces")
            );
        }
    }

    #[test]
    fn what_is_everybodys_is_refused() {
        for name in ["vm.overcommit_memory", "kernel.panic", "kernel.shmmax2", "netx.y", "net", ""] {
            let error = checked(name, "network").unwrap_err();
            assert_eq!(error, format!("linux.sysctl `{name}` is not in a separate kernel namespace"));
        }
        assert!(checked("kernel.hostname", "uts").unwrap_err().contains("the field hostname"));
    }
}
