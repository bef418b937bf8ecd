//! Which hypervisor driver runs the machine, and what the user is told about it.

use vmm::hypervisor::Hypervisor;
use vmm::hypervisor::builtin::Builtin;
use vmm::hypervisor::qemu::Qemu;
use vmm::hypervisor::select::{Driver, EmulationPolicy, SelectError, ThisHost, select};

use super::installation::{Installation, InstallationError};
use crate::bundle::machine_parts::HypervisorChoice;
use crate::config::Emulated;
use crate::report;

/// A driver, ready to start a machine.
pub(crate) struct Chosen {
    /// The driver.
    pub(crate) hypervisor: Box<dyn Hypervisor>,
    /// Whether software emulates the CPU.
    pub(crate) emulated: Emulated,
    /// Whether the driver takes a virtio-console, which costs an exit a line where the serial port costs one a
    /// character. QEMU has no vhost-user frontend for one.
    pub(crate) virtio_console: bool,
    /// Whether the driver has a virtio-balloon of its own, as it has no vhost-user frontend for one.
    pub(crate) own_balloon: bool,
}

/// No driver can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    /// A program is missing.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// The host cannot do what is configured.
    #[error("{0}; see `sandbox check`")]
    Select(SelectError),
}

/// Chooses by what is asked for and what this host can do.
pub(crate) fn choose(
    choice: &HypervisorChoice,
    emulation: EmulationPolicy,
    installation: &Installation,
) -> Result<Chosen, DriverError> {
    let host = ThisHost { qemu: choice.qemu.as_deref() };
    let selection = select(choice.driver, emulation, &host).map_err(DriverError::Select)?;
    tracing::info!(driver = ?selection.driver, reason = selection.reason, "hypervisor chosen");
    let emulated = if selection.is_emulated() { Emulated::Yes } else { Emulated::No };
    if emulated == Emulated::Yes && emulation == EmulationPolicy::Warn {
        report::warning(&format!(
            "{}; it is slow and no security boundary (software_emulation = \"allow\" accepts it silently)",
            selection.reason
        ));
    }
    let (hypervisor, is_qemu): (Box<dyn Hypervisor>, _) = match selection.driver {
        // That it is missing matters only to a container with a label.
        Driver::Qemu(qemu) => {
            let (binder, parameters) = (installation.vmm_program().ok(), choice.qemu_parameters.clone());
            (Box::new(Qemu { binder, parameters, ..qemu }), true)
        }
        Driver::Builtin => {
            let program = choice.vmm.clone().map_or_else(|| installation.vmm_program(), Ok)?;
            (Box::new(Builtin { program, is_silent: report::is_containers() }), false)
        }
    };
    Ok(Chosen { hypervisor, emulated, virtio_console: !is_qemu, own_balloon: is_qemu })
}
