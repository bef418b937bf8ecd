//! The `vm` section of a bundle (OCI runtime specification, `config-vm.md`).

use std::path::Path;

use oci_spec::runtime::{Spec, VM};

use super::kernel_words::{WordError, check_words};
use crate::config::{Config, VmField};

/// What it says, and the administrator allows.
#[derive(Debug, Default)]
pub(crate) struct VmSection<'a> {
    /// `hypervisor.path`, one of the configuration's.
    pub(crate) hypervisor: Option<&'a Path>,
    /// `kernel.path`
    pub(crate) kernel: Option<&'a Path>,
    /// `kernel.initrd`
    pub(crate) initrd: Option<&'a Path>,
    /// `kernel.parameters`
    pub(crate) kernel_parameters: &'a [String],
}

/// A section that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VmSectionError {
    /// No path of the host.
    #[error("{field} `{path}` is not an absolute path")]
    Relative {
        /// Where.
        field: VmField,
        /// The path.
        path: String,
    },
    /// C strings cannot hold it.
    #[error("{0} contains a NUL character")]
    Nul(VmField),
    /// The guest has no disk to boot from.
    #[error(
        "vm.image is not supported: the guest boots from an initrd, and root.path is its container's root; \
         remove it from the bundle"
    )]
    Image,
    /// They would be arguments of a program of the host.
    #[error(
        "vm.hypervisor.parameters is not supported: no program of the host is given arguments by a bundle; \
         remove it from the bundle"
    )]
    HypervisorParameters,
    /// The administrator does not want it.
    #[error(
        "{field} is not allowed here; the key allow_vm_section of the configuration can allow it (\"{}\")",
        field.key()
    )]
    NotAllowed {
        /// Which.
        field: VmField,
    },
    /// Not a program that the administrator has named.
    #[error(
        "vm.hypervisor.path `{0}` is none of the programs that hypervisor_paths of the configuration names"
    )]
    Hypervisor(String),
    /// A kernel parameter.
    #[error("vm.kernel.parameters: {0}")]
    Parameter(#[from] WordError),
}

/// What is wrong with the section of `spec` whatever an administrator allows.
pub(crate) fn check(spec: &Spec) -> Result<(), VmSectionError> {
    let Some(vm) = spec.vm() else { return Ok(()) };
    if vm.image().is_some() {
        return Err(VmSectionError::Image);
    }
    let given = vm.hypervisor().as_ref().and_then(|hypervisor| hypervisor.parameters().as_ref());
    if given.is_some_and(|parameters| !parameters.is_empty()) {
        return Err(VmSectionError::HypervisorParameters);
    }
    let all = of(vm);
    for (field, path) in
        [(VmField::Hypervisor, all.hypervisor), (VmField::Kernel, all.kernel), (VmField::Initrd, all.initrd)]
    {
        let Some(path) = path else { continue };
        let text = path.to_string_lossy();
        if text.contains('\0') {
            return Err(VmSectionError::Nul(field));
        }
        if !path.is_absolute() {
            return Err(VmSectionError::Relative { field, path: text.into_owned() });
        }
    }
    Ok(check_words(all.kernel_parameters)?)
}

/// The section of `spec`, which [`check`] has passed; what is not allowed is an error, not passed over.
pub(crate) fn read<'a>(spec: &'a Spec, config: &Config) -> Result<VmSection<'a>, VmSectionError> {
    let all = spec.vm().as_ref().map(of).unwrap_or_default();
    for (field, is_set) in [
        (VmField::Hypervisor, all.hypervisor.is_some()),
        (VmField::Kernel, all.kernel.is_some()),
        (VmField::Initrd, all.initrd.is_some()),
        (VmField::KernelParameters, !all.kernel_parameters.is_empty()),
    ] {
        if is_set && !config.allow_vm_section.contains(&field) {
            return Err(VmSectionError::NotAllowed { field });
        }
    }
    match all.hypervisor {
        Some(path)
            if !config.hypervisor_paths.iter().any(|allowed| allowed.as_os_str() == path.as_os_str()) =>
        {
            Err(VmSectionError::Hypervisor(path.to_string_lossy().into_owned()))
        }
        _ => Ok(all),
    }
}

fn of(vm: &VM) -> VmSection<'_> {
    VmSection {
        hypervisor: vm.hypervisor().as_ref().map(|hypervisor| hypervisor.path().as_path()),
        kernel: Some(vm.kernel().path().as_path()),
        initrd: vm.kernel().initrd().as_deref().map(Path::new),
        kernel_parameters: vm.kernel().parameters().as_deref().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(vm: &Value) -> Spec {
        serde_json::from_value(json!({ "vm": vm })).unwrap()
    }

    fn all() -> Value {
        json!({
            "hypervisor": {"path": "/q"},
            "kernel": {"path": "/k", "initrd": "/i", "parameters": ["a=b"]}
        })
    }

    #[test]
    fn nothing_is_allowed_unless_the_administrator_says_so() {
        let spec = spec(&all());
        assert_eq!(check(&spec), Ok(()));
        let mut config = Config::default();
        for (field, name) in [
            (VmField::Hypervisor, "vm.hypervisor.path"),
            (VmField::Kernel, "vm.kernel.path"),
            (VmField::Initrd, "vm.kernel.initrd"),
            (VmField::KernelParameters, "vm.kernel.parameters"),
        ] {
            let error = read(&spec, &config).unwrap_err().to_string();
            let expected =
                format!("{name} is not allowed here; the key allow_vm_section of the configuration");
            assert!(error.starts_with(&expected), "{error}");
            config.allow_vm_section.push(field);
        }
        let error = read(&spec, &config).unwrap_err();
        assert_eq!(error, VmSectionError::Hypervisor("/q".into()));
        config.hypervisor_paths = vec!["/q".into()];
        let read = read(&spec, &config).unwrap();
        assert_eq!((read.hypervisor, read.kernel), (Some(Path::new("/q")), Some(Path::new("/k"))));
        assert_eq!((read.initrd, read.kernel_parameters), (Some(Path::new("/i")), &["a=b".to_owned()][..]));
    }

    #[test]
    fn a_hypervisor_is_named_as_the_administrator_did() {
        let config = Config {
            allow_vm_section: vec![VmField::Hypervisor, VmField::Kernel],
            hypervisor_paths: vec!["/usr/bin/q".into()],
            ..Config::default()
        };
        for path in ["/usr/bin/../bin/q", "/usr/bin//q", "/usr/bin/q/", "/usr/bin"] {
            let spec = spec(&json!({"hypervisor": {"path": path}, "kernel": {"path": "/k"}}));
            assert_eq!(read(&spec, &config).unwrap_err(), VmSectionError::Hypervisor(path.into()));
        }
    }

    #[test]
    fn what_can_never_be_is_told_by_field() {
        for (change, expected) in [
            (json!({"image": {"path": "/i", "format": "raw"}}), "vm.image is not supported: "),
            (
                json!({"hypervisor": {"path": "/q", "parameters": ["-x"]}}),
                "vm.hypervisor.parameters is not supp",
            ),
            (json!({"hypervisor": {"path": "q"}}), "vm.hypervisor.path `q` is not an absolute path"),
            (json!({"kernel": {"path": ""}}), "vm.kernel.path `` is not an absolute path"),
            (
                json!({"kernel": {"path": "/k", "initrd": "i"}}),
                "vm.kernel.initrd `i` is not an absolute path",
            ),
            (json!({"kernel": {"path": "/k\0"}}), "vm.kernel.path contains a NUL character"),
            (
                json!({"kernel": {"path": "/k", "parameters": ["hello world"]}}),
                "vm.kernel.parameters: \"hello world\" is not one word",
            ),
            (
                json!({"kernel": {"path": "/k", "parameters": ["init=/x"]}}),
                "vm.kernel.parameters: init is the runtime's own",
            ),
        ] {
            let mut section = all();
            for (key, value) in change.as_object().unwrap() {
                section[key] = value.clone();
            }
            let error = check(&spec(&section)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
