//! Over a bus of its own, with a stand-in for systemd that records what it is asked.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};

use zbus::object_server::SignalEmitter;
use zbus::zvariant::ObjectPath;

use super::super::properties::{Set, Time};
use super::*;

/// A bus, and systemd's place on it.
struct Bus {
    daemon: Child,
    address: String,
    _directory: tempfile::TempDir,
    _systemd: Connection,
    calls: Receiver<String>,
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The result of a job that does not end.
const ENDLESS: &str = "";

struct Manager {
    calls: Sender<String>,
    result: &'static str,
    version: &'static str,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(property)]
    fn version(&self) -> &str {
        self.version
    }

    fn subscribe(&self) {}

    fn get_unit(&self, _name: String) -> ObjectPath<'static> {
        ObjectPath::from_static_str_unchecked("/unit")
    }

    #[zbus(name = "GetUnitByInvocationID")]
    fn get_unit_by_invocation_id(&self, _invocation: Vec<u8>) -> zbus::fdo::Result<ObjectPath<'static>> {
        Err(zbus::fdo::Error::UnknownObject("none".into()))
    }

    fn reset_failed_unit(&self, _name: String) -> zbus::fdo::Result<()> {
        Err(zbus::fdo::Error::UnknownObject("none".into()))
    }

    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Vec<(String, OwnedValue)>,
        _auxiliary: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        let properties: Vec<String> =
            properties.iter().map(|(key, value)| format!("{key}={:?}", &**value)).collect();
        if let Some(text) = self.result.strip_prefix("refused: ") {
            return Err(zbus::fdo::Error::InvalidArgs(text.into()));
        }
        let _ = self.calls.send(format!("start {name} {mode} {}", properties.join(" ")));
        let job = |number: u32| {
            let path = ObjectPath::try_from(format!("/job/{number}"));
            path.map_err(|error| zbus::fdo::Error::Failed(error.to_string()))
        };
        for (number, result) in [(1, "failed"), (2, self.result)] {
            if result == ENDLESS {
                continue;
            }
            Self::job_removed(&emitter, number, job(number)?, &name, result).await?;
        }
        Ok(job(2)?.into())
    }

    fn set_unit_properties(&self, name: &str, runtime: bool, properties: Vec<(String, OwnedValue)>) {
        let properties: Vec<String> =
            properties.into_iter().map(|(key, value)| format!("{key}={:?}", &*value)).collect();
        let _ = self.calls.send(format!("set {name} {runtime} {}", properties.join(" ")));
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// Its only unit.
struct Unit;

const INVOCATION: [u8; 16] = [7; 16];

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property, name = "InvocationID")]
    fn invocation_id(&self) -> Vec<u8> {
        INVOCATION.into()
    }
}

/// `result` is how its jobs end, or that it refuses them with arguments that are invalid.
fn bus(result: &'static str) -> Bus {
    bus_of("252.38-1~deb12u1", result)
}

fn bus_of(version: &'static str, result: &'static str) -> Bus {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("bus.conf");
    let socket = directory.path().join("bus");
    let text = format!(
        "<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
         <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>\
         </policy></busconfig>",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut daemon = Command::new("dbus-daemon");
    daemon.arg("--config-file").arg(&config).args(["--nofork", "--nopidfile", "--print-address"]);
    let mut daemon = daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let address = address.trim().to_owned();
    let (sender, calls) = channel();
    let systemd = Builder::address(address.as_str()).unwrap().name("org.freedesktop.systemd1").unwrap();
    let manager = Manager { calls: sender, result, version };
    let systemd = systemd.serve_at("/org/freedesktop/systemd1", manager).unwrap();
    let systemd = systemd.serve_at("/unit", Unit).unwrap().build().unwrap();
    Bus { daemon, address, _directory: directory, _systemd: systemd, calls }
}

impl Bus {
    fn client(&self) -> Systemd {
        self.client_with(PATIENCE)
    }

    fn client_with(&self, patience: Duration) -> Systemd {
        let connection = Builder::address(self.address.as_str()).unwrap().build().unwrap();
        Systemd { connection, patience }
    }
}

fn order() -> Order {
    Order {
        scope: Scope::parse("a-b.slice:docker:c1", "c1").unwrap(),
        id: "c1".into(),
        pid: 7,
        version_2: true,
        properties: Properties {
            memory: Some(1 << 30),
            threads: Some(9),
            shares: Some((1024, 100)),
            ..Properties::default()
        },
    }
}

#[test]
fn a_scope_is_asked_for_with_its_process_slice_and_limits() {
    let bus = bus("done");
    assert_eq!(bus.client().start(&order()).unwrap(), INVOCATION);
    let call = bus.calls.recv().unwrap();
    for part in [
        "start docker-c1.scope replace ",
        "Slice=Str(\"a-b.slice\")",
        "PIDs=Array",
        "U32(7)",
        "Delegate=Bool(true)",
        "MemoryMax=U64(1073741824)",
        "TasksMax=U64(9)",
        "CPUWeight=U64(100)",
    ] {
        assert!(call.contains(part), "{part}: {call}");
    }
}

#[test]
fn a_job_that_fails_is_an_error() {
    let error = bus("timeout").client().start(&order()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("systemd did not start docker-c1.scope: the job's result is `timeout`"),
        "{text}"
    );
}

#[test]
fn a_job_that_does_not_end_is_given_up() {
    let bus = bus(ENDLESS);
    let error = bus.client_with(Duration::from_millis(50)).start(&order()).unwrap_err();
    let text = crate::report::chain(&error);
    assert!(text.contains("start docker-c1.scope") && text.contains("not ended in time"), "{text}");
}

/// The stand-in stops none.
#[test]
fn a_scope_that_is_gone_is_not_taken_for_the_next_of_its_name() {
    let bus = bus("done");
    for (invocation, is_anothers) in [(INVOCATION, false), ([8; 16], true)] {
        let started = StartedScope { scope: order().scope, invocation: invocation.into() };
        assert_eq!(bus.client().stop(&started).unwrap(), is_anothers, "{invocation:?}");
    }
}

#[test]
fn another_name_is_the_remedy_only_where_systemd_does_not_take_the_name() {
    for (words, is_name) in [
        ("refused: Unit name docker-c1.scope is not valid.", true),
        ("refused: Invalid unit name 'a-b.slice'", true),
        ("refused: Invalid unit name or type.", true),
        ("refused: Unit name 'a-b.slice' is not a slice", true),
        ("refused: Value specified in CPUShares is out of range", false),
    ] {
        let error = bus(words).client().start(&order()).unwrap_err();
        let text = crate::report::chain(&error);
        assert_eq!(text.contains("change linux.cgroupsPath"), is_name, "{text}");
        assert!(text.ends_with(words.strip_prefix("refused: ").unwrap()), "{text}");
    }
}

#[test]
fn an_update_sets_what_it_has() {
    let bus = bus("done");
    let change = |version_2, properties| Change { scope: order().scope, version_2, properties };
    bus.client().set(&change(true, Properties::default())).unwrap();
    let shares = Properties { shares: Some((512, 59)), ..Properties::default() };
    bus.client().set(&change(false, shares)).unwrap();
    assert_eq!(bus.calls.recv().unwrap(), "set docker-c1.scope true CPUShares=U64(512)");
}

#[test]
fn an_old_systemd_is_not_asked_for_what_it_does_not_know() {
    for (version, knows) in [("239 (239-82.el8)", false), ("", false), ("v244-1", true)] {
        let bus = bus_of(version, "done");
        let time = Some(Time { quota: Some(50_000), period: 100_000 });
        let properties = Properties { time, cpus: Set::parse("0"), ..Properties::default() };
        bus.client().start(&Order { properties, ..order() }).unwrap();
        let call = bus.calls.recv().unwrap();
        assert!(call.contains("CPUQuotaPerSecUSec=U64(500000)"), "{version}: {call}");
        for name in ["CPUQuotaPeriodUSec=U64(100000)", "AllowedCPUs=Array"] {
            assert_eq!(call.contains(name), knows, "{version}: {call}");
        }
    }
}

#[test]
fn names_become_paths() {
    for (path, slice, cgroup) in [
        ("system.slice:docker:abc", "system.slice", "system.slice/docker-abc.scope"),
        ("a-b-c.slice::x", "a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice/x.scope"),
        ("-.slice:libpod:x", "-.slice", "libpod-x.scope"),
        (":crio:x", "system.slice", "system.slice/crio-x.scope"),
        ("", "system.slice", "system.slice/runv-id.scope"),
    ] {
        let scope = Scope::parse(path, "id").unwrap();
        assert_eq!((scope.slice.as_str(), scope.path()), (slice, PathBuf::from(cgroup)), "{path}");
    }
    for path in [
        "/docker/abc",
        "a.slice:b",
        "a:b:c",
        "a--b.slice:x:y",
        "a/b.slice:x:y",
        "a.slice:x:y/z",
        "a.slice:x:",
    ] {
        assert!(Scope::parse(path, "id").is_err(), "{path}");
    }
}
