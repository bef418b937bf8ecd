//! The configuration and the descriptors that the shim hands to the process.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use device_config::DeviceProcessConfig;
use jail::fds::InheritedFds;

/// More than any configuration needs: an export is some 200 bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// The descriptors of a [`DeviceProcessConfig`], owned.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) config: DeviceProcessConfig,
    pub(crate) status: File,
    pub(crate) lifeline: OwnedFd,
    pub(crate) fs: Option<OwnedFd>,
    pub(crate) vsock: Option<VsockFds>,
    pub(crate) rng: Option<OwnedFd>,
    pub(crate) balloon: Option<OwnedFd>,
    pub(crate) console: Option<ConsoleFds>,
    pub(crate) net: Vec<NetFds>,
}

/// Of the vsock device.
#[derive(Debug)]
pub(crate) struct VsockFds {
    pub(crate) listener: OwnedFd,
    pub(crate) host_listener: OwnedFd,
    pub(crate) directory: OwnedFd,
}

/// Of the console device.
#[derive(Debug)]
pub(crate) struct ConsoleFds {
    pub(crate) listener: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// Of a network device.
#[derive(Debug)]
pub(crate) struct NetFds {
    pub(crate) listener: OwnedFd,
    pub(crate) tap: Vec<OwnedFd>,
    pub(crate) vhost: Vec<OwnedFd>,
}

/// Reads the configuration from descriptor `config_fd`, takes what it names, and closes everything else.
pub(crate) fn take(config_fd: i32) -> Result<Inherited> {
    let mut fds = InheritedFds::new();
    let config = read_config(fds.take(config_fd)?)?;
    let status = fds.take(config.status_fd)?.into();
    let lifeline = fds.take(config.lifeline_fd)?;
    let fs = config.fs.as_ref().map(|fs| fds.take(fs.listener_fd)).transpose()?;
    let rng = config.rng.as_ref().map(|rng| fds.take(rng.listener_fd)).transpose()?;
    let balloon = config.balloon.as_ref().map(|balloon| fds.take(balloon.listener_fd)).transpose()?;
    let vsock = match &config.vsock {
        Some(vsock) => Some(VsockFds {
            listener: fds.take(vsock.listener_fd)?,
            host_listener: fds.take(vsock.host_listener_fd)?,
            directory: fds.take(vsock.directory_fd)?,
        }),
        None => None,
    };
    let console = match &config.console {
        Some(console) => Some(ConsoleFds {
            listener: fds.take(console.listener_fd)?,
            output: fds.take(console.output_fd)?,
        }),
        None => None,
    };
    let mut net = Vec::new();
    for device in &config.net {
        let listener = fds.take(device.listener_fd)?;
        let tap = device.tap_fds.iter().map(|fd| fds.take(*fd)).collect::<Result<_, _>>()?;
        let vhost = device.vhost_fds.iter().map(|fd| fds.take(*fd)).collect::<Result<_, _>>()?;
        net.push(NetFds { listener, tap, vhost });
    }
    fds.close_others()?;
    Ok(Inherited { config, status, lifeline, fs, vsock, rng, balloon, console, net })
}

fn read_config(fd: OwnedFd) -> Result<DeviceProcessConfig> {
    let mut text = Vec::new();
    File::from(fd).take(MAX_CONFIG + 1).read_to_end(&mut text).context("cannot read the configuration")?;
    if text.len() as u64 > MAX_CONFIG {
        bail!("the configuration is larger than {MAX_CONFIG} bytes");
    }
    serde_json::from_slice(&text).context("cannot parse the configuration")
}
