//! Makes a container: checks, folder, monitor; undoes all of it when any of it fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::Child;

use anyhow::{Context, anyhow};

use super::id::ContainerId;
use super::membership::{self, Membership};
use super::record::Record;
use super::remove;
use super::store::{Folder, Store};
use crate::bundle::load::{self, Bundle};
use crate::control::message::{receive, send};
use crate::failure::Failure;
use crate::hooks::{self, Moment};
use crate::host_cgroup::{self, systemd::Scope};
use crate::io::console;
use crate::monitor::launch::{Launched, Parent, Streams, launch};
use crate::monitor::plan::{Announcement, MonitorPlan, Proceed};
use crate::preserved::Preserved;
use crate::report::LogFormat;
use crate::sandbox::inherited_fds::withhold_inherited_fds;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) bundle: &'a Path,
    pub(crate) console_socket: Option<&'a Path>,
    pub(crate) pid_file: Option<&'a Path>,
    pub(crate) config: Option<&'a Path>,
    pub(crate) log: Option<&'a Path>,
    pub(crate) log_format: LogFormat,
    /// Whether it gets cgroups on the host.
    pub(crate) cgroups: bool,
    /// Whether systemd makes them.
    pub(crate) systemd: bool,
    pub(crate) parent: Parent,
}

/// A created container.
#[derive(Debug)]
pub(crate) struct Made {
    /// Its folder.
    pub(crate) folder: Folder,
    /// Its monitor, where that is this process's child.
    pub(crate) monitor: Option<Child>,
}

/// Makes it. The monitor alone keeps what is preserved.
pub(crate) fn make(store: &Store, order: &Order<'_>, preserved: Preserved) -> Result<Made, Failure> {
    withhold_inherited_fds()?;
    let bundle = load::load(order.bundle)?;
    check_console(&bundle, order)?;
    let path = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let (scope, cgroups) = match (order.cgroups, order.systemd) {
        (false, _) => (None, Vec::new()),
        (true, false) => (None, host_cgroup::plan(path, order.id.as_str())?),
        (true, true) => {
            let (scope, cgroups) = host_cgroup::plan_scope(path, order.id.as_str())?;
            (Some(scope), cgroups)
        }
    };
    let membership = membership::find(store, &bundle.spec)?;
    let record = Record::new(order.id.clone(), &bundle)?;
    let folder = store.create(&record)?;
    match launch_monitor(&folder, order, (bundle, preserved), (cgroups, scope), membership) {
        Ok(monitor) => Ok(Made { folder, monitor }),
        Err(failure) => Err(failure.after(remove::clear(&folder))),
    }
}

/// In runc's words.
fn check_console(bundle: &Bundle, order: &Order<'_>) -> Result<(), Failure> {
    let detached = order.parent == Parent::Subreaper;
    match (bundle.wants_terminal(), order.console_socket) {
        (true, None) if detached => {
            Err(anyhow!("cannot allocate tty if runv will detach without setting console socket").into())
        }
        (false, Some(_)) => {
            Err(anyhow!("cannot use console socket if runv will not detach or allocate tty").into())
        }
        _ => Ok(()),
    }
}

fn launch_monitor(
    folder: &Folder,
    order: &Order<'_>,
    (mut bundle, preserved): (Bundle, Preserved),
    (cgroups, scope): (Vec<PathBuf>, Option<Scope>),
    membership: Option<Membership>,
) -> Result<Option<Child>, Failure> {
    let streams = match order.console_socket {
        Some(socket) => Streams::Terminal(terminal(&bundle, socket)?),
        None => Streams::Inherited,
    };
    if let Some(process) = bundle.spec.process_mut() {
        let told = preserved.environment();
        if !told.is_empty() {
            process.env_mut().get_or_insert_default().extend(told);
        }
    }
    let plan = MonitorPlan {
        folder: absolute(folder.path())?,
        bundle: bundle.directory,
        spec: bundle.spec,
        config: order.config.map(absolute).transpose()?,
        log: order.log.map(absolute).transpose()?,
        log_format: order.log_format,
        cgroups,
        scope,
        membership,
        descriptors: preserved.kinds(),
    };
    let launched = launch(
        "monitor",
        plan.spec.process().as_ref(),
        &plan,
        (streams, preserved.descriptors),
        order.parent,
    );
    let launched = launched.context("cannot start the monitor")?;
    await_creation(&launched, folder)?;
    if let Some(path) = order.pid_file {
        write_pid_file(path, folder.read()?.monitor.pid).context("cannot write the pid file")?;
    }
    Ok(launched.child)
}

fn terminal(bundle: &Bundle, socket: &Path) -> Result<std::os::fd::OwnedFd, Failure> {
    let size = bundle.spec.process().as_ref().and_then(|process| process.console_size());
    let cells = |cells: u64| u16::try_from(cells).unwrap_or(0);
    let (rows, columns) = size.map_or((0, 0), |size| (cells(size.height()), cells(size.width())));
    Ok(console::open_for(socket, rows, columns)?)
}

fn await_creation(launched: &Launched, folder: &Folder) -> Result<(), Failure> {
    loop {
        let announced = receive::<Announcement>(&launched.socket).context("cannot hear of the monitor")?;
        match announced {
            Some((Announcement::Prepared, _)) => {
                let record = folder.read()?;
                for moment in [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer] {
                    hooks::run(moment, &record)?;
                }
                send(&launched.socket, &Proceed, None).context("cannot speak to the monitor")?;
            }
            Some((Announcement::Created, _)) => return Ok(()),
            Some((Announcement::Failed { message, exit_code }, _)) => {
                return Err(Failure::new(anyhow!(message), exit_code));
            }
            Some((Announcement::Running { .. }, _)) | None => {
                return Err(anyhow!("the container's monitor died while it made the container").into());
            }
        }
    }
}

/// Readers never see half of it.
pub(crate) fn write_pid_file(path: &Path, pid: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let new = path.with_file_name(format!(".{name}"));
    let mut file = File::create(&new)?;
    let written = file.write_all(pid.to_string().as_bytes()).and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| {
        // The error in hand says more than one of cleaning up after it.
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        write_pid_file(&path, 7).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "7");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(write_pid_file(&path, 7).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
