//! What cannot be done, in which words, with nothing left. (That nothing is left is checked for every test.)

use std::fs;
use std::os::unix::fs::PermissionsExt;

use agent::failure::FailureKind;
use agent_protocol::agent as api;
use protobuf::MessageField;

use crate::Test;
use crate::guest::{command, mount_of, process, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("executables_that_cannot_be_run_are_explained_in_runcs_words", executables),
    ("a_script_without_its_interpreter_fails_at_the_start", interpreter),
    ("the_users_rights_decide", users_rights),
    ("an_unknown_user_is_named", unknown_user),
    ("a_bad_mount_says_what_is_bad", bad_mounts),
    ("a_missing_root_is_named", missing_root),
    ("a_file_as_working_directory_is_refused", file_as_cwd),
];

fn executables() {
    with_guest(async |guest| {
        let text = guest.rootfs().join("bin/text");
        fs::write(&text, "no program").unwrap();
        fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).unwrap();
        for (name, kind, message) in [
            ("foo", FailureKind::ExecutableNotFound, "exec: \"foo\": executable file not found in $PATH"),
            ("/foo", FailureKind::ExecutableNotFound, "exec: \"/foo\": stat /foo: no such file or directory"),
            ("/bin/text", FailureKind::ExecutableNotPermitted, "exec: \"/bin/text\": permission denied"),
            ("text", FailureKind::ExecutableNotFound, "exec: \"text\": executable file not found in $PATH"),
            ("/bin", FailureKind::ExecutableNotPermitted, "exec: \"/bin\": is a directory"),
        ] {
            let failure = guest.create(command(&[name])).await.unwrap_err();
            assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
        }
    });
}

fn interpreter() {
    with_guest(async |guest| {
        for (content, kind, message) in [
            ("#!/none\n", FailureKind::ExecutableNotFound, "exec /bin/script: no such file or directory"),
            ("no program", FailureKind::ExecutableNotPermitted, "exec /bin/script: exec format error"),
        ] {
            let script = guest.rootfs().join("bin/script");
            fs::write(&script, content).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let container = guest.create(command(&["script"])).await.unwrap();
            let failure = container.start().await.unwrap_err();
            assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
            container.wait().await;
        }
    });
}

fn users_rights() {
    with_guest(async |guest| {
        fs::set_permissions(guest.rootfs().join("bin/busybox"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut request = command(&["/bin/true"]);
        process(&mut request).user = MessageField::some(api::User { uid: 1, gid: 1, ..Default::default() });
        let failure = guest.create(request).await.unwrap_err();
        assert_eq!(failure.message, "exec: \"/bin/true\": permission denied");
    });
}

fn unknown_user() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        process(&mut request).user.mut_or_insert_default().username = "nobody".to_owned();
        let failure = guest.create(request).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::UnknownUser);
        assert_eq!(failure.message, "unable to find user nobody: no matching entries in passwd file");
    });
}

fn bad_mounts() {
    with_guest(async |guest| {
        fs::write(guest.share.join("mounts/file"), "").unwrap();
        for (mount, words) in [
            (
                mount_of("tmpfs", "tmpfs", "/x", &["size=lots"]),
                &["cannot mount tmpfs for \"/x\"", "size"][..],
            ),
            (
                mount_of("tmpfs", "tmpfs", "/x", &["sizzle=1"]),
                &["cannot mount tmpfs for \"/x\"", "sizzle"][..],
            ),
            (mount_of("nosuchfs", "x", "/x", &[]), &["cannot mount nosuchfs for \"/x\""][..]),
            (mount_of("bind", "mounts/none", "/x", &[]), &["mounts/none", "No such file"][..]),
            (mount_of("bind", "mounts/file", "/etc", &[]), &["cannot attach the mount on \"/etc\""][..]),
            (mount_of("bind", "rootfs", "/etc/passwd", &[]), &["mount point \"/etc/passwd\""][..]),
        ] {
            let mut request = command(&["true"]);
            request.mounts.push(mount);
            let failure = guest.create(request).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Mount, "{failure}");
            for word in words {
                assert!(failure.message.contains(word), "{word}: {failure}");
            }
            assert!(!failure.message.contains('\n'));
        }
    });
}

fn missing_root() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        request.root.mut_or_insert_default().share_path = "nothing".to_owned();
        let failure = guest.create(request).await.unwrap_err();
        assert!(failure.message.contains("root file system \"nothing\""), "{failure}");
    });
}

fn file_as_cwd() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        process(&mut request).cwd = "/etc/passwd".to_owned();
        let failure = guest.create(request).await.unwrap_err();
        assert!(failure.message.contains("working directory \"/etc/passwd\""), "{failure}");
    });
}
