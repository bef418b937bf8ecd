//! What a workload may do: capabilities, no_new_privs, seccomp, limits, priorities.

use agent::reaper::Exit;
use agent_protocol::agent as api;
use protobuf::MessageField;

use crate::Test;
use crate::guest::{command, exec_of, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("the_five_sets_of_capabilities_are_the_bundles", capabilities),
    ("another_user_keeps_permitted_and_ambient_capabilities", ambient),
    ("what_cannot_be_granted_is_left_out", ungrantable),
    ("no_new_privs_is_the_bundles", no_new_privs),
    ("a_filter_refuses_what_it_names_also_in_other_processes", seccomp),
    ("a_filter_without_no_new_privs_is_set_before_the_rights_are_given_up", seccomp_without_nnp),
    ("a_filter_that_the_kernel_does_not_take_is_told", bad_filter),
    ("limits_are_the_bundles", rlimits),
    ("priorities_and_the_oom_score_are_the_bundles", priorities),
    ("a_32_bit_personality_changes_the_machine", personality),
    ("a_process_that_has_not_executed_its_program_cannot_be_looked_at", hidden),
];

const NONE: &str = "0000000000000000";

/// The capability sets as /proc has them, in its order.
fn sets(request: &api::CreateContainerRequest) -> api::CreateContainerRequest {
    let mut request = request.clone();
    process(&mut request).args = ["grep", "^Cap", "/proc/self/status"].map(str::to_owned).to_vec();
    request
}

fn with(sets: [&[&str]; 5]) -> MessageField<api::Capabilities> {
    let [bounding, effective, inheritable, permitted, ambient] =
        sets.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    MessageField::some(api::Capabilities {
        bounding,
        effective,
        inheritable,
        permitted,
        ambient,
        ..Default::default()
    })
}

fn capabilities() {
    with_guest(async |guest| {
        let mut request = sets(&command(&[]));
        // CHOWN is 0, KILL 5, NET_RAW 13.
        process(&mut request).capabilities = with([
            &["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            &["CAP_CHOWN"],
            &["CAP_NET_RAW"],
            &["CAP_KILL"],
            &[],
        ]);
        let output = guest.run(request.clone()).await.unwrap().success();
        // execve by root makes all of the bounding and the inheritable set permitted and effective (capabilities(7)).
        let all = "0000000000002021";
        let expected = format!(
            "CapInh:\t0000000000002000\nCapPrm:\t{all}\nCapEff:\t{all}\nCapBnd:\t{all}\nCapAmb:\t{NONE}\n"
        );
        assert_eq!(output, expected);
        let mut request = sets(&command(&[]));
        process(&mut request).capabilities = with([&[]; 5]);
        let output = guest.run(request).await.unwrap().success();
        assert!(output.lines().all(|line| line.ends_with(NONE)), "{output}");
    });
}

fn ambient() {
    with_guest(async |guest| {
        let mut request = sets(&command(&[]));
        let names = &["CAP_KILL"][..];
        process(&mut request).user =
            MessageField::some(api::User { uid: 1000, gid: 100, ..Default::default() });
        process(&mut request).capabilities = with([names; 5]);
        let output = guest.run(request.clone()).await.unwrap().success();
        assert!(output.lines().all(|line| line.ends_with("0020")), "{output}");
        // Without the ambient set, nothing survives execve.
        request.container_id += "-2";
        process(&mut request).capabilities = with([names, names, names, names, &[]]);
        let output = guest.run(request).await.unwrap().success();
        assert!(output.contains(&format!("CapPrm:\t{NONE}\nCapEff:\t{NONE}\n")), "{output}");
    });
}

fn ungrantable() {
    with_guest(async |guest| {
        let mut request = sets(&command(&[]));
        process(&mut request).user = MessageField::some(api::User { uid: 1, gid: 1, ..Default::default() });
        // Effective, not permitted; inheritable, not in the bounding set; ambient, not inheritable.
        process(&mut request).capabilities =
            with([&["CAP_CHOWN"], &["CAP_KILL"], &["CAP_KILL"], &["CAP_CHOWN"], &["CAP_CHOWN"]]);
        let output = guest.run(request).await.unwrap().success();
        assert!(output.contains(&format!("CapInh:\t{NONE}\nCapPrm:\t{NONE}\n")), "{output}");
    });
}

fn no_new_privs() {
    with_guest(async |guest| {
        for (wanted, shown) in [(false, "NoNewPrivs:\t0\n"), (true, "NoNewPrivs:\t1\n")] {
            let mut request = command(&["grep", "NoNewPrivs", "/proc/self/status"]);
            process(&mut request).no_new_privileges = wanted;
            assert_eq!(guest.run(request).await.unwrap().success(), shown);
        }
    });
}

/// Answers mkdir(2) and mkdirat(2) with EPERM; allows all else.
fn no_mkdir() -> MessageField<api::Seccomp> {
    let (load, equal, answer) = (0x20_u16, 0x15_u16, 0x06_u16);
    let instructions = [
        (load, 0, 0, 0),
        (equal, 1, 0, 83),
        (equal, 0, 1, 258),
        (answer, 0, 0, 0x0005_0001_u32),
        (answer, 0, 0, 0x7fff_0000),
    ];
    let program = instructions
        .iter()
        .flat_map(|&(code, jt, jf, k)| [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()].concat())
        .collect();
    MessageField::some(api::Seccomp { program, ..Default::default() })
}

fn seccomp() {
    with_guest(async |guest| {
        let mut request = command(&["sleep", "1000"]);
        request.seccomp = no_mkdir();
        process(&mut request).no_new_privileges = true;
        let container = guest.create(request.clone()).await.unwrap();
        container.start().await.unwrap();
        let outcome = guest.exec(&container, exec_of(&["mkdir", "/tmp/x"])).await.unwrap();
        assert_eq!(outcome.exit, Exit::Code(1));
        assert!(outcome.stderr.contains("Operation not permitted"), "{}", outcome.stderr);

        process(&mut request).args = ["mkdir", "/tmp/x"].map(str::to_owned).to_vec();
        request.container_id += "-2";
        let outcome = guest.run(request).await.unwrap();
        assert!(outcome.stderr.contains("Operation not permitted"), "{}", outcome.stderr);
    });
}

fn seccomp_without_nnp() {
    with_guest(async |guest| {
        let mut request = shell("mkdir /tmp/x; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status");
        request.seccomp = no_mkdir();
        let process = process(&mut request);
        process.user = MessageField::some(api::User { uid: 1000, gid: 100, ..Default::default() });
        process.capabilities = with([&[]; 5]);
        let outcome = guest.run(request).await.unwrap();
        assert!(outcome.stderr.contains("Operation not permitted"), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "NoNewPrivs:\t0\nSeccomp:\t2\n");
    });
}

fn bad_filter() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        // A jump out of the program.
        let program = [0x05, 0, 0, 0, 9, 0, 0, 0].to_vec();
        request.seccomp = MessageField::some(api::Seccomp { program, ..Default::default() });
        let failure = guest.create(request).await.unwrap_err();
        assert!(failure.message.starts_with("cannot set the seccomp filter"), "{failure}");
    });
}

fn rlimits() {
    with_guest(async |guest| {
        let mut request = shell("ulimit -Sn; ulimit -Hn; ulimit -Sc");
        let limit = |type_: &str, soft, hard| api::Rlimit {
            type_: type_.to_owned(),
            soft,
            hard,
            ..Default::default()
        };
        process(&mut request).rlimits = vec![limit("RLIMIT_NOFILE", 100, 200), limit("RLIMIT_CORE", 0, 0)];
        assert_eq!(guest.run(request).await.unwrap().success(), "100\n200\n0\n");
    });
}

fn priorities() {
    with_guest(async |guest| {
        let mut request =
            shell("cat /proc/self/oom_score_adj; set -- $(cat /proc/self/stat); echo ${19} ${41}");
        let process = process(&mut request);
        process.oom_score_adj = Some(500);
        // SCHED_BATCH, which has a nice value.
        process.scheduler = MessageField::some(api::Scheduler { policy: 3, nice: 7, ..Default::default() });
        process.io_priority =
            MessageField::some(api::IoPriority { class: 3, level: 0, ..Default::default() });
        process.cpus = vec![0];
        assert_eq!(guest.run(request).await.unwrap().success(), "500\n7 3\n");
    });
}

fn personality() {
    with_guest(async |guest| {
        let mut request = command(&["busybox", "uname", "-m"]);
        request.personality = Some(8);
        assert_eq!(guest.run(request).await.unwrap().success(), "i686\n");
    });
}

fn hidden() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        process(&mut request).capabilities = with([&[]; 5]);
        let container = guest.create(request).await.unwrap();
        let mut request = exec_of(&["cat", "/proc/1/environ"]);
        request.process.mut_or_insert_default().capabilities = with([&[]; 5]);
        let outcome = guest.exec(&container, request).await.unwrap();
        assert_eq!(outcome.exit, Exit::Code(1), "{outcome:?}");
    });
}
