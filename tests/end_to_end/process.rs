//! The `process` object: environment, working directory, user and groups.

use anyhow::Result;
use e2e::{Bundle, Sandbox, together};
use serde_json::json;

fn output(bundle: &Bundle) -> Result<String> {
    Ok(Sandbox::run(bundle)?.finish()?.expect_code(0)?.text())
}

#[test]
fn the_environment_is_exactly_the_bundles() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["/bin/env"])?.edit(|spec| {
        spec["process"]["env"] = json!(["PATH=/bin", "EMPTY=", "ODD=a=b c\"'\u{e4}", "MULTI=1\n2"])
    })?;
    let text = output(&bundle)?;
    // runc adds a missing HOME; the specification says neither.
    let text = text.strip_suffix("HOME=/root\n").unwrap_or(&text);
    assert_eq!(text, "PATH=/bin\nEMPTY=\nODD=a=b c\"'\u{e4}\nMULTI=1\n2\n");
    Ok(())
}

#[test]
fn the_working_directory_is_the_bundles() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["pwd"])?.edit(|spec| spec["process"]["cwd"] = json!("/usr/../tmp"))?;
    assert_eq!(output(&bundle)?, "/tmp\n");
    Ok(())
}

#[test]
fn user_and_groups_are_exactly_the_bundles() -> Result<()> {
    let _order = together();
    let bundle =
        Bundle::shell("grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -s '\\t ' ' '")?.edit(|spec| {
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [50, 2000] });
        })?;
    let text = output(&bundle)?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines, ["Uid: 1000 1000 1000 1000", "Gid: 1001 1001 1001 1001", "Groups: 50 2000"]);
    Ok(())
}

#[test]
fn another_user_makes_files_of_its_own_and_is_refused_those_of_root() -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let _order = together();
    let bundle = Bundle::shell("echo mine >/tmp/file; ! echo x 2>/dev/null >/etc/passwd; id -u")?
        .edit(|spec| spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }))?;
    std::fs::set_permissions(bundle.rootfs().join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    assert_eq!(output(&bundle)?, "1000\n");
    let file = std::fs::metadata(bundle.rootfs().join("tmp/file"))?;
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1000, 1000, 0o644));
    Ok(())
}

#[test]
fn umask_is_the_bundles() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("umask")?.edit(|spec| spec["process"]["user"]["umask"] = json!(0o77))?;
    assert_eq!(output(&bundle)?, "0077\n");
    Ok(())
}

#[test]
fn arguments_arrive_as_they_are() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["printf", "<%s>", "a b", "", "$HOME", "*", "\u{1F600}", "-n"])?;
    assert_eq!(output(&bundle)?, "<a b><><$HOME><*><\u{1F600}><-n>");
    Ok(())
}

#[test]
fn the_executable_is_found_through_path_of_the_bundle() -> Result<()> {
    let _order = together();
    let bundle =
        Bundle::new(&["only-here"])?.edit(|spec| spec["process"]["env"] = json!(["PATH=/nowhere:/opt/x"]))?;
    std::fs::create_dir_all(bundle.rootfs().join("opt/x"))?;
    let script = bundle.rootfs().join("opt/x/only-here");
    std::fs::write(&script, "#!/bin/sh\necho found\n")?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    assert_eq!(output(&bundle)?, "found\n");
    Ok(())
}
