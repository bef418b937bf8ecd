//! A root file system whose changes stay in the guest: `io.runv.rootfs_upper`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use e2e::{Bundle, Sandbox, together};
use serde_json::json;

fn with_upper(script: &str, upper: &str) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| spec["annotations"] = json!({"io.runv.rootfs_upper": upper}))
}

fn output(bundle: &Bundle) -> Result<String> {
    Ok(Sandbox::run(bundle)?.finish()?.expect_code(0)?.text())
}

/// Each path with its type, mode, time of change and size: what a change of anything would alter.
fn snapshot(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
        let (mode, modified) = (metadata.permissions(), metadata.modified()?);
        found.insert(path, format!("{mode:?} {modified:?} {}", metadata.len()));
    }
    Ok(found)
}

/// Files, hard links, deletions and renames of directories that the image has.
#[test]
fn what_is_written_stays_in_the_guest() -> Result<()> {
    let _order = together();
    let bundle = with_upper(
        "set -e; grep -o '^overlay / overlay rw' /proc/mounts
         echo more >>/etc/group; tail -n 1 /etc/group; rm /etc/passwd; test ! -e /etc/passwd
         mv /old /moved; cat /moved/deep/file; rm -r /gone; mkdir /gone; ls -A /gone
         echo new >/etc/new; ln /etc/new /etc/linked; stat -c %h /etc/linked
         before=$(stat -c %i:%d /bin/probe); chmod 700 /bin/probe; test $before = $(stat -c %i:%d /bin/probe)
         stat -c %d / /bin/probe /etc/new | uniq | wc -l; stat -c %a /; probe xattr /etc/new; probe map /etc/new
         mkdir -p /made/later; grep -c . /proc/mounts >/made/later/file",
        "tmpfs:32M",
    )?;
    for directory in ["old/deep", "gone/deep"] {
        fs::create_dir_all(bundle.rootfs().join(directory))?;
        fs::write(bundle.rootfs().join(directory).join("file"), "kept\n")?;
    }
    fs::set_permissions(bundle.rootfs(), std::os::unix::fs::PermissionsExt::from_mode(0o751))?;
    let bundle = bundle.mount("tmpfs", "tmpfs", "/mounted/here", &[])?;
    let before = snapshot(&bundle.rootfs())?;
    let text = output(&bundle)?;
    assert!(text.starts_with("overlay / overlay rw\nmore\nkept\n2\n1\n751\n"), "{text}");
    assert_eq!(snapshot(&bundle.rootfs())?, before);
    Ok(())
}

/// The size is a limit of its own, and what is in it counts as the container's memory.
#[test]
fn the_layer_is_as_large_as_asked_and_charged_to_the_container() -> Result<()> {
    let _order = together();
    let bundle = with_upper(
        "dd if=/dev/zero of=/file bs=1M count=30 2>&1 | grep -o 'No space left.*'; ls -s /file | cut -d' ' -f1
         used=$(cat /sys/fs/cgroup/memory.current); test $used -gt 25165824 && echo charged
         rm /file; dd if=/dev/zero of=/file bs=1M count=20 2>/dev/null && echo again",
        "tmpfs:24M",
    )?
    .edit(|spec| spec["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}}))?;
    let text = output(&bundle)?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (lines.first(), lines.get(2..)),
        (Some(&"No space left on device"), Some(&["charged", "again"][..])),
        "{text}"
    );
    let bundle = bundle.edit(|spec| spec["annotations"]["io.runv.rootfs_upper"] = json!("tmpfs:65M"))?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(1)?;
    assert!(finished.errors().contains("does not fit in the container's memory of 64 MiB"), "{finished:?}");
    Ok(())
}

/// `root.readonly` holds for the workload; mount points that are missing are still not made on the host.
#[test]
fn a_read_only_root_is_read_only() -> Result<()> {
    let _order = together();
    let bundle = with_upper("touch /file 2>&1; echo ok >/made/file; cat /made/file", "tmpfs:8M")?
        .edit(|spec| spec["root"]["readonly"] = json!(true))?
        .mount("tmpfs", "tmpfs", "/made", &[])?;
    let text = output(&bundle)?;
    assert!(text.contains("Read-only file system") && text.ends_with("ok\n"), "{text}");
    assert!(!bundle.rootfs().join("made").exists());
    Ok(())
}

/// What docker in a container needs: a place for layers, and the right to mount them.
#[test]
fn a_container_mounts_overlays_of_its_own_on_a_tmpfs() -> Result<()> {
    let _order = together();
    let bundle = with_upper(
        "set -e; cd /var/lib/docker; mkdir one two upper work merged; echo 1 >one/file; echo 2 >two/file; echo 2 >two/other
         mount -t overlay overlay -o lowerdir=two:one,upperdir=upper,workdir=work merged
         cat merged/file merged/other; rm merged/file; echo new >merged/new; ls upper; stat -c %F upper/file
         umount merged; cd /; mkdir upper work merged
         mount -t overlay overlay -o lowerdir=/etc,upperdir=/upper,workdir=/work /merged 2>/dev/null || echo refused",
        "tmpfs:8M",
    )?
    .mount("tmpfs", "tmpfs", "/var/lib/docker", &["size=8m"])?
    .edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"]);
        }
    })?;
    assert_eq!(output(&bundle)?, "2\n2\nfile\nnew\ncharacter special file\nrefused\n");
    Ok(())
}

/// The administrator's default, and a bundle's way out of it.
#[test]
fn the_configuration_has_a_default_for_it() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo x >/file; cat /file")?;
    let run = |bundle: &Bundle| {
        Sandbox::configured(bundle, "rootfs_upper = \"tmpfs:8M\"")?.finish()?.expect_code(0)
    };
    assert_eq!(run(&bundle)?.text(), "x\n");
    assert!(!bundle.rootfs().join("file").exists());
    let bundle = bundle.edit(|spec| spec["annotations"] = json!({"io.runv.rootfs_upper": "none"}))?;
    run(&bundle)?;
    assert!(bundle.rootfs().join("file").exists());
    Ok(())
}
