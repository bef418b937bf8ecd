//! Devices, kernel parameters and sockets of the host, and containers that may do everything.

use std::io::Write;
use std::os::unix::net::UnixListener;

use anyhow::Result;
use e2e::together;

use crate::engine::Engine;

crate::engine::each_engine! {
    devices_that_were_not_asked_for_cannot_be_opened,
    a_device_of_the_host_is_the_guests_of_its_number,
    a_privileged_container_may_do_everything,
    kernel_parameters_are_the_containers,
    a_socket_of_the_host_is_a_door_to_its_server,
}

/// The control device of loop devices (10:237), and the kernel's log (1:11).
const OPEN: &str = "cd /tmp; mknod loop c 10 237 && mknod log c 1 11 && echo made
    for device in loop log; do (: <$device) 2>/dev/null && echo $device; done; mount -t tmpfs x /mnt 2>/dev/null && echo mounted; true";

fn devices_that_were_not_asked_for_cannot_be_opened(engine: &Engine) -> Result<()> {
    let _order = together();
    let answer = engine.run(&["--cap-add", "MKNOD", "--cap-add", "SYSLOG"], OPEN)?.expect(0)?;
    assert_eq!(answer.stdout, "made\n", "{}", engine.name);
    Ok(())
}

fn a_device_of_the_host_is_the_guests_of_its_number(engine: &Engine) -> Result<()> {
    let _order = together();
    let script = "head -c 3 /dev/nought | wc -c; stat -c %t:%T /dev/nought";
    let answer = engine.run(&["--device", "/dev/zero:/dev/nought"], script)?.expect(0)?;
    assert_eq!(answer.stdout, "3\n1:5\n", "{}", engine.name);
    Ok(())
}

fn a_privileged_container_may_do_everything(engine: &Engine) -> Result<()> {
    let _order = together();
    let script =
        format!("mkdir -p /mnt /tmp; {OPEN}; echo 1 >/proc/sys/vm/overcommit_memory && echo written");
    let answer = engine.run(&["--privileged"], &script)?.expect(0)?;
    assert_eq!(answer.stdout, "made\nloop\nlog\nmounted\nwritten\n", "{}", engine.name);
    Ok(())
}

fn kernel_parameters_are_the_containers(engine: &Engine) -> Result<()> {
    let _order = together();
    let options = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=77", "--sysctl", "kernel.shmmni=99"];
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni";
    let answer = engine.run(&options, script)?.expect(0)?;
    assert_eq!(answer.stdout, "77\n99\n", "{}", engine.name);
    Ok(())
}

fn a_socket_of_the_host_is_a_door_to_its_server(engine: &Engine) -> Result<()> {
    let _order = together();
    let directory = tempfile::Builder::new().prefix("server.").tempdir()?;
    let path = directory.path().join("server.sock");
    let server = UnixListener::bind(&path)?;
    // Ends with the test.
    std::thread::spawn(move || {
        for mut connection in server.incoming().flatten() {
            if connection.write_all(b"from the host\n").is_err() {
                return;
            }
        }
    });
    let volumes = [
        format!("{}:/run/server.sock", path.display()),
        format!("{}:/bin/probe:ro", e2e::Setup::get()?.probe().display()),
    ];
    let options = ["--volume", &volumes[0], "--volume", &volumes[1]];
    let answer = engine.run(&options, "/bin/probe connect /run/server.sock </dev/null")?.expect(0)?;
    assert_eq!(answer.stdout, "from the host\n", "{}", engine.name);
    Ok(())
}
