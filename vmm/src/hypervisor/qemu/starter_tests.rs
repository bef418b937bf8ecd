//! Which program is executed first.

use super::*;

fn program(binder: Option<&str>, is_labelled: bool) -> Result<String, String> {
    let qemu = Qemu { binder: binder.map(PathBuf::from), ..Qemu::new("/qemu".into(), Accelerator::Tcg) };
    let command = qemu.starter(is_labelled).map_err(|error| error.to_string())?;
    Ok(command.get_program().to_string_lossy().into_owned())
}

#[test]
fn without_a_label_it_is_qemu() {
    assert_eq!(program(Some("/binder"), false).unwrap(), "/qemu");
    assert_eq!(program(None, false).unwrap(), "/qemu");
}

#[test]
fn with_a_label_it_is_what_ties_it_to_this_process() {
    assert_eq!(program(Some("/binder"), true).unwrap(), "/binder");
    let error = program(None, true).unwrap_err();
    assert!(error.contains("runv-vmm, which is not installed"), "{error}");
}
