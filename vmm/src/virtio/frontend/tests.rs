//! The frontend against a backend that remembers the requests and answers those that want an answer.

use std::io::{Read, Write};
use std::thread::JoinHandle;

use super::*;

// Requests, from the vhost-user specification, "Front-end message types".
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`, `VIRTIO_F_NOTIFICATION_DATA`: nothing that this frontend can pass on.
const UNSUITABLE: u64 = 1 << 34 | 1 << 38;

/// Serves the connection until its end; tells which requests came.
fn backend(mut stream: UnixStream, features: u64) -> JoinHandle<Vec<u32>> {
    std::thread::spawn(move || {
        let mut requests = Vec::new();
        let mut header = [0; 12];
        while stream.read_exact(&mut header).is_ok() {
            let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            let mut body = vec![0; usize::try_from(word(8)).unwrap()];
            stream.read_exact(&mut body).unwrap();
            let answer = match word(0) {
                GET_FEATURES => features.to_le_bytes(),
                GET_VRING_BASE => body[..8].try_into().unwrap(),
                _ => {
                    requests.push(word(0));
                    continue;
                }
            };
            requests.push(word(0));
            let reply = [word(0), 5, 8].map(u32::to_le_bytes).concat();
            stream.write_all(&[reply.as_slice(), &answer].concat()).unwrap();
        }
        requests
    })
}

fn connect(features: u64) -> (Result<VhostUser, ConnectError>, JoinHandle<Vec<u32>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let memory = Arc::new(Memory::new(64).unwrap());
    let backend = backend(theirs, features);
    (VhostUser::connect(ours, 2, memory, EventFd::new(EFD_NONBLOCK).unwrap()), backend)
}

fn queue(descriptors: u64) -> Queue {
    Queue { index: 1, size: 16, descriptors, available: 0x2000, used: 0x3000 }
}

#[test]
fn a_device_is_started_and_stopped_in_the_order_of_the_specification() {
    let (device, backend) = connect(PROTOCOL_FEATURES | VERSION_1);
    let mut device = device.unwrap();
    device.start(VERSION_1, &[queue(0x1000)]).unwrap();
    device.stop().unwrap();
    device.stop().unwrap();
    drop(device);
    assert_eq!(
        backend.join().unwrap(),
        [
            SET_OWNER,
            GET_FEATURES,
            SET_PROTOCOL_FEATURES,
            SET_FEATURES,
            SET_MEM_TABLE,
            SET_VRING_NUM,
            SET_VRING_ADDR,
            SET_VRING_BASE,
            SET_VRING_CALL,
            SET_VRING_KICK,
            SET_VRING_ENABLE,
            SET_VRING_ENABLE,
            GET_VRING_BASE,
        ]
    );
}

#[test]
fn drivers_see_no_feature_that_cannot_be_passed_on() {
    let (device, _backend) = connect(PROTOCOL_FEATURES | VERSION_1 | UNSUITABLE | 1 << 29 | 1);
    assert_eq!(device.unwrap().features(), VERSION_1 | 1 << 29 | 1);
}

#[test]
fn a_backend_without_what_is_needed_is_refused() {
    for features in [PROTOCOL_FEATURES, VERSION_1] {
        let (device, _backend) = connect(features);
        assert!(matches!(device, Err(ConnectError::Lacks(_))));
    }
}

#[test]
fn rings_outside_memory_are_the_drivers_fault_and_the_backend_hears_nothing() {
    let (device, backend) = connect(PROTOCOL_FEATURES | VERSION_1);
    let mut device = device.unwrap();
    for descriptors in [(64 << 20) - 255, 64 << 20, u64::MAX - 15] {
        let started = device.start(VERSION_1, &[queue(0x1000), queue(descriptors)]);
        let expected = QueueFault::Address { index: 1, address: descriptors };
        assert!(matches!(started, Err(StartFault::Queue(fault)) if fault == expected));
    }
    device.start(VERSION_1, &[queue((64 << 20) - 256)]).unwrap();
    drop(device);
    assert_eq!(backend.join().unwrap().iter().filter(|request| **request == SET_MEM_TABLE).count(), 1);
}
