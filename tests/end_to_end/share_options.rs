//! `[virtio_fs]` of the configuration: what its options change of the root file system.

use std::fs;

use anyhow::Result;
use e2e::pattern::Pattern;
use e2e::{Bundle, Sandbox, together};

const LENGTH: u64 = 3_000_001;

/// Whatever is cached, and wherever: what the guest wrote is on the host when it has ended.
#[test]
fn each_way_of_caching_keeps_what_is_written() -> Result<()> {
    let _order = together();
    for options in ["cache = \"never\"", "cache = \"always\"", "cache = \"always\"\nwriteback = true"] {
        let bundle = Bundle::shell(&format!(
            "set -e; mkdir /w; probe map /w/map; probe lock /w/lock; probe xattr /w/xattr; probe write-file /w/file {LENGTH}
             echo first >/w/text; echo second >>/w/text; truncate -s 3 /w/map; mv /w/text /w/moved; cat /w/moved"
        ))?;
        let sandbox = Sandbox::configured(&bundle, &format!("[virtio_fs]\n{options}\n"))?;
        let text = sandbox.finish()?.expect_code(0)?.text();
        assert_eq!(text, format!("mapped\nlocked\nattributes\nwrote {LENGTH}\nfirst\nsecond\n"), "{options}");
        let at = |name: &str| bundle.rootfs().join("w").join(name);
        assert_eq!(fs::read_to_string(at("moved"))?, "first\nsecond\n", "{options}");
        assert_eq!(fs::read_to_string(at("map"))?, "mmm", "{options}");
        assert_eq!(Pattern::new(3).verify(&mut fs::File::open(at("file"))?)?, LENGTH, "{options}");
    }
    Ok(())
}
