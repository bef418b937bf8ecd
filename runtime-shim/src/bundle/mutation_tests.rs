//! Mutated configurations: each is accepted or refused in one line; none makes this program panic, take long, or take
//! much memory.
//!
//! The mutations follow from `RUNV_TEST_SEED`, which is printed; `RUNV_TEST_MUTATIONS` says how many there are.

use std::num::NonZeroU8;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_protocol::agent as proto;
use serde_json::{Value, json};

use super::super::annotations::Annotations;
use super::super::default_spec;
use super::super::machine_parts::machine_parts;
use super::super::machine_size::{Host, machine_size};
use super::super::place::Place;
use super::super::{sources, to_agent, to_vm};
use super::*;
use crate::config::{Annotation, Config, VmField};
use crate::report::chain;

const EVERYTHING: &str = include_str!("testdata/everything.json");

/// For one configuration, with a compiler that does not optimize on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of this process with all of its tests, in KiB.
const MOST_MEMORY: u64 = 2 << 20;

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        Self(seed.wrapping_add(index.rotate_left(40)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Texts that are seldom foreseen.
const TEXTS: &[&str] = &[
    "",
    " ",
    "\0",
    "a\0b",
    "/",
    "//",
    ".",
    "..",
    "../..",
    "/..",
    "=",
    "=x",
    "x=",
    "a\nb",
    "\r",
    "\u{1b}[31m",
    "ä",
    "🦀",
    "%s%n",
    "-1",
    "0-4294967295",
    "0-8191",
    "1-0",
    ",",
    "0,,1",
    "max",
    "1.2.3",
    "CAP_SYS_ADMIN",
    "CAP_NONE",
    "RLIMIT_NOFILE",
    "SCMP_ACT_NOTIFY",
    "bind",
    "idmap",
    "user",
    "net.ipv4.ip_forward",
    "/proc/self/fd/0",
    "18446744073709551616",
    "2MB",
    "-",
    "a:b:c",
    "99999999999999999999G",
];

/// Numbers that are seldom foreseen.
const NUMBERS: &[i64] =
    &[0, 1, -1, 2, 7, 255, 256, 65536, 4_294_967_295, 4_294_967_296, i64::MIN, i64::MAX, i64::MAX - 1];

/// Values that are seldom foreseen.
fn odd_value(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 0),
        2..=3 => json!(random.pick(NUMBERS)),
        4 => random.pick(&[json!(u64::MAX), json!(0.5), json!(-1e308), json!(1e308)]).clone(),
        5..=7 => json!(random.pick(TEXTS)),
        8 => json!("x".repeat(1 << random.below(17))),
        9 => json!([odd_value(random)]),
        10 => json!({ (*random.pick(TEXTS)): odd_value(random) }),
        _ => (0..random.below(100)).fold(json!({}), |inner, _| json!([inner])),
    }
}

/// A random value inside of the document.
fn somewhere<'a>(document: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let mut here = document;
    loop {
        let size = match &*here {
            Value::Array(elements) => elements.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        };
        // Deep places are many, so stopping early must be seldom.
        if size == 0 || random.below(8) == 0 {
            return here;
        }
        let index = random.below(size);
        here = match here {
            Value::Array(elements) => &mut elements[index],
            Value::Object(members) => members.values_mut().nth(index).unwrap(),
            _ => unreachable!("it has a size"),
        };
    }
}

fn mutate(document: &mut Value, random: &mut Random, most_copies: usize) {
    let other = somewhere(&mut document.clone(), random).clone();
    let copies = *random.pick(&[1, 2, most_copies]);
    let choice = random.below(8);
    let place = somewhere(document, random);
    match (choice, &mut *place) {
        (0, Value::Object(members)) if !members.is_empty() => {
            let name = members.keys().nth(random.below(members.len())).unwrap().clone();
            members.remove(&name);
        }
        (0, Value::Array(elements)) if !elements.is_empty() => {
            elements.remove(random.below(elements.len()));
        }
        (1, Value::Array(elements)) if !elements.is_empty() => {
            let element = elements[random.below(elements.len())].clone();
            elements.extend(std::iter::repeat_n(element, copies));
        }
        (1, Value::Object(members)) => {
            members.insert("unknown".into(), odd_value(random));
        }
        (2, place) => *place = other,
        (3, Value::String(text)) => {
            let at = text.char_indices().map(|(at, _)| at).nth(random.below(text.len())).unwrap_or(0);
            text.insert(at, *random.pick(&['\0', '\n', '/', '.', '=', '-', ',', ':', '0', ' ', 'é']));
        }
        (4, Value::Number(number)) => {
            let near = number.as_i64().unwrap_or(i64::MAX);
            let step = i64::try_from(random.next() % 5).unwrap() - 2;
            *place = json!(near.saturating_mul(*random.pick(&[1, -1, 1 << 20])).saturating_add(step));
        }
        (_, place) => *place = odd_value(random),
    }
}

/// What no JSON parser should stumble over either.
fn mutate_text(text: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(text.len());
    match random.below(5) {
        0 => text.truncate(at),
        1 => text[at] = random.next().to_le_bytes()[0],
        2 => {
            let deep = random.pick(&["[", "{\"a\":"]).repeat(random.below(100_000));
            text.splice(at..at, deep.bytes());
        }
        3 => {
            let part = text[at..].to_vec();
            text.extend(part);
        }
        _ => {
            let odd = *random.pick(&[&b"\xff"[..], b"\0", b"1e999", b"-", b"\"\\ud800\"", b",", b"}"]);
            text.splice(at..at, odd.iter().copied());
        }
    }
}

/// Everything that is made of a configuration before anything is started.
fn use_it(text: &[u8]) -> Result<(), String> {
    let mut spec = parse(text, Path::new("/b/config.json")).map_err(|error| chain(&error))?;
    let directory = Path::new("/nonexistent");
    device_binds::to_devices(&mut spec, directory);
    socket_binds::mark(&mut spec, directory);
    // As it goes to the monitor.
    let plan = serde_json::to_vec(&spec).map_err(|error| chain(&error))?;
    let again: Spec = serde_json::from_slice(&plan).expect("what was written can be read");
    assert_eq!(again, spec);
    let bundle = Bundle { directory: directory.to_owned(), spec };
    let _ = (bundle.has_hooks(), bundle.wants_terminal());
    let spec = &bundle.spec;
    to_agent::create_request(&Place::of_owner(), spec, proto::Streams::default())
        .map_err(|error| chain(&error))?;
    let cgroups = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    crate::host_cgroup::plan(cgroups, "id").map_err(|error| chain(&error))?;
    let config = Config {
        allow_annotations: Annotation::ALL.to_vec(),
        allow_vm_section: vec![
            VmField::Hypervisor,
            VmField::Kernel,
            VmField::Initrd,
            VmField::KernelParameters,
        ],
        hypervisor_paths: vec!["/usr/bin/qemu-system-x86_64".into()],
        hypervisor_parameters: vec![vec!["-cpu".into(), "max".into()]],
        ..Config::default()
    };
    let annotations = Annotations::read(spec, &config).map_err(|error| chain(&error))?;
    let parts = machine_parts(spec, &annotations, &config).map_err(|error| chain(&error))?;
    assert!(parts.kernel_parameters.iter().all(|word| !word.contains(char::is_whitespace)), "{parts:?}");
    let host = Host { memory_mib: 4096, cpus: 2 };
    let size = machine_size(spec, &annotations, &config, host).map_err(|error| chain(&error))?;
    assert!(size.cpus >= NonZeroU8::MIN && size.memory_mib > 0, "{size:?}");
    let found =
        sources::Sources { rootfs: "/rootfs".into(), binds: vec![(0, "/a".into()), (900, "/b".into())] };
    let sockets = socket_binds::host_sockets(&Place::of_owner(), spec);
    let _ = (to_vm::exports(spec, &found, false), sockets);
    let found = sources::find(spec, directory);
    found.map(|_found| ()).map_err(|error| chain(&error))
}

pub(crate) fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect(variable))
}

#[test]
fn mutated_configurations_are_accepted_or_refused_in_one_line() {
    let seed = number("RUNV_TEST_SEED", u64::from(std::process::id()));
    let count = number("RUNV_TEST_MUTATIONS", 1000);
    println!("RUNV_TEST_SEED={seed}");
    let originals: Vec<Value> =
        [default_spec::TEXT, EVERYTHING].map(|text| serde_json::from_str(text).unwrap()).into();
    let mut accepted = 0;
    for index in 0..count {
        let mut random = Random::new(seed, index);
        let mut document = random.pick(&originals).clone();
        // Many copies of many copies would be more than the test can hold, and more than is read of a file.
        let many = random.below(4);
        for step in 0..=random.below(3) {
            mutate(&mut document, &mut random, if step == many { 400 } else { 2 });
        }
        let mut text = serde_json::to_vec(&document).unwrap();
        if random.below(10) == 0 && !text.is_empty() {
            mutate_text(&mut text, &mut random);
        }
        let begin = Instant::now();
        let shown = || String::from_utf8_lossy(&text[..text.len().min(8000)]).into_owned();
        let used = catch_unwind(AssertUnwindSafe(|| use_it(&text)));
        let Ok(used) = used else { panic!("mutation {index} of seed {seed} panics: {}", shown()) };
        match used {
            Ok(()) => accepted += 1,
            Err(error) => {
                let one_line = !error.is_empty() && !error.contains(char::is_control);
                assert!(one_line, "mutation {index} of seed {seed} says {error:?}: {}", shown());
                accepted += u64::from(error.contains("/nonexistent"));
            }
        }
        let time = begin.elapsed();
        assert!(time < PATIENCE, "mutation {index} of seed {seed} took {time:?}: {}", shown());
        let peak = peak_memory();
        assert!(peak < MOST_MEMORY, "mutation {index} of seed {seed} took {peak} KiB: {}", shown());
    }
    // Else the mutations would be too coarse to get far.
    assert!(accepted * 50 > count, "only {accepted} of {count} were accepted");
}

/// KiB of this process.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn the_originals_are_accepted() {
    for text in [default_spec::TEXT, EVERYTHING] {
        let error = use_it(text.as_bytes()).unwrap_err();
        assert!(error.contains("root file system /nonexistent"), "{error}");
    }
}
