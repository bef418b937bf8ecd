//! Boots a kernel in the embedded VMM, without devices, and prints its console: to try a kernel or the VMM by
//! hand.
//!
//! ```text
//! boot PROGRAM KERNEL INITRD [CPUS [MEMORY_MIB [KERNEL_PARAMETER...]]]
//! ```

use std::error::Error;
use std::num::NonZeroU8;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use vmm::config::{GuestFile, VmConfig};
use vmm::hypervisor::Hypervisor;
use vmm::hypervisor::builtin::Builtin;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut path = |name| arguments.next().map(PathBuf::from).ok_or(name);
    let driver = Builtin { program: path("PROGRAM is missing")?, is_silent: false };
    let kernel = path("KERNEL is missing")?;
    let initrd = path("INITRD is missing")?;
    let cpus = arguments.next().map_or(Ok(NonZeroU8::MIN), |cpus| cpus.parse())?;
    let memory_mib = arguments.next().map_or(Ok(128), |memory| memory.parse())?;
    let kernel_parameters: Vec<String> = arguments.collect();
    let begin = Instant::now();
    let mut vm = driver.start(VmConfig {
        cpus,
        memory_mib,
        kernel: GuestFile::open(kernel)?,
        initrd: GuestFile::open(initrd)?,
        verbose_console: !kernel_parameters.iter().any(|parameter| parameter == "quiet"),
        kernel_parameters,
        console: std::io::stdout().as_fd().try_clone_to_owned()?,
        devices: Vec::new(),
        own_balloon: false,
        label: None,
        file_label: None,
    })?;
    let started = begin.elapsed();
    let exit = vm.wait()?;
    let ended = begin.elapsed();
    println!("{exit:?}; the guest started after {started:?} and ended after {ended:?}");
    Ok(())
}
