//! The life of a device process: take what the shim hands over, lock the door, serve, end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
use device_config::FsConfig;
use devices::balloon::BalloonDevice;
use devices::console::ConsoleDevice;
use devices::fs::{FsDevice, FsError, options, share};
use devices::net::{NetPair, relay};
use devices::rng::RngDevice;
use devices::server::{Served, serve, serve_parts};
use devices::vsock::VsockDevice;

use crate::inherit::{self, ConsoleFds, Inherited, NetFds, VsockFds};

/// Serves the devices of the configuration in descriptor `config_fd` until their frontends are gone.
///
/// A failure is told in one line on the status descriptor of the configuration, or on standard error where that
/// is not known yet.
#[must_use]
pub(crate) fn run(config_fd: i32) -> ExitCode {
    let inherited = match inherit::take(config_fd) {
        Ok(inherited) => inherited,
        Err(error) => {
            eprintln!("runv-devices: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut status = match inherited.status.try_clone() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("runv-devices: cannot duplicate the status descriptor: {error}");
            return ExitCode::FAILURE;
        }
    };
    match serve_all(inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads it when the shim is gone, and then nobody needs to.
            let _ = status.write_all(one_line(&error).as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// The reader takes one line for one error.
fn one_line(error: &anyhow::Error) -> String {
    format!("{}\n", format!("{error:#}").replace('\n', " "))
}

fn serve_all(inherited: Inherited) -> Result<()> {
    let Inherited { config, mut status, lifeline, fs, vsock, rng, balloon, console, net } = inherited;

    let file_system = confine(config.fs.as_ref())?;
    end_with(lifeline)?;

    let mut served: Vec<Box<dyn Served>> = Vec::new();
    if let (Some(device), Some(listener)) = (file_system, fs) {
        served.push(serve("fs", device, listener)?);
    }
    if let (Some(config), Some(VsockFds { listener, host_listener, directory })) = (&config.vsock, vsock) {
        let device = VsockDevice::new(config.guest_cid, host_listener, directory)?;
        served.push(serve("vsock", device, listener)?);
    }
    if let Some(listener) = rng {
        served.push(serve("rng", RngDevice, listener)?);
    }
    if let Some(listener) = balloon {
        served.push(serve("balloon", BalloonDevice, listener)?);
    }
    if let Some(ConsoleFds { listener, output }) = console {
        served.push(serve("console", ConsoleDevice::new(output), listener)?);
    }
    for NetFds { listener, tap, vhost } in net {
        if !vhost.is_empty() {
            served.push(relay::serve(tap, vhost, listener)?);
            continue;
        }
        let pairs = NetPair::of(tap).context("cannot use a tap")?;
        served.push(serve_parts("net", pairs, listener)?);
    }
    status.write_all(b"ready\n").context("cannot report that the devices are ready")?;
    drop(status);

    let results: Vec<_> = served.iter_mut().map(|device| device.wait()).collect();
    // Dropping them waits for their threads, and one may be stuck in the host's file system.
    std::mem::forget(served);
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(())
}

/// Locks the door: from here on the process reaches nothing of the host but the share's exports and the
/// descriptors that it holds. (A seccomp filter and a change of user will follow the change of root.)
fn confine(fs: Option<&FsConfig>) -> Result<Option<FsDevice>> {
    jail::process::ignore_interrupt().context("cannot ignore SIGINT")?;
    jail::process::share_one_heap();
    jail::process::clear_umask();
    jail::process::forbid_new_privileges().context("cannot forbid new privileges")?;
    let open_files = jail::process::raise_open_files(options::WANTED_OPEN_FILES)
        .context("cannot raise the limit of open files")?;

    let Some(config) = fs else {
        jail::root::enter(&jail::RootPlan::default())?;
        return Ok(None);
    };
    jail::process::keep_capabilities_as_another_user()
        .context("cannot keep capabilities while files are made in another user's name (CAP_SETPCAP)")?;
    let proc_self_fd = jail::root::clone_proc_self_fd().map_err(FsError::ProcSelfFd)?;
    jail::root::enter(&share::root_plan(&config.exports))?;
    let file_system = options::open(config, proc_self_fd, open_files)?;
    Ok(Some(FsDevice::new(file_system, options::lifetime(config.cache))))
}

/// Ends the process when the other end of `lifeline` is closed: the shim, which alone could stop it, is gone.
fn end_with(lifeline: OwnedFd) -> Result<()> {
    std::thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(move || {
            let mut lifeline = File::from(lifeline);
            // Nothing is ever said here; whatever ends the reading ends the process.
            while matches!(lifeline.read(&mut [0; 16]), Ok(1..)) {}
            std::process::exit(0);
        })
        .context("cannot start a thread")?;
    Ok(())
}
