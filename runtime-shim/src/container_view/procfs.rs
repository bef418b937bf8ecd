//! The processes of a guest as the files that procfs would have of them (proc(5)): text, made of what the agent tells.
//!
//! What the agent does not tell is 0 here, as procfs has it for a process that never did such a thing.

use std::collections::BTreeMap;

use agent_protocol::agent::ProcessInfo;

/// USER_HZ, in which procfs has times.
const TICKS_PER_SECOND: u64 = 100;
const MICROSECONDS_PER_TICK: u64 = 1_000_000 / TICKS_PER_SECOND;

/// Entries of the auxiliary vector (getauxval(3)).
const AT_NULL: u64 = 0;
const AT_CLKTCK: u64 = 17;

/// Fields of `stat`.
const STAT_FIELDS: usize = 52;

/// A file of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Stat,
    Status,
    CmdLine,
    Comm,
}

/// All processes of a container at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// By their numbers in the container.
    processes: BTreeMap<u32, ProcessInfo>,
    /// Start of the oldest, from which all starts count: the container knows no earlier time.
    boot: u64,
}

impl Snapshot {
    /// Of what the agent lists.
    pub(super) fn new(listed: Vec<ProcessInfo>) -> Self {
        // A container without a PID namespace has the guest's numbers.
        let number = |process: &ProcessInfo| match process.container_pid {
            0 => process.pid,
            number => number,
        };
        let numbers: BTreeMap<u32, u32> =
            listed.iter().map(|process| (process.pid, number(process))).collect();
        let boot = listed.iter().map(|process| process.start_seconds).min().unwrap_or(0);
        let processes = listed.into_iter().map(|mut process| {
            // The parent of the first is outside, and has no number in there.
            process.parent_pid = numbers.get(&process.parent_pid).copied().unwrap_or(0);
            (number(&process), process)
        });
        Self { processes: processes.collect(), boot }
    }

    /// Their numbers, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.processes.keys().copied()
    }

    /// Whether there is one of this number.
    pub(super) fn has(&self, number: u32) -> bool {
        self.processes.contains_key(&number)
    }

    /// A file of a process.
    pub(super) fn file(&self, number: u32, file: File) -> Option<Vec<u8>> {
        let process = self.processes.get(&number)?;
        Some(match file {
            File::Stat => self.stat(number, process).into_bytes(),
            File::Status => status(number, process).into_bytes(),
            File::CmdLine => command_line(process),
            File::Comm => format!("{}\n", one_line(&process.name)).into_bytes(),
        })
    }

    /// `/proc/stat`, of which there is only when all began.
    pub(super) fn system(&self) -> Vec<u8> {
        format!("btime {}\n", self.boot).into_bytes()
    }

    fn stat(&self, number: u32, process: &ProcessInfo) -> String {
        let mut fields = vec!["0".to_owned(); STAT_FIELDS];
        // By their numbers in the manual, which count from 1.
        let mut set = |place: usize, value: String| {
            if let Some(field) = fields.get_mut(place - 1) {
                *field = value;
            }
        };
        let started = process.start_seconds.saturating_sub(self.boot).saturating_mul(TICKS_PER_SECOND);
        set(1, number.to_string());
        set(2, format!("({})", one_line(&process.name)));
        set(3, state(process).to_string());
        set(4, process.parent_pid.to_string());
        set(7, terminal(&process.tty).to_string());
        set(8, "-1".to_owned());
        set(14, (process.cpu_microseconds / MICROSECONDS_PER_TICK).to_string());
        set(18, "20".to_owned());
        set(20, process.threads.to_string());
        set(22, started.to_string());
        set(23, process.virtual_bytes.to_string());
        set(24, (process.resident_bytes / 4096).to_string());
        fields.join(" ") + "\n"
    }
}

/// `/proc/self/auxv`, which says how long a tick is.
pub(super) fn auxiliary_vector() -> Vec<u8> {
    [AT_CLKTCK, TICKS_PER_SECOND, AT_NULL, 0].into_iter().flat_map(u64::to_ne_bytes).collect()
}

fn status(number: u32, process: &ProcessInfo) -> String {
    let (state, parent) = (state(process), process.parent_pid);
    let name = one_line(&process.name);
    let word = match state {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        't' => "tracing stop",
        'Z' => "zombie",
        _ => "unknown",
    };
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    let (uids, gids) = (four(process.uid), four(process.gid));
    let (size, resident) = (process.virtual_bytes >> 10, process.resident_bytes >> 10);
    let mut text = format!(
        "Name:\t{name}\nState:\t{state} ({word})\nTgid:\t{number}\nNgid:\t0\nPid:\t{number}\nPPid:\t{parent}\n\
         TracerPid:\t0\nUid:\t{uids}\nGid:\t{gids}\nNStgid:\t{number}\nNSpid:\t{number}\n\
         VmSize:\t{size:>8} kB\nVmRSS:\t{resident:>8} kB\nThreads:\t{}\n",
        process.threads
    );
    for line in &process.rights {
        text.push_str(&one_line(line));
        text.push('\n');
    }
    text
}

fn command_line(process: &ProcessInfo) -> Vec<u8> {
    process.args.iter().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect()
}

fn state(process: &ProcessInfo) -> char {
    process.state.chars().next().filter(char::is_ascii_alphabetic).unwrap_or('S')
}

/// What a guest says must not look like a line of its own. Tabs separate.
fn one_line(text: &str) -> String {
    text.replace(|letter: char| letter.is_control() && letter != '\t', "?")
}

/// The number of a terminal (Documentation/admin-guide/devices.txt); 0 for none or another.
fn terminal(name: &str) -> u32 {
    let numbered = |prefix: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
    let device = |major: u32, minor: u32| major << 8 | minor & 0xff | (minor & 0xf_ff00) << 12;
    if let Some(number) = numbered("pts/") {
        return device(136, number);
    }
    match numbered("ttyS").map(|number| (4, number.saturating_add(64))).or(numbered("tty").map(|n| (4, n))) {
        Some((major, minor)) => device(major, minor),
        None if name == "console" => device(5, 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let process = |pid, parent_pid, container_pid, name: &str| ProcessInfo {
            pid,
            parent_pid,
            container_pid,
            name: name.into(),
            args: vec![name.into(), "1000".into()],
            state: "S".into(),
            tty: "pts/0".into(),
            start_seconds: 1_700_000_000 + u64::from(container_pid),
            cpu_microseconds: 2_500_000,
            uid: 1000,
            threads: 2,
            rights: vec!["CapEff:\t00000000a80425fb".into()],
            ..Default::default()
        };
        Snapshot::new(vec![process(40, 1, 1, "sh"), process(44, 40, 5, "a) R\n1 (b")])
    }

    fn text(file: File) -> String {
        String::from_utf8(snapshot().file(5, file).unwrap()).unwrap()
    }

    #[test]
    fn numbers_are_the_containers() {
        let snapshot = snapshot();
        assert_eq!(snapshot.numbers().collect::<Vec<_>>(), [1, 5]);
        assert!(snapshot.has(5) && !snapshot.has(44));
        assert!(snapshot.file(44, File::Stat).is_none());
        assert_eq!(snapshot.system(), b"btime 1700000001\n");
    }

    #[test]
    fn a_process_has_the_fields_of_procfs_at_their_places() {
        let stat = text(File::Stat);
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        assert_eq!(name, "5 (a) R?1 (b");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        assert_eq!(fields.len() + 2, STAT_FIELDS);
        let field = |number: usize| fields.get(number - 3).copied().unwrap();
        assert_eq!((field(3), field(4), field(7)), ("S", "1", "34816"));
        assert_eq!((field(14), field(20), field(22)), ("250", "2", "400"));
        let status = text(File::Status);
        for line in
            ["Name:\ta) R?1 (b", "PPid:\t1", "Uid:\t1000\t1000\t1000\t1000", "CapEff:\t00000000a80425fb"]
        {
            assert!(status.lines().any(|found| found == line), "{line}: {status}");
        }
        assert_eq!(text(File::CmdLine), "a) R\n1 (b\x001000\0");
    }
    #[test]
    fn no_figure_of_a_guest_is_too_large() {
        let most = ProcessInfo {
            pid: u32::MAX,
            start_seconds: u64::MAX,
            cpu_microseconds: u64::MAX,
            virtual_bytes: u64::MAX,
            resident_bytes: u64::MAX,
            threads: u32::MAX,
            tty: "pts/4294967295".into(),
            ..Default::default()
        };
        let snapshot = Snapshot::new(vec![ProcessInfo { pid: 1, ..Default::default() }, most]);
        for file in [File::Stat, File::Status, File::CmdLine, File::Comm] {
            assert!(snapshot.file(u32::MAX, file).is_some(), "{file:?}");
        }
    }
}
