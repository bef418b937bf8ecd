//! `[virtio_fs]` of the configuration: what its options change of the root file system.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;
use e2e::pattern::Pattern;
use e2e::{Bundle, Sandbox, together};
use serde_json::json;

const LENGTH: u64 = 3_000_001;

/// Whatever is cached, and wherever: what the guest wrote is on the host when it has ended.
#[test]
fn each_way_of_caching_keeps_what_is_written() -> Result<()> {
    let _order = together();
    for options in ["cache = \"never\"", "cache = \"always\"", "cache = \"always\"\nwriteback = true"] {
        let bundle = Bundle::shell(&format!(
            "set -e; mkdir /w; probe map /w/map; probe lock /w/lock; probe xattr /w/xattr; probe write-file /w/file {LENGTH}
             echo first >/w/text; echo second >>/w/text; truncate -s 3 /w/map; mv /w/text /w/moved; cat /w/moved"
        ))?;
        let sandbox = Sandbox::configured(&bundle, &format!("[virtio_fs]\n{options}\n"))?;
        let text = sandbox.finish()?.expect_code(0)?.text();
        assert_eq!(text, format!("mapped\nlocked\nattributes\nwrote {LENGTH}\nfirst\nsecond\n"), "{options}");
        let at = |name: &str| bundle.rootfs().join("w").join(name);
        assert_eq!(fs::read_to_string(at("moved"))?, "first\nsecond\n", "{options}");
        assert_eq!(fs::read_to_string(at("map"))?, "mmm", "{options}");
        assert_eq!(Pattern::new(3).verify(&mut fs::File::open(at("file"))?)?, LENGTH, "{options}");
    }
    Ok(())
}

/// A user whom a list allows to read, and another whom it does not.
fn with_a_list(options: &str) -> Result<(Bundle, i32, String)> {
    let script = "umask 077; echo secret >/file; probe acl /file 1000 2>&1 | grep -o 'not supported'
        su -s /bin/sh alice -c 'cat /file' 2>&1; su -s /bin/sh bob -c 'cat /file' 2>&1";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        spec["process"]["noNewPrivileges"] = json!(false);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SETUID", "CAP_SETGID"]);
        }
    })?;
    let users = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n";
    fs::write(bundle.rootfs().join("etc/passwd"), users)?;
    let finished = Sandbox::configured(&bundle, &format!("[virtio_fs]\n{options}\n"))?.finish()?;
    let code = finished.code().unwrap_or(-1);
    Ok((bundle, code, finished.text()))
}

#[test]
fn access_control_lists_hold_where_they_are_switched_on() -> Result<()> {
    let _order = together();
    let refused = "cat: can't open '/file': Permission denied\n";
    let (bundle, code, text) = with_a_list("posix_acl = true")?;
    assert_eq!((code, text), (1, format!("secret\n{refused}")));
    let file = bundle.rootfs().join("file");
    // Of a file with a list, the group's bits are the mask.
    assert_eq!(fs::metadata(&file)?.mode() & 0o777, 0o640);
    assert!(xattr::get(&file, "system.posix_acl_access")?.is_some(), "the host has the list, too");

    let (_, _, text) = with_a_list("posix_acl = false")?;
    assert_eq!(text, format!("not supported\n{refused}{refused}"));
    Ok(())
}
