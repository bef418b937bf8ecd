//! A device of several pairs: who gets frames, and what a driver says on the control queue.

use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress};

use super::tests::{BUFFER, Rig, any_desc, cable, frame};
use super::*;
use crate::fake_guest::{Buffer, WRITE};

const CONTROLLED: u64 = FEATURES | SEVERAL;

/// What the answer is before there is one.
const NONE: u8 = 0x77;

/// The pairs of a device, each with memory of its own.
fn rigs(count: usize, features: u64) -> Vec<Rig> {
    let (taps, cables): (Vec<OwnedFd>, Vec<UnixDatagram>) = (0..count).map(|_| cable()).unzip();
    let pairs = NetPair::of(taps).unwrap().into_iter().zip(cables);
    pairs.map(|(pair, cable)| Rig::of(pair, cable, features)).collect()
}

/// Sends a command to `queue` of the last pair; returns the answer, and whether the driver was told of it.
fn command_to(rig: &mut Rig, queue: usize, command: &[u8], answer: Buffer) -> (u8, Option<u32>) {
    rig.guest.ram.write_slice(command, GuestAddress(BUFFER)).unwrap();
    rig.guest.ram.write_obj(NONE, GuestAddress(BUFFER + 0x1000)).unwrap();
    let length = u32::try_from(command.len()).unwrap();
    rig.guest.queues[queue].add(&rig.guest.ram, &[(BUFFER, length, 0), answer]);
    rig.guest.kick(queue);
    let used = rig.guest.queues[queue].take_used(&rig.guest.ram).map(|(_, length)| length);
    (rig.guest.ram.read_obj(GuestAddress(BUFFER + 0x1000)).unwrap(), used)
}

fn command(rigs: &mut [Rig], command: &[u8]) -> u8 {
    let (answer, used) = command_to(rigs.last_mut().unwrap(), CONTROL, command, (BUFFER + 0x1000, 1, WRITE));
    assert_eq!(used, Some(1));
    answer
}

fn set(pairs: u16) -> Vec<u8> {
    [&[4, 0][..], &pairs.to_le_bytes()].concat()
}

fn is_woken(rig: &Rig) -> bool {
    let mut woken = [PollFd::new(&rig.guest.device.events, PollFlags::IN)];
    poll(&mut woken, Some(&Timespec::default())).unwrap() == 1
}

/// Whether a frame that comes to this queue of the tap reaches the guest.
fn gets_frames(rig: &mut Rig) -> bool {
    rig.offer(&[2000]);
    rig.cable.send(&frame(60)).unwrap();
    rig.guest.kick(RECEIVE);
    rig.guest.poll_host();
    !rig.filled().is_empty()
}

#[test]
fn only_a_device_of_several_pairs_has_a_control_queue_and_offers_it() {
    let queues = |count| rigs(count, 0).iter().map(|rig| rig.guest.queues.len()).collect::<Vec<_>>();
    assert_eq!((queues(1), queues(3)), (vec![2], vec![2, 2, 3]));
    assert_eq!(rigs(1, 0)[0].guest.device.features() & SEVERAL, 0);
    assert_eq!(rigs(2, 0)[0].guest.device.features() & SEVERAL, SEVERAL);
}

#[test]
fn frames_come_to_as_many_pairs_as_the_driver_makes_use_of() {
    let mut rigs = rigs(3, CONTROLLED);
    let got = |rigs: &mut [Rig]| rigs.iter_mut().map(gets_frames).collect::<Vec<_>>();
    assert_eq!(got(&mut rigs), [true, false, false], "until it says more");
    assert_eq!(command(&mut rigs, &set(3)), 0);
    assert_eq!([is_woken(&rigs[1]), is_woken(&rigs[2])], [true, true]);
    assert_eq!(got(&mut rigs), [true, true, true]);
    assert_eq!(command(&mut rigs, &set(2)), 0);
    assert_eq!(got(&mut rigs), [true, true, false]);
    rigs.iter_mut().for_each(|rig| rig.guest.device.reset());
    rigs.iter_mut().for_each(|rig| rig.guest.device.set_features(CONTROLLED));
    assert_eq!(got(&mut rigs), [true, false, false], "a driver that begins anew");
}

#[test]
fn with_a_frontend_that_serves_the_control_queue_pairs_are_in_use_whose_rings_are_enabled() {
    let mut rigs = rigs(2, FEATURES | 1 << VIRTIO_NET_F_MQ);
    assert!(gets_frames(&mut rigs[1]));
    rigs[1].guest.deactivate();
    assert!(!gets_frames(&mut rigs[1]));
}

/// Frames that wait for a pair while its rings are disabled have it listen no more, and the driver has given its buffers: all
/// that wakes the pair then is a frame of the guest.
#[test]
fn a_pair_whose_rings_are_enabled_again_gets_frames_once_the_guest_has_sent_one() {
    let mut rigs = rigs(2, FEATURES | 1 << VIRTIO_NET_F_MQ);
    assert!(gets_frames(&mut rigs[1]));
    rigs[1].guest.deactivate();
    assert!(!gets_frames(&mut rigs[1]));
    rigs[1].guest.activate();
    assert_eq!(rigs[1].sent(&frame(60), &[(BUFFER, 72, 0)]), Some(frame(60)));
    assert!(is_woken(&rigs[1]), "by itself");
    rigs[1].guest.poll_host();
    rigs[1].filled();
    rigs[1].offer(&[2000]);
    rigs[1].cable.send(&frame(60)).unwrap();
    assert!(is_woken(&rigs[1]), "by the frame");
    rigs[1].guest.poll_host();
    assert!(!rigs[1].filled().is_empty());
}

#[test]
fn a_driver_that_knows_nothing_of_several_pairs_has_one() {
    let mut rigs = rigs(2, FEATURES);
    assert!(gets_frames(&mut rigs[0]));
    assert!(!gets_frames(&mut rigs[1]));
    // What it knows may be the control queue alone, which is then the third.
    rigs.iter_mut().for_each(|rig| rig.guest.device.set_features(FEATURES | 1 << VIRTIO_NET_F_CTRL_VQ));
    let answer = command_to(&mut rigs[1], RECEIVE, &set(2), (BUFFER + 0x1000, 1, WRITE));
    assert_eq!(answer, (1, Some(1)));
    assert!(!rigs[1].guest.device.is_attached);
}

#[test]
fn frames_of_a_pair_that_is_not_in_use_leave_by_the_first() {
    let mut rigs = rigs(2, CONTROLLED);
    rigs[1].sent(&frame(60), &[(BUFFER, 72, 0)]);
    assert_eq!(rigs[0].taken(), Some(frame(60)));
    assert_eq!(command(&mut rigs, &set(2)), 0);
    assert_eq!(rigs[1].sent(&frame(60), &[(BUFFER, 72, 0)]), Some(frame(60)));
}

#[test]
fn what_is_not_the_command_is_an_error_without_effect() {
    let mut rigs = rigs(2, CONTROLLED);
    let malformed: [&[u8]; 10] = [
        &[],
        &[4],
        &[4, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
        &[3, 0, 2, 0],
        &[0, 0, 1, 0],
        &[255; 4],
        &[4; 4000],
    ];
    for bytes in malformed {
        assert_eq!(command(&mut rigs, bytes), 1, "{bytes:?}");
    }
    for pairs in [0, 3, 0x8000, u16::MAX] {
        assert_eq!(command(&mut rigs, &set(pairs)), 1, "{pairs}");
    }
    let no_room: [Buffer; 4] = [
        (BUFFER + 0x1000, 0, WRITE),
        (BUFFER + 0x1000, 1, 0),
        (u64::MAX, 1, WRITE),
        (BUFFER + 0x1000, u32::MAX, WRITE),
    ];
    for answer in no_room {
        assert_eq!(command_to(&mut rigs[1], CONTROL, &set(2), answer), (NONE, Some(0)), "{answer:?}");
    }
    assert!(!gets_frames(&mut rigs[1]), "none had an effect");
    assert_eq!(command(&mut rigs, &set(2)), 0);
}

#[test]
fn who_changes_its_mind_all_the_time_is_slowed_down_and_loses_no_frame() {
    let mut rigs = rigs(2, CONTROLLED);
    let mut times = 0;
    while times < 100 {
        assert_eq!(command(&mut rigs, &set(2)), 0);
        rigs[1].guest.poll_host();
        if !rigs[1].guest.device.is_attached {
            break;
        }
        assert_eq!(command(&mut rigs, &set(1)), 0);
        rigs[1].guest.poll_host();
        times += 1;
    }
    assert!((8..100).contains(&times), "{times}");
    rigs[1].sent(&frame(60), &[(BUFFER, 72, 0)]);
    assert_eq!(rigs[0].taken(), Some(frame(60)));
}

proptest! {
    /// Whatever lies in the control queue, it is served, and the next command too.
    #[test]
    fn no_command_stops_the_device(
        descs in prop::collection::vec(any_desc(), 16),
        heads in prop::collection::vec(0..20u16, 1..12),
        content in prop::collection::vec(any::<u8>(), 64),
        features in prop_oneof![Just(CONTROLLED), any::<u64>()],
        index in prop_oneof![Just(None), any::<u16>().prop_map(Some)],
    ) {
        let mut rigs = rigs(2, features);
        let guest = &mut rigs[1].guest;
        guest.ram.write_slice(&content, GuestAddress(BUFFER)).unwrap();
        for (number, desc) in (0..).zip(&descs) {
            guest.queues[CONTROL].write_desc(&guest.ram, number, *desc);
        }
        for head in &heads {
            guest.queues[CONTROL].offer(&guest.ram, *head);
        }
        if let Some(index) = index {
            guest.queues[CONTROL].set_avail_index(&guest.ram, index);
        }
        guest.kick(CONTROL);
        guest.poll_host();
        let taps = rigs[1].guest.device.common.taps.len();
        let in_use = *rigs[1].guest.device.common.in_use.read().unwrap();
        prop_assert!((1..=taps).contains(&in_use));
        let Rig { guest, cable } = rigs.pop().unwrap();
        let mut rig = Rig::of(guest.device, cable, CONTROLLED);
        prop_assert_eq!(command(std::slice::from_mut(&mut rig), &set(2)), 0);
    }
}
