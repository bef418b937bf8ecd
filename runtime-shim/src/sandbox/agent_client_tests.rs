//! A fake agent at the other end of a socket.

use std::thread;

use super::*;

fn pair() -> (AgentClient, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (AgentClient::new(near).unwrap(), far)
}

/// Reads one request of the client.
fn request(far: &mut UnixStream) -> (u32, Envelope) {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    far.read_exact(&mut header).unwrap();
    let header = MessageHeader::from(header);
    let mut payload = vec![0; header.length as usize];
    far.read_exact(&mut payload).unwrap();
    (header.stream_id, Envelope::parse_from_bytes(&payload).unwrap())
}

fn frame(stream: u32, response: &Response) -> Vec<u8> {
    let payload = response.write_to_bytes().unwrap();
    let mut bytes = Vec::from(MessageHeader::new_response(stream, u32::try_from(payload.len()).unwrap()));
    bytes.extend(payload);
    bytes
}

fn created(pid: u32) -> Response {
    let answer = proto::CreateContainerResponse { pid, ..Default::default() };
    Response { payload: answer.write_to_bytes().unwrap(), ..Response::default() }
}

fn create(client: &mut AgentClient) -> Pending<proto::CreateContainerRequest> {
    let call = proto::CreateContainerRequest { container_id: "c".into(), ..Default::default() };
    client.send(&call).unwrap()
}

#[test]
fn answers_find_their_calls_in_any_order_and_in_pieces() {
    let (mut client, mut far) = pair();
    let (first, second) = (create(&mut client), create(&mut client));
    let (one, envelope) = request(&mut far);
    let (two, _) = request(&mut far);
    assert_eq!((&*envelope.service, &*envelope.method), ("runv.agent.v1.Agent", "CreateContainer"));
    let bytes = [frame(two, &created(22)), frame(one, &created(11))].concat();
    for byte in bytes {
        far.write_all(&[byte]).unwrap();
        client.progress().unwrap();
    }
    assert_eq!(client.answer(&first).unwrap().unwrap().pid, 11);
    assert_eq!(client.answer(&second).unwrap().unwrap().pid, 22);
    assert!(client.answer(&first).is_none());
}

#[test]
fn a_request_larger_than_the_socket_goes_out_in_turns() {
    let (mut client, mut far) = pair();
    let args = vec!["x".repeat(1 << 20)];
    let process = proto::Process { args, ..Default::default() };
    let call = proto::CreateContainerRequest {
        process: protobuf::MessageField::some(process),
        ..Default::default()
    };
    client.send(&call).unwrap();
    assert!(client.interest().contains(PollFlags::OUT));
    let reader = thread::spawn(move || request(&mut far).1.payload);
    while client.interest().contains(PollFlags::OUT) {
        let mut fds = [rustix::event::PollFd::new(&client, client.interest())];
        rustix::event::poll(&mut fds, None).unwrap();
        client.progress().unwrap();
    }
    assert_eq!(reader.join().unwrap(), call.write_to_bytes().unwrap());
}

#[test]
fn a_refusal_is_told_without_control_characters() {
    let (mut client, mut far) = pair();
    let pending = create(&mut client);
    let (stream, _) = request(&mut far);
    let status = ttrpc::Status {
        code: EnumOrUnknown::new(Code::INVALID_ARGUMENT),
        message: "no\x1b[31m container".into(),
        ..Default::default()
    };
    let refused = Response { status: protobuf::MessageField::some(status), ..Response::default() };
    far.write_all(&frame(stream, &refused)).unwrap();
    client.progress().unwrap();
    let error = client.answer(&pending).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the agent refused CreateContainer: no [31m container");
}

#[test]
fn a_closed_connection_answers_every_call() {
    let (mut client, far) = pair();
    let pending = create(&mut client);
    drop(far);
    // Unread data makes the close a reset; both mean the same.
    let _ = client.progress();
    assert!(matches!(client.answer(&pending), Some(Err(AgentError::Closed))));
}

#[test]
fn nonsense_ends_the_connection() {
    let header = |length: u32, stream: u32, kind: u8| {
        Vec::from(MessageHeader { length, stream_id: stream, type_: kind, flags: 0 })
    };
    for bytes in [
        header(u32::MAX, 1, MESSAGE_TYPE_RESPONSE),
        header(0, 7, MESSAGE_TYPE_RESPONSE),
        header(0, 1, 1),
        [frame(1, &created(1)), frame(1, &created(1))].concat(),
    ] {
        let (mut client, mut far) = pair();
        let pending = create(&mut client);
        far.write_all(&bytes).unwrap();
        assert!(matches!(client.progress(), Err(AgentError::Protocol(_))), "{bytes:?}");
        let _ = client.answer(&pending);
        assert!(matches!(client.answer(&pending), Some(Err(AgentError::Closed))));
    }
}

#[test]
fn an_answer_that_is_no_message_is_an_error() {
    let (mut client, mut far) = pair();
    let pending = create(&mut client);
    let (stream, _) = request(&mut far);
    let mut bytes = Vec::from(MessageHeader::new_response(stream, 3));
    bytes.extend([0xff, 0xff, 0xff]);
    far.write_all(&bytes).unwrap();
    client.progress().unwrap();
    assert!(matches!(client.answer(&pending), Some(Err(AgentError::Codec(_)))));
}

#[test]
fn answers_that_nobody_needs_are_dropped_and_an_agent_that_owes_too_many_is_stuck() {
    let (mut client, mut far) = pair();
    let signal = proto::SignalProcessRequest { signal: 15, ..Default::default() };
    client.notify(&signal).unwrap();
    let (stream, _) = request(&mut far);
    far.write_all(&frame(stream, &Response::default())).unwrap();
    client.progress().unwrap();
    assert!(client.answers.is_empty() && client.open.is_empty());

    for _ in 0..OPEN_MAX {
        client.notify(&signal).unwrap();
    }
    assert!(matches!(client.notify(&signal), Err(AgentError::Stuck)));
}
