//! Lists of CPUs, as cpuset(7) writes them.

use std::collections::BTreeSet;

/// CPUs that Linux can have (`CONFIG_NR_CPUS` of the largest machines).
const MOST: u32 = 8192;

/// How many CPUs a list such as `0-3,7` has; `None` if it is no list. The empty list has none.
pub(crate) fn count(list: &str) -> Option<u32> {
    u32::try_from(parse(list)?.len()).ok()
}

/// The CPUs of a list; `None` if it is no list.
pub(crate) fn parse(list: &str) -> Option<BTreeSet<u32>> {
    let list = list.trim();
    if list.is_empty() {
        return Some(BTreeSet::new());
    }
    let mut cpus = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted() {
        for (list, expected) in [
            ("", Some(0)),
            ("0", Some(1)),
            ("0-3,7", Some(5)),
            ("1,1,0-1\n", Some(2)),
            ("3-1", None),
            ("0-", None),
            ("-1", None),
            ("a", None),
            ("0,,1", None),
            ("0-4294967295", None),
        ] {
            assert_eq!(count(list), expected, "{list:?}");
        }
    }
}
