//! What the device-specific configuration space shows, and other properties of each kind of device.
//!
//! All of it is given by the machine's configuration and constant, so no backend is asked for it.

use std::num::NonZeroU8;

use vmm::config::DeviceKind;

/// virtio-fs: bytes of the tag, virtio 1.2 section 5.11.4.
const TAG_SIZE: usize = 36;
/// Request queues of a virtio-fs device.
const FS_REQUEST_QUEUES: u32 = 1;

/// A device cannot be shown to the guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeviceKindError {
    #[error("virtio-fs tag {0:?} is empty or longer than {TAG_SIZE} bytes")]
    Tag(String),
    #[error("guest CID {0} is reserved")]
    Cid(u32),
}

/// What the transport must know of a kind of device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    /// For messages.
    pub(crate) name: &'static str,
    /// virtio 1.2 section 5.
    pub(crate) device_id: u32,
    /// Most descriptors of each queue; there are as many queues as entries.
    pub(crate) queue_sizes: Vec<u16>,
    /// The device-specific configuration space.
    pub(crate) config: Vec<u8>,
}

/// The model of a device of `kind`.
pub(crate) fn model(kind: &DeviceKind) -> Result<Model, DeviceKindError> {
    let (name, device_id, queue_sizes, config) = match kind {
        // Hiprio and one request queue. A read into the page cache takes a descriptor per page.
        DeviceKind::Fs { tag } => ("fs", 26, vec![256, 1024], fs_config(tag)?),
        // Receive, transmit and event queue.
        DeviceKind::Vsock { guest_cid } => ("vsock", 19, vec![256; 3], vsock_config(*guest_cid)?),
        DeviceKind::Rng => ("rng", 4, vec![256], Vec::new()),
        // Receive and transmit queue. Size, port count and emergency write need features that none offers.
        DeviceKind::Console => ("console", 3, vec![256; 2], vec![0; 12]),
        // Receive and transmit queues. A large frame takes 43 of Linux's receive buffers.
        DeviceKind::Net { mac, queue_pairs } => {
            ("net", 1, net_queues(*queue_pairs), net_config(*mac, *queue_pairs))
        }
        // Inflate, deflate and reporting queue. A report of Linux has up to 32 blocks. The host asks for no page.
        DeviceKind::Balloon => ("balloon", 5, vec![32; 3], vec![0; 16]),
    };
    Ok(Model { name, device_id, queue_sizes, config })
}

/// virtio 1.2 section 5.11.4: the tag, padded with zeros, and the number of request queues.
fn fs_config(tag: &str) -> Result<Vec<u8>, DeviceKindError> {
    if tag.is_empty() || tag.len() > TAG_SIZE || tag.contains('\0') {
        return Err(DeviceKindError::Tag(tag.to_owned()));
    }
    let mut config = tag.as_bytes().to_vec();
    config.resize(TAG_SIZE, 0);
    config.extend_from_slice(&FS_REQUEST_QUEUES.to_le_bytes());
    Ok(config)
}

/// virtio 1.2 section 5.1.2: those of the pairs, and a control queue, of which only devices of several pairs make use.
fn net_queues(pairs: NonZeroU8) -> Vec<u16> {
    let mut sizes = vec![256; 2 * usize::from(pairs.get())];
    if pairs.get() > 1 {
        sizes.push(64);
    }
    sizes
}

/// virtio 1.2 section 5.1.4: the address, and the number of queue pairs; status and MTU need features that are not offered.
fn net_config(mac: [u8; 6], pairs: NonZeroU8) -> Vec<u8> {
    [&mac[..], &[0; 2], &u16::from(pairs.get()).to_le_bytes(), &[0; 2]].concat()
}

/// virtio 1.2 section 5.10.4: the guest's CID, of which the upper half is zero. 0 to 2 mean any, the guest
/// itself and the host; the largest means any as well.
fn vsock_config(cid: u32) -> Result<Vec<u8>, DeviceKindError> {
    if cid <= 2 || cid == u32::MAX {
        return Err(DeviceKindError::Cid(cid));
    }
    Ok(u64::from(cid).to_le_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fs_shows_tag_and_queues() {
        let fs = model(&DeviceKind::Fs { tag: "runv".to_owned() }).unwrap();
        assert_eq!((fs.device_id, fs.config.len(), fs.queue_sizes.len()), (26, 40, 2));
        assert_eq!(&fs.config[..5], b"runv\0");
        assert_eq!(fs.config[36..], [1, 0, 0, 0]);
    }

    #[test]
    fn a_network_device_of_several_pairs_has_a_control_queue_and_says_how_many_they_are() {
        let net = |pairs| {
            let queue_pairs = NonZeroU8::new(pairs).unwrap();
            model(&DeviceKind::Net { mac: [2, 0, 0, 0, 0, 9], queue_pairs }).unwrap()
        };
        assert_eq!(net(1).queue_sizes, [256; 2]);
        assert_eq!(net(1).config, [2, 0, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0]);
        assert_eq!(net(3).queue_sizes, [256, 256, 256, 256, 256, 256, 64]);
        assert_eq!(net(3).config[6..], [0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn impossible_tags_and_cids_are_refused() {
        for tag in ["", "a\0b", "0123456789012345678901234567890123456"] {
            let kind = DeviceKind::Fs { tag: tag.to_owned() };
            assert_eq!(model(&kind), Err(DeviceKindError::Tag(tag.to_owned())));
        }
        for guest_cid in [0, 1, 2, u32::MAX] {
            assert_eq!(model(&DeviceKind::Vsock { guest_cid }), Err(DeviceKindError::Cid(guest_cid)));
        }
        let vsock = model(&DeviceKind::Vsock { guest_cid: 3 }).unwrap();
        assert_eq!(vsock.config, [3, 0, 0, 0, 0, 0, 0, 0]);
    }
}
