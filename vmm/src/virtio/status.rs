//! The device status field as a state machine (virtio 1.2 sections 2.1 and 3.1): what the driver may do
//! when. Everything else is ignored, so that no register of a running device can be changed under its
//! backend.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};

/// How far the driver has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// After reset.
    Reset,
    /// The driver has seen the device.
    Acknowledged,
    /// The driver negotiates features.
    Negotiating,
    /// Features are settled; the driver sets up queues.
    Configuring,
    /// The backend serves the queues.
    Running,
    /// The driver gave up, or the device did; only a reset leads out.
    Failed,
}

/// What a write of the status field asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Nothing but what [`DeviceStatus::bits`] now shows.
    None,
    /// The driver has reset the device.
    Reset,
    /// The queues are to be handed to the backend.
    Start,
}

/// The status field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceStatus {
    phase: Phase,
    bits: u32,
}

impl Default for DeviceStatus {
    fn default() -> Self {
        Self { phase: Phase::Reset, bits: 0 }
    }
}

/// The bits that a driver sets, in their order, and the phases that they end and begin.
const STEPS: [(u32, Phase, Phase); 4] = [
    (VIRTIO_CONFIG_S_ACKNOWLEDGE, Phase::Reset, Phase::Acknowledged),
    (VIRTIO_CONFIG_S_DRIVER, Phase::Acknowledged, Phase::Negotiating),
    (VIRTIO_CONFIG_S_FEATURES_OK, Phase::Negotiating, Phase::Configuring),
    (VIRTIO_CONFIG_S_DRIVER_OK, Phase::Configuring, Phase::Running),
];

impl DeviceStatus {
    /// The phase.
    pub(crate) fn phase(self) -> Phase {
        self.phase
    }

    /// What a read of the field shows.
    pub(crate) fn bits(self) -> u32 {
        self.bits
    }

    /// Takes a driver's write of `value`. `features_fit` tells whether the features that it has accepted so
    /// far are some that the device offers.
    ///
    /// Bits once set stay set until a reset, and a step out of order is ignored: the driver sees that by
    /// reading the field again, as it must after `FEATURES_OK`.
    pub(crate) fn write(&mut self, value: u32, features_fit: bool) -> Transition {
        if value == 0 {
            *self = Self::default();
            return Transition::Reset;
        }
        if value & VIRTIO_CONFIG_S_FAILED != 0 {
            self.bits |= VIRTIO_CONFIG_S_FAILED;
            self.phase = Phase::Failed;
            return Transition::None;
        }
        let mut transition = Transition::None;
        for (bit, from, to) in STEPS {
            if value & bit == 0 || self.phase != from {
                continue;
            }
            if bit == VIRTIO_CONFIG_S_FEATURES_OK && !features_fit {
                continue;
            }
            self.phase = to;
            self.bits |= bit;
            if to == Phase::Running {
                transition = Transition::Start;
            }
        }
        transition
    }

    /// The device cannot go on until it is reset.
    pub(crate) fn fail(&mut self) {
        self.phase = Phase::Failed;
        self.bits |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
    const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
    const FEATURES: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
    const OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
    const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

    /// Writes, whether the features fit, the bits and phase afterwards, and what the last write asked for.
    type Case = (&'static [u32], bool, u32, Phase, Transition);

    const CASES: [Case; 14] = [
        (&[], true, 0, Phase::Reset, Transition::None),
        (&[ACK], true, ACK, Phase::Acknowledged, Transition::None),
        (&[ACK, 3], true, 3, Phase::Negotiating, Transition::None),
        (&[ACK, 3, 11], true, 11, Phase::Configuring, Transition::None),
        (&[ACK, 3, 11, 15], true, 15, Phase::Running, Transition::Start),
        (&[15], true, 15, Phase::Running, Transition::Start),
        (&[ACK, 3, 11, 15, 15], true, 15, Phase::Running, Transition::None),
        (&[ACK, 3, 11], false, 3, Phase::Negotiating, Transition::None),
        (&[ACK, 3, 11, 15], false, 3, Phase::Negotiating, Transition::None),
        (&[OK], true, 0, Phase::Reset, Transition::None),
        (&[DRIVER | FEATURES], true, 0, Phase::Reset, Transition::None),
        (&[ACK, 3, 11, 15, ACK], true, 15, Phase::Running, Transition::None),
        (&[ACK, 3, 11, 15, 0], true, 0, Phase::Reset, Transition::Reset),
        (&[ACK, 3 | FAILED, 15], true, ACK | FAILED, Phase::Failed, Transition::None),
    ];

    #[test]
    fn writes_lead_to_the_phases_of_the_specification() {
        for (writes, fit, bits, phase, last) in CASES {
            let mut status = DeviceStatus::default();
            let mut transition = Transition::None;
            for value in writes {
                transition = status.write(*value, fit);
            }
            assert_eq!((status.bits(), status.phase(), transition), (bits, phase, last), "{writes:?}");
        }
    }

    #[test]
    fn only_a_reset_leads_out_of_failure() {
        let mut status = DeviceStatus::default();
        status.write(15, true);
        status.fail();
        for value in 1..=0xff {
            status.write(value, true);
            assert_eq!(status.phase(), Phase::Failed);
            assert_ne!(status.bits() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
        }
        assert_eq!(status.write(0, true), Transition::Reset);
        assert_eq!((status.phase(), status.bits()), (Phase::Reset, 0));
    }
}
