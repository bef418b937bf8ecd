//! The list: each MUST of runtime.md, config.md and config-linux.md (OCI runtime specification 1.2) that is for a
//! runtime on Linux, where it stands, which test asks it, and what is known to differ.
//!
//! MUSTs for other systems, for who writes a configuration and cannot be caught at it, and those that say the
//! same again are not listed.

use e2e::Program;

/// What is expected of a runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// It does it.
    Holds,
    /// It does not, and why.
    Differs(&'static str),
    /// It is not asked, and why.
    Untried(&'static str),
}

use Outcome::{Differs, Holds, Untried};

/// One of them.
pub(crate) struct Must {
    /// Document and section.
    pub(crate) place: &'static str,
    /// By which the tests name it.
    pub(crate) id: &'static str,
    /// The test that asks it.
    pub(crate) test: &'static str,
    /// What it is about.
    pub(crate) text: &'static str,
    pub(crate) runv: Outcome,
    pub(crate) runc: Outcome,
}

const fn must(place: &'static str, test: &'static str, id: &'static str, text: &'static str) -> Must {
    Must { place, id, test, text, runv: Holds, runc: Holds }
}

impl Must {
    const fn runc(self, outcome: Outcome) -> Self {
        Self { runc: outcome, ..self }
    }

    const fn runv(self, outcome: Outcome) -> Self {
        Self { runv: outcome, ..self }
    }

    /// What is expected of a program.
    pub(crate) fn of(&self, program: Program) -> Outcome {
        match program {
            Program::Runv => self.runv,
            Program::Runc => self.runc,
        }
    }
}

const STATE: &str = "runtime.md, State";
const LIFECYCLE: &str = "runtime.md, Lifecycle";
const ERRORS: &str = "runtime.md, Errors";
const QUERY: &str = "runtime.md, Query State";
const CREATE: &str = "runtime.md, Create";
const START: &str = "runtime.md, Start";
const KILL: &str = "runtime.md, Kill";
const DELETE: &str = "runtime.md, Delete";
const CONFIG: &str = "config.md, Specification version, Extensibility, Valid values";
const ROOT: &str = "config.md, Root";
const MOUNTS: &str = "config.md, Mounts";
const PROCESS: &str = "config.md, Process";
const HOOKS: &str = "config.md, Hooks";
const ANNOTATIONS: &str = "config.md, Annotations";
const NAMESPACES: &str = "config-linux.md, Namespaces";
const DEVICES: &str = "config-linux.md, Devices";
const CGROUPS: &str = "config-linux.md, Control groups";
const RDT: &str = "config-linux.md, IntelRdt";
const SECCOMP: &str = "config-linux.md, Seccomp";
const PATHS: &str = "config-linux.md, Masked and readonly paths";

const NO_CHECK: Outcome = Differs("1.1 does not check it");
const UNKNOWN: Outcome = Differs("1.1 does not know it");
const CREATED: Outcome =
    Differs("one that was created and never started is deleted, as engines rely on with runc");

/// All of them, in the order of the documents.
pub(crate) const MUSTS: &[Must] = &[
    must(STATE, "life", "state.fields", "the state has version, id, status, pid, bundle, in JSON of the given form"),
    must(STATE, "life", "state.status", "the statuses created, running and stopped mean what the text says"),
    must(STATE, "life", "state.pid", "the process is that of the host that is the container"),
    must(STATE, "life", "state.bundle", "the bundle's path is absolute"),
    must(STATE, "life", "state.annotations", "the annotations are the configuration's"),
    must(STATE, "life", "state.created", "what is added to the state does not change what is defined"),
    must(LIFECYCLE, "life", "create.resources", "create makes what the configuration asks for"),
    must(LIFECYCLE, "life", "create.config-frozen", "a later change of config.json changes nothing"),
    must(LIFECYCLE, "hooks", "hooks.prestart", "create calls the prestart hooks"),
    must(LIFECYCLE, "hooks", "hooks.prestart-fails", "a prestart hook that fails fails create, and nothing is left"),
    must(LIFECYCLE, "hooks", "hooks.create-runtime", "create calls the createRuntime hooks, after the prestart hooks"),
    must(LIFECYCLE, "hooks", "hooks.create-runtime-fails", "a createRuntime hook that fails fails create, and nothing is left"),
    must(LIFECYCLE, "hooks", "hooks.create-container", "create calls the createContainer hooks, after the createRuntime hooks"),
    must(LIFECYCLE, "hooks", "hooks.create-container-fails", "a createContainer hook that fails fails create, and nothing is left"),
    must(LIFECYCLE, "hooks", "hooks.start-container", "start, and not create, calls the startContainer hooks, before the process"),
    must(LIFECYCLE, "hooks", "hooks.start-container-fails", "a startContainer hook that fails fails start, and the container ends")
        .runc(Differs("start has ended before the hook runs")),
    must(LIFECYCLE, "hooks", "hooks.poststart", "start calls the poststart hooks, after the process is there")
        .runc(Differs("create calls them")),
    must(LIFECYCLE, "hooks", "hooks.poststart-fails", "a poststart hook that fails fails start, and the container ends (older texts have only a warning)")
        .runc(Differs("it fails create, which calls it")),
    must(LIFECYCLE, "hooks", "hooks.poststop", "delete calls the poststop hooks, when the container is gone"),
    must(LIFECYCLE, "hooks", "hooks.poststop-fails", "a poststop hook that fails changes nothing for the others and for delete"),
    must(LIFECYCLE, "hooks", "hooks.poststop-always", "they are all called, where a hook's failure has ended the container too")
        .runc(Differs("none is called after one that fails")),
    must(ERRORS, "refusals", "errors.undone", "after an error everything is as it was before"),
    must(QUERY, "life", "state.needs-id", "no state without an id"),
    must(QUERY, "life", "state.unknown", "no state of what does not exist"),
    must(CREATE, "life", "create.needs-id", "no create without an id"),
    must(CREATE, "life", "create.needs-bundle", "no create without a bundle (both take the working directory if none is named)"),
    must(CREATE, "life", "create.unique", "no second container of a name, and the first one does not notice"),
    must(CREATE, "life", "create.valid-id", "no container of a name that is not valid"),
    must(CREATE, "life", "create.makes", "create makes a container"),
    must(CREATE, "life", "create.code-waits", "the user's program does not run yet"),
    must(START, "life", "start.needs-id", "no start without an id"),
    must(START, "life", "start.unknown", "no start of what does not exist"),
    must(START, "life", "start.twice", "a second start is an error, and the container does not notice"),
    must(START, "life", "start.stopped", "nor is one started that has stopped"),
    must(START, "life", "start.runs-code", "start runs the user's program"),
    must(START, "process", "start.process", "with directory, environment, arguments and user of the configuration"),
    must(KILL, "life", "kill.needs-id", "no kill without an id"),
    must(KILL, "life", "kill.unknown", "no kill of what does not exist"),
    must(KILL, "life", "kill.stopped", "no kill of one that has stopped"),
    must(KILL, "life", "kill.sends", "the process gets the signal"),
    must(DELETE, "life", "delete.needs-id", "no delete without an id"),
    must(DELETE, "life", "delete.unknown", "no delete of what does not exist"),
    must(DELETE, "life", "delete.running", "no delete of one that runs, which does not notice"),
    must(DELETE, "life", "delete.created", "no delete of one that has not stopped").runv(CREATED).runc(CREATED),
    must(DELETE, "life", "delete.undoes", "what create has made is gone"),
    must(DELETE, "life", "delete.others-stay", "what create has not made stays"),
    must(DELETE, "life", "delete.name-is-free", "the name may be used again"),
    must(CONFIG, "refusals", "config.file", "a bundle has a config.json"),
    must(CONFIG, "refusals", "config.oci-version", "ociVersion is a semantic version").runc(NO_CHECK),
    must(CONFIG, "refusals", "config.unknown-properties", "properties that are not known are ignored"),
    must(CONFIG, "refusals", "config.invalid-values", "values that are not valid are refused"),
    must(ROOT, "refusals", "config.root", "there is a root"),
    must(ROOT, "refusals", "config.root-path", "there is a directory at its path"),
    must(ROOT, "mounts", "config.root-readonly", "it is read-only if it is to be"),
    must(MOUNTS, "mounts", "mount.order", "mounts are made in the order of the list"),
    must(MOUNTS, "mounts", "mount.relative", "a relative destination is relative to /"),
    must(MOUNTS, "mounts", "mount.all", "all options below can be had together"),
    must(MOUNTS, "mounts", "mount.access", "options ro, rw"),
    must(MOUNTS, "mounts", "mount.suid", "options nosuid, suid"),
    must(MOUNTS, "mounts", "mount.dev", "options nodev, dev"),
    must(MOUNTS, "mounts", "mount.exec", "options noexec, exec"),
    must(MOUNTS, "mounts", "mount.atime", "options noatime, atime, nodiratime, diratime, relatime, norelatime, strictatime, nostrictatime"),
    must(MOUNTS, "mounts", "mount.sync", "options sync, async, dirsync"),
    must(MOUNTS, "mounts", "mount.no-effect", "options defaults, silent, loud").runc(UNKNOWN),
    must(MOUNTS, "mounts", "mount.iversion", "options iversion, noiversion"),
    must(MOUNTS, "mounts", "mount.lazytime", "options lazytime, nolazytime").runc(UNKNOWN),
    must(MOUNTS, "mounts", "mount.bind", "options bind, rbind"),
    must(MOUNTS, "mounts", "mount.propagation", "options private, shared, slave, unbindable, and rprivate, rshared, rslave, runbindable"),
    must(MOUNTS, "mounts", "mount.remount", "option remount"),
    must(MOUNTS, "refusals", "config.idmap-pair", "uidMappings of a mount come with gidMappings")
        .runc(UNKNOWN),
    must(MOUNTS, "refusals", "config.idmap-without", "an idmap without mappings or a user namespace is an error")
        .runc(UNKNOWN),
    must(MOUNTS, "mounts", "mount.idmap", "an idmap is that of the mount's own mappings, if it has some")
        .runv(Untried("it needs a file system that can; see the end-to-end tests `id_map`"))
        .runc(Untried("1.1 does not know it")),
    must(PROCESS, "terminal", "config.terminal", "a terminal is the process's three streams, in the given size"),
    must(PROCESS, "process", "config.console-size", "consoleSize without a terminal is ignored"),
    must(PROCESS, "refusals", "config.cwd", "cwd is absolute"),
    must(PROCESS, "refusals", "config.args", "args has a program"),
    must(PROCESS, "refusals", "config.rlimit-type", "a limit that the kernel does not have is an error"),
    must(PROCESS, "process", "config.rlimit-values", "getrlimit gives the configured values"),
    must(PROCESS, "refusals", "config.rlimit-twice", "a limit that is listed twice is an error").runc(NO_CHECK),
    must(PROCESS, "process", "config.capabilities", "a capability that is not known is logged as a warning"),
    must(PROCESS, "process", "config.oom-score-set", "oom_score_adj is the configured one"),
    must(PROCESS, "mounts", "config.oom-score-unset", "and is not changed if there is none"),
    must(HOOKS, "refusals", "config.hook-path", "the path of a hook is absolute"),
    must(HOOKS, "refusals", "config.hook-timeout", "a timeout is more than zero"),
    must(HOOKS, "hooks", "hooks.order", "hooks are called in the order of their lists"),
    must(HOOKS, "hooks", "hooks.state", "each gets the state on stdin"),
    must(HOOKS, "hooks", "hooks.runtime-namespace", "prestart, createRuntime, poststart and poststop hooks are found and run in the runtime's namespaces"),
    must(HOOKS, "hooks", "hooks.create-container-namespace", "createContainer hooks are found in the runtime's namespaces and run in the container's")
        .runv(Differs("they run on the host, in the container's network namespace; its other namespaces are of another kernel")),
    must(HOOKS, "hooks", "hooks.start-container-namespace", "startContainer hooks are found and run in the container's namespaces"),
    must(ANNOTATIONS, "refusals", "config.annotation-key", "a key is not empty").runc(NO_CHECK),
    must(ANNOTATIONS, "refusals", "config.annotation-value", "a value is a string"),
    must(ANNOTATIONS, "refusals", "config.annotation-empty", "which may be empty"),
    must(ANNOTATIONS, "refusals", "config.unknown-annotations", "annotations that are not known are ignored"),
    must(NAMESPACES, "namespaces", "linux.namespace-new", "one without a path is new"),
    must(NAMESPACES, "namespaces", "linux.namespace-inherit", "one that is not listed is the runtime's")
        .runv(Differs("it is the guest's: the runtime's is of another kernel")),
    must(NAMESPACES, "namespaces", "linux.namespace-path", "one with a path is joined (with runv that of the network, by the machine, and those of other containers; others are refused)"),
    must(NAMESPACES, "refusals", "linux.namespace-type", "the path of another type's, or of none, is an error"),
    must(NAMESPACES, "refusals", "linux.namespace-absolute", "the path is absolute"),
    must(NAMESPACES, "refusals", "linux.namespace-twice", "a type that is listed twice is an error"),
    must(DEVICES, "process", "linux.devices", "listed devices are there"),
    must(DEVICES, "refusals", "linux.device-file", "something else in the place of a device is an error").runc(NO_CHECK),
    must(DEVICES, "process", "linux.default-devices", "null, zero, full, random, urandom, tty and ptmx are there"),
    must(DEVICES, "terminal", "linux.console", "console is the terminal, if there is one"),
    must(CGROUPS, "cgroups", "linux.cgroups-path-absolute", "an absolute path is below the mount of the hierarchy"),
    must(CGROUPS, "cgroups", "linux.cgroups-path-same", "the same path is the same place each time"),
    must(CGROUPS, "refusals", "linux.cgroups-path-invalid", "a path that cannot be is an error")
        .runc(Differs("the path of systemd's driver is taken for one of cgroupfs")),
    must(CGROUPS, "cgroups", "linux.cgroup-owner", "the owner of the cgroup's files may change")
        .runv(Untried("the container's cgroup stays root's, as a runtime may choose"))
        .runc(Untried("version 1 is not delegated")),
    must(CGROUPS, "cgroups", "linux.device-rules", "device rules count in their order"),
    must(CGROUPS, "cgroups", "linux.check-before-update", "checkBeforeUpdate: a limit below what is used is refused"),
    must(CGROUPS, "refusals", "linux.cpu-burst", "burst is not more than quota").runc(NO_CHECK),
    must(CGROUPS, "refusals", "linux.weight-device", "an entry of weightDevice has a weight").runc(NO_CHECK),
    must(CGROUPS, "refusals", "linux.page-size", "a page size is one of the kernel's"),
    must(CGROUPS, "refusals", "linux.rdma", "an entry of rdma has a limit"),
    must(CGROUPS, "cgroups", "linux.unified-controllers", "controllers that unified needs are enabled")
        .runc(Untried("this host has version 1")),
    must(CGROUPS, "cgroups", "linux.unified-written", "what the runtime does not know is written")
        .runc(Untried("this host has version 1")),
    must(CGROUPS, "refusals", "linux.unified-unknown", "a controller that is not there is an error"),
    must(CGROUPS, "refusals", "linux.not-convertible", "what cannot be converted to the version in use is an error"),
    must(RDT, "refusals", "linux.intel-rdt", "without resctrl it is an error")
        .runc(Differs("it is passed over")),
    must(SECCOMP, "refusals", "linux.seccomp-names", "a rule has a name").runc(NO_CHECK),
    must(SECCOMP, "refusals", "linux.seccomp-errno", "an errno with an action that has none is an error").runc(NO_CHECK),
    must(SECCOMP, "refusals", "linux.seccomp-default-errno", "so is one for such a default action").runc(NO_CHECK),
    must(SECCOMP, "refusals", "linux.seccomp-metadata", "listenerMetadata comes with a listenerPath").runc(NO_CHECK),
    must(SECCOMP, "refusals", "linux.seccomp-listener", "a listener that cannot be reached is an error (runv refuses all, and with them what is said of their messages)"),
    must(PATHS, "refusals", "linux.masked-absolute", "masked paths are absolute").runc(NO_CHECK),
    must(PATHS, "refusals", "linux.readonly-absolute", "so are readonly paths").runc(NO_CHECK),
];
