//! The parts of the installation: programs, guest kernel, initrd.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::Finding;
use crate::config::Config;
use crate::report::chain;
use crate::sandbox::guest_files;
use crate::sandbox::installation::Installation;

const INSTALL: &str = "run `make install`, or start the `sandbox` of the build folder";
const BUILD: &str = "run `make kernel initrd`, or say where it is in the configuration";

pub(super) fn check(config: &Config, installation: &Installation) -> [Finding; 4] {
    let devices = match installation.device_program() {
        Ok(path) => Finding::ok("devices", path.display().to_string()),
        Err(error) => Finding::fail("devices", cause(&error), INSTALL),
    };
    let vmm = match installation.vmm_program() {
        Ok(path) => Finding::ok("vmm", path.display().to_string()),
        Err(error) => Finding::warn("vmm", cause(&error), INSTALL),
    };
    [devices, vmm, kernel(config, installation), initrd(config, installation)]
}

/// An error without the remedy that its text may end with: a finding has its own.
fn cause(error: &dyn Error) -> String {
    let text = chain(error);
    text.split("; ").next().unwrap_or_default().to_owned()
}

fn kernel(config: &Config, installation: &Installation) -> Finding {
    let found = guest_files::kernel(config, installation).map_err(|error| chain(&error)).and_then(|path| {
        describe_kernel(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    });
    match found {
        Ok(found) => Finding::ok("kernel", found),
        Err(found) => Finding::fail("kernel", found, BUILD),
    }
}

fn describe_kernel(path: &Path) -> io::Result<String> {
    let release = release_in(BufReader::new(File::open(path)?))?;
    Ok(format!(
        "{}, {}",
        path.display(),
        release.map_or("of unknown release".into(), |r| format!("Linux {r}"))
    ))
}

fn initrd(config: &Config, installation: &Installation) -> Finding {
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    match guest_files::initrd(config, installation) {
        Ok(path) => Finding::ok("initrd", format!("{}, {} KiB", path.display(), size(&path) >> 10)),
        Err(error) => Finding::fail("initrd", cause(&error), BUILD),
    }
}

/// The release in an uncompressed kernel's banner, which begins `Linux version `.
fn release_in(mut kernel: impl Read) -> io::Result<Option<String>> {
    const BANNER: &[u8] = b"Linux version ";
    let mut image = Vec::new();
    kernel.read_to_end(&mut image)?;
    let candidates = image.windows(BANNER.len()).enumerate().filter(|(_, window)| *window == BANNER);
    for (place, _) in candidates {
        let after = image.get(place + BANNER.len()..).unwrap_or_default();
        let release: Vec<u8> = after.iter().copied().take(64).take_while(|b| b.is_ascii_graphic()).collect();
        // The kernel also holds the format, `Linux version %s`.
        if release.first().is_some_and(u8::is_ascii_digit) {
            return Ok(Some(String::from_utf8_lossy(&release).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_of_a_kernel() {
        let image = b"\0\0Linux version %s\0 ... Linux version 6.12.1-runv (root@host) #1 SMP\n\0";
        assert_eq!(release_in(&image[..]).unwrap().as_deref(), Some("6.12.1-runv"));
        assert_eq!(release_in(&b"no kernel"[..]).unwrap(), None);
    }
}
