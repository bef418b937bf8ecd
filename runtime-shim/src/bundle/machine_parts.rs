//! Which hypervisor, kernel and initrd the machine of a bundle has, and the kernel's parameters: a pure function of the
//! bundle and the configuration.
//!
//! In this order: what the command line says (`sandbox run --kernel`); what an annotation of the bundle says, if the
//! administrator allows it; what its `vm` section says, if that is allowed; what the configuration says; what is
//! installed. Parameters add up in the opposite order: of a parameter that is there twice, the kernel takes the last.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use vmm::hypervisor::select::Choice;

use super::annotations::Annotations;
use super::vm_section::{self, VmSection, VmSectionError};
use crate::config::{ANNOTATION_PREFIX, Annotation, Config, VmField};

/// The file name of the embedded VMM; another program is a QEMU.
pub(super) const BUILTIN: &str = "runv-vmm";

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MachineParts {
    /// The hypervisor.
    pub(crate) hypervisor: HypervisorChoice,
    /// The kernel, unless it is the installed one.
    pub(crate) kernel: Option<ChosenFile>,
    /// The initrd, unless it is the installed one.
    pub(crate) initrd: Option<ChosenFile>,
    /// Words of the kernel's command line.
    pub(crate) kernel_parameters: Vec<String>,
}

/// Which driver, and its program unless it is the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HypervisorChoice {
    /// The driver.
    pub(crate) driver: Choice,
    /// The embedded VMM.
    pub(crate) vmm: Option<PathBuf>,
    /// QEMU.
    pub(crate) qemu: Option<PathBuf>,
    /// What QEMU is told besides what the driver tells it.
    pub(crate) qemu_parameters: Vec<String>,
}

/// A file of the guest, and who chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChosenFile {
    /// Its name.
    pub(crate) path: PathBuf,
    /// By whom.
    pub(crate) by: ChosenBy,
}

/// Who chose a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChosenBy {
    /// Who calls or configures this runtime: it may be anywhere.
    Operator,
    /// The bundle, by this field: it has to be in one of the configuration's directories.
    Bundle(String),
}

impl ChosenFile {
    /// Chosen by the command line or the configuration.
    pub(crate) fn by_operator(path: &Path) -> Self {
        Self { path: path.to_owned(), by: ChosenBy::Operator }
    }
}

/// The parts of the machine for `spec`.
pub(crate) fn machine_parts(
    spec: &Spec,
    annotations: &Annotations,
    config: &Config,
) -> Result<MachineParts, VmSectionError> {
    let section = vm_section::read(spec, config)?;
    let kernel = Sources {
        fixed: config.fixed.kernel.as_deref(),
        annotation: (annotations.kernel.as_deref(), Annotation::Kernel),
        section: (section.kernel, VmField::Kernel),
        configured: config.kernel.as_deref(),
    };
    let initrd = Sources {
        fixed: config.fixed.initrd.as_deref(),
        annotation: (annotations.initrd.as_deref(), Annotation::Initrd),
        section: (section.initrd, VmField::Initrd),
        configured: config.initrd.as_deref(),
    };
    let words = [
        config.kernel_parameters.as_slice(),
        section.kernel_parameters,
        &annotations.kernel_parameters,
        &config.fixed.kernel_parameters,
    ];
    Ok(MachineParts {
        hypervisor: hypervisor(annotations, &section, config),
        kernel: kernel.choose(),
        initrd: initrd.choose(),
        kernel_parameters: words.concat(),
    })
}

/// A program of the section is one that the administrator has named.
fn hypervisor(annotations: &Annotations, section: &VmSection<'_>, config: &Config) -> HypervisorChoice {
    let driver = config.fixed.hypervisor.or(annotations.hypervisor);
    let usual = HypervisorChoice {
        driver: driver.unwrap_or(config.hypervisor),
        vmm: None,
        qemu: config.qemu.path.clone(),
        qemu_parameters: Vec::new(),
    };
    match section.hypervisor {
        Some(program) if driver.is_none() && program.ends_with(BUILTIN) => {
            HypervisorChoice { driver: Choice::Builtin, vmm: Some(program.to_owned()), ..usual }
        }
        Some(program) if driver.is_none() => {
            let qemu_parameters = section.hypervisor_parameters.to_vec();
            HypervisorChoice {
                driver: Choice::Qemu,
                qemu: Some(program.to_owned()),
                qemu_parameters,
                ..usual
            }
        }
        _ => usual,
    }
}

/// Who may choose a file, the first before the others.
struct Sources<'a> {
    fixed: Option<&'a Path>,
    annotation: (Option<&'a Path>, Annotation),
    section: (Option<&'a Path>, VmField),
    configured: Option<&'a Path>,
}

impl Sources<'_> {
    fn choose(&self) -> Option<ChosenFile> {
        let by_bundle =
            |path: &Path, field| ChosenFile { path: path.to_owned(), by: ChosenBy::Bundle(field) };
        let (annotation, name) = self.annotation;
        let (section, field) = self.section;
        self.fixed
            .map(ChosenFile::by_operator)
            .or_else(|| {
                annotation.map(|path| by_bundle(path, format!("annotation {ANNOTATION_PREFIX}{name}")))
            })
            .or_else(|| section.map(|path| by_bundle(path, field.to_string())))
            .or_else(|| self.configured.map(ChosenFile::by_operator))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Fixed, Qemu};

    /// The levels that say something, from the configuration (0) up to the command line (3).
    fn parts(levels: &[u8]) -> MachineParts {
        let on = |level: u8| levels.contains(&level);
        let path = |level, name: &str| on(level).then(|| PathBuf::from(format!("/{level}/{name}")));
        let words = |level| on(level).then(|| format!("w={level}")).into_iter().collect();
        let config = Config {
            hypervisor: Choice::Auto,
            kernel: path(0, "k"),
            initrd: path(0, "i"),
            kernel_parameters: words(0),
            qemu: Qemu { path: path(0, "q") },
            allow_vm_section: vec![
                VmField::Hypervisor,
                VmField::Kernel,
                VmField::Initrd,
                VmField::KernelParameters,
            ],
            hypervisor_paths: vec!["/1/q".into(), "/1/runv-vmm".into()],
            fixed: Fixed {
                hypervisor: on(3).then_some(Choice::Builtin),
                kernel: path(3, "k"),
                initrd: path(3, "i"),
                kernel_parameters: words(3),
                ..Fixed::default()
            },
            ..Config::default()
        };
        let annotations = Annotations {
            hypervisor: on(2).then_some(Choice::Qemu),
            kernel: path(2, "k"),
            initrd: path(2, "i"),
            kernel_parameters: words(2),
            ..Annotations::default()
        };
        let section = json!({
            "hypervisor": {"path": "/1/q"},
            "kernel": {"path": "/1/k", "initrd": "/1/i", "parameters": ["w=1"]}
        });
        let spec = if on(1) { json!({ "vm": section }) } else { json!({}) };
        machine_parts(&serde_json::from_value(spec).unwrap(), &annotations, &config).unwrap()
    }

    #[test]
    fn each_source_gives_way_to_the_one_above() {
        let nothing = parts(&[]);
        assert_eq!((nothing.kernel, nothing.initrd, nothing.hypervisor.driver), (None, None, Choice::Auto));
        for (levels, chosen, driver) in [
            (&[0][..], 0, Choice::Auto),
            (&[0, 1], 1, Choice::Qemu),
            (&[0, 1, 2], 2, Choice::Qemu),
            (&[0, 1, 2, 3], 3, Choice::Builtin),
            (&[0, 2], 2, Choice::Qemu),
            (&[0, 1, 3], 3, Choice::Builtin),
        ] {
            let parts = parts(levels);
            assert_eq!(parts.kernel.unwrap().path, PathBuf::from(format!("/{chosen}/k")), "{levels:?}");
            assert_eq!(parts.initrd.unwrap().path, PathBuf::from(format!("/{chosen}/i")), "{levels:?}");
            assert_eq!(parts.hypervisor.driver, driver, "{levels:?}");
            let words: Vec<String> = levels.iter().map(|level| format!("w={level}")).collect();
            assert_eq!(parts.kernel_parameters, words);
        }
    }

    #[test]
    fn what_a_bundle_chose_is_known_by_its_field() {
        let by = |levels: &[u8]| parts(levels).kernel.unwrap().by;
        assert_eq!(by(&[0]), ChosenBy::Operator);
        assert_eq!(by(&[0, 1]), ChosenBy::Bundle("vm.kernel.path".into()));
        assert_eq!(by(&[0, 1, 2]), ChosenBy::Bundle("annotation io.runv.kernel".into()));
        assert_eq!(by(&[1, 3]), ChosenBy::Operator);
    }

    #[test]
    fn a_program_of_the_section_stands_for_its_driver() {
        assert_eq!(parts(&[0, 1]).hypervisor.qemu, Some("/1/q".into()));
        // Whose driver somebody above has chosen is run by the usual program.
        assert_eq!(parts(&[0, 1, 2]).hypervisor.qemu, Some("/0/q".into()));
        let config = Config {
            allow_vm_section: vec![VmField::Hypervisor, VmField::Kernel],
            hypervisor_paths: vec!["/x/runv-vmm".into()],
            ..Config::default()
        };
        let spec = json!({"vm": {"hypervisor": {"path": "/x/runv-vmm"}, "kernel": {"path": "/k"}}});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let hypervisor = machine_parts(&spec, &Annotations::default(), &config).unwrap().hypervisor;
        assert_eq!((hypervisor.driver, hypervisor.vmm), (Choice::Builtin, Some("/x/runv-vmm".into())));
    }
}
