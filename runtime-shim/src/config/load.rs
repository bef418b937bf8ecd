//! Reads the configuration file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Config;

/// The administrator's file, read when nobody names another. It need not exist.
pub(crate) const SYSTEM_FILE: &str = "/etc/runv/config.toml";

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its contents.
    #[error("{}:{line}: {message}", path.display())]
    Invalid {
        /// Its path.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there, one line.
        message: String,
    },
    /// Keys that do not go together.
    #[error("{}: {message}", path.display())]
    Contradiction {
        /// Its path.
        path: PathBuf,
        /// Which.
        message: &'static str,
    },
}

/// The configuration in `file`, which must exist, or else the system's, if there is one.
pub(crate) fn load(file: Option<&Path>) -> Result<Config, LoadError> {
    let path = file.unwrap_or(Path::new(SYSTEM_FILE));
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(source) => Err(LoadError::Read { path: path.to_owned(), source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Config, LoadError> {
    let config: Config = toml::from_str(text).map_err(|error| invalid(path, text, &error))?;
    let contradiction = |message| LoadError::Contradiction { path: path.to_owned(), message };
    config.check().map_err(contradiction)?;
    Ok(config)
}

/// The error with the line that it is in, because a wrong value does not say whose it is.
fn invalid(path: &Path, text: &str, error: &toml::de::Error) -> LoadError {
    let offset = error.span().map_or(0, |span| span.start);
    let lines_before = text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let line: String = text.lines().nth(lines_before).unwrap_or_default().trim().chars().take(80).collect();
    LoadError::Invalid {
        path: path.to_owned(),
        line: lines_before + 1,
        message: format!("{} in `{line}`", error.message().replace('\n', ", ")),
    }
}

#[cfg(test)]
mod tests {
    use vmm::hypervisor::select::{Choice, EmulationPolicy};

    use super::super::{Annotation, Balloon, Emulated, RootfsUpper};
    use super::*;

    fn error_in(text: &str) -> String {
        parse(Path::new("c.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            hypervisor = "qemu"
            kernel = "/k"
            initrd = "/i"
            kernel_parameters = ["a=b"]
            memory = "1G"
            cpus = 2
            balloon = "on"
            rootfs_upper = "tmpfs:64M"
            allow_annotations = ["cpus", "hypervisor", "kernel", "initrd", "kernel_parameters"]
            allow_vm_section = ["hypervisor", "kernel", "initrd", "kernel_parameters"]
            kernel_directories = ["/kernels"]
            hypervisor_paths = ["/q"]
            hypervisor_parameters = [["-a", "b"]]
            debug = true
            software_emulation = "deny"
            boot_timeout_seconds = 7
            [qemu]
            path = "/q"
            [virtio_fs]
            cache = "always"
            xattr = true
            posix_acl = true
            writeback = true
        "#;
        let config = parse(Path::new("c.toml"), text).unwrap();
        assert_eq!(config.hypervisor, Choice::Qemu);
        assert_eq!((config.memory.mib(), config.cpus.count().get()), (1024, 2));
        assert_eq!(config.balloon, Balloon::On);
        assert_eq!(config.rootfs_upper, RootfsUpper::Tmpfs { mib: Some(64) });
        assert!(!config.allow_annotations.contains(&Annotation::Memory));
        assert_eq!((config.allow_annotations.len(), config.allow_vm_section.len()), (5, 4));
        assert_eq!(config.kernel_directories, [Path::new("/kernels")]);
        assert_eq!(config.hypervisor_paths, [Path::new("/q")]);
        assert_eq!(config.hypervisor_parameters, [["-a", "b"]]);
        assert_eq!(config.kernel_parameters, ["a=b"]);
        assert_eq!(config.software_emulation, EmulationPolicy::Deny);
        assert_eq!(config.boot_timeout(Emulated::Yes).as_secs(), 7);
        assert!(config.virtio_fs.writeback && config.virtio_fs.posix_acl);
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse(Path::new("c.toml"), "").unwrap(), Config::default());
    }

    #[test]
    fn the_example_says_the_defaults_and_every_key() {
        let example = include_str!("../../config.example.toml");
        assert_eq!(parse(Path::new("c.toml"), example).unwrap(), Config::default());
        // The keys that it only mentions are keys, too.
        let mentioned: String = example
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|key| key.contains(" = ")).unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        assert!(parse(Path::new("c.toml"), &mentioned).unwrap().kernel.is_some());
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, expected) in [
            ("\nmemroy = 5", "c.toml:2: unknown field `memroy`"),
            ("debug = true\n[qemu]\npaht = \"q\"", "c.toml:3: unknown field `paht`"),
            ("cpus = 1\nmemory = 16", "c.toml:2: 16 is too little memory: the guest needs at least 64M"),
            ("cpus = 0", "c.toml:1: 0 is no number of vCPUs: say 1 to 64"),
            ("allow_annotations = [\"kernal\"]", "c.toml:1: unknown variant `kernal`"),
            (
                "rootfs_upper = \"disk\"",
                "c.toml:1: `disk` is no place for the root file system's writes: say none",
            ),
            ("allow_vm_section = [\"image\"]", "c.toml:1: unknown variant `image`"),
            ("kernel_directories = [\"kernels\"]", "c.toml: kernel_directories must be absolute"),
            ("hypervisor_paths = [\"qemu\"]", "c.toml: hypervisor_paths must be absolute"),
            (
                "hypervisor_parameters = [[]]",
                "c.toml: hypervisor_parameters must be lists of words that are not",
            ),
            ("hypervisor = \"xen\"", "c.toml:1: unknown variant `xen`"),
            ("boot_timeout_seconds = 0", "c.toml:1: invalid value: integer `0`"),
            ("cpus = \"many\"", "c.toml:1: invalid type: string \"many\", expected i64 in `cpus = \"many\"`"),
            ("a = = 1", "c.toml:1: "),
            ("[virtio_fs]\nxattr = false\nposix_acl = true", "c.toml: virtio_fs.posix_acl = true needs"),
        ] {
            let error = error_in(text);
            assert!(error.starts_with(expected), "{text:?} gave {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = load(Some(Path::new("/nonexistent/c.toml"))).unwrap_err();
        assert!(matches!(error, LoadError::Read { .. }));
    }
}
