//! The systemd cgroup driver: a container's cgroup on the host is a transient scope (systemd.scope(5)) that systemd is asked
//! for over D-Bus (org.freedesktop.systemd1(5)), as runc does it.
//!
//! The monitor has a process of its own ask ([`ask`]): a client of D-Bus has threads, and signals to the monitor must
//! reach no thread but its main one.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use child::{BoundProcess, Inherited, sealed_file};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zbus::blocking::connection::Builder;
use zbus::blocking::{Connection, Proxy};
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue, Type, Value};

use super::CgroupError;
use super::properties::{self, Properties};
use crate::io::poll::poll_until;

/// Where a unit is when nobody says where; systemd's own default.
const DEFAULT_SLICE: &str = "system.slice";

/// systemd's object on D-Bus.
const MANAGER: &str = "/org/freedesktop/systemd1";

/// The interface of its units.
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// How long systemd may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of what went wrong is told.
const MESSAGE_MAX: u64 = 1024;

/// systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    /// Nobody to ask.
    #[error("cannot reach systemd over D-Bus; without it, let the engine use the cgroup driver cgroupfs")]
    Connect(#[source] zbus::Error),
    /// It refused, or D-Bus did.
    #[error("systemd did not {act} {unit}")]
    Call {
        /// What it was asked to do.
        act: &'static str,
        /// With which unit.
        unit: String,
        /// Why.
        #[source]
        source: zbus::Error,
    },
    /// Two containers, or a container and a service, with the same name.
    #[error(
        "systemd has a unit {0} already; choose another name in linux.cgroupsPath, or end that one: systemctl stop {0}"
    )]
    Taken(String),
    /// It has rules for names, and for slices.
    #[error("systemd does not take {unit} in {slice}; change linux.cgroupsPath")]
    Invalid {
        /// The unit.
        unit: String,
        /// Its slice.
        slice: String,
        /// Why.
        #[source]
        source: zbus::Error,
    },
    /// It tried.
    #[error(
        "systemd did not {act} {unit}: the job's result is `{result}`; systemctl status {unit} may tell more"
    )]
    Job {
        /// What it was asked to do.
        act: &'static str,
        /// The unit.
        unit: String,
        /// As systemd names it.
        result: String,
    },
    /// The process that asks.
    #[error("cannot {0} to ask systemd")]
    Process(&'static str, #[source] io::Error),
    /// In the words of the process that asked.
    #[error("{0}")]
    Told(String),
}

/// A scope, by the names that `linux.cgroupsPath` has for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// The slice that it is in.
    pub(crate) slice: String,
    /// The name of the unit.
    pub(crate) unit: String,
}

impl Scope {
    /// From `slice:prefix:name`; without a path, one for `id`.
    pub(crate) fn parse(path: &str, id: &str) -> Result<Self, CgroupError> {
        let invalid = || CgroupError::NotSystemd(path.to_owned());
        let parts: Vec<&str> = match path {
            "" => vec!["", "runv", id],
            path => path.split(':').collect(),
        };
        let [slice, prefix, name] = parts[..] else { return Err(invalid()) };
        let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        let unit = match prefix {
            _ if name.ends_with(".slice") => return Err(invalid()),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let plain = |text: &str| !text.is_empty() && !text.contains(['/', '\0']) && !text.starts_with('.');
        if !plain(name) || !plain(&unit) || expand(slice).is_none() {
            return Err(invalid());
        }
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// Its cgroup, below the root of a hierarchy.
    pub(crate) fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.unit)
    }
}

/// A scope that a container was given. A name is free for another container once the scope has ended, so it is not
/// enough to end the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartedScope {
    /// Its names.
    pub(crate) scope: Scope,
    /// Which of the units that have had the name (`InvocationID`, systemd.exec(5)); empty if systemd is older than 232.
    pub(crate) invocation: Vec<u8>,
}

/// A slice's name says in which slices it is (systemd.slice(5)): `a-b.slice` is `a.slice/a-b.slice`.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains(['/', '\0']))?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let (mut path, mut prefix) = (PathBuf::new(), String::new());
    for component in name.split('-') {
        if component.is_empty() || component.starts_with('.') {
            return None;
        }
        prefix.push_str(component);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Some(path)
}

/// What systemd is asked for by a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// A scope.
    Start(Order),
    /// Other limits of a scope.
    Set(Change),
}

impl Request {
    fn act_and_unit(&self) -> (&'static str, &str) {
        match self {
            Self::Start(order) => ("start", &order.scope.unit),
            Self::Set(change) => ("change", &change.scope.unit),
        }
    }
}

/// Limits that a scope shall have.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    /// The scope.
    pub(crate) scope: Scope,
    /// Whether the host has cgroups of version 2 only.
    pub(crate) version_2: bool,
    /// The limits; what is not there stays.
    pub(crate) properties: Properties,
}

/// A scope that shall be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The scope.
    pub(crate) scope: Scope,
    /// The container.
    pub(crate) id: String,
    /// The process that it is made for.
    pub(crate) pid: u32,
    /// Whether the host has cgroups of version 2 only.
    pub(crate) version_2: bool,
    /// Its limits.
    pub(crate) properties: Properties,
}

/// Has a process of its own ask, and waits until it is done; returns what [`Systemd::follow`] does.
pub(crate) fn ask(request: &Request) -> Result<Vec<u8>, SystemdError> {
    let failed = |step| move |source| SystemdError::Process(step, source);
    let text = serde_json::to_vec(request).map_err(|error| failed("write a file")(error.into()))?;
    let mut inherited = Inherited::default();
    let plan_fd = inherited.add(sealed_file("runv-scope", &text).map_err(failed("write a file"))?);
    let output = || memfd_create("scope-output", MemfdFlags::CLOEXEC).map(File::from);
    let output = || output().map_err(|errno| failed("make a file")(errno.into()));
    let (mut answer, mut message) = (output()?, output()?);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("runv").arg("scope").arg("--plan-fd").arg(plan_fd.to_string());
    command.stdin(Stdio::null());
    command.stdout(answer.try_clone().map_err(failed("duplicate a descriptor"))?);
    command.stderr(message.try_clone().map_err(failed("duplicate a descriptor"))?);
    inherited.apply(&mut command).map_err(failed("prepare descriptors"))?;
    let mut process = BoundProcess::spawn(command).map_err(failed("start a process"))?;
    let mut fds = [PollFd::from_borrowed_fd(process.ended(), PollFlags::IN)];
    if !poll_until(&mut fds, Instant::now().checked_add(PATIENCE)).map_err(failed("wait"))? {
        let (act, unit) = request.act_and_unit();
        return Err(SystemdError::Told(format!("systemd did not {act} {unit} in time")));
    }
    let mut text = Vec::new();
    let mut read =
        |file: &mut File| file.rewind().and_then(|()| file.take(MESSAGE_MAX).read_to_end(&mut text));
    if process.wait().map_err(failed("wait"))?.success() {
        read(&mut answer).map_err(failed("read the answer"))?;
        return Ok(text);
    }
    // What cannot be read is not told; that it failed is.
    let _ = read(&mut message);
    Err(SystemdError::Told(String::from_utf8_lossy(&text).trim().replace('\n', " ")))
}

/// A connection to systemd.
#[derive(Debug)]
pub(crate) struct Systemd {
    connection: Connection,
    /// How long a job may take.
    patience: Duration,
}

impl Systemd {
    /// By the system's bus.
    pub(crate) fn connect() -> Result<Self, SystemdError> {
        let bus = Builder::system().map(|bus| bus.method_timeout(PATIENCE));
        let connection = bus.and_then(Builder::build).map_err(SystemdError::Connect)?;
        Ok(Self { connection, patience: PATIENCE })
    }

    fn manager(&self) -> zbus::Result<Proxy<'_>> {
        Proxy::new(&self.connection, "org.freedesktop.systemd1", MANAGER, "org.freedesktop.systemd1.Manager")
    }

    /// Does what is asked for; returns the invocation of a scope that was started.
    pub(crate) fn follow(&self, request: &Request) -> Result<Vec<u8>, SystemdError> {
        match request {
            Request::Start(order) => self.start(order),
            Request::Set(change) => self.set(change).map(|()| Vec::new()),
        }
    }

    /// Leaves out what this version of systemd does not know.
    fn keep_known(&self, values: &mut Vec<(&'static str, Value<'static>)>) {
        // Nothing is known of one that does not say its version.
        let version = self.version().unwrap_or(0);
        values.retain(|(name, _)| properties::is_known(name, version));
    }

    /// Without what distributions add to it.
    fn version(&self) -> Option<u32> {
        let text = self.property(MANAGER, "org.freedesktop.systemd1.Manager", "Version").ok()?;
        let text = String::try_from(text).ok()?;
        let digits = text.trim_start_matches('v');
        digits.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    }

    fn property(&self, object: &str, interface: &str, name: &str) -> zbus::Result<OwnedValue> {
        self.call(object, "org.freedesktop.DBus.Properties", "Get", &(interface, name))
    }

    fn call<A, R>(&self, object: &str, interface: &str, method: &str, arguments: &A) -> zbus::Result<R>
    where
        A: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        self.connection
            .call_method(Some("org.freedesktop.systemd1"), object, Some(interface), method, arguments)?
            .body()
            .deserialize()
    }

    /// That of the unit that has a name now; `None` if there is no such unit.
    fn invocation(&self, unit: &str) -> zbus::Result<Option<Vec<u8>>> {
        let property = |unit: OwnedObjectPath| self.property(&unit, UNIT, "InvocationID");
        let value = match self.manager()?.call("GetUnit", &(unit,)).and_then(property) {
            Ok(value) => value,
            Err(error) if error_name(&error) == Some("org.freedesktop.DBus.Error.UnknownProperty") => {
                return Ok(Some(Vec::new()));
            }
            Err(error) => return unknown(error).map(|()| None),
        };
        Ok(Some(Vec::try_from(value)?))
    }

    /// Starts a scope for a process, and waits until it is there; returns its invocation.
    fn start(&self, order: &Order) -> Result<Vec<u8>, SystemdError> {
        let unit = &order.scope.unit;
        let mut properties = unit_properties(order);
        self.keep_known(&mut properties);
        let result = self.await_job(|manager| start_unit(manager, unit, properties));
        let result = result.map_err(|source| match error_name(&source) {
            Some("org.freedesktop.systemd1.UnitExists") => SystemdError::Taken(unit.clone()),
            _ if is_about_name(&source, &order.scope) => {
                SystemdError::Invalid { unit: unit.clone(), slice: order.scope.slice.clone(), source }
            }
            _ => SystemdError::Call { act: "start", unit: unit.clone(), source },
        })?;
        if result != "done" {
            return Err(SystemdError::Job { act: "start", unit: unit.clone(), result });
        }
        let invocation = self.invocation(unit).map(Option::unwrap_or_default);
        invocation.map_err(|source| SystemdError::Call { act: "tell of", unit: unit.clone(), source })
    }

    /// Waits for the end of the job that a call gives; returns the job's result.
    fn await_job(
        &self,
        call: impl FnOnce(&Proxy<'_>) -> zbus::Result<OwnedObjectPath>,
    ) -> zbus::Result<String> {
        let manager = self.manager()?;
        let removed_jobs = manager.receive_signal("JobRemoved")?;
        manager.call::<_, _, ()>("Subscribe", &())?;
        let deadline = Instant::now() + self.patience;
        let job = call(&manager)?;
        let (sender, signals) = mpsc::channel();
        // A client of D-Bus waits for a signal without a limit. If none comes, the thread ends with the process.
        thread::Builder::new()
            .spawn(move || removed_jobs.into_iter().try_for_each(|one| sender.send(one)))?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let signal = signals.recv_timeout(left).map_err(|error| {
                zbus::Error::Failure(match error {
                    RecvTimeoutError::Timeout => "its job has not ended in time".into(),
                    RecvTimeoutError::Disconnected => "the connection ended".into(),
                })
            })?;
            let (_, removed, _, result): (u32, OwnedObjectPath, String, String) =
                signal.body().deserialize()?;
            if removed == job {
                return Ok(result);
            }
        }
    }

    /// Changes limits of a scope.
    pub(crate) fn set(&self, change: &Change) -> Result<(), SystemdError> {
        let Change { scope, version_2, properties } = change;
        let mut values = properties.values(*version_2);
        self.keep_known(&mut values);
        if values.is_empty() {
            return Ok(());
        }
        // To the next boot, as the unit itself.
        let arguments = (scope.unit.as_str(), true, values);
        let set = self.manager().and_then(|manager| manager.call("SetUnitProperties", &arguments));
        set.map_err(|source| SystemdError::Call { act: "change", unit: scope.unit.clone(), source })
    }

    /// Ends a scope whose processes have ended, so that its name is free. One that is gone already is no error, and
    /// another one that has the name by now is left alone. Returns whether there is such a one.
    pub(crate) fn stop(&self, started: &StartedScope) -> Result<bool, SystemdError> {
        let StartedScope { scope: Scope { unit, .. }, invocation } = started;
        let stopped = self.stop_invocation(invocation).or_else(unknown);
        let owner = stopped.and_then(|()| self.invocation(unit));
        let owner = owner.map_err(|source| SystemdError::Call { act: "stop", unit: unit.clone(), source })?;
        Ok(owner.is_some_and(|owner| owner != *invocation))
    }

    fn stop_invocation(&self, invocation: &[u8]) -> zbus::Result<()> {
        if invocation.is_empty() {
            // By its name only, another could be stopped; it ends by itself.
            return Ok(());
        }
        // This object is never another unit's, as one that is named by the unit's name can be.
        let unit: OwnedObjectPath = self.manager()?.call("GetUnitByInvocationID", &(invocation,))?;
        self.await_job(|_| self.call(&unit, UNIT, "Stop", &("replace",)))?;
        self.call(&unit, UNIT, "ResetFailed", &())
    }
}

fn unit_properties(order: &Order) -> Vec<(&'static str, Value<'static>)> {
    let mut properties = vec![
        ("Description", Value::from(format!("runv container {}", order.id))),
        ("Slice", Value::from(order.scope.slice.clone())),
        ("PIDs", Value::from(vec![order.pid])),
        // Nobody but this runtime works below it.
        ("Delegate", Value::from(true)),
        ("DefaultDependencies", Value::from(false)),
        // One that fails is forgotten as well: nobody starts it again.
        ("CollectMode", Value::from("inactive-or-failed")),
        ("CPUAccounting", Value::from(true)),
        ("MemoryAccounting", Value::from(true)),
        ("TasksAccounting", Value::from(true)),
        (if order.version_2 { "IOAccounting" } else { "BlockIOAccounting" }, Value::from(true)),
    ];
    properties.extend(order.properties.values(order.version_2));
    properties
}

fn start_unit(
    manager: &Proxy<'_>,
    unit: &str,
    properties: Vec<(&'static str, Value<'static>)>,
) -> zbus::Result<OwnedObjectPath> {
    // One of that name that has failed before is in the way; that there is none is no error.
    let _ = manager.call::<_, _, ()>("ResetFailedUnit", &(unit,));
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    manager.call("StartTransientUnit", &(unit, "replace", properties, auxiliary))
}

fn error_name(error: &zbus::Error) -> Option<&str> {
    match error {
        zbus::Error::MethodError(name, _, _) => Some(name.as_str()),
        _ => None,
    }
}

/// Whether it is the scope's name or its slice that systemd does not take: of values out of range it says the same by
/// the error's name, and only its words tell them apart.
fn is_about_name(error: &zbus::Error, scope: &Scope) -> bool {
    let zbus::Error::MethodError(name, Some(text), _) = error else { return false };
    let parts = ["unit name", "unit type", &scope.unit, &scope.slice];
    let text = text.to_lowercase();
    name.as_str() == "org.freedesktop.DBus.Error.InvalidArgs"
        && parts.iter().any(|part| text.contains(&part.to_lowercase()))
}

fn unknown(error: zbus::Error) -> zbus::Result<()> {
    match error_name(&error) {
        Some(
            "org.freedesktop.systemd1.NoSuchUnit"
            | "org.freedesktop.systemd1.NoUnitForInvocationID"
            | "org.freedesktop.DBus.Error.UnknownObject",
        ) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
#[path = "systemd_tests.rs"]
mod tests;
