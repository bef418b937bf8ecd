//! Environment, working directory, user, signals: what the workload is born with.

use agent_protocol::agent as api;
use protobuf::MessageField;

use crate::Test;
use crate::guest::{command, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("the_environment_is_the_bundles_plus_home", environment),
    ("home_of_the_bundle_stands", home),
    ("a_missing_working_directory_is_made", working_directory),
    ("a_user_has_its_groups_and_its_umask", user),
    ("a_user_name_is_looked_up_in_the_root", user_name),
    ("signals_are_as_new", signals),
    ("names_are_the_bundles", names),
    ("the_cgroup_is_its_own", cgroup),
    ("it_leads_a_session", session),
    ("a_new_network_has_its_loopback_up", network),
];

fn environment() {
    with_guest(async |guest| {
        let mut request = command(&["env"]);
        process(&mut request).env = vec!["PATH=/bin".to_owned(), "B=two words".to_owned(), "A==".to_owned()];
        let output = guest.run(request).await.unwrap().success();
        assert_eq!(output, "PATH=/bin\nB=two words\nA==\nHOME=/root\n");
    });
}

fn home() {
    with_guest(async |guest| {
        let mut request = shell("echo $HOME");
        process(&mut request).env.push("HOME=/elsewhere".to_owned());
        assert_eq!(guest.run(request).await.unwrap().success(), "/elsewhere\n");
    });
}

fn working_directory() {
    with_guest(async |guest| {
        let mut request = shell("pwd; stat -c %a .");
        process(&mut request).cwd = "/deep/../deeper/place".to_owned();
        assert_eq!(guest.run(request).await.unwrap().success(), "/deeper/place\n755\n");
    });
}

fn user() {
    with_guest(async |guest| {
        let mut request = shell("id; umask; echo $HOME");
        process(&mut request).user = MessageField::some(api::User {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![5, 6],
            umask: Some(0o077),
            ..Default::default()
        });
        let output = guest.run(request).await.unwrap().success();
        assert_eq!(output, "uid=1000(anna) gid=1001 groups=5,6\n0077\n/home/anna\n");
    });
}

fn user_name() {
    with_guest(async |guest| {
        let mut request = shell("id; echo $HOME");
        process(&mut request).user =
            MessageField::some(api::User { username: "anna".to_owned(), ..Default::default() });
        let output = guest.run(request).await.unwrap().success();
        assert_eq!(output, "uid=1000(anna) gid=100(users) groups=10(wheel)\n/home/anna\n");
    });
}

fn signals() {
    with_guest(async |guest| {
        let output = guest.run(command(&["grep", "Sig[BIC]", "/proc/self/status"])).await.unwrap().success();
        let none = "0000000000000000";
        assert_eq!(output, format!("SigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{none}\n"));
    });
}

fn names() {
    with_guest(async |guest| {
        let mut request = shell("hostname; cat /proc/sys/kernel/domainname");
        request.hostname = "box".to_owned();
        request.domainname = "example.org".to_owned();
        assert_eq!(guest.run(request).await.unwrap().success(), "box\nexample.org\n");
    });
}

fn cgroup() {
    with_guest(async |guest| {
        // "0::/" is the root of its cgroup namespace, and the mount shows the same cgroup, read-only.
        let script =
            "grep ^0: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -1; mkdir /sys/fs/cgroup/x";
        let outcome = guest.run(shell(script)).await.unwrap();
        assert_eq!(outcome.stdout, "0::/\n1\n");
        assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    });
}

fn session() {
    with_guest(async |guest| {
        // pid, comm, state, ppid, pgrp, session
        assert_eq!(guest.shell("set -- $(cat /proc/self/stat); echo $$").await, "1\n");
        let stat = guest.run(command(&["cat", "/proc/1/stat"])).await.unwrap().success();
        let fields: Vec<&str> = stat.split(' ').collect();
        assert_eq!((fields[4], fields[5]), ("1", "1"));
    });
}

fn network() {
    with_guest(async |guest| {
        let mut request = command(&["cat", "/sys/class/net/lo/flags"]);
        let network = api::namespace::Kind::KIND_NETWORK.into();
        request.namespaces.push(api::Namespace { kind: network, ..Default::default() });
        let flags = guest.run(request).await.unwrap().success();
        assert_eq!(u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap() & 1, 1);
    });
}
