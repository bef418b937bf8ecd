//! The kernel's tracepoints in a stretch of time: who ran, and why guests were left.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Guest-physical addresses where no memory is.
const DEVICES: Range<u64> = 0xc000_0000..0x1_0000_0000;

/// Who runs, and when guests are entered and left.
pub(crate) const ALL: [&str; 5] = [
    "sched/sched_switch",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "kvm/kvm_entry",
    "kvm/kvm_exit",
];

/// One line of the trace.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Thread that ran.
    pub(crate) thread: i32,
    /// Its process, where the kernel still knew it.
    process: Option<i32>,
    /// Time stamp counter: nanoseconds under `-icount`.
    pub(crate) time: u64,
    /// Such as `kvm_exit`.
    pub(crate) name: String,
    /// What the event says.
    pub(crate) arguments: String,
}

impl Event {
    /// `comm-123 (  120) [000] d..1. 456789: kvm_exit: vcpu 0 reason npf ...`
    fn parse(line: &str) -> Option<Self> {
        let (task, rest) = line.split_once(" [")?;
        let (task, process) = task.rsplit_once('(')?;
        let (_, rest) = rest.split_once("] ")?;
        let mut fields = rest.trim_start().splitn(4, ' ').filter(|field| !field.is_empty());
        let _flags = fields.next()?;
        let rest: Vec<&str> = fields.collect();
        let rest = rest.join(" ");
        let (time, rest) = rest.trim_start().split_once(": ")?;
        // The end of a system call is `sys_accept4 -> 0x5`.
        let (name, arguments) = rest.split_once(": ").or_else(|| rest.split_once(" -> "))?;
        Some(Self {
            thread: task.trim_end().rsplit_once('-')?.1.parse().ok()?,
            process: process.trim_matches([' ', ')']).parse().ok(),
            time: time.trim().parse().ok()?,
            name: name.trim().to_owned(),
            arguments: arguments.to_owned(),
        })
    }

    /// The word that follows `name`.
    fn word_after(&self, name: &str) -> Option<&str> {
        self.arguments.split(' ').skip_while(|word| *word != name).nth(1)
    }

    /// Of a `kvm_exit`: KVM's word for its reason, but accesses to memory are page faults if there is memory at that
    /// address, and accesses to devices elsewhere.
    fn exit_kind(&self) -> String {
        let reason = self.word_after("reason").unwrap_or("unknown");
        if reason != "npf" {
            return reason.to_owned();
        }
        let address = self.word_after("info2").and_then(|word| word.strip_prefix("0x"));
        let address = address.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
        let kind = if DEVICES.contains(&address) { "device registers" } else { "page faults" };
        kind.to_owned()
    }

    /// The value of `key=value`.
    pub(crate) fn argument(&self, key: &str) -> Option<&str> {
        self.arguments.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// What was traced.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    /// Process of each thread.
    processes: BTreeMap<i32, i32>,
}

/// Traces the events, such as `sched/sched_switch`, while `act` runs.
pub(crate) fn record(events: &[&str], act: impl FnOnce() -> Result<()>) -> Result<Trace> {
    if !Path::new(TRACEFS).join("trace").exists() {
        rustix::mount::mount("tracefs", TRACEFS, "tracefs", rustix::mount::MountFlags::empty(), None)
            .context("cannot mount tracefs")?;
    }
    set("tracing_on", "0")?;
    set("trace", "")?;
    set("trace_clock", "x86-tsc")?;
    set("buffer_size_kb", "65536")?;
    set("saved_cmdlines_size", "4096")?;
    set("options/record-tgid", "1")?;
    set("events/enable", "0")?;
    for event in events {
        set(&format!("events/{event}/enable"), "1")?;
    }
    set("tracing_on", "1")?;
    let result = act();
    set("tracing_on", "0")?;
    set("events/enable", "0")?;
    result?;
    let text = get("trace")?;
    let events: Vec<Event> = text.lines().filter_map(Event::parse).collect();
    let processes = events.iter().filter_map(|event| Some((event.thread, event.process?))).collect();
    Ok(Trace { events, processes })
}

impl Trace {
    /// When a process executed the program with this file name, and which.
    pub(crate) fn exec(&self, program: &str) -> Result<(u64, i32)> {
        self.events
            .iter()
            .filter(|event| event.name == "sched_process_exec")
            .find(|event| event.argument("filename").is_some_and(|name| name.ends_with(program)))
            .map(|event| (event.time, event.thread))
            .with_context(|| format!("{program} was not executed"))
    }

    /// Nanoseconds of the whole trace by the program that ran, in order of their first execution: `1 runv`, ...; a
    /// machine's as [`Trace::attribute`] says.
    pub(crate) fn by_program(&self) -> BTreeMap<String, u64> {
        let (Some(first), Some(last)) = (self.events.first(), self.events.last()) else {
            return BTreeMap::new();
        };
        let mut names: BTreeMap<i32, String> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.name == "sched_process_exec") {
            let program = event.argument("filename").and_then(|name| name.rsplit('/').next()).unwrap_or("?");
            let name = format!("{} {program}", names.len() + 1);
            names.entry(event.thread).or_insert(name);
        }
        self.attribute(first.time, last.time, |process| {
            names.get(&process).cloned().unwrap_or_else(|| "other".to_owned())
        })
    }

    /// When the first thread of `process`, its first one apart, ended: that of a vCPU whose guest has stopped.
    pub(crate) fn thread_end(&self, process: i32) -> Result<u64> {
        self.events
            .iter()
            .filter(|event| event.name == "sched_process_exit" && event.thread != process)
            .find(|event| self.processes.get(&event.thread) == Some(&process))
            .map(|event| event.time)
            .context("no vCPU's thread ended")
    }

    /// How many times a guest was left from `start` to `end`, by [`Event::exit_kind`].
    pub(crate) fn exits(&self, start: u64, end: u64) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for event in &self.events {
            if event.name == "kvm_exit" && (start..=end).contains(&event.time) {
                *counts.entry(event.exit_kind()).or_default() += 1;
            }
        }
        counts
    }

    /// Nanoseconds from `start` to `end` by who ran. `label` names threads by process id and thread id; for a
    /// thread that runs a vCPU the time in the guest is `guest`, that of handling its exits `exits: KIND`.
    pub(crate) fn attribute(
        &self,
        start: u64,
        end: u64,
        label: impl Fn(i32) -> String,
    ) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        let mut running = None;
        let mut states: BTreeMap<i32, String> = BTreeMap::new();
        let mut last = start;
        for event in &self.events {
            let time = event.time.clamp(start, end);
            if let Some(thread) = running {
                let name = if thread == 0 {
                    "idle".to_owned()
                } else {
                    let process = self.processes.get(&thread).copied().unwrap_or(thread);
                    states.get(&thread).cloned().unwrap_or_else(|| label(process))
                };
                *sums.entry(name).or_default() += time - last;
            }
            last = time;
            running = Some(event.thread);
            match event.name.as_str() {
                "sched_switch" => running = event.argument("next_pid").and_then(|pid| pid.parse().ok()),
                "kvm_entry" => {
                    states.insert(event.thread, "guest".to_owned());
                }
                "kvm_exit" => {
                    states.insert(event.thread, format!("exits: {}", event.exit_kind()));
                }
                _ => {}
            }
        }
        sums
    }
}

fn set(file: &str, value: &str) -> Result<()> {
    fs::write(Path::new(TRACEFS).join(file), value).with_context(|| format!("cannot set {TRACEFS}/{file}"))
}

fn get(file: &str) -> Result<String> {
    fs::read_to_string(Path::new(TRACEFS).join(file)).with_context(|| format!("cannot read {TRACEFS}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_for_memory_is_told_from_one_for_a_device() {
        let exit = |address| {
            let line = format!(
                "v-1 ( 1) [000] d..2. 4: kvm_exit: vcpu 0 reason npf rip 0x1 info1 0x6 info2 {address}"
            );
            Event::parse(&line).unwrap().exit_kind()
        };
        assert_eq!(exit("0x0000000001200000 intr_info 0x0"), "page faults");
        assert_eq!(exit("0x00000000d0000010 intr_info 0x0"), "device registers");
        let other =
            Event::parse("v-1 ( 1) [000] d..2. 4: kvm_exit: vcpu 0 reason cpuid rip 0x1 info1 0x0").unwrap();
        assert_eq!(other.exit_kind(), "cpuid");
    }

    #[test]
    fn a_line_of_the_trace_is_read() {
        let event = Event::parse(
            "       vcpu-0 x-1234    (   1201) [000] d..2.  49152123456: kvm_exit: vcpu 0 reason npf rip 0x1 info1 0x2",
        )
        .unwrap();
        assert_eq!((event.thread, event.time, event.name.as_str()), (1234, 49_152_123_456, "kvm_exit"));
        assert!(event.arguments.starts_with("vcpu 0 reason npf "));
        let exec = Event::parse(
            "  runv-77 (-------) [000] .....  12: sched_process_exec: filename=/x/runv-vmm pid=77 old_pid=77",
        );
        assert_eq!(exec.unwrap().argument("filename"), Some("/x/runv-vmm"));
    }
}
