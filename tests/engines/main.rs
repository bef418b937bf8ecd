//! The engines that people use, unchanged, with `runv` as their runtime: docker, podman, buildah and
//! containerd of Debian 12.
//!
//! Each engine has its state in this test's own directories and namespaces (`tests/run engines` makes those). Its
//! image is made here, of busybox, as there is no registry. All but the networks are with `--network none`.

mod build;
mod containerd;
mod devices;
mod engine;
mod host_view;
mod isolation;
mod lifecycle;
mod limits;
mod management;
mod network;
mod network_ways;
mod podman_networks;
mod pods;
mod process;
mod storage;
mod terminal;
mod workloads;
