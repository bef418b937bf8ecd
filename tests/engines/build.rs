//! Images that are built with a container for each step.

use anyhow::Result;
use e2e::{Setup, together};

use crate::engine::{Engine, IMAGE};

crate::engine::each_engine! {
    images_are_built_in_containers,
}

/// What a step leaves, and what the steps before it have left: files, owners, links, the kernel's name.
const STEPS: &str = "RUN echo one >/one && uname -r >/kernel
RUN test -s /one && mkdir -p /a/b && chown 5:6 /a/b && ln -s ../one /a/link && chmod 4750 /one
CMD stat -c '%n %u:%g %a' /a/b /one; readlink /a/link; cat /a/link /kernel
";

fn images_are_built_in_containers(engine: &Engine) -> Result<()> {
    let _order = together();
    let directory = tempfile::Builder::new().prefix("context.").tempdir()?;
    std::fs::write(directory.path().join("Dockerfile"), format!("FROM {IMAGE}\n{STEPS}"))?;
    let context = directory.path().to_string_lossy().into_owned();
    // podman's own default needs no runtime.
    let isolation: &[&str] = if engine.name == "podman" { &["--isolation", "oci"] } else { &[] };
    let build = ["build", "--network", "none", "--tag", "built"];
    engine.call(build.iter().chain(isolation).chain(&[context.as_str()]))?.expect(0)?;
    let answer = engine.call(["run", "--rm", "--network", "none", "built"])?.expect(0)?;
    let kernel = answer.stdout.strip_prefix("/a/b 5:6 755\n/one 0:0 4750\n../one\none\n");
    assert!(kernel.is_some_and(|kernel| kernel.ends_with("-runv\n")), "{}: {answer:?}", engine.name);

    std::fs::write(directory.path().join("Dockerfile"), format!("FROM {IMAGE}\nRUN exit 7\n"))?;
    let failed = engine.call(build.iter().chain(isolation).chain(&[context.as_str()]))?;
    assert_ne!(failed.code, 0, "{}: {failed:?}", engine.name);
    assert!(format!("{failed:?}").contains('7'), "{}: {failed:?}", engine.name);
    Ok(())
}

/// buildah calls the runtime by itself: create, state again and again, start, delete.
#[test]
fn buildah_runs_commands_in_a_working_container() -> Result<()> {
    let _order = together();
    let podman = Engine::podman()?;
    let buildah = podman.as_buildah();
    let runtime = Setup::get()?.program("runv");
    let run = ["run", "--isolation", "oci", "--network", "none", "--runtime"].map(std::ffi::OsString::from);
    let run = |command: &[&str], container: &str| {
        let words = run.iter().cloned().chain([runtime.clone().into(), container.into()]);
        buildah.call(words.chain(command.iter().map(std::ffi::OsString::from)))
    };
    let container = buildah.call(["from", "--pull-never", IMAGE])?.expect(0)?.stdout;
    let container = container.trim();
    run(&["sh", "-c", "uname -r >/kernel; echo out; echo err >&2"], container)?.expect(0)?;
    let answer = run(&["cat", "/kernel"], container)?.expect(0)?;
    assert!(answer.stdout.ends_with("-runv\n"), "{answer:?}");
    assert_eq!(run(&["sh", "-c", "exit 7"], container)?.code, 7);
    buildah.call(["rm", container])?.expect(0)?;
    Ok(())
}
