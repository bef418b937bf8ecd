//! systemd's cgroup driver with systemd itself, which is PID 1 here (`boot`, called by `tests/run systemd`): on hosts with
//! cgroups of version 1, and in the nested test host with those of version 2.

mod limits;
mod refusals;
mod scope;
mod unit;
