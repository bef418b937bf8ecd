use super::*;

/// What a program answers: an interpreter of the instructions that programs here consist of.
fn run(program: &[u64], kind: DeviceKind, major: u32, minor: u32, access: u32) -> bool {
    let context = [access << 16 | kind as u32, major, minor];
    let mut registers = [0_u64; 6];
    let mut next = 0;
    loop {
        let [opcode, operands, low, high, a, b, c, d] = program[next].to_le_bytes();
        let (to, from) = (usize::from(operands & 15), usize::from(operands >> 4));
        let offset = usize::try_from(i16::from_le_bytes([low, high])).unwrap();
        let immediate = i32::from_le_bytes([a, b, c, d]);
        let word = u64::from(immediate.cast_unsigned());
        next += 1;
        match opcode {
            0x61 => registers[to] = u64::from(context[offset / 4]),
            0xbc => registers[to] = registers[from],
            0xb4 => registers[to] = word,
            0x54 => registers[to] &= word,
            0x74 => registers[to] >>= word,
            0x15 if registers[to] == i64::from(immediate).cast_unsigned() => next += offset,
            0x55 if registers[to] != i64::from(immediate).cast_unsigned() => next += offset,
            0x15 | 0x55 => {}
            0x95 => return registers[0] == 1,
            _ => panic!("opcode {opcode:#x}"),
        }
    }
}

/// What the rules say, bit by bit.
fn decide(rules: &[Rule], kind: DeviceKind, major: u32, minor: u32, access: u32) -> bool {
    [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        rules
            .iter()
            .rfind(|rule| {
                rule.access & bit != 0
                    && rule.kind.is_none_or(|one| one == kind)
                    && rule.major.is_none_or(|one| one == major)
                    && rule.minor.is_none_or(|one| one == minor)
            })
            .is_some_and(|rule| rule.allow)
    })
}

fn rule(
    allow: bool,
    kind: impl Into<Option<DeviceKind>>,
    major: impl Into<Option<u32>>,
    minor: impl Into<Option<u32>>,
    access: u32,
) -> Rule {
    Rule { allow, kind: kind.into(), major: major.into(), minor: minor.into(), access }
}

/// Programs do what the list says, for every list of up to three rules of a small world.
#[test]
fn programs_decide_as_the_lists_do() {
    let mut pool = Vec::new();
    for allow in [false, true] {
        for kind in [None, Some(DeviceKind::Character)] {
            for (major, minor) in [(None, None), (Some(1), None), (Some(1), Some(3)), (None, Some(3))] {
                for access in [READ, READ | WRITE, EVERY_ACCESS, 0] {
                    pool.push(rule(allow, kind, major, minor, access));
                }
            }
        }
    }
    let mut lists: Vec<Vec<Rule>> = vec![vec![]];
    for (index, first) in pool.iter().enumerate() {
        lists.push(vec![*first]);
        for (step, second) in pool.iter().enumerate() {
            lists.push(vec![*first, *second]);
            lists.push(vec![*first, *second, pool[(index * 7 + step * 5) % pool.len()]]);
        }
    }
    for list in lists {
        let program = Rules::new(list.clone()).program();
        for kind in [DeviceKind::Block, DeviceKind::Character] {
            for (major, minor) in [(1, 3), (1, 5), (2, 3)] {
                for access in 1..=EVERY_ACCESS {
                    assert_eq!(
                        run(&program, kind, major, minor, access),
                        decide(&list, kind, major, minor, access),
                        "{kind:?} {major}:{minor} {access} by {list:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_open_that_two_rules_allow_together_is_allowed() {
    let list = vec![rule(true, None, 1, 3, READ), rule(true, None, 1, 3, WRITE)];
    assert!(run(&Rules::new(list).program(), DeviceKind::Character, 1, 3, READ | WRITE));
}

#[test]
fn only_a_list_that_denies_nothing_is_no_list() {
    let everything = |allow| rule(allow, None, None, None, EVERY_ACCESS);
    let null = |allow| rule(allow, DeviceKind::Character, 1, 3, READ);
    for (list, open) in [
        (vec![everything(true)], true),
        (vec![null(false), everything(true), null(true)], true),
        (vec![everything(true), null(false), null(true)], false),
        (vec![everything(true), everything(false)], false),
        (vec![], false),
    ] {
        assert_eq!(Rules::new(list.clone()).allow_everything(), open, "{list:?}");
    }
}
