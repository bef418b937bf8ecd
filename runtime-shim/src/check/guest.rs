//! The parts of the installation: programs, guest kernel, initrd.

use std::error::Error;
use std::io::{self, BufReader, Read};

use vmm::config::GuestFile;

use super::Finding;
use crate::bundle::machine_parts::ChosenFile;
use crate::config::Config;
use crate::report::chain;
use crate::sandbox::guest_files::GuestFiles;
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
    let files = GuestFiles { installation, directories: &[] };
    [devices, vmm, kernel(config, files), initrd(config, files)]
}

/// An error without the remedy that its text may end with: a finding has its own.
fn cause(error: &dyn Error) -> String {
    let text = chain(error);
    text.split("; ").next().unwrap_or_default().to_owned()
}

fn kernel(config: &Config, files: GuestFiles<'_>) -> Finding {
    let chosen = config.kernel.as_deref().map(ChosenFile::by_operator);
    let found = files.kernel(chosen.as_ref()).map_err(|error| chain(&error)).and_then(|kernel| {
        let path = kernel.path.display().to_string();
        describe_kernel(&kernel).map_err(|error| format!("cannot read {path}: {error}"))
    });
    match found {
        Ok(found) => Finding::ok("kernel", found),
        Err(found) => Finding::fail("kernel", found, BUILD),
    }
}

fn describe_kernel(kernel: &GuestFile) -> io::Result<String> {
    let release = release_in(BufReader::new(&kernel.file))?;
    Ok(format!(
        "{}, {}",
        kernel.path.display(),
        release.map_or("of unknown release".into(), |r| format!("Linux {r}"))
    ))
}

fn initrd(config: &Config, files: GuestFiles<'_>) -> Finding {
    let chosen = config.initrd.as_deref().map(ChosenFile::by_operator);
    let size = |file: &GuestFile| file.file.metadata().map_or(0, |metadata| metadata.len());
    match files.initrd(chosen.as_ref()) {
        Ok(file) => Finding::ok("initrd", format!("{}, {} KiB", file.path.display(), size(&file) >> 10)),
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
