//! OCI bundles made in milliseconds: a root file system of busybox and `probe`, a `config.json` as `runc spec`
//! writes it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Setup, census};

/// What runc 1.1 writes, spelt shorter.
const RUNC_SPEC: &str = include_str!("runc-spec.json");
/// Debian's package busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// A bundle in a temporary directory of its own.
#[derive(Debug)]
pub struct Bundle {
    directory: TempDir,
    spec: Value,
}

impl Bundle {
    /// Whose workload is `args`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(args: &[&str]) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("bundle.").tempdir().context("cannot make a bundle")?;
        let mut spec: Value = serde_json::from_str(RUNC_SPEC).context("runc-spec.json")?;
        // Containers of two bundles may have the same name, and then they would share a cgroup.
        let name = directory.path().file_name().unwrap_or_default().to_string_lossy().replace('.', "-");
        spec["linux"]["cgroupsPath"] = json!(format!("/{}{name}", census::cgroup_prefix()?));
        let bundle = Self { directory, spec };
        fill_rootfs(&bundle.rootfs()).context("cannot make the root file system")?;
        bundle.edit(|spec| spec["process"]["args"] = json!(args))
    }

    /// Whose workload is a shell script.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn shell(script: &str) -> Result<Self> {
        Self::new(&["sh", "-c", script])
    }

    /// Changes `config.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Result<Self> {
        change(&mut self.spec);
        let text = serde_json::to_vec_pretty(&self.spec).context("config.json")?;
        fs::write(self.config(), text).context("cannot write config.json")?;
        Ok(self)
    }

    /// A second bundle's directory, below this one, with the same root file system and another `config.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edited(&self, change: impl FnOnce(&mut Value)) -> Result<String> {
        let mut spec = self.spec.clone();
        spec["root"]["path"] = json!(self.rootfs());
        change(&mut spec);
        let directory = self.path().join("edited");
        fs::create_dir_all(&directory).context("cannot make a bundle")?;
        let text = serde_json::to_vec_pretty(&spec).context("config.json")?;
        fs::write(directory.join("config.json"), text).context("cannot write config.json")?;
        Ok(directory.to_string_lossy().into_owned())
    }

    /// Adds an entry to `mounts`.
    ///
    /// # Errors
    /// When `config.json` cannot be written.
    pub fn mount(self, kind: &str, source: &str, destination: &str, options: &[&str]) -> Result<Self> {
        let mount = json!({ "type": kind, "source": source, "destination": destination, "options": options });
        self.edit(|spec| {
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its `config.json`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path().join("config.json")
    }

    /// Its root file system.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A directory for a bind mount's source, beside the root file system.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

fn fill_rootfs(root: &Path) -> Result<()> {
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr"] {
        fs::create_dir_all(root.join(directory)).with_context(|| format!("cannot make /{directory}"))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))
        .context("cannot copy busybox; apt-get install busybox-static")?;
    fs::copy(Setup::get()?.probe(), root.join("bin/probe")).context("cannot copy probe")?;
    for applet in applets()? {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("cannot link {applet}"))?;
    }
    symlink("../bin", root.join("usr/bin")).context("cannot link /usr/bin")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n")
        .context("cannot write /etc/passwd")?;
    fs::write(root.join("etc/group"), "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n")
        .context("cannot write /etc/group")
}

/// The names under which busybox is something.
fn applets() -> Result<&'static [String]> {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(applets) = APPLETS.get() {
        return Ok(applets);
    }
    let list = Command::new(BUSYBOX).arg("--list").output().context("cannot run busybox")?;
    ensure!(list.status.success(), "busybox --list failed");
    let list = String::from_utf8(list.stdout).context("busybox --list")?;
    let applets = list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect();
    Ok(APPLETS.get_or_init(|| applets))
}
