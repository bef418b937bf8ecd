//! Between QEMU's vhost-user frontend of a network device and its backend. QEMU (7.2 to 10) enables the rings of this kind
//! of device before it has acknowledged the feature by which it does that; a backend that keeps to the vhost-user
//! specification takes this for an error. So these requests wait here for the features. Frames do not pass here.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Requests of a frontend (vhost-user specification, "Front-end message types").
const SET_FEATURES: u32 = 2;
const SET_VRING_ENABLE: u32 = 18;

/// Request, flags, and size of what follows.
const HEADER_SIZE: usize = 12;

/// Longer than any request of which this frontend makes use.
const MAX_PAYLOAD: usize = 4096;

/// Of the regions of guest memory.
const MAX_FDS: usize = 8;

/// Of the kind of device with the most rings. Others are no frontend's.
const MAX_RINGS: usize = 17;

/// Number, all bytes, and descriptors.
type Request = (u32, Vec<u8>, Vec<OwnedFd>);

/// Passes on what comes from the one frontend that connects, until either side closes its connection.
pub(super) fn start(frontend: UnixListener, backend: UnixStream) -> io::Result<()> {
    let answers = backend.try_clone()?;
    thread::Builder::new().name("rings".to_owned()).spawn(move || {
        let Ok((frontend, _)) = frontend.accept() else { return };
        let Ok(to) = frontend.try_clone() else { return };
        let answering = thread::Builder::new().name("answers".to_owned());
        if answering.spawn(move || pass_answers(&answers, &to)).is_ok() {
            // The end of a connection is told by closing the other one: both sides know what to do then.
            let _ = pass_requests(&frontend, &backend);
        }
        let _ = backend.shutdown(Shutdown::Both);
        let _ = frontend.shutdown(Shutdown::Both);
    })?;
    Ok(())
}

fn pass_answers(mut from: &UnixStream, mut to: &UnixStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

fn pass_requests(from: &UnixStream, to: &UnixStream) -> io::Result<()> {
    // The last that each ring has been told.
    let mut waiting = Some(BTreeMap::new());
    while let Some((request, bytes, fds)) = receive(from)? {
        if let (Some(waiting), SET_VRING_ENABLE) = (&mut waiting, request) {
            let ring = bytes.get(HEADER_SIZE..HEADER_SIZE + 4).ok_or(io::ErrorKind::InvalidData)?.to_vec();
            waiting.insert(ring, bytes);
            if waiting.len() > MAX_RINGS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            continue;
        }
        send(to, &bytes, &fds)?;
        if request == SET_FEATURES {
            for bytes in waiting.take().unwrap_or_default().values() {
                send(to, bytes, &[])?;
            }
        }
    }
    Ok(())
}

/// A whole request with its number and its descriptors; none at the end.
fn receive(mut from: &UnixStream) -> io::Result<Option<Request>> {
    let mut bytes = vec![0; HEADER_SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let [r0, r1, r2, r3, _, _, _, _, s0, s1, s2, s3] = match bytes.first_chunk::<HEADER_SIZE>() {
        Some(header) if received.bytes == HEADER_SIZE => *header,
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    let size = usize::try_from(u32::from_ne_bytes([s0, s1, s2, s3])).unwrap_or(usize::MAX);
    if size > MAX_PAYLOAD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; size];
    from.read_exact(&mut payload)?;
    bytes.extend(payload);
    Ok(Some((u32::from_ne_bytes([r0, r1, r2, r3]), bytes, fds)))
}

fn send(to: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // The peer takes whole requests, and so few bytes at once are never sent in part.
    let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sandbox::directory::SandboxDirectory;

    fn request(number: u32, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        [&number.to_ne_bytes(), &1u32.to_ne_bytes(), &size.to_ne_bytes(), payload].concat()
    }

    fn rig() -> (UnixStream, UnixStream) {
        let directory = SandboxDirectory::create(None).unwrap();
        let (listener, place) = directory.nameless_socket("net0").unwrap();
        let (near, backend) = UnixStream::pair().unwrap();
        start(listener, near).unwrap();
        let frontend = UnixStream::connect(format!("/proc/self/fd/{}", place.as_raw_fd())).unwrap();
        (frontend, backend)
    }

    #[test]
    fn rings_are_enabled_after_the_features_and_answers_come_back() {
        let (mut frontend, mut backend) = rig();
        let (pipe, _) = io::pipe().unwrap();
        let enable = request(SET_VRING_ENABLE, &[1; 8]);
        frontend.write_all(&enable).unwrap();
        send(&frontend, &request(13, &[2; 8]), &[pipe.into()]).unwrap();
        frontend.write_all(&request(SET_FEATURES, &[3; 8])).unwrap();
        frontend.write_all(&enable).unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (number, bytes, fds) = receive(&backend).unwrap().unwrap();
            seen.push((number, bytes.len(), fds.len()));
        }
        assert_eq!(
            seen,
            [(13, 20, 1), (SET_FEATURES, 20, 0), (SET_VRING_ENABLE, 20, 0), (SET_VRING_ENABLE, 20, 0)]
        );
        backend.write_all(b"answer").unwrap();
        let mut answer = [0; 6];
        frontend.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        drop(frontend);
        assert!(receive(&backend).unwrap().is_none());
    }

    #[test]
    fn what_no_frontend_sends_ends_both_connections() {
        let rings = (0..18u64).map(|ring| request(18, &ring.to_ne_bytes())).collect::<Vec<_>>().concat();
        for bytes in
            [request(5, &[])[..7].to_vec(), request(5, &[0; MAX_PAYLOAD + 1]), rings, request(18, &[])]
        {
            let (mut frontend, mut backend) = rig();
            frontend.write_all(&bytes).unwrap();
            frontend.shutdown(Shutdown::Write).unwrap();
            assert_eq!(backend.read(&mut [0; 64]).unwrap(), 0);
        }
    }
}
