//! The one table of what this runtime does not do yet.
//!
//! The specification lets a runtime ignore properties that it does not know. Those that it *does* know but
//! does not apply must not be ignored in silence: they are refused by name. A field leaves this table when it is
//! applied.

use serde_json::{Value, json};

/// A field that the runtime does not apply is set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not supported yet; remove it from the bundle")]
pub(crate) struct FieldError(String);

/// Paths as the specification spells them; `[]` is every element of an array.
const FIELDS: &[&str] = &[
    "linux.resources.network",
    "linux.resources.rdma",
    "linux.netDevices",
    "linux.intelRdt",
    "linux.memoryPolicy",
    "vm.hwConfig",
];

/// Refuses what would change the meaning of the bundle if it were ignored.
pub(crate) fn check(document: &Value) -> Result<(), FieldError> {
    FIELDS.iter().find_map(|path| find_set(document, path)).map_or(Ok(()), |place| Err(FieldError(place)))
}

/// Where below `value` the first field of this path is set, with array indices.
fn find_set(value: &Value, path: &str) -> Option<String> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let (name, is_list) = head.strip_suffix("[]").map_or((head, false), |name| (name, true));
    let child = value.get(name)?;
    let below = |child: &Value| match rest {
        Some(rest) => find_set(child, rest).map(|place| format!(".{place}")),
        None => is_set(child).then(String::new),
    };
    if !is_list {
        return below(child).map(|place| format!("{name}{place}"));
    }
    let mut elements = child.as_array()?.iter().enumerate();
    elements.find_map(|(index, element)| Some(format!("{name}[{index}]{}", below(element)?)))
}

/// Values that ask for nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        // A member that is there and empty is one all the same, e.g. an interface without a new name.
        Value::Object(members) => members.values().any(|member| is_set(member) || *member == json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_is_named_with_its_place() {
        for (document, place) in [
            (json!({"linux": {"netDevices": {"eth0": {"name": "a"}}}}), "linux.netDevices"),
            (json!({"linux": {"resources": {"network": {"classID": 5}}}}), "linux.resources.network"),
            (json!({"linux": {"netDevices": {"eth0": {}}}}), "linux.netDevices"),
            (json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND"}}}), "linux.memoryPolicy"),
        ] {
            assert_eq!(check(&document), Err(FieldError(place.into())));
        }
    }

    #[test]
    fn unset_unknown_and_applied_fields_pass() {
        for document in [
            json!({}),
            json!({"hooks": {"prestart": []}, "linux": {"seccomp": null, "sysctl": {}}}),
            json!({"process": {"oomScoreAdj": 0, "apparmorProfile": "", "noNewPrivileges": true}}),
            json!({"linux": {"resources": {"devices": [{"allow": false}], "rdma": {}}}}),
            json!({"com.example.unknown": 5, "annotations": {"a": "b"}}),
            json!([1, 2]),
        ] {
            assert_eq!(check(&document), Ok(()), "{document}");
        }
    }
}
