//! What a bundle may choose of its machine, by the configuration, and whether the files to choose from are safe.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::config::{Annotation, Config, VmField};

const NAME: &str = "choices";

/// `S_IWGRP | S_IWOTH`.
const OTHERS_WRITE: u32 = 0o022;

pub(super) fn check(config: &Config) -> Finding {
    let annotations: Vec<String> = config.allow_annotations.iter().map(ToString::to_string).collect();
    let section: Vec<String> = config.allow_vm_section.iter().map(ToString::to_string).collect();
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let found = format!("annotations: {}; vm section: {}", list(&annotations), list(&section));
    if !chooses_files(config) {
        return Finding::ok(NAME, found);
    }
    let there: Vec<&Path> =
        config.kernel_directories.iter().map(PathBuf::as_path).filter(|path| path.is_dir()).collect();
    let names: Vec<String> = there.iter().map(|path| path.display().to_string()).collect();
    let found = format!("{found}; files in: {}", list(&names));
    if there.is_empty() {
        return Finding::warn(NAME, found, "make one of kernel_directories, or name another");
    }
    match there.into_iter().find_map(writable) {
        Some(path) => {
            Finding::warn(NAME, format!("{found}; not only root writes {path}"), "chown root; chmod go-w")
        }
        None => Finding::ok(NAME, found),
    }
}

fn chooses_files(config: &Config) -> bool {
    let annotation = |one: &Annotation| matches!(one, Annotation::Kernel | Annotation::Initrd);
    let field = |one: &VmField| matches!(one, VmField::Kernel | VmField::Initrd);
    config.allow_annotations.iter().any(annotation) || config.allow_vm_section.iter().any(field)
}

/// The directory or the first file in it that others than root can change.
fn writable(directory: &Path) -> Option<String> {
    let is_writable = |path: &Path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.uid() != 0 || metadata.mode() & OTHERS_WRITE != 0)
    };
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut all = std::iter::once(directory.to_owned()).chain(entries);
    all.find(|path| is_writable(path)).map(|path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Status;
    use super::*;

    #[test]
    fn what_is_allowed_is_told() {
        let finding = check(&Config::default());
        assert_eq!(
            (finding.status, &*finding.found),
            (Status::Ok, "annotations: memory, cpus, rootfs_upper; vm section: none")
        );
    }

    #[test]
    fn directories_that_are_missing_or_open_to_others_are_told() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("kernels");
        let config = Config {
            allow_vm_section: vec![VmField::Kernel],
            kernel_directories: vec![directory.clone()],
            ..Config::default()
        };
        assert_eq!(check(&config).status, Status::Warn);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("vmlinux"), "").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&directory, 0o755);
        set(&directory.join("vmlinux"), 0o644);
        let status =
            |path: &Path| if path.metadata().unwrap().uid() == 0 { Status::Ok } else { Status::Warn };
        assert_eq!(check(&config).status, status(&directory));
        set(&directory.join("vmlinux"), 0o666);
        let finding = check(&config);
        assert_eq!(finding.status, Status::Warn);
        assert!(
            finding.found.ends_with("kernels/vmlinux") || finding.found.ends_with("kernels"),
            "{}",
            finding.found
        );
    }
}
