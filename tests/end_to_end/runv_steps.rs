//! `runv` killed at each of its steps: whatever it was about to do, `delete --force` leaves nothing.
//!
//! A step is the begin or the end of a system call (`e2e::trace`). `RUNV_TEST_STEPS` of them, spread over the whole
//! run of a command, are tried: a few unless set, more in the soak.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Census, Deadline, Runtime, Setup, Traced, alone, trace};
use rustix::process::{Pid, Signal, kill_process};

/// How long everything of a killed container may take to vanish.
const GRACE: Duration = Duration::from_secs(2);

const ID: &str = "c1";
const DELETE: [&str; 3] = ["delete", "--force", ID];

struct Killing<'a> {
    runv: Runtime<'a>,
    before: Census,
}

impl<'a> Killing<'a> {
    fn new(bundle: &'a Bundle) -> Result<Self> {
        let runv = Runtime::new(bundle)?;
        Ok(Self { runv, before: Census::take()? })
    }

    fn trace(&self, arguments: &[&str], kill_at: Option<u64>) -> Result<Traced> {
        self.trace_words(&self.runv.words(arguments)?, kill_at)
    }

    fn trace_words(&self, words: &[std::ffi::OsString], kill_at: Option<u64>) -> Result<Traced> {
        let output = File::create(self.runv.file("out")).context("cannot make a file")?;
        trace(words, self.runv.root().parent().context("no bundle")?, output, kill_at)
    }

    /// How many steps a command has when nobody kills it.
    fn steps(&self, traced: &Traced) -> Result<u64> {
        ensure!(traced.code == 0 && traced.killed.is_none(), "{traced:?}: {:?}", self.runv.read("out"));
        Ok(traced.steps)
    }

    /// `delete --force` succeeds, and nothing is left.
    fn nothing_is_left(&self) -> Result<()> {
        self.runv.call(&DELETE)?.expect(0)?;
        let left: Vec<_> = fs::read_dir(self.runv.root())?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        self.before.restored(Deadline::after(GRACE)?)
    }

    /// Kills the command, which `prepare` has made possible, at each point.
    fn at_each_point(
        &self,
        arguments: &[&str],
        steps: u64,
        prepare: impl Fn() -> Result<()>,
        check: impl Fn(&Traced) -> Result<()>,
    ) -> Result<()> {
        let mut killed = 0_u64;
        for point in points(steps)? {
            prepare().with_context(|| format!("before step {point}"))?;
            let traced = self.trace(arguments, Some(point))?;
            killed += u64::from(traced.killed.is_some());
            check(&traced)
                .with_context(|| format!("{arguments:?} killed at step {point} of {steps}: {traced:?}"))?;
        }
        // The last may not be reached, as one run has some steps more than another.
        ensure!(killed > 1, "nothing was killed");
        Ok(())
    }

    fn create(&self) -> Result<()> {
        self.runv.leave(&["create", ID])?.expect(0).map(|_| ())
    }

    fn created_and_started(&self) -> Result<()> {
        self.create()?;
        self.runv.call(&["start", ID])?.expect(0).map(|_| ())
    }
}

/// Spread evenly from the first to the last.
fn points(steps: u64) -> Result<impl Iterator<Item = u64>> {
    let usual = Setup::get()?.repeats("steps at which runv is killed", 12, 3);
    let count = Setup::times("RUNV_TEST_STEPS", usual)?.clamp(2, steps.max(2));
    println!("{count} of {steps} steps");
    Ok((0..count).map(move |index| 1 + index * (steps - 1) / (count - 1)))
}

/// Not each verb in the nested host, where a machine takes long: what `runv` does there is the same as here.
fn each_verb() -> Result<bool> {
    Ok(Setup::get()?.repeats("verbs of which runv is killed by themselves", 4, 1) > 1)
}

/// Alone, with a bundle whose container only sleeps.
fn with_sleeper(test: impl FnOnce(&Killing<'_>) -> Result<()>) -> Result<()> {
    let _order = alone();
    let bundle = Bundle::new(&["sleep", "1000"])?;
    test(&Killing::new(&bundle)?)
}

#[test]
fn of_create() -> Result<()> {
    with_sleeper(|killing| {
        let create = ["create", "--pid-file", "pid", ID];
        let steps = killing.steps(&killing.trace(&create, None)?)?;
        killing.nothing_is_left()?;
        killing.at_each_point(&create, steps, || Ok(()), |_| killing.nothing_is_left())
    })
}

#[test]
fn of_start() -> Result<()> {
    if !each_verb()? {
        return Ok(());
    }
    with_sleeper(|killing| {
        killing.create()?;
        let start = ["start", ID];
        let steps = killing.steps(&killing.trace(&start, None)?)?;
        killing.nothing_is_left()?;
        let created = || -> Result<()> {
            // Killed early, it has not reached the container, which can still be started.
            let answer = killing.runv.call(&["state", ID])?;
            if answer.code != 0 { killing.create() } else { Ok(()) }
        };
        killing.at_each_point(&start, steps, created, |_| {
            let status = killing.runv.state(ID)?["status"].clone();
            ensure!(status == "created" || status == "running", "{status}");
            if status == "running" { killing.nothing_is_left() } else { Ok(()) }
        })?;
        killing.nothing_is_left()
    })
}

#[test]
fn of_exec() -> Result<()> {
    if !each_verb()? {
        return Ok(());
    }
    with_sleeper(|killing| {
        killing.created_and_started()?;
        // A proxy whose command was killed may only be on its way into the container's cgroup; one that was done runs on.
        let only_the_init = || -> Result<()> {
            let alone = || {
                let hosts = end_proxies(&killing.runv)?;
                let processes = killing.runv.call(&["ps", ID])?.expect(0)?.stdout;
                Ok((hosts == 0 && processes.lines().count() == 2).then_some(()))
            };
            Deadline::generous()?.wait_for("the end of the process and its proxy", alone)
        };
        for exec in
            [&["exec", ID, "sleep", "0"][..], &["exec", "--detach", "--pid-file", "pid", ID, "sleep", "77"]]
        {
            let steps = killing.steps(&killing.trace(exec, None)?)?;
            only_the_init()?;
            killing.at_each_point(exec, steps, || Ok(()), |_| only_the_init())?;
        }
        killing.nothing_is_left()
    })
}

/// Kills the host processes of what was executed; returns how many there were.
fn end_proxies(runv: &Runtime<'_>) -> Result<usize> {
    let pids: Vec<i32> = serde_json::from_str(&runv.call(&["ps", "-f", "json", ID])?.expect(0)?.stdout)?;
    let proxies: Vec<Pid> = pids.into_iter().skip(1).filter_map(Pid::from_raw).collect();
    for pid in &proxies {
        match kill_process(*pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).context("cannot kill a proxy"),
        }
    }
    Ok(proxies.len())
}

#[test]
fn of_delete() -> Result<()> {
    if !each_verb()? {
        return Ok(());
    }
    with_sleeper(|killing| {
        killing.created_and_started()?;
        let steps = killing.steps(&killing.trace(&DELETE, None)?)?;
        killing.nothing_is_left()?;
        let running = || -> Result<()> {
            let there = killing.runv.call(&["state", ID])?.code == 0;
            if there {
                Ok(())
            } else {
                killing.runv.call(&DELETE)?.expect(0).and_then(|_| killing.created_and_started())
            }
        };
        killing.at_each_point(&DELETE, steps, running, |_| killing.nothing_is_left())
    })
}

/// Here the monitor is traced to its end too, while others start, use and end its container.
#[test]
fn of_a_whole_life() -> Result<()> {
    with_sleeper(|killing| {
        let runv = killing.runv.words(&[])?;
        let script = "\"$@\" create c1 && \"$@\" start c1 && \"$@\" exec c1 true && \"$@\" delete --force c1";
        let mut words: Vec<std::ffi::OsString> = ["sh", "-c", script, "sh"].map(Into::into).into();
        words.extend(runv);
        let steps = killing.steps(&killing.trace_words(&words, None)?)?;
        for point in points(steps)? {
            let traced = killing.trace_words(&words, Some(point))?;
            killing
                .nothing_is_left()
                .with_context(|| format!("killed at step {point} of {steps}: {traced:?}"))?;
        }
        Ok(())
    })
}
