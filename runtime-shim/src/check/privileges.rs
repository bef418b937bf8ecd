//! Whether this user may do what a sandbox needs.

use rustix::process::geteuid;

use super::Finding;

const NAME: &str = "user";

pub(super) fn check() -> Finding {
    if geteuid().is_root() {
        Finding::ok(NAME, "root")
    } else {
        Finding::fail(NAME, format!("uid {}", geteuid().as_raw()), "run as root")
    }
}
