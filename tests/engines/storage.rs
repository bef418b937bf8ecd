//! Volumes, tmpfs, read-only roots.

use std::fs;

use anyhow::Result;
use e2e::together;

use crate::engine::Engine;

crate::engine::each_engine! {
    volumes_are_shared_with_the_host,
    a_read_only_root_has_writable_places,
    names_and_hosts_are_the_engines,
    named_volumes_stay_and_can_be_read_only,
}

fn volumes_are_shared_with_the_host(engine: &Engine) -> Result<()> {
    let _order = together();
    let directory = tempfile::Builder::new().prefix("volume.").tempdir()?;
    fs::write(directory.path().join("in"), "from the host\n")?;
    let writable = format!("{}:/writable", directory.path().display());
    let readonly = format!("{}:/readonly:ro", directory.path().display());
    let file = format!("{}:/etc/one", directory.path().join("in").display());
    let options = ["--volume", &writable, "--volume", &readonly, "--volume", &file];
    let script =
        "cat /readonly/in /etc/one; echo from the guest >/writable/out; touch /readonly/x || echo refused";
    let answer = engine.run(&options, script)?.expect(0)?;
    assert_eq!(answer.stdout, "from the host\nfrom the host\nrefused\n", "{}", engine.name);
    assert_eq!(fs::read_to_string(directory.path().join("out"))?, "from the guest\n");
    Ok(())
}

fn a_read_only_root_has_writable_places(engine: &Engine) -> Result<()> {
    let _order = together();
    let script = "touch /x || echo refused; touch /scratch/x /dev/shm/x && echo there";
    let answer = engine.run(&["--read-only", "--tmpfs", "/scratch"], script)?.expect(0)?;
    assert_eq!(answer.stdout, "refused\nthere\n", "{}", engine.name);
    Ok(())
}

fn names_and_hosts_are_the_engines(engine: &Engine) -> Result<()> {
    let _order = together();
    let answer = engine
        .run(&["--hostname", "guest"], "echo $(cat /etc/hostname); test -s /etc/hosts && echo hosts")?;
    assert_eq!(answer.expect(0)?.stdout, "guest\nhosts\n", "{}", engine.name);
    Ok(())
}

fn named_volumes_stay_and_can_be_read_only(engine: &Engine) -> Result<()> {
    let _order = together();
    engine.call(["volume", "create", "kept"])?.expect(0)?;
    let script = "echo from the guest >/kept/file; cat /seen/file; touch /seen/x || echo refused";
    let answer = engine.run(&["--volume", "kept:/kept", "--volume", "kept:/seen:ro"], script)?.expect(0)?;
    assert_eq!(answer.stdout, "from the guest\nrefused\n", "{}", engine.name);
    let place = engine.call(["volume", "inspect", "--format", "{{.Mountpoint}}", "kept"])?.expect(0)?.stdout;
    assert_eq!(fs::read_to_string(std::path::Path::new(place.trim()).join("file"))?, "from the guest\n");
    engine.call(["volume", "rm", "kept"])?.expect(0)?;
    Ok(())
}
