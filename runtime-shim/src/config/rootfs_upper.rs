//! Where a container's writes to its root file system go.

use std::str::FromStr;

use serde::Deserialize;

use super::memory::kib_of;

/// `rootfs_upper` and `io.runv.rootfs_upper`: `none`, `tmpfs`, or `tmpfs:SIZE`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum RootfsUpper {
    /// To the host's directory, by virtio-fs.
    #[default]
    None,
    /// To a tmpfs in the guest, which ends with the container.
    Tmpfs {
        /// How much it holds, in MiB; half of the container's memory if it is not said.
        mib: Option<u32>,
    },
}

/// Text that names no such place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place for the root file system's writes: say none, tmpfs, or tmpfs:SIZE, e.g. tmpfs:2G")]
pub(crate) struct RootfsUpperError(String);

impl FromStr for RootfsUpper {
    type Err = RootfsUpperError;

    fn from_str(text: &str) -> Result<Self, RootfsUpperError> {
        let size = |size: &str| -> Option<u32> {
            let mib = u32::try_from(kib_of(size)? >> 10).ok()?;
            (mib > 0).then_some(mib)
        };
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "tmpfs" => Ok(Self::Tmpfs { mib: None }),
            Some(("tmpfs", text)) if size(text).is_some() => Ok(Self::Tmpfs { mib: size(text) }),
            _ => Err(RootfsUpperError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for RootfsUpper {
    type Error = RootfsUpperError;

    fn try_from(text: String) -> Result<Self, RootfsUpperError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_a_tmpfs_and_one_of_a_size() {
        for (text, upper) in [
            ("none", RootfsUpper::None),
            ("tmpfs", RootfsUpper::Tmpfs { mib: None }),
            ("tmpfs:8", RootfsUpper::Tmpfs { mib: Some(8) }),
            ("tmpfs:2G", RootfsUpper::Tmpfs { mib: Some(2048) }),
            ("tmpfs:1024k", RootfsUpper::Tmpfs { mib: Some(1) }),
        ] {
            assert_eq!(text.parse(), Ok(upper), "{text}");
        }
        for text in
            ["", "tmpfs:", "tmpfs:0", "tmpfs:1k", "tmpfs:-1", "tmpfs:99999999T", "disk", "TMPFS", "none:1G"]
        {
            let error = text.parse::<RootfsUpper>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no place")), "{error}");
        }
    }
}
