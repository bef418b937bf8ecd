//! The vhost-user device backends of a sandbox.
