//! The root file system over virtio-fs: every operation, and what the host then has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::pattern::Pattern;
use e2e::{Bundle, Deadline, Sandbox, Setup, together};
use serde_json::{Value, json};

fn as_root_with_all_capabilities(bundle: Bundle) -> Result<Bundle> {
    let all =
        json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"]);
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set].clone_from(&all);
        }
        spec["process"]["capabilities"]["ambient"] = Value::Null;
    })
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path).with_context(|| path.display().to_string())?.mode() & 0o7777)
}

#[test]
fn names_links_owners_and_modes() -> Result<()> {
    let _order = together();
    let bundle = as_root_with_all_capabilities(Bundle::shell(
        "set -e; mkdir /w; cd /w
         echo one >a; mv a b; echo two >c; mv b c; cat c; rm c
         echo linked >file; ln -s file soft; ln file hard; cat soft hard; stat -c %h file
         echo x >owned; chown 123:456 owned; chmod 4750 owned; stat -c '%u %g %a' owned
         mkdir sub; chmod 1777 sub; mkfifo fifo; rmdir sub; mkdir -p deep/er; mv deep/er deep/est
         touch -d '2001-02-03 04:05:06' dated; echo append >>file; truncate -s 3 file; cat file",
    )?)?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    assert_eq!(finished.text(), "one\nlinked\nlinked\n2\n123 456 4750\nlin");

    let at = |name: &str| bundle.rootfs().join("w").join(name);
    assert!(!at("a").exists() && !at("b").exists() && !at("c").exists());
    assert_eq!(fs::read_link(at("soft"))?, Path::new("file"));
    let (file, hard) = (fs::metadata(at("file"))?, fs::metadata(at("hard"))?);
    assert_eq!((file.ino(), file.nlink(), file.len()), (hard.ino(), 2, 3));
    let owned = fs::metadata(at("owned"))?;
    assert_eq!((owned.uid(), owned.gid(), mode(&at("owned"))?), (123, 456, 0o4750));
    assert!(fs::metadata(at("fifo"))?.file_type().is_fifo());
    assert!(at("deep/est").is_dir() && !at("deep/er").exists() && !at("sub").exists());
    assert_eq!(fs::metadata(at("dated"))?.mtime(), 981_173_106);
    Ok(())
}

#[test]
fn mapping_locks_holes_and_attributes() -> Result<()> {
    let _order = together();
    let bundle = as_root_with_all_capabilities(Bundle::shell(
        "set -e; mkdir /w; probe map /w/map; probe lock /w/lock; probe sparse /w/sparse; probe xattr /w/xattr",
    )?)?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    assert_eq!(finished.text(), "mapped\nlocked\nsparse\nattributes\n");

    let at = |name: &str| bundle.rootfs().join("w").join(name);
    assert_eq!(fs::read_to_string(at("map"))?, "m".repeat(10_000));
    let sparse = fs::metadata(at("sparse"))?;
    assert_eq!(sparse.len(), (1 << 30) + 1);
    assert!(sparse.blocks() < 1000, "{} blocks: the hole is filled", sparse.blocks());
    assert_eq!(xattr::get(at("xattr"), "user.first")?.as_deref(), Some(&[0, 255, 10, 0][..]));
    Ok(())
}

#[test]
fn a_crowded_directory() -> Result<()> {
    let _order = together();
    let count = Setup::get()?.size("files in a directory", 10_000, 1_000);
    let bundle = Bundle::new(&["probe", "crowd", "/w", &count.to_string()])?;
    let finished =
        Sandbox::run(&bundle)?.finish_by(Deadline::after(Duration::from_secs(300))?)?.expect_code(0)?;
    assert_eq!(finished.text(), format!("crowd {count}\n"));
    let mut left: Vec<_> =
        fs::read_dir(bundle.rootfs().join("w"))?.flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        (0..10).map(|index| std::ffi::OsString::from(format!("file-{index:05}"))).collect::<Vec<_>>()
    );
    assert_eq!(fs::read_to_string(bundle.rootfs().join("w/file-00007"))?, "7");
    Ok(())
}

#[test]
fn a_large_file() -> Result<()> {
    let _order = together();
    let length = Setup::get()?.size("bytes of the file", 1 << 30, 64 << 20);
    let bundle = Bundle::new(&["probe", "write-file", "/large", &length.to_string()])?;
    let deadline = Deadline::after(Duration::from_secs(300))?;
    let finished = Sandbox::run(&bundle)?.finish_by(deadline)?.expect_code(0)?;
    assert_eq!(finished.text(), format!("wrote {length}\n"));
    let mut file = fs::File::open(bundle.rootfs().join("large"))?;
    assert_eq!(Pattern::new(3).verify(&mut file)?, length);
    Ok(())
}

#[test]
fn what_the_host_changes_is_seen() -> Result<()> {
    use std::io::Write;
    let _order = together();
    let deadline = Deadline::generous()?;
    // The cache mode "auto" may trust a name for a second.
    let bundle = Bundle::shell(
        "echo ready; read line; until [ -e /shared/new ]; do sleep 0.1; done; cat /shared/new",
    )?;
    let shared = bundle.host_directory("shared")?;
    let bundle = bundle.mount("bind", &shared.to_string_lossy(), "/shared", &["bind"])?;
    let mut running = Sandbox::run(&bundle)?.start()?;
    running.stdout().wait_for("ready", deadline)?;
    fs::write(shared.join("new"), "from the host\n")?;
    running.stdin()?.write_all(b"go\n")?;
    let finished = running.finish(deadline)?.expect_code(0)?;
    assert_eq!(finished.text(), "ready\nfrom the host\n");
    Ok(())
}

/// Engines do so with resolv.conf and hosts.
#[test]
fn a_bound_file_that_the_host_edits_in_place_is_seen() -> Result<()> {
    use std::io::Write;
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle =
        Bundle::shell("cat /one; read line; until grep -q after /one; do sleep 0.1; done; cat /one")?;
    let file = bundle.path().join("one");
    fs::write(&file, "before\n")?;
    let bundle = bundle.mount("bind", &file.to_string_lossy(), "/one", &["bind"])?;
    let mut running = Sandbox::run(&bundle)?.start()?;
    running.stdout().wait_for("before", deadline)?;
    // As long as before, so that only the content tells.
    fs::write(&file, "after.\n")?;
    running.stdin()?.write_all(b"go\n")?;
    assert_eq!(running.finish(deadline)?.expect_code(0)?.text(), "before\nafter.\n");
    Ok(())
}
