//! `linux.seccomp`: compiled here by libseccomp, as runc does it, so that the guest gets a program for its kernel and
//! needs no compiler.
//!
//! What a profile means where the specification leaves it open is as with runc: names that libseccomp does not know
//! are passed over; several conditions on one argument are alternatives; and a system call that is newer than all
//! that the profile names is answered with ENOSYS instead of the default action, so that programs fall back to
//! what the profile knows.

use std::fs::File;
use std::io::{self, Read, Seek};

use agent_protocol::agent as proto;
use libseccomp::error::SeccompError as LibraryError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use rustix::fs::{MemfdFlags, memfd_create};

/// Of a system call.
const MOST_ARGUMENTS: usize = 6;

/// errno-base.h: the answer of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` without another.
const EPERM: u32 = 1;
/// What a kernel answers to a system call that it does not have.
const ENOSYS: u32 = 38;
/// Of an answer (seccomp(2), `SECCOMP_RET_DATA`).
const HIGHEST_ERRNO: u32 = 0xffff;

/// linux/seccomp.h.
const FILTER_FLAG_LOG: u32 = 1 << 1;
const FILTER_FLAG_SPEC_ALLOW: u32 = 1 << 2;
const RET_ERRNO: u32 = 0x0005_0000;

/// linux/audit.h, and the bit that tells the system calls of x32 (asm/unistd.h).
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// What of a filter cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SeccompError {
    /// Nobody could answer.
    #[error(
        "linux.seccomp: SCMP_ACT_NOTIFY is not supported: its listener is on the host, the filter in the guest"
    )]
    Notify,
    /// A condition.
    #[error("linux.seccomp.syscalls[{0}]: a system call has no argument {1}")]
    Argument(usize, usize),
    /// An answer.
    #[error("linux.seccomp: errno {0} is higher than {HIGHEST_ERRNO}")]
    Errno(u32),
    /// An answer of an action that has none.
    #[error("linux.seccomp: {0} has no errno: errnoRet is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE")]
    NoErrno(LinuxSeccompAction),
    /// A rule for nothing.
    #[error("linux.seccomp.syscalls[{0}].names is empty")]
    NoNames(usize),
    /// Something for nobody.
    #[error("linux.seccomp.listenerMetadata needs a listenerPath")]
    Metadata,
    /// The library's words.
    #[error("cannot compile linux.seccomp: {0}")]
    Compile(String),
}

/// Checks what can be checked without compiling.
pub(crate) fn check(profile: &LinuxSeccomp) -> Result<(), SeccompError> {
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    let mut actions = calls.iter().map(LinuxSyscall::action).chain([profile.default_action()]);
    let listens = profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    if listens || actions.any(|action| action == LinuxSeccompAction::ScmpActNotify) {
        return Err(SeccompError::Notify);
    }
    if profile.listener_metadata().as_ref().is_some_and(|metadata| !metadata.is_empty()) {
        return Err(SeccompError::Metadata);
    }
    let answers = calls.iter().map(|call| (call.action(), call.errno_ret()));
    for (action, errno) in answers.chain([(profile.default_action(), profile.default_errno_ret())]) {
        let has_one = matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
        if errno.is_some() && !has_one {
            return Err(SeccompError::NoErrno(action));
        }
    }
    for (index, call) in calls.iter().enumerate() {
        if call.names().is_empty() {
            return Err(SeccompError::NoNames(index));
        }
        if let Some(condition) = call.args().iter().flatten().find(|one| one.index() >= MOST_ARGUMENTS) {
            return Err(SeccompError::Argument(index, condition.index()));
        }
    }
    let mut errnos = calls.iter().filter_map(LinuxSyscall::errno_ret).chain(profile.default_errno_ret());
    errnos.find(|&errno| errno > HIGHEST_ERRNO).map_or(Ok(()), |errno| Err(SeccompError::Errno(errno)))
}

/// Compiles a profile.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<proto::Seccomp, SeccompError> {
    check(profile)?;
    let mut program = stub(profile);
    let filter = translate(profile).map_err(|error| SeccompError::Compile(error.to_string()))?;
    program.extend(export(&filter).map_err(|error| SeccompError::Compile(error.to_string()))?);
    Ok(proto::Seccomp { program, flags: flags(profile), ..Default::default() })
}

/// As runc: without a word on flags, the mitigation of speculative store bypass is not for filtered processes.
/// TSYNC is without meaning for a process of one thread, and WAIT_KILLABLE_RECV without a listener.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else { return FILTER_FLAG_SPEC_ALLOW };
    flags.iter().fold(0, |set, flag| {
        set | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FILTER_FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

fn translate(profile: &LinuxSeccomp) -> Result<ScmpFilterContext, LibraryError> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut filter = ScmpFilterContext::new_filter(default)?;
    for arch in foreign_architectures(profile) {
        filter.add_arch(arch)?;
    }
    for call in profile.syscalls().iter().flatten() {
        let act = action(call.action(), call.errno_ret());
        if act == default {
            continue;
        }
        let conditions: Vec<ScmpArgCompare> = call.args().iter().flatten().map(condition).collect();
        let numbers = call.names().iter().filter_map(|name| ScmpSyscall::from_name(name).ok());
        for number in numbers {
            if conditions.is_empty() {
                filter.add_rule(act, number)?;
            } else if has_alternatives(call) {
                for one in &conditions {
                    filter.add_rule_conditional(act, number, &[*one])?;
                }
            } else {
                filter.add_rule_conditional(act, number, &conditions)?;
            }
        }
    }
    Ok(filter)
}

fn export(filter: &ScmpFilterContext) -> io::Result<Vec<u8>> {
    let mut file = File::from(memfd_create("seccomp", MemfdFlags::CLOEXEC)?);
    filter.export_bpf(&mut file).map_err(io::Error::other)?;
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(program)
}

/// Those besides x86-64 whose programs an x86-64 kernel runs; a rule for any other would never be met.
fn foreign_architectures(profile: &LinuxSeccomp) -> Vec<ScmpArch> {
    let wanted = profile.architectures().iter().flatten();
    wanted
        .filter_map(|arch| match arch {
            Arch::ScmpArchX86 => Some(ScmpArch::X86),
            Arch::ScmpArchX32 => Some(ScmpArch::X32),
            _ => None,
        })
        .collect()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    let errno = u16::try_from(errno.unwrap_or(EPERM)).unwrap_or(u16::MAX);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.into()),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    }
}

fn condition(condition: &LinuxSeccompArg) -> ScmpArgCompare {
    let (value, second) = (condition.value(), condition.value_two().unwrap_or(0));
    let (operator, datum) = match condition.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // The first value is the mask.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), second),
    };
    // Checked to be one of six.
    let index = u32::try_from(condition.index()).unwrap_or(0);
    ScmpArgCompare::new(index, operator, datum)
}

/// libseccomp cannot join several conditions on one argument.
fn has_alternatives(call: &LinuxSyscall) -> bool {
    let args = call.args().as_deref().unwrap_or_default();
    args.iter()
        .enumerate()
        .any(|(place, one)| args.iter().take(place).any(|other| other.index() == one.index()))
}

/// `struct sock_filter`s (Documentation/networking/filter.rst).
#[derive(Default)]
struct Assembler(Vec<u8>);

impl Assembler {
    fn add(&mut self, code: u16, jump_true: u8, jump_false: u8, constant: u32) {
        self.0.extend(code.to_ne_bytes());
        self.0.extend([jump_true, jump_false]);
        self.0.extend(constant.to_ne_bytes());
    }

    /// Loads the number of the system call, at 0 in `struct seccomp_data`, or its architecture, at 4.
    fn load(&mut self, offset: u32) {
        self.add(0x20, 0, 0, offset);
    }
}

/// The beginning of a program that answers system calls newer than all that the profile names; empty where the
/// default action is to let pass, or is that answer.
fn stub(profile: &LinuxSeccomp) -> Vec<u8> {
    const EQUAL: u16 = 0x15;
    const GREATER: u16 = 0x25;
    const GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;

    let permissive = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    );
    if permissive || profile.default_errno_ret() == Some(ENOSYS) {
        return Vec::new();
    }
    let foreign = foreign_architectures(profile);
    // No number is higher than the highest, so that nothing is answered for an architecture that is not named.
    let newest = |arch, named: bool| if named { newest(profile, arch) } else { u32::MAX };
    let native = newest(ScmpArch::X8664, true);
    let x32 = newest(ScmpArch::X32, foreign.contains(&ScmpArch::X32));
    let x86 = newest(ScmpArch::X86, foreign.contains(&ScmpArch::X86));
    let mut program = Assembler::default();
    program.load(4);
    program.add(EQUAL, 0, 4, AUDIT_ARCH_X86_64);
    program.load(0);
    program.add(GREATER_OR_EQUAL, 0, 1, X32_BIT);
    program.add(GREATER, 4, 5, x32);
    program.add(GREATER, 3, 4, native);
    program.add(EQUAL, 0, 3, AUDIT_ARCH_I386);
    program.load(0);
    program.add(GREATER, 0, 1, x86);
    program.add(RETURN, 0, 0, RET_ERRNO | ENOSYS);
    program.0
}

/// The highest number of all system calls that the profile names.
fn newest(profile: &LinuxSeccomp, arch: ScmpArch) -> u32 {
    let names = profile.syscalls().iter().flatten().flat_map(|call| call.names());
    let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
    // Calls that another architecture has and this one has not are negative.
    numbers.filter_map(|number| u32::try_from(i32::from(number)).ok()).max().unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
