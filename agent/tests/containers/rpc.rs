//! The service as a client sees it, by ttrpc over a unix socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use agent::service::{Power, Service, Watched};
use agent_protocol::agent as api;
use agent_protocol::server::{AgentClient, create_agent};
use futures_core::Stream;
use tokio::net::UnixStream;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server};
use ttrpc::{Code, Error, context};

use crate::Test;
use crate::guest::{Guest, command, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("a_container_runs_from_create_to_its_end", whole_life),
    ("failures_of_create_and_start_are_part_of_the_answer", failures),
    ("acts_on_what_is_not_there_are_refused_with_their_code", refusals),
    ("shutdown_kills_answers_and_powers_off_when_the_client_has_gone", shutdown),
    ("an_earlier_clients_end_does_not_power_off", earlier_client),
];

/// A listener with one connection.
struct One(Option<Watched<UnixStream>>);

impl Stream for One {
    type Item = std::io::Result<Watched<UnixStream>>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.take().map_or(Poll::Pending, |connection| Poll::Ready(Some(Ok(connection))))
    }
}

async fn connect(guest: &Guest) -> (AgentClient, Arc<Power>, Server) {
    let power = Arc::new(Power::default());
    let (client, server) = serve(guest, &power).await;
    (client, power, server)
}

async fn serve(guest: &Guest, power: &Arc<Power>) -> (AgentClient, Server) {
    let (near, far) = UnixStream::pair().unwrap();
    let service = Service { containers: Arc::clone(&guest.containers), power: Arc::clone(power) };
    let listener = Listener::new(One(Some(Watched::new(far, Arc::clone(power)))));
    let mut server = Server::new().add_listener(listener).register_service(create_agent(Arc::new(service)));
    server.start().await.unwrap();
    (AgentClient::new(Client::new(Socket::new(near))), server)
}

fn start_of(request: &api::CreateContainerRequest) -> api::StartContainerRequest {
    api::StartContainerRequest { container_id: request.container_id.clone(), ..Default::default() }
}

fn wait_of(request: &api::CreateContainerRequest) -> api::WaitProcessRequest {
    api::WaitProcessRequest { container_id: request.container_id.clone(), ..Default::default() }
}

fn whole_life() {
    with_guest(async |guest| {
        let (client, _, _server) = connect(&guest).await;
        let request = shell("exit 7");
        let created = client.create_container(context::with_timeout(0), &request).await.unwrap();
        assert!(created.failure.is_none() && created.pid > 1, "{created}");
        let started = client.start_container(context::with_timeout(0), &start_of(&request)).await.unwrap();
        assert!(started.failure.is_none(), "{started}");
        let ended = client.wait_process(context::with_timeout(0), &wait_of(&request)).await.unwrap();
        assert_eq!(ended.exited(), 7);
    });
}

fn failures() {
    use api::failure::Kind;
    with_guest(async |guest| {
        let (client, _, _server) = connect(&guest).await;
        let mut without_root = command(&["true"]);
        without_root.root.clear();
        for (request, kind) in [
            (command(&["nothing"]), Kind::KIND_EXECUTABLE_NOT_FOUND),
            (command(&["/bin"]), Kind::KIND_EXECUTABLE_NOT_PERMITTED),
            (without_root, Kind::KIND_INVALID_REQUEST),
        ] {
            let answer = client.create_container(context::with_timeout(0), &request).await.unwrap();
            assert_eq!(answer.failure.kind, kind.into(), "{answer}");
        }
        let request = command(&["true"]);
        client.create_container(context::with_timeout(0), &request).await.unwrap();
        client.start_container(context::with_timeout(0), &start_of(&request)).await.unwrap();
        let again = client.start_container(context::with_timeout(0), &start_of(&request)).await.unwrap();
        assert_eq!(again.failure.kind, Kind::KIND_INVALID_REQUEST.into());
    });
}

fn code<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> Code {
    match answer {
        Err(Error::RpcStatus(status)) => status.code(),
        other => panic!("{other:?}"),
    }
}

fn refusals() {
    with_guest(async |guest| {
        let (client, _, _server) = connect(&guest).await;
        let nobody = api::WaitProcessRequest { container_id: "nobody".to_owned(), ..Default::default() };
        assert_eq!(code(client.wait_process(context::with_timeout(0), &nobody).await), Code::NOT_FOUND);

        let request = command(&["true"]);
        client.create_container(context::with_timeout(0), &request).await.unwrap();
        let no_process = api::WaitProcessRequest { exec_id: "x".to_owned(), ..wait_of(&request) };
        assert_eq!(code(client.wait_process(context::with_timeout(0), &no_process).await), Code::NOT_FOUND);

        let signal = |signal| api::SignalProcessRequest {
            container_id: request.container_id.clone(),
            signal,
            ..Default::default()
        };
        for number in [0, 65, u32::MAX] {
            let answer = client.signal_process(context::with_timeout(0), &signal(number)).await;
            assert_eq!(code(answer), Code::INVALID_ARGUMENT);
        }
        let resize =
            api::ResizeTerminalRequest { container_id: request.container_id.clone(), ..Default::default() };
        let answer = client.resize_terminal(context::with_timeout(0), &resize).await;
        assert_eq!(code(answer), Code::FAILED_PRECONDITION);

        client.signal_process(context::with_timeout(0), &signal(9)).await.unwrap();
        client.wait_process(context::with_timeout(0), &wait_of(&request)).await.unwrap();
        let answer = client.signal_process(context::with_timeout(0), &signal(9)).await;
        assert_eq!(code(answer), Code::FAILED_PRECONDITION);
    });
}

fn shutdown() {
    with_guest(async |guest| {
        let (client, power, _server) = connect(&guest).await;
        let request = command(&["sleep", "1000"]);
        client.create_container(context::with_timeout(0), &request).await.unwrap();
        client.start_container(context::with_timeout(0), &start_of(&request)).await.unwrap();
        client.shutdown(context::with_timeout(0), &api::ShutdownRequest::new()).await.unwrap();
        let ended = client.wait_process(context::with_timeout(0), &wait_of(&request)).await.unwrap();
        assert_eq!(ended.signaled(), 9);
        drop(client);
        power.may_go_off().await;
    });
}

fn earlier_client() {
    with_guest(async |guest| {
        let (client, power, _server) = connect(&guest).await;
        drop(client);
        let (client, _server) = serve(&guest, &power).await;
        client.shutdown(context::with_timeout(0), &api::ShutdownRequest::new()).await.unwrap();
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        power.may_go_off().await;
        assert!(before.elapsed() >= std::time::Duration::from_millis(100), "did not wait for its client");
        tokio::time::resume();
    });
}
