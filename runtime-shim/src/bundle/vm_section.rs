//! The `vm` section of a bundle (OCI runtime specification, `config-vm.md`).

use std::path::Path;

use oci_spec::runtime::{Spec, VM};

use super::kernel_words::{WordError, check_words};
use super::machine_parts::BUILTIN;
use crate::config::{Config, VmField};

/// What it says, and the administrator allows.
#[derive(Debug, Default)]
pub(crate) struct VmSection<'a> {
    /// `hypervisor.path`, one of the configuration's.
    pub(crate) hypervisor: Option<&'a Path>,
    /// `hypervisor.parameters`, made of the configuration's.
    pub(crate) hypervisor_parameters: &'a [String],
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
    /// It has a configuration instead of arguments.
    #[error("vm.hypervisor.parameters: the embedded VMM has none; remove it from the bundle")]
    Parameterless,
    /// They are arguments of a program of the host.
    #[error(
        "vm.hypervisor.parameters: nothing that hypervisor_parameters of the configuration allows begins at \
         word {index}, `{word}`"
    )]
    HypervisorParameter {
        /// The first that does not fit, counted from 0.
        index: usize,
        /// It.
        word: String,
    },
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
    let all = of(vm);
    let is_builtin = all.hypervisor.is_some_and(|path| path.ends_with(BUILTIN));
    if is_builtin && !all.hypervisor_parameters.is_empty() {
        return Err(VmSectionError::Parameterless);
    }
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
    let is_named =
        |path: &Path| config.hypervisor_paths.iter().any(|named| named.as_os_str() == path.as_os_str());
    if let Some(path) = all.hypervisor.filter(|path| !is_named(path)) {
        return Err(VmSectionError::Hypervisor(path.to_string_lossy().into_owned()));
    }
    check_hypervisor_parameters(all.hypervisor_parameters, &config.hypervisor_parameters)?;
    Ok(all)
}

/// Whether `words` are some of the sequences `allowed`, one behind the other. Where two of them begin in the same way, the
/// longer one is meant.
fn check_hypervisor_parameters(words: &[String], allowed: &[Vec<String>]) -> Result<(), VmSectionError> {
    let mut rest = words;
    while let Some(word) = rest.first() {
        let fitting = allowed.iter().filter_map(|sequence| rest.strip_prefix(sequence.as_slice()));
        rest = fitting.min_by_key(|left| left.len()).filter(|left| left.len() < rest.len()).ok_or_else(
            || VmSectionError::HypervisorParameter { index: words.len() - rest.len(), word: word.clone() },
        )?;
    }
    Ok(())
}

fn of(vm: &VM) -> VmSection<'_> {
    let hypervisor = vm.hypervisor().as_ref();
    let parameters = hypervisor.and_then(|hypervisor| hypervisor.parameters().as_deref());
    VmSection {
        hypervisor: hypervisor.map(|hypervisor| hypervisor.path().as_path()),
        hypervisor_parameters: parameters.unwrap_or_default(),
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
    fn a_hypervisor_is_told_what_the_administrator_has_written_down() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let allowed = [words(&["-a", "1"]), words(&["-b"]), words(&["-b", "2"])];
        for fitting in [&[][..], &["-a", "1"], &["-b", "2", "-b", "-a", "1", "-b"]] {
            assert_eq!(check_hypervisor_parameters(&words(fitting), &allowed), Ok(()), "{fitting:?}");
        }
        for (index, bad) in [
            (0, &["-c"][..]),
            (0, &["-a"]),
            (0, &["-a", "2"]),
            (0, &["1", "-a"]),
            (2, &["-a", "1", "2"]),
            (1, &["-b", ""]),
        ] {
            let error = check_hypervisor_parameters(&words(bad), &allowed).unwrap_err();
            assert_eq!(error, VmSectionError::HypervisorParameter { index, word: bad[index].to_owned() });
        }
        let config = Config {
            allow_vm_section: vec![VmField::Hypervisor, VmField::Kernel],
            hypervisor_paths: vec!["/q".into()],
            hypervisor_parameters: allowed.to_vec(),
            ..Config::default()
        };
        let told = |parameters: Value| {
            let section =
                json!({"hypervisor": {"path": "/q", "parameters": parameters}, "kernel": {"path": "/k"}});
            let spec = spec(&section);
            read(&spec, &config).map(|section| section.hypervisor_parameters.to_vec())
        };
        assert_eq!(told(json!(["-b"])), Ok(words(&["-b"])));
        let refused = told(json!(["-b", "-drive"])).unwrap_err().to_string();
        assert!(refused.ends_with("configuration allows begins at word 1, `-drive`"), "{refused}");
    }

    #[test]
    fn what_can_never_be_is_told_by_field() {
        for (change, expected) in [
            (json!({"image": {"path": "/i", "format": "raw"}}), "vm.image is not supported: "),
            (
                json!({"hypervisor": {"path": "/x/runv-vmm", "parameters": ["-x"]}}),
                "vm.hypervisor.parameters: the embedded VMM has none",
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
