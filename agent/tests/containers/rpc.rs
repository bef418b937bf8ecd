//! The service as a client sees it, by ttrpc over a unix socket.

use std::sync::Arc;

use agent::reaper::Exit;
use agent::service::{Power, Service};
use agent_protocol::agent as api;
use agent_protocol::server::AgentClient;
use protobuf::MessageField;
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::{Code, Error, context};

use crate::Test;
use crate::guest::{Guest, command, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("a_container_runs_from_create_to_its_end", whole_life),
    ("failures_of_create_and_start_are_part_of_the_answer", failures),
    ("acts_on_what_is_not_there_are_refused_with_their_code", refusals),
    ("limits_can_be_asked_for_and_changed_and_processes_paused", resources),
    ("shutdown_kills_answers_and_powers_off_when_the_client_has_gone", shutdown),
    ("an_earlier_clients_end_does_not_power_off", earlier_client),
    ("a_process_that_is_executed_can_be_waited_for_and_signalled", exec),
    ("a_process_dies_with_the_connection_on_which_it_was_made", exec_lifeline),
    ("a_process_that_cannot_be_executed_leaves_nothing", exec_failures),
];

fn connect(guest: &Guest) -> (AgentClient, Arc<Power>) {
    let power = Arc::new(Power::default());
    (serve(guest, &power), power)
}

/// A client with a connection of its own.
fn serve(guest: &Guest, power: &Arc<Power>) -> AgentClient {
    let (near, far) = UnixStream::pair().unwrap();
    tokio::spawn(Service::serve(far, Arc::clone(&guest.containers), Arc::clone(power)));
    AgentClient::new(Client::new(Socket::new(near)))
}

fn start_of(request: &api::CreateContainerRequest) -> api::StartContainerRequest {
    api::StartContainerRequest { container_id: request.container_id.clone(), ..Default::default() }
}

fn wait_of(request: &api::CreateContainerRequest) -> api::WaitProcessRequest {
    api::WaitProcessRequest { container_id: request.container_id.clone(), ..Default::default() }
}

fn whole_life() {
    with_guest(async |guest| {
        let (client, _) = connect(&guest);
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
        let (client, _) = connect(&guest);
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
        let (client, _) = connect(&guest);
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
        let (client, power) = connect(&guest);
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
        let (client, power) = connect(&guest);
        drop(client);
        let client = serve(&guest, &power);
        client.shutdown(context::with_timeout(0), &api::ShutdownRequest::new()).await.unwrap();
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        power.may_go_off().await;
        assert!(before.elapsed() >= std::time::Duration::from_millis(100), "did not wait for its client");
        tokio::time::resume();
    });
}

fn exec_of(container: &api::CreateContainerRequest, id: &str, args: &[&str]) -> api::ExecProcessRequest {
    api::ExecProcessRequest {
        container_id: container.container_id.clone(),
        exec_id: id.to_owned(),
        process: MessageField::some(api::Process {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn wait_for(exec: &api::ExecProcessRequest) -> api::WaitProcessRequest {
    api::WaitProcessRequest {
        container_id: exec.container_id.clone(),
        exec_id: exec.exec_id.clone(),
        ..Default::default()
    }
}

/// A container that sleeps.
async fn start_sleeper(client: &AgentClient) -> api::CreateContainerRequest {
    let request = command(&["sleep", "1000"]);
    client.create_container(context::with_timeout(0), &request).await.unwrap();
    client.start_container(context::with_timeout(0), &start_of(&request)).await.unwrap();
    request
}

fn exec() {
    with_guest(async |guest| {
        let (client, _) = connect(&guest);
        let container = start_sleeper(&client).await;
        let (exits, sleeps) =
            (exec_of(&container, "a", &["sh", "-c", "exit 7"]), exec_of(&container, "b", &["sleep", "1000"]));
        for request in [&exits, &sleeps] {
            let answer = client.exec_process(context::with_timeout(0), request).await.unwrap();
            assert!(answer.failure.is_none() && answer.pid > 1, "{answer}");
        }
        // Another connection may wait, too.
        let other = serve(&guest, &Arc::new(Power::default()));
        for client in [&client, &other] {
            let ended = client.wait_process(context::with_timeout(0), &wait_for(&exits)).await.unwrap();
            assert_eq!(ended.exited(), 7);
        }
        let taken = client.exec_process(context::with_timeout(0), &sleeps).await.unwrap();
        assert!(taken.failure.message.contains("already has a process \"b\""), "{taken}");
        let signal = api::SignalProcessRequest {
            container_id: container.container_id.clone(),
            exec_id: "b".to_owned(),
            signal: 15,
            ..Default::default()
        };
        client.signal_process(context::with_timeout(0), &signal).await.unwrap();
        let ended = client.wait_process(context::with_timeout(0), &wait_for(&sleeps)).await.unwrap();
        assert_eq!(ended.signaled(), 15);
        let late = client.signal_process(context::with_timeout(0), &signal).await;
        assert_eq!(code(late), Code::FAILED_PRECONDITION);
    });
}

fn exec_lifeline() {
    with_guest(async |guest| {
        let (client, power) = connect(&guest);
        let container = start_sleeper(&client).await;
        let proxy = serve(&guest, &power);
        let request = exec_of(&container, "x", &["sleep", "1000"]);
        proxy.exec_process(context::with_timeout(0), &request).await.unwrap();
        let container = guest.containers.find(&container.container_id).unwrap();
        let process = container.process("x").unwrap();
        drop(proxy);
        assert_eq!(process.wait().await, Some(Exit::Signal(9)));
        // Nobody keeps it in mind: soon, whoever asks for it finds nothing.
        let wait = wait_for(&request);
        loop {
            match client.wait_process(context::with_timeout(0), &wait).await {
                Ok(ended) => assert_eq!(ended.signaled(), 9),
                gone => break assert_eq!(code(gone), Code::NOT_FOUND),
            }
        }
        assert!(!container.process("").unwrap().is_over());
    });
}

fn exec_failures() {
    use api::failure::Kind;
    with_guest(async |guest| {
        let (client, _) = connect(&guest);
        let container = start_sleeper(&client).await;
        for (args, kind, message) in [
            (
                &["foo"][..],
                Kind::KIND_EXECUTABLE_NOT_FOUND,
                "exec: \"foo\": executable file not found in $PATH",
            ),
            (
                &["/etc/passwd"],
                Kind::KIND_EXECUTABLE_NOT_PERMITTED,
                "exec: \"/etc/passwd\": permission denied",
            ),
            (&[], Kind::KIND_INVALID_REQUEST, "the request has no process.args"),
        ] {
            let request = exec_of(&container, "x", args);
            let answer = client.exec_process(context::with_timeout(0), &request).await.unwrap();
            assert_eq!((answer.failure.kind, &*answer.failure.message), (kind.into(), message));
            let gone = client.wait_process(context::with_timeout(0), &wait_for(&request)).await;
            assert_eq!(code(gone), Code::NOT_FOUND);
        }
        let nobody = api::ExecProcessRequest { container_id: "nobody".to_owned(), ..Default::default() };
        assert_eq!(code(client.exec_process(context::with_timeout(0), &nobody).await), Code::NOT_FOUND);
    });
}

fn resources() {
    use api::failure::Kind;
    with_guest(async |guest| {
        let (client, _) = connect(&guest);
        let request = start_sleeper(&client).await;
        let id = || request.container_id.clone();
        let within = || context::with_timeout(0);
        let list = api::ListProcessesRequest { container_id: id(), ..Default::default() };
        let listed = client.list_processes(within(), &list).await.unwrap();
        let names: Vec<&str> = listed.processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!(names, ["sleep"]);
        let stats = api::ContainerStatsRequest { container_id: id(), ..Default::default() };
        let stats = client.container_stats(within(), &stats).await.unwrap();
        // The kernel counts the time of every cgroup, whatever controllers there are.
        assert!(stats.cpu.usage_microseconds > 0, "{stats}");
        assert!(stats.network.iter().any(|interface| interface.name == "lo"), "{stats}");

        let pause = api::PauseContainerRequest { container_id: id(), ..Default::default() };
        assert!(client.pause_container(within(), &pause).await.unwrap().failure.is_none());
        let resume = api::ResumeContainerRequest { container_id: id(), ..Default::default() };
        assert!(client.resume_container(within(), &resume).await.unwrap().failure.is_none());

        for (file, value, kind) in [
            ("no.such", "1", Kind::KIND_SYSTEM),
            ("cgroup.procs", "1", Kind::KIND_INVALID_REQUEST),
            // More than any machine has.
            ("memory.max", "1152921504606846976", Kind::KIND_SYSTEM),
        ] {
            let setting =
                api::CgroupSetting { file: file.to_owned(), value: value.to_owned(), ..Default::default() };
            let limits = api::Resources { cgroup: vec![setting], ..Default::default() };
            let update = api::UpdateContainerRequest {
                container_id: id(),
                resources: MessageField::some(limits),
                ..Default::default()
            };
            let answer = client.update_container(within(), &update).await.unwrap();
            assert_eq!(answer.failure.kind, kind.into(), "{answer}");
        }

        let kill = api::SignalProcessRequest { container_id: id(), signal: 9, ..Default::default() };
        client.signal_process(within(), &kill).await.unwrap();
        client.wait_process(within(), &wait_of(&request)).await.unwrap();
        assert_eq!(code(client.list_processes(within(), &list).await), Code::FAILED_PRECONDITION);
        let paused = client.pause_container(within(), &pause).await.unwrap();
        assert_eq!(paused.failure.kind, Kind::KIND_INVALID_REQUEST.into());
    });
}
