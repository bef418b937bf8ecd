//! Where the tests run and what they test, from the environment.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RUNV_BUILD` | directory with `bin/` and `share/runv/` | `build/` of the source tree |
//! | `RUNV_HYPERVISOR` | driver: `qemu` or `builtin` | `qemu` |
//! | `RUNV_CPUS` | vCPUs of each sandbox | 1 |
//! | `RUNV_NESTED` | set: this is the nested host, so repetitions are fewer and deadlines longer | unset |
//! | `RUNV_TEST_SIZES` | how large files, streams, crowds and the like are: `full` or `small` | `full` |
//! | `RUNV_PROBE` | the program `probe` | beside the test binary |

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The driver that is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// The embedded VMM.
    Builtin,
    /// QEMU.
    Qemu,
}

impl Hypervisor {
    /// As `--hypervisor` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Qemu => "qemu",
        }
    }
}

/// Where the tests run and what they test.
#[derive(Debug)]
pub struct Setup {
    build: PathBuf,
    hypervisor: Hypervisor,
    cpus: u8,
    probe: PathBuf,
    nested: bool,
    small: bool,
}

impl Setup {
    /// Reads the environment, the first time it is asked.
    ///
    /// # Errors
    /// When a variable has an unknown value, or the build is not there.
    pub fn get() -> Result<&'static Self> {
        static SETUP: OnceLock<Setup> = OnceLock::new();
        if let Some(setup) = SETUP.get() {
            return Ok(setup);
        }
        let setup = Self::from_environment()?;
        Ok(SETUP.get_or_init(|| setup))
    }

    fn from_environment() -> Result<Self> {
        let build = env::var_os("RUNV_BUILD")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../build"), PathBuf::from);
        let build =
            build.canonicalize().with_context(|| format!("no build in {}: make build", build.display()))?;
        let hypervisor = match env::var("RUNV_HYPERVISOR").as_deref() {
            Ok("builtin") => Hypervisor::Builtin,
            Ok("qemu") | Err(_) => Hypervisor::Qemu,
            Ok(other) => bail!("RUNV_HYPERVISOR={other}: neither builtin nor qemu"),
        };
        let cpus = env::var("RUNV_CPUS").map_or(Ok(1), |cpus| cpus.parse().context("RUNV_CPUS"))?;
        let small = match env::var("RUNV_TEST_SIZES").as_deref() {
            Ok("small") => true,
            Ok("full") | Err(_) => false,
            Ok(other) => bail!("RUNV_TEST_SIZES={other}: neither full nor small"),
        };
        let setup = Self {
            build,
            hypervisor,
            cpus,
            probe: find_probe()?,
            nested: env::var_os("RUNV_NESTED").is_some(),
            small,
        };
        for file in [setup.sandbox(), setup.kernel(), setup.initrd()] {
            ensure!(file.exists(), "{} is missing: make build", file.display());
        }
        Ok(setup)
    }

    /// The program `sandbox`.
    #[must_use]
    pub fn sandbox(&self) -> PathBuf {
        self.program("sandbox")
    }

    /// A program of the build.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.build.join("bin").join(name)
    }

    /// The guest kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.build.join("share/runv/vmlinux")
    }

    /// The directory of the other guest kernels, each named as its variant.
    ///
    /// # Errors
    /// When it is not there.
    pub fn kernels(&self) -> Result<PathBuf> {
        let kernels = self.build.join("share/runv/kernels");
        ensure!(kernels.is_dir(), "{} is missing: make kernels", kernels.display());
        Ok(kernels)
    }

    /// The initial RAM disk with the agent.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.build.join("share/runv/initrd.cpio")
    }

    /// The static program `probe`, which workloads run for what busybox lacks.
    #[must_use]
    pub fn probe(&self) -> &Path {
        &self.probe
    }

    /// The driver that is tested.
    #[must_use]
    pub fn hypervisor(&self) -> Hypervisor {
        self.hypervisor
    }

    /// This is the nested test host.
    #[must_use]
    pub fn nested(&self) -> bool {
        self.nested
    }

    /// vCPUs of each sandbox.
    #[must_use]
    pub fn cpus(&self) -> u8 {
        self.cpus
    }

    /// How large what a user may bring is: `full`, but `small` where the run asks for it, as that with several vCPUs in
    /// the nested host does (`tests/run`). Which it is is printed.
    #[must_use]
    pub fn size(&self, what: &str, full: u64, small: u64) -> u64 {
        let size = if self.small { small } else { full };
        println!("{what}: {size} of {full}");
        size
    }

    /// How often a test repeats one thing: `usual`, but less often in the nested host, where each instruction of a guest
    /// is emulated twice. Which it is is printed.
    #[must_use]
    pub fn repeats(&self, what: &str, usual: u64, nested: u64) -> u64 {
        let repeats = if self.nested { nested } else { usual };
        println!("{what}: {repeats} of {usual}");
        repeats
    }

    /// How often a test does what it does: `usual`, unless the environment variable says otherwise, as the soak
    /// does.
    ///
    /// # Errors
    /// When the variable is no number.
    pub fn times(variable: &str, usual: u64) -> Result<u64> {
        env::var(variable).map_or(Ok(usual), |times| times.parse()).with_context(|| variable.to_owned())
    }

    /// `time` as it is on a machine of its own, longer in the nested host.
    #[must_use]
    pub fn patience(&self, time: Duration) -> Duration {
        if self.nested { time * 4 } else { time }
    }
}

/// `cargo test` has the test binary in `deps/` below the programs; the nested host has both in one directory.
fn find_probe() -> Result<PathBuf> {
    if let Some(probe) = env::var_os("RUNV_PROBE") {
        return Ok(probe.into());
    }
    let test = env::current_exe().context("cannot find the test binary")?;
    test.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("probe"))
        .find(|probe| probe.is_file())
        .with_context(|| format!("no program probe beside {}", test.display()))
}
