//! What procfs says of processes, as ps(1) shows it.

use std::fs;

use agent_protocol::agent as api;
use rustix::process::Pid;

/// Of one process, and of all: an answer has to fit into a message.
const MOST_ARGUMENT_BYTES: usize = 4096;
const MOST_BYTES: usize = 1 << 20;

/// Unit of times in procfs: USER_HZ is 100 on every x86 kernel.
const MICROSECONDS_PER_TICK: u64 = 10_000;

/// Describes processes, in the order of their numbers. Those that are gone are left out.
pub fn describe(pids: &[Pid]) -> Vec<api::ProcessInfo> {
    let boot = boot_time();
    let mut pids: Vec<i32> = pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    pids.sort_unstable();
    pids.dedup();
    let mut left = MOST_BYTES;
    let processes = pids.into_iter().filter_map(|pid| process(pid, boot));
    processes
        .map(|mut process| {
            let size = process.args.iter().map(String::len).sum();
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => process.args.clear(),
            }
            process
        })
        .collect()
}

/// The interfaces of a process's network namespace.
pub fn network(pid: Pid) -> Vec<api::NetworkStats> {
    let table = fs::read_to_string(format!("/proc/{}/net/dev", pid.as_raw_nonzero())).unwrap_or_default();
    table.lines().filter_map(interface).collect()
}

fn process(pid: i32, boot: u64) -> Option<api::ProcessInfo> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let mut info = from_stat(&read("stat")?, boot)?;
    let status = read("status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let effective = |name: &str| field(name)?.split('\t').nth(1)?.parse().ok();
    info.uid = effective("Uid")?;
    info.gid = effective("Gid")?;
    // One number for each pid namespace, the innermost last.
    info.container_pid =
        field("NSpid").and_then(|pids| pids.split('\t').next_back()?.parse().ok()).unwrap_or(0);
    let kib = |name| field(name).and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    info.virtual_bytes = kib("VmSize").unwrap_or(0) << 10;
    info.resident_bytes = kib("VmRSS").unwrap_or(0) << 10;
    info.rights = rights(&status);
    info.args = arguments(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    Some(info)
}

/// proc_pid_stat(5). The name is in parentheses and may contain anything, parentheses too.
fn from_stat(stat: &str, boot: u64) -> Option<api::ProcessInfo> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbers of fields as in the manual, in which the state is the third.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |place| field(place).and_then(|value| value.parse::<u64>().ok());
    Some(api::ProcessInfo {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        state: field(3)?.to_owned(),
        parent_pid: field(4)?.parse().ok()?,
        tty: terminal(field(7)?.parse().ok()?),
        cpu_microseconds: number(14)?.saturating_add(number(15)?).saturating_mul(MICROSECONDS_PER_TICK),
        threads: field(20)?.parse().ok()?,
        start_seconds: boot.saturating_add(number(22)? * MICROSECONDS_PER_TICK / 1_000_000),
        ..Default::default()
    })
}

/// By the number of its device (Documentation/admin-guide/devices.txt).
fn terminal(number: i32) -> String {
    let number = number.cast_unsigned();
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    match (major, minor) {
        (0, _) => String::new(),
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 64..) => format!("ttyS{}", minor - 64),
        (4, _) => format!("tty{minor}"),
        (5, 1) => "console".to_owned(),
        (229, _) => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    }
}

/// Of `/proc/<pid>/status`, what ps(1) can be asked for and has no field of its own.
fn rights(status: &str) -> Vec<String> {
    const NAMES: [&str; 8] =
        ["Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"];
    let wanted = |line: &&str| NAMES.iter().any(|name| line.starts_with(name));
    status.lines().filter(wanted).map(str::to_owned).collect()
}

fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.get(..MOST_ARGUMENT_BYTES).unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn boot_time() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok()).unwrap_or(0)
}

/// `  eth0: 1500 10 0 0 0 0 0 0 900 9 0 0 0 0 0 0`
fn interface(line: &str) -> Option<api::NetworkStats> {
    let (name, figures) = line.split_once(':')?;
    let figures: Vec<u64> = figures.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
    let [
        received_bytes,
        received_packets,
        received_errors,
        received_dropped,
        _,
        _,
        _,
        _,
        sent_bytes,
        sent_packets,
        sent_errors,
        sent_dropped,
        ..,
    ] = figures[..]
    else {
        return None;
    };
    Some(api::NetworkStats {
        name: name.trim().to_owned(),
        received_bytes,
        received_packets,
        received_errors,
        received_dropped,
        sent_bytes,
        sent_packets,
        sent_errors,
        sent_dropped,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 34817 7 4194304 100 0 0 0 150 50 0 0 20 0 3 0 250 1 1";
        let info = from_stat(stat, 1000).unwrap();
        assert_eq!((info.pid, &*info.name, &*info.state, info.parent_pid), (7, "a) b (c", "S", 1));
        assert_eq!((&*info.tty, info.threads), ("pts/1", 3));
        assert_eq!((info.cpu_microseconds, info.start_seconds), (2_000_000, 1002));
    }

    #[test]
    fn terminals_have_their_names() {
        for (number, name) in [(0, ""), (34816, "pts/0"), (1281, "console"), (1088, "ttyS0"), (58624, "hvc0")]
        {
            assert_eq!(terminal(number), name);
        }
    }

    #[test]
    fn this_process_is_described() {
        let pid = rustix::process::getpid();
        let info = describe(&[pid, pid]).pop().unwrap();
        assert_eq!(info.pid.cast_signed(), pid.as_raw_nonzero().get());
        assert_eq!(info.uid, rustix::process::geteuid().as_raw());
        assert!(
            !info.args.is_empty() && info.resident_bytes > 0 && info.start_seconds > 1_000_000_000,
            "{info}"
        );
        assert!(info.rights.iter().any(|line| line.starts_with("CapEff:\t")), "{:?}", info.rights);
        assert!(network(pid).iter().any(|interface| interface.name == "lo"));
    }
}
