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
        (Kind::KIND_USER, "", "the request has no uidMappings or gidMappings"),
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

#[test]
fn rights_that_nobody_can_have_are_refused_by_name() {
    let limit =
        |type_: &str, soft, hard| agent::Rlimit { type_: type_.to_owned(), soft, hard, ..Default::default() };
    let capabilities = || agent::Capabilities { ambient: vec!["CAP_FLY".to_owned()], ..Default::default() };
    let seccomp = || agent::Seccomp { program: vec![0; 9], ..Default::default() };
    let io = || agent::IoPriority { class: 4, ..Default::default() };
    for (text, change) in [
        ("process.rlimits \"RLIMIT_X\"", &(|r| process(r).rlimits.push(limit("RLIMIT_X", 0, 0)))),
        ("process.rlimits \"RLIMIT_AS\"", &(|r| process(r).rlimits.push(limit("RLIMIT_AS", 1, 0)))),
        (
            "process.capabilities.ambient \"CAP_FLY\"",
            &(|r| {
                process(r).capabilities = MessageField::some(capabilities());
            }),
        ),
        ("process.oomScoreAdj \"1001\"", &(|r| process(r).oom_score_adj = Some(1001))),
        ("process.ioPriority", &(|r| process(r).io_priority = MessageField::some(io()))),
        ("process.execCPUAffinity \"1024\"", &(|r| process(r).cpus = vec![1024])),
        ("linux.seccomp \"9 bytes\"", &(|r| r.seccomp = MessageField::some(seccomp()))),
    ] as [(&str, &dyn Fn(&mut agent::CreateContainerRequest)); 7]
    {
        assert!(error(change).starts_with(text), "{text}: {}", error(change));
    }
}

#[test]
fn ids_clocks_and_hooks_are_checked() {
    use agent::namespace::Kind;
    let namespace = |kind: Kind| agent::Namespace { kind: kind.into(), ..Default::default() };
    let ids = |container_id| agent::IdMapping { container_id, host_id: 5, size: 1, ..Default::default() };
    let offset = |clock: &str| agent::TimeOffset { clock: clock.to_owned(), ..Default::default() };
    assert!(error(|request| request.uid_mappings.push(ids(0))).contains("user namespace"));
    let error_of_ids = error(|request| {
        request.namespaces.push(namespace(Kind::KIND_USER));
        request.uid_mappings.push(ids(0));
        request.gid_mappings.push(ids(1));
    });
    assert!(error_of_ids.contains("are not mapped"), "{error_of_ids}");
    assert!(error(|request| request.time_offsets.push(offset("monotonic"))).contains("time namespace"));
    let error_of_clock = error(|request| {
        request.namespaces.push(namespace(Kind::KIND_TIME));
        request.time_offsets.push(offset("realtime"));
    });
    assert!(error_of_clock.contains("has no offset"), "{error_of_clock}");
    let hook = agent::Hook { path: "relative".to_owned(), ..Default::default() };
    let error_of_hook = error(|request| {
        request.state = "{}".to_owned();
        request.start_container_hooks.push(hook);
    });
    assert!(error_of_hook.starts_with("hook path"), "{error_of_hook}");
}

#[test]
fn descriptors_are_of_a_kind_and_have_a_stream() {
    use agent::descriptor::Kind as Wanted;
    let descriptor =
        |kind: Wanted, token| agent::Descriptor { kind: kind.into(), token, ..Default::default() };
    let refused = |descriptor| error(|request| process(request).descriptors = vec![descriptor]);
    assert!(refused(descriptor(Wanted::KIND_UNSPECIFIED, 1)).starts_with("process.descriptors.kind"));
    assert!(refused(descriptor(Wanted::KIND_LISTENER, 0)).starts_with("process.descriptors.token"));
    let many = vec![descriptor(Wanted::KIND_READER, 1); 65];
    assert!(error(|request| process(request).descriptors = many).contains("process.descriptors"));
}
