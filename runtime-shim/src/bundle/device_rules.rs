//! `linux.resources.devices`: who may use which device. Pure.

use agent_protocol::agent as proto;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use proto::device_rule::Type;

use super::limits::{LimitError, invalid};

/// What every container may use, after what the bundle says, as with runc: nodes of all devices may be made, and
/// the default devices, terminals and TUN be used. Type, major, minor; `None` is any.
const DEFAULTS: &[(Type, Option<u32>, Option<u32>, &str)] = &[
    (Type::TYPE_CHARACTER, None, None, "m"),
    (Type::TYPE_BLOCK, None, None, "m"),
    (Type::TYPE_CHARACTER, Some(1), Some(3), "rwm"),
    (Type::TYPE_CHARACTER, Some(1), Some(8), "rwm"),
    (Type::TYPE_CHARACTER, Some(1), Some(7), "rwm"),
    (Type::TYPE_CHARACTER, Some(5), Some(0), "rwm"),
    (Type::TYPE_CHARACTER, Some(1), Some(5), "rwm"),
    (Type::TYPE_CHARACTER, Some(1), Some(9), "rwm"),
    (Type::TYPE_CHARACTER, Some(136), None, "rwm"),
    (Type::TYPE_CHARACTER, Some(5), Some(2), "rwm"),
    (Type::TYPE_CHARACTER, Some(10), Some(200), "rwm"),
];

/// The rules of a bundle, and the default ones after them.
pub(crate) fn with_defaults(rules: &[LinuxDeviceCgroup]) -> Result<proto::DeviceRules, LimitError> {
    let mut all =
        rules.iter().enumerate().map(|(index, one)| rule(index, one)).collect::<Result<Vec<_>, _>>()?;
    all.extend(DEFAULTS.iter().map(|&(kind, major, minor, access)| proto::DeviceRule {
        allow: true,
        type_: kind.into(),
        major,
        minor,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
        ..Default::default()
    }));
    Ok(proto::DeviceRules { rules: all, ..Default::default() })
}

fn rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<proto::DeviceRule, LimitError> {
    let field = |name| format!("devices[{index}].{name}");
    let access = rule.access().as_deref().unwrap_or_default();
    if access.is_empty() || !access.chars().all(|letter| "rwm".contains(letter)) {
        return Err(invalid(field("access"), &format!("{access:?}"), "some of r, w and m are needed"));
    }
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => Type::TYPE_ANY,
        Some(LinuxDeviceType::B) => Type::TYPE_BLOCK,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Type::TYPE_CHARACTER,
        Some(LinuxDeviceType::P) => return Err(invalid(field("type"), &"p", "a, b or c is needed")),
    };
    let number = |name, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_range| invalid(field(name), &number, "a device number is needed, or -1 for any")),
    };
    Ok(proto::DeviceRule {
        allow: rule.allow(),
        type_: kind.into(),
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules(rules: Value) -> Result<Vec<proto::DeviceRule>, String> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        Ok(with_defaults(&rules).map_err(|error| error.to_string())?.rules)
    }

    #[test]
    fn rules_keep_their_order_and_come_before_the_defaults() {
        let rules = rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"},
            {"allow": true, "type": "b", "major": 8, "minor": 3, "access": "r"}
        ]))
        .unwrap();
        let said: Vec<_> = rules
            .iter()
            .take(4)
            .map(|rule| (rule.allow, rule.type_.enum_value().unwrap(), rule.major, rule.minor, rule.write))
            .collect();
        assert_eq!(
            said,
            [
                (false, Type::TYPE_ANY, None, None, true),
                (true, Type::TYPE_CHARACTER, Some(10), None, true),
                (true, Type::TYPE_BLOCK, Some(8), Some(3), false),
                (true, Type::TYPE_CHARACTER, None, None, false),
            ]
        );
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for (rule, expected) in [
            (json!({"allow": true}), "linux.resources.devices[0].access \"\" is not valid"),
            (json!({"access": "x"}), "linux.resources.devices[0].access \"x\" is not valid"),
            (json!({"access": "r", "type": "p"}), "linux.resources.devices[0].type p is not valid"),
            (json!({"access": "r", "major": -2}), "linux.resources.devices[0].major -2 is not valid"),
            (
                json!({"access": "r", "minor": 4_294_967_296_i64}),
                "linux.resources.devices[0].minor 4294967296 is",
            ),
        ] {
            let error = rules(json!([rule])).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
