//! Containers one after the other, many at once, and many processes in one: nothing of them stays or grows.

use std::fs;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Census, Deadline, Process, Runtime, Setup, alone};

/// How long everything of a deleted container may take to vanish.
const GRACE: Duration = Duration::from_secs(2);

#[test]
fn a_life_after_the_other_leaves_nothing() -> Result<()> {
    let _order = alone();
    let bundle = Bundle::new(&["sleep", "1000"])?;
    let runv = Runtime::new(&bundle)?;
    let before = Census::take()?;
    for _ in 0..Setup::times("RUNV_TEST_LIVES", 5)? {
        runv.leave(&["create", "--pid-file", "pid", "c1"])?.expect(0)?;
        runv.call(&["start", "c1"])?.expect(0)?;
        ensure!(runv.call(&["exec", "c1", "echo", "out"])?.expect(0)?.stdout == "out\n");
        runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
        runv.wait_for_status("c1", "stopped")?;
        runv.call(&["delete", "c1"])?.expect(0)?;
    }
    ensure!(fs::read_dir(runv.root())?.count() == 0, "the root is not empty");
    before.restored(Deadline::after(GRACE)?)
}

#[test]
fn many_at_once_each_have_their_own_and_leave_nothing() -> Result<()> {
    let _order = alone();
    let usual = Setup::get()?.repeats("containers at once", 8, 3);
    let count = Setup::times("RUNV_TEST_AT_ONCE", usual)?;
    let bundles: Vec<Bundle> = (0..count)
        .map(|_| Bundle::shell("cat /proc/sys/kernel/hostname; exec sleep 1000"))
        .collect::<Result<_>>()?;
    let bundles: Vec<Bundle> = bundles
        .into_iter()
        .enumerate()
        .map(|(number, bundle)| bundle.edit(|spec| spec["hostname"] = format!("host{number}").into()))
        .collect::<Result<_>>()?;
    let before = Census::take()?;
    let all: Vec<Runtime<'_>> = bundles.iter().map(Runtime::new).collect::<Result<_>>()?;
    let deadline = Deadline::after(Duration::from_secs(60 + 10 * count))?;
    at_once(&all, &["create", "c1"], deadline)?;
    at_once(&all, &["start", "c1"], deadline)?;
    at_once(&all, &["exec", "c1", "true"], deadline)?;
    for (number, runv) in all.iter().enumerate() {
        let host = runv.call(&["exec", "c1", "hostname"])?.expect(0)?.stdout;
        ensure!(host == format!("host{number}\n"), "container {number} is {host:?}");
    }
    at_once(&all, &["delete", "--force", "c1"], deadline)?;
    for runv in &all {
        ensure!(fs::read_dir(runv.root())?.count() == 0, "the root is not empty");
    }
    drop(all);
    before.restored(Deadline::after(GRACE)?)
}

/// The same verb in all roots at the same time.
fn at_once(all: &[Runtime<'_>], arguments: &[&str], deadline: Deadline) -> Result<()> {
    let children: Vec<Child> =
        all.iter().map(|runv| runv.start_to_leave(arguments)).collect::<Result<_>>()?;
    for (runv, mut child) in all.iter().zip(children) {
        let end = || child.try_wait().context("cannot wait");
        let status = deadline.wait_for(&format!("the end of {arguments:?}"), end)?;
        ensure!(status.success(), "{arguments:?}: {status}: {:?}", runv.read("err"));
    }
    Ok(())
}

/// What a process holds, which must not grow with what it has done.
#[derive(Debug)]
struct Holdings {
    program: String,
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    fn of(process: &Process) -> Result<Self> {
        let count = |what: &str| {
            let directory = format!("/proc/{}/{what}", process.pid.as_raw_nonzero());
            Ok::<_, anyhow::Error>(fs::read_dir(&directory).context(directory)?.count())
        };
        Ok(Self { program: process.program.clone(), descriptors: count("fd")?, threads: count("task")? })
    }

    /// The device process holds a file for each that the guest remembers, and the guest may have forgotten some.
    fn is_within(&self, before: &Self) -> bool {
        self.program == before.program
            && self.descriptors <= before.descriptors
            && self.threads <= before.threads
    }
}

/// Memory of a process that is its own, in KiB (proc(5), `RssAnon`).
fn own_memory(process: &Process) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    line.trim_end_matches("kB").trim().parse().context("RssAnon")
}

/// The processes that live as long as a container hold after many calls what they held after few.
#[test]
fn many_processes_in_one_container_leave_nothing_in_its_keepers() -> Result<()> {
    let _order = alone();
    let bundle = Bundle::new(&["sleep", "1000"])?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let monitor = runv.read("pid").parse().context("no pid")?;
    let monitor = rustix::process::Pid::from_raw(monitor).context("process 0")?;
    let use_it = |times: u64| -> Result<()> {
        for _ in 0..times {
            runv.call(&["exec", "c1", "true"])?.expect(0)?;
            runv.call(&["exec", "c1", "missing"])?.expect(127)?;
            runv.call(&["ps", "c1"])?.expect(0)?;
            runv.call(&["pause", "c1"])?.expect(0)?;
            runv.call(&["resume", "c1"])?.expect(0)?;
            runv.call(&["events", "--stats", "c1"])?.expect(0)?;
        }
        Ok(())
    };
    let holdings = || -> Result<Vec<Holdings>> {
        let tree = Process::tree(monitor)?;
        // How many threads QEMU has for its disks changes by itself.
        tree.iter().filter(|process| !process.program.starts_with("qemu")).map(Holdings::of).collect()
    };
    // What is made once and kept, is there then.
    use_it(3)?;
    let before = holdings()?;
    let monitors = Process::tree(monitor)?.into_iter().next().context("no monitor")?;
    let memory = own_memory(&monitors)?;
    use_it(Setup::times("RUNV_TEST_EXECS", 5)?)?;
    let within = || {
        let now = holdings()?;
        let all = now.iter().zip(&before).all(|(now, before)| now.is_within(before));
        Ok((all && now.len() == before.len()).then_some(()))
    };
    let waited = Deadline::after(GRACE)?.wait_for("no more than what was held before", within);
    waited.with_context(|| format!("before {before:?}, now {:?}", holdings()))?;
    let now = own_memory(&monitors)?;
    ensure!(now < memory + 512, "the monitor has grown from {memory} to {now} KiB");
    Ok(())
}
