//! What the annotations of a bundle choose of its machine, as far as the administrator allows it.

use std::fmt;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use vmm::hypervisor::select::Choice;

use super::kernel_words::check_words;
use crate::config::{
    ANNOTATION_PREFIX as PREFIX, Annotation, Config, Cpus, MemorySize, RateLimit, RootfsUpper,
};

/// What they say.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    /// `io.runv.memory`
    pub(crate) memory: Option<MemorySize>,
    /// `io.runv.cpus`
    pub(crate) cpus: Option<Cpus>,
    /// `io.runv.rootfs_upper`
    pub(crate) rootfs_upper: Option<RootfsUpper>,
    /// `io.runv.hypervisor`
    pub(crate) hypervisor: Option<Choice>,
    /// `io.runv.kernel`
    pub(crate) kernel: Option<PathBuf>,
    /// `io.runv.initrd`
    pub(crate) initrd: Option<PathBuf>,
    /// `io.runv.kernel_parameters`
    pub(crate) kernel_parameters: Vec<String>,
    /// `io.runv.network_receive_limit`
    pub(crate) receive_limit: Option<RateLimit>,
    /// `io.runv.network_send_limit`
    pub(crate) send_limit: Option<RateLimit>,
}

/// An annotation that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnotationError {
    /// Not one that there is.
    #[error("annotation {PREFIX}{0} is not supported")]
    Unknown(String),
    /// The administrator does not want it.
    #[error(
        "annotation {PREFIX}{0} is not allowed here; the key allow_annotations of the configuration can allow it"
    )]
    NotAllowed(Annotation),
    /// Its value.
    #[error("annotation {PREFIX}{annotation}: {reason}")]
    Value {
        /// Which.
        annotation: Annotation,
        /// What is wrong.
        reason: String,
    },
}

impl Annotations {
    /// Those of `spec`; one that is not allowed is an error, not passed over.
    pub(crate) fn read(spec: &Spec, config: &Config) -> Result<Self, AnnotationError> {
        let mut read = Self::default();
        let mut all: Vec<(&String, &String)> = spec.annotations().iter().flatten().collect();
        all.sort_unstable();
        for (name, value) in all {
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            let annotation =
                Annotation::from_name(name).ok_or_else(|| AnnotationError::Unknown(name.to_owned()))?;
            if !config.allow_annotations.contains(&annotation) {
                return Err(AnnotationError::NotAllowed(annotation));
            }
            read.set(annotation, value).map_err(|reason| AnnotationError::Value { annotation, reason })?;
        }
        Ok(read)
    }

    /// One that chooses a part of the machine, if there is any.
    pub(crate) fn of_the_machine(&self) -> Option<Annotation> {
        let given = [
            (self.memory.is_some(), Annotation::Memory),
            (self.cpus.is_some(), Annotation::Cpus),
            (self.hypervisor.is_some(), Annotation::Hypervisor),
            (self.kernel.is_some(), Annotation::Kernel),
            (self.initrd.is_some(), Annotation::Initrd),
            (!self.kernel_parameters.is_empty(), Annotation::KernelParameters),
            (self.receive_limit.is_some(), Annotation::NetworkReceiveLimit),
            (self.send_limit.is_some(), Annotation::NetworkSendLimit),
        ];
        given.into_iter().find_map(|(is_given, annotation)| is_given.then_some(annotation))
    }

    fn set(&mut self, annotation: Annotation, value: &str) -> Result<(), String> {
        fn text(error: impl fmt::Display) -> String {
            error.to_string()
        }
        match annotation {
            Annotation::Memory => self.memory = Some(value.parse().map_err(text)?),
            Annotation::Cpus => self.cpus = Some(value.parse().map_err(text)?),
            Annotation::RootfsUpper => self.rootfs_upper = Some(value.parse().map_err(text)?),
            Annotation::Hypervisor => self.hypervisor = Some(value.parse().map_err(text)?),
            Annotation::Kernel => self.kernel = Some(file(value)?),
            Annotation::Initrd => self.initrd = Some(file(value)?),
            Annotation::KernelParameters => {
                self.kernel_parameters = value.split_ascii_whitespace().map(str::to_owned).collect();
                check_words(&self.kernel_parameters).map_err(text)?;
            }
            Annotation::NetworkReceiveLimit => self.receive_limit = Some(value.parse().map_err(text)?),
            Annotation::NetworkSendLimit => self.send_limit = Some(value.parse().map_err(text)?),
        }
        Ok(())
    }
}

fn file(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() || value.contains('\0') {
        return Err("that is no file name".to_owned());
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(name: &str, value: &str, config: &Config) -> Result<Annotations, String> {
        let spec: Spec = serde_json::from_value(json!({"annotations": {name: value}})).unwrap();
        Annotations::read(&spec, config).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_of_the_administrator_a_bundle_chooses_sizes_only() {
        let default = Config::default();
        for annotation in Annotation::ALL {
            let value = match annotation {
                Annotation::Memory => "1G",
                Annotation::RootfsUpper => "tmpfs",
                _ => "1",
            };
            let result = read(&format!("io.runv.{annotation}"), value, &default);
            if matches!(annotation, Annotation::Memory | Annotation::Cpus | Annotation::RootfsUpper) {
                assert!(result.is_ok(), "{annotation}");
            } else {
                let expected = format!("annotation io.runv.{annotation} is not allowed here; the key allow_");
                assert!(result.unwrap_err().starts_with(&expected), "{annotation}");
            }
        }
    }

    #[test]
    fn what_is_allowed_is_read() {
        let config = Config { allow_annotations: Annotation::ALL.to_vec(), ..Config::default() };
        assert_eq!(read("io.runv.hypervisor", "qemu", &config).unwrap().hypervisor, Some(Choice::Qemu));
        assert_eq!(read("io.runv.kernel", "6.1", &config).unwrap().kernel, Some("6.1".into()));
        assert_eq!(read("io.runv.initrd", "/i", &config).unwrap().initrd, Some("/i".into()));
        let words = read("io.runv.kernel_parameters", " a=b  c\n", &config).unwrap().kernel_parameters;
        assert_eq!(words, ["a=b", "c"]);
        let limited = read("io.runv.network_send_limit", "packets_per_second=9", &config).unwrap();
        assert_eq!(limited.send_limit.unwrap().packets.unwrap().per_second, 9);
        assert_eq!(limited.of_the_machine(), Some(Annotation::NetworkSendLimit));
        assert_eq!(limited.receive_limit, None);
        assert!(read("org.example", "x", &config).is_ok());
    }

    #[test]
    fn those_of_the_machine_are_told_from_those_of_the_container() {
        let config = Config { allow_annotations: Annotation::ALL.to_vec(), ..Config::default() };
        let machines = |name, value| read(name, value, &config).unwrap().of_the_machine();
        assert_eq!(machines("io.runv.rootfs_upper", "tmpfs"), None);
        assert_eq!(machines("io.runv.cpus", "1"), Some(Annotation::Cpus));
        assert_eq!(machines("io.runv.kernel_parameters", "a=b"), Some(Annotation::KernelParameters));
    }

    #[test]
    fn annotations_that_cannot_be_followed_are_named() {
        let all = Config { allow_annotations: Annotation::ALL.to_vec(), ..Config::default() };
        for (name, value, expected) in [
            ("io.runv.memory", "lots", "annotation io.runv.memory: `lots` is no size"),
            ("io.runv.cpus", "0", "annotation io.runv.cpus: 0 is no number of vCPUs"),
            ("io.runv.rootfs_upper", "disk", "annotation io.runv.rootfs_upper: `disk` is no place"),
            ("io.runv.colour", "red", "annotation io.runv.colour is not supported"),
            ("io.runv.hypervisor", "/bin/sh", "annotation io.runv.hypervisor: \"/bin/sh\" is none of auto"),
            ("io.runv.kernel", "", "annotation io.runv.kernel: that is no file name"),
            (
                "io.runv.network_receive_limit",
                "packets_per_second=0",
                "annotation io.runv.network_receive_limit: packets_per_second is 0: say 1 to",
            ),
            ("io.runv.kernel_parameters", "rdinit=/x", "annotation io.runv.kernel_parameters: rdinit is the"),
        ] {
            let error = read(name, value, &all).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
