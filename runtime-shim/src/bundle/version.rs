//! Which versions of the OCI runtime specification are understood.

/// What [`is_supported`] accepts, in words.
pub(crate) const SUPPORTED: &str = "1.0.0 and later 1.x";

/// The version that is followed.
pub(crate) const IMPLEMENTED: &str = "1.2.0";

/// Whether a configuration with this `ociVersion` can be run. Semantic versioning promises that later minor
/// versions only add; what they add and this runtime does not know is checked field by field.
pub(crate) fn is_supported(version: &str) -> bool {
    let (numbers, suffix) = match version.find(['-', '+']) {
        Some(place) => version.split_at(place),
        None => (version, ""),
    };
    let parts: Vec<Option<u32>> = numbers.split('.').map(number).collect();
    // 1.0.0-rc1 and its like are drafts with other fields.
    let draft = suffix.starts_with("-rc") && numbers == "1.0.0";
    matches!(parts.as_slice(), [Some(1), Some(_), Some(_)]) && suffix != "-" && suffix != "+" && !draft
}

fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["1.0.0", "1.0.2", "1.0.2-dev", "1.1.0", "1.2.0", "1.2.1+dev", "1.3.0", "1.1.0-rc.3"] {
            assert!(is_supported(good), "{good}");
        }
        for bad in [
            "",
            "1",
            "1.0",
            "0.9.0",
            "2.0.0",
            "1.0.0-rc1",
            "1.0.0-rc.5",
            "v1.0.0",
            "1.x.0",
            "1.0.0.0",
            "01.0.0",
            "1.-1.0",
            "1.0.0-",
            "1. 0.0",
        ] {
            assert!(!is_supported(bad), "{bad}");
        }
    }
}
