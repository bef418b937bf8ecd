//! Both sides of a relay: what the caller has, and who plays the guest.

use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use super::*;

fn to_end(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

fn start_one(connected: Connected) -> (Gates, Ways, PipeReader) {
    let (done, running) = io::pipe().unwrap();
    let (gates, ways) = start(vec![connected], &running).unwrap();
    (gates, ways.unwrap(), done)
}

fn is_ready(fd: BorrowedFd<'_>, time: Duration) -> bool {
    super::super::poll::readable_within(fd, time).unwrap()
}

#[test]
fn nothing_is_read_before_the_workload_runs() {
    let (reader, mut writer) = io::pipe().unwrap();
    let (stream, guest) = UnixStream::pair().unwrap();
    let (gates, _ways, _done) = start_one(Connected::Stream(reader.into(), Kind::Reader, stream));
    writer.write_all(b"early").unwrap();
    assert!(!is_ready(guest.as_fd(), Duration::from_millis(50)));
    gates.open().unwrap();
    drop(writer);
    assert_eq!(to_end(&guest), "early");
}

#[test]
fn a_pipe_that_the_workload_closes_is_closed_for_the_caller() {
    let (reader, writer) = io::pipe().unwrap();
    let (stream, guest) = UnixStream::pair().unwrap();
    let (gates, _ways, _done) = start_one(Connected::Stream(reader.into(), Kind::Reader, stream));
    gates.open().unwrap();
    drop(guest);
    // Its writer hears of it though it writes nothing.
    poll_until(&mut [PollFd::new(&writer, PollFlags::empty())], None).unwrap();
}

#[test]
fn a_file_is_read_and_written_from_where_it_is() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"skipped, read").unwrap();
    io::Seek::seek(&mut file, io::SeekFrom::Start(9)).unwrap();
    let (stream, guest) = UnixStream::pair().unwrap();
    let fd = file.try_clone().unwrap().into();
    let (gates, _ways, done) = start_one(Connected::Stream(fd, Kind::File, stream));
    gates.open().unwrap();
    (&guest).write_all(b"WRITTEN").unwrap();
    guest.shutdown(Shutdown::Write).unwrap();
    assert!(to_end(&guest).len() >= "read".len());
    // All is written once the output is done.
    assert!(is_ready(done.as_fd(), Duration::from_secs(10)));
    io::Seek::rewind(&mut file).unwrap();
    assert_eq!(to_end(&file), "skipped, WRITTEN");
}

#[test]
fn each_direction_of_a_socket_has_an_end_of_its_own() {
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let (stream, mut guest) = UnixStream::pair().unwrap();
    let (gates, ways, _done) = start_one(Connected::Stream(socket.into(), Kind::Socket, stream));
    gates.open().unwrap();
    peer.write_all(b"question").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(to_end(&guest), "question");
    guest.write_all(b"answer").unwrap();
    assert!(!is_ready(ways.done(), Duration::ZERO));
    drop(guest);
    assert_eq!(to_end(&peer), "answer");
    assert!(is_ready(ways.done(), Duration::from_secs(10)));
}

/// A listener, its clients' place, and the guest's ends of their connections.
fn listener() -> (Connected, std::path::PathBuf, tempfile::TempDir, mpsc::Receiver<UnixStream>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap().into();
    let (arrived, guest) = mpsc::channel();
    let connect: Connect = Arc::new(move || {
        let (near, far) = UnixStream::pair()?;
        arrived.send(far).map_err(io::Error::other)?;
        Ok(near)
    });
    (Connected::Listener { listener, token: 7, connect }, path, folder, guest)
}

fn token_of(mut guest: &UnixStream) -> u64 {
    let mut token = [0; 8];
    guest.read_exact(&mut token).unwrap();
    u64::from_be_bytes(token)
}

#[test]
fn so_many_clients_are_served_at_a_time_and_the_next_one_waits() {
    let (connected, path, _folder, guests) = listener();
    let (gates, ways, _done) = start_one(connected);
    let clients: Vec<_> = (0..=MOST).map(|_| UnixStream::connect(&path).unwrap()).collect();
    gates.open().unwrap();
    let served: Vec<_> = (0..MOST).map(|_| guests.recv().unwrap()).collect();
    assert!(served.iter().all(|guest| token_of(guest) == 7));
    assert!(guests.recv_timeout(Duration::from_millis(100)).is_err());
    // One that goes, on both sides, makes room.
    drop(clients);
    drop(served);
    assert_eq!(token_of(&guests.recv().unwrap()), 7);
    ways.accept_no_more();
    assert!(is_ready(ways.done(), Duration::from_secs(10)));
}

#[test]
fn who_comes_when_the_workload_has_ended_is_left_to_the_next() {
    let (connected, path, _folder, guests) = listener();
    let Connected::Listener { listener, token, connect } = connected else { unreachable!() };
    let next = UnixListener::from(listener.try_clone().unwrap());
    let (gates, ways, _done) = start_one(Connected::Listener { listener, token, connect });
    gates.open().unwrap();
    ways.accept_no_more();
    assert!(is_ready(ways.done(), Duration::from_secs(10)));
    let _client = UnixStream::connect(&path).unwrap();
    next.accept().unwrap();
    assert!(guests.try_recv().is_err());
}
