//! What a compiled profile answers, found out by running it as the kernel would.

use serde_json::json;

use super::*;

/// What a program answers: classic BPF, as much of it as libseccomp makes.
fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [number.to_ne_bytes(), arch.to_ne_bytes(), [0; 4], [0; 4]].concat();
    data.extend(args.iter().flat_map(|arg| arg.to_ne_bytes()));
    let instructions: Vec<(u16, u8, u8, u32)> = program
        .chunks(8)
        .map(|i| {
            let constant = u32::from_ne_bytes(i[4..].try_into().unwrap());
            (u16::from_ne_bytes([i[0], i[1]]), i[2], i[3], constant)
        })
        .collect();
    let (mut place, mut accumulator) = (0, 0_u32);
    loop {
        let (code, jump_true, jump_false, constant) = instructions[place];
        place += 1;
        let mut jump = |yes: bool| place += usize::from(if yes { jump_true } else { jump_false });
        match code {
            0x20 => {
                let offset = constant as usize;
                accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= constant,
            0x05 => place += constant as usize,
            0x15 => jump(accumulator == constant),
            0x25 => jump(accumulator > constant),
            0x35 => jump(accumulator >= constant),
            0x45 => jump(accumulator & constant != 0),
            0x06 => return constant,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn compiled(profile: serde_json::Value) -> proto::Seccomp {
    compile(&serde_json::from_value(profile).unwrap()).unwrap()
}

fn native(filter: &proto::Seccomp, number: libc::c_long, args: [u64; 6]) -> u32 {
    run(&filter.program, AUDIT_ARCH_X86_64, u32::try_from(number).unwrap(), args)
}

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;

#[test]
fn each_action_is_the_kernels() {
    for (action, errno, answer) in [
        ("SCMP_ACT_KILL", None, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, TRAP),
        ("SCMP_ACT_ERRNO", None, RET_ERRNO | EPERM),
        ("SCMP_ACT_ERRNO", Some(13), RET_ERRNO | 13),
        ("SCMP_ACT_TRACE", Some(7), TRACE | 7),
        ("SCMP_ACT_LOG", None, LOG),
    ] {
        let mut call = json!({"names": ["mkdir"], "action": action});
        if let Some(errno) = errno {
            call["errnoRet"] = json!(errno);
        }
        let filter = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}));
        assert_eq!(native(&filter, libc::SYS_mkdir, [0; 6]), answer, "{action}");
        assert_eq!(native(&filter, libc::SYS_rmdir, [0; 6]), ALLOW, "{action}");
    }
}

#[test]
fn conditions_on_different_arguments_are_all_to_be_met_and_those_on_one_are_alternatives() {
    let profile = |args: serde_json::Value| {
        let call = json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args});
        compiled(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [call]}))
    };
    let condition = |index, value, op: &str| json!({"index": index, "value": value, "op": op});
    let both = profile(json!([condition(0, 8, "SCMP_CMP_EQ"), condition(1, 5, "SCMP_CMP_GT")]));
    let either = profile(json!([condition(0, 8, "SCMP_CMP_EQ"), condition(0, 9, "SCMP_CMP_EQ")]));
    let masked = profile(json!([
        {"index": 0, "value": 0xf0, "valueTwo": 0x50, "op": "SCMP_CMP_MASKED_EQ"}
    ]));
    for (filter, first, second, allowed) in [
        (&both, 8, 6, true),
        (&both, 8, 5, false),
        (&both, 9, 6, false),
        (&either, 9, 0, true),
        (&either, 10, 0, false),
        (&masked, 0x5f, 0, true),
        (&masked, 0x6f, 0, false),
    ] {
        let answer = native(filter, libc::SYS_personality, [first, second, 0, 0, 0, 0]);
        assert_eq!(answer == ALLOW, allowed, "{first:#x} {second}");
    }
}

#[test]
fn names_that_nobody_knows_are_passed_over() {
    let call = json!({"names": ["no_such_call", "mkdir"], "action": "SCMP_ACT_ERRNO"});
    let filter = compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}));
    assert_eq!(native(&filter, libc::SYS_mkdir, [0; 6]), RET_ERRNO | EPERM);
}

#[test]
fn calls_that_are_newer_than_the_profile_do_not_exist() {
    let profile = |default: serde_json::Value, arches: &[&str]| {
        let call = json!({"names": ["read", "mkdir"], "action": "SCMP_ACT_ALLOW"});
        let mut profile = json!({"syscalls": [call], "architectures": arches});
        profile.as_object_mut().unwrap().extend(default.as_object().unwrap().clone());
        compiled(profile)
    };
    let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    let filter = profile(json!({"defaultAction": "SCMP_ACT_ERRNO"}), &all);
    // mkdir is 83 here and on x32, 39 on x86.
    for (arch, number, answer) in [
        (AUDIT_ARCH_X86_64, 82, RET_ERRNO | EPERM),
        (AUDIT_ARCH_X86_64, 83, ALLOW),
        (AUDIT_ARCH_X86_64, 84, RET_ERRNO | ENOSYS),
        (AUDIT_ARCH_X86_64, X32_BIT | 82, RET_ERRNO | EPERM),
        (AUDIT_ARCH_X86_64, X32_BIT | 83, ALLOW),
        (AUDIT_ARCH_X86_64, X32_BIT | 84, RET_ERRNO | ENOSYS),
        (AUDIT_ARCH_I386, 38, RET_ERRNO | EPERM),
        (AUDIT_ARCH_I386, 39, ALLOW),
        (AUDIT_ARCH_I386, 40, RET_ERRNO | ENOSYS),
        (0x1234, 83, KILL_THREAD),
    ] {
        assert_eq!(run(&filter.program, arch, number, [0; 6]), answer, "{arch:#x} {number:#x}");
    }
    let other = profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38}), &all);
    assert_eq!(native(&other, 84, [0; 6]), RET_ERRNO | ENOSYS);
    let alone = profile(json!({"defaultAction": "SCMP_ACT_ERRNO"}), &[]);
    for (arch, number) in [(AUDIT_ARCH_I386, 400), (AUDIT_ARCH_X86_64, X32_BIT | 400)] {
        assert_eq!(run(&alone.program, arch, number, [0; 6]), KILL_THREAD, "{arch:#x} {number:#x}");
    }
}

#[test]
fn flags_are_the_kernels() {
    let flags = |profile: serde_json::Value| compiled(profile).flags;
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW"})), FILTER_FLAG_SPEC_ALLOW);
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": []})), 0);
    let some = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]);
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": some})), FILTER_FLAG_LOG);
}

#[test]
fn what_cannot_be_is_refused() {
    let notify = json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"});
    let argument = json!({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"});
    let argument = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [argument]});
    let errno = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536});
    let kill = json!({"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 5});
    let nothing = json!({"names": [], "action": "SCMP_ACT_ERRNO"});
    for (call, error) in [
        (kill, SeccompError::NoErrno(LinuxSeccompAction::ScmpActKill)),
        (nothing, SeccompError::NoNames(0)),
        (notify, SeccompError::Notify),
        (argument, SeccompError::Argument(0, 6)),
        (errno, SeccompError::Errno(65536)),
    ] {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]});
        assert_eq!(check(&serde_json::from_value(profile).unwrap()), Err(error));
    }
    for (profile, error) in [
        (
            json!({"defaultAction": "SCMP_ACT_LOG", "defaultErrnoRet": 1}),
            SeccompError::NoErrno(LinuxSeccompAction::ScmpActLog),
        ),
        (json!({"defaultAction": "SCMP_ACT_LOG", "listenerMetadata": "x"}), SeccompError::Metadata),
    ] {
        assert_eq!(check(&serde_json::from_value(profile).unwrap()), Err(error));
    }
}
