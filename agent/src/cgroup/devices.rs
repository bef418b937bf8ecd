//! Which devices a container may use: the rules of the bundle as a program of the kernel's (eBPF) that judges
//! each access (Documentation/admin-guide/cgroup-v2.rst, "Device controller").

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::bpf::{attach_device_program, load_device_program};

/// Kinds of access (linux/bpf.h, `BPF_DEVCG_ACC_*`).
pub const MKNOD: u32 = 1;
/// See [`MKNOD`].
pub const READ: u32 = 2;
/// See [`MKNOD`].
pub const WRITE: u32 = 4;
/// All of them.
const EVERY_ACCESS: u32 = MKNOD | READ | WRITE;

/// A kind of device (linux/bpf.h, `BPF_DEVCG_DEV_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// A block device.
    Block = 1,
    /// A character device.
    Character = 2,
}

/// One rule: what is `None` matches any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Or deny.
    pub allow: bool,
    /// Which kind.
    pub kind: Option<DeviceKind>,
    /// Which driver.
    pub major: Option<u32>,
    /// Which of its devices.
    pub minor: Option<u32>,
    /// A set of [`MKNOD`], [`READ`] and [`WRITE`].
    pub access: u32,
}

/// A list of rules. Of those that match a device and name an access, the last one decides, for each access that
/// an open asks for; what no rule names is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Rules in their order. What comes before a rule about everything has no effect and is left out.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        if let Some(last) = rules.iter().rposition(Rule::is_about_everything) {
            // To deny everything is the default.
            let first = if rules.get(last).is_some_and(|rule| rule.allow) { last } else { last + 1 };
            rules.drain(..first);
        }
        if rules.first().is_some_and(Rule::is_about_everything) && rules.iter().all(|rule| rule.allow) {
            rules.truncate(1);
        }
        Self(rules)
    }

    /// Whether nothing is denied.
    pub fn allow_everything(&self) -> bool {
        matches!(self.0.as_slice(), [rule] if rule.allow && rule.is_about_everything())
    }

    /// The program: it leaves 1 in register 0 to allow an access, 0 to deny it.
    fn program(&self) -> Vec<u64> {
        use Register::{R0, R1, R2, R3, R4, R5};
        // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
        let mut program = vec![
            load_word(R2, R1, 0),
            copy(R3, R2),
            and(R2, 0xffff),
            shift_right(R3, 16),
            load_word(R4, R1, 4),
            load_word(R5, R1, 8),
        ];
        for rule in self.0.iter().rev() {
            program.extend(rule.instructions());
            if rule.is_about_everything() {
                // The verifier takes no instructions that are never reached.
                return program;
            }
        }
        program.extend([set(R0, 0), exit()]);
        program
    }
}

impl Rule {
    fn is_about_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == EVERY_ACCESS
    }

    /// Register 3 has what is asked for and has not been allowed yet: this rule takes its part from it, or
    /// denies.
    fn instructions(&self) -> Vec<u64> {
        use Register::{R0, R1, R2, R3, R4, R5};
        let answer = [set(R0, i32::from(self.allow)), exit()];
        let access = signed(self.access);
        let act: Vec<u64> = match (self.allow, self.access) {
            (_, EVERY_ACCESS) => answer.to_vec(),
            (true, _) => [&[and(R3, !access), skip_unless_equal(R3, 0, 2)][..], &answer].concat(),
            (false, _) => [&[copy(R1, R3), and(R1, access), skip_if_equal(R1, 0, 2)][..], &answer].concat(),
        };
        let conditions: Vec<(Register, i32)> = [
            self.kind.map(|kind| (R2, signed(kind as u32))),
            self.major.map(|major| (R4, signed(major))),
            self.minor.map(|minor| (R5, signed(minor))),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut left = conditions.len() + act.len();
        let mut instructions = Vec::with_capacity(left);
        for (register, value) in conditions {
            left -= 1;
            instructions.push(skip_unless_equal(register, value, left));
        }
        instructions.extend(act);
        instructions
    }
}

/// A program that is attached to a cgroup.
#[derive(Debug)]
pub struct Attached(OwnedFd);

impl Attached {
    /// Has `rules` judge the accesses of the processes in `cgroup`, from now on and instead of `earlier` ones.
    ///
    /// # Errors
    ///
    /// Those of bpf(2).
    pub fn new(cgroup: BorrowedFd<'_>, rules: &Rules, earlier: Option<&Self>) -> io::Result<Self> {
        let program = load_device_program(&rules.program())?;
        attach_device_program(cgroup, program.as_fd(), earlier.map(|earlier| earlier.0.as_fd()))?;
        Ok(Self(program))
    }
}

/// Registers of the machine; 1 holds the context at first, 0 the result at the end.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
}

/// Documentation/bpf/standardization/instruction-set.rst, "Basic instruction encoding".
fn instruction(opcode: u8, to: Register, from: Register, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([opcode, (from as u8) << 4 | to as u8, low, high, a, b, c, d])
}

fn load_word(to: Register, from: Register, offset: i16) -> u64 {
    instruction(0x61, to, from, offset, 0)
}

fn copy(to: Register, from: Register) -> u64 {
    instruction(0xbc, to, from, 0, 0)
}

fn set(to: Register, value: i32) -> u64 {
    instruction(0xb4, to, Register::R0, 0, value)
}

fn and(to: Register, value: i32) -> u64 {
    instruction(0x54, to, Register::R0, 0, value)
}

fn shift_right(to: Register, bits: i32) -> u64 {
    instruction(0x74, to, Register::R0, 0, bits)
}

fn skip_if_equal(register: Register, value: i32, count: usize) -> u64 {
    instruction(0x15, register, Register::R0, distance(count), value)
}

fn skip_unless_equal(register: Register, value: i32, count: usize) -> u64 {
    instruction(0x55, register, Register::R0, distance(count), value)
}

fn exit() -> u64 {
    instruction(0x95, Register::R0, Register::R0, 0, 0)
}

/// Within one rule, so always small.
fn distance(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

/// Device numbers have 12 and 20 bits (linux/kdev_t.h); one that is larger matches nothing.
fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
