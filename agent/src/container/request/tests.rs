use super::*;

fn request() -> agent::CreateContainerRequest {
    agent::CreateContainerRequest {
        container_id: "box-1".to_owned(),
        process: MessageField::some(agent::Process {
            args: vec!["sh".to_owned()],
            cwd: "/".to_owned(),
            ..Default::default()
        }),
        root: MessageField::some(agent::Root { share_path: "rootfs".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

fn error(change: impl FnOnce(&mut agent::CreateContainerRequest)) -> String {
    let mut request = request();
    change(&mut request);
    ContainerSpec::from_request(request).unwrap_err().to_string()
}

fn process(request: &mut agent::CreateContainerRequest) -> &mut agent::Process {
    request.process.mut_or_insert_default()
}

#[test]
fn the_smallest_request_gets_the_defaults() {
    let spec = ContainerSpec::from_request(request()).unwrap();
    assert_eq!(spec.process.umask, 0o022);
    assert_eq!(spec.namespaces, Namespaces::default());
    assert!(spec.process.terminal.is_none());
}

#[test]
fn ids_that_could_leave_their_directory_are_refused() {
    for id in ["", ".", "..", "a/b", "../x", "a\0b", "a b", &"x".repeat(256)] {
        assert!(error(|request| request.container_id = id.to_owned()).starts_with("container id"), "{id:?}");
    }
}

#[test]
fn share_paths_that_climb_are_refused() {
    for path in ["", "/rootfs", "..", "rootfs/../..", "a//b", "./rootfs", "rootfs/", "a\0b"] {
        let root = agent::Root { share_path: path.to_owned(), ..Default::default() };
        assert!(
            error(|request| request.root = MessageField::some(root)).starts_with("share path"),
            "{path:?}"
        );
    }
}

#[test]
fn strings_that_execve_could_not_pass_are_refused() {
    assert!(error(|request| process(request).args.push("a\0b".to_owned())).contains("NUL"));
    for variable in ["", "NAME", "=value", "A=\0"] {
        assert!(error(|request| process(request).env.push(variable.to_owned())).starts_with("process.env"));
    }
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(error(|request| process(request).args.clear()), "the request has no process.args");
    assert_eq!(error(|request| request.process = MessageField::none()), "the request has no process");
    assert_eq!(error(|request| request.root = MessageField::none()), "the request has no root");
}

#[test]
fn the_number_that_means_no_user_is_refused() {
    let user = agent::User { uid: u32::MAX, ..Default::default() };
    assert!(error(|request| process(request).user = MessageField::some(user)).contains("4294967295"));
}

#[test]
fn the_last_of_two_variables_with_one_name_counts() {
    let mut request = request();
    process(&mut request).env = ["A=1", "B=2", "A=3"].map(str::to_owned).to_vec();
    let env = ContainerSpec::from_request(request).unwrap().process.env;
    assert_eq!(env, [c"A=3".to_owned(), c"B=2".to_owned()]);
}

#[test]
fn a_hostname_without_a_uts_namespace_is_refused() {
    assert!(error(|request| request.hostname = "box".to_owned()).contains("UTS namespace"));
}

#[test]
fn namespaces_that_cannot_be_had_are_refused_by_name() {
    use agent::namespace::Kind;
    for (kind, path, text) in [
        (Kind::KIND_USER, "", "a user namespace is not supported"),
        (Kind::KIND_TIME, "", "a time namespace is not supported"),
        (
            Kind::KIND_NETWORK,
            "/var/run/netns/x",
            "joining the namespace \"/var/run/netns/x\" is not supported",
        ),
    ] {
        let namespace = agent::Namespace { kind: kind.into(), path: path.to_owned(), ..Default::default() };
        assert_eq!(error(|request| request.namespaces.push(namespace)), text);
    }
}

#[test]
fn a_mount_on_the_root_or_with_a_bad_option_is_refused() {
    let mount = |destination: &str, option: &str| agent::Mount {
        destination: destination.to_owned(),
        type_: "bind".to_owned(),
        source: "mounts/0".to_owned(),
        options: vec![option.to_owned()],
        ..Default::default()
    };
    for destination in ["/", "/a/..", "//", "relative"] {
        assert!(
            error(|request| request.mounts.push(mount(destination, "ro"))).starts_with("mount destination")
        );
    }
    assert_eq!(error(|request| request.mounts.push(mount("/data", "sizzle"))), "mount on \"/data\"");
}

#[test]
fn a_terminal_has_one_stream_and_only_a_terminal_has_that() {
    let streams =
        |stdin, terminal| MessageField::some(agent::Streams { stdin, terminal, ..Default::default() });
    assert!(error(|request| process(request).streams = streams(0, 7)).contains("no terminal"));
    assert!(
        error(|request| {
            process(request).terminal = true;
            process(request).streams = streams(7, 0);
        })
        .contains("one stream")
    );
}
