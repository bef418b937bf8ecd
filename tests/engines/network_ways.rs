//! What goes by a network besides plain connections: multicast, fragments, what outlives dockerd, services of compose, a
//! database, and podman's ways to a network that are not CNI's.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Deadline, together};

use crate::engine::{Engine, IMAGE};
use crate::network::{ECHO, Network, PING, UNTIL_TERM, address, reaches};

/// On one bridge, between kernels, both ways.
#[test]
fn multicast_fragments_and_a_small_mtu_go_between_runtimes() -> Result<()> {
    let _order = together();
    let options = ["--ipv6", "--subnet", "10.78.11.0/24", "--subnet", "fd78:11::/64"];
    let mtu = ["--opt", "com.docker.network.driver.mtu=1400"];
    let network = Network::new("small", &[&options[..], &mtu].concat())?;
    let docker = network.engine;
    let echo = |group: &str| format!("trap 'exit 0' TERM; probe echo 80 {group} & wait");
    let ours = docker.start_in("small", &["--ip6", "fd78:11::7"], &echo("239.77.0.1"))?;
    let plain =
        docker.start_in("small", &["--runtime", "runc", "--ip6", "fd78:11::8"], &echo("239.77.0.2"))?;
    for (from, to, to_v6, group) in
        [(&ours, &plain, "fd78:11::8", "239.77.0.2"), (&plain, &ours, "fd78:11::7", "239.77.0.1")]
    {
        to.wrote("ready")?;
        let to = address(to, "small")?;
        reaches(from, to_v6)?;
        // The answer to a group comes from its member; those to all nodes from each.
        let script = format!(
            "cat /sys/class/net/eth0/mtu; printf datagram | probe udp {group}:80; echo
             ping -c 2 -w 9 ff02::1%eth0 | grep -c DUP!
             for at in {to} [{to_v6}]; do probe write 5000 1 | probe udp $at:80 | probe verify 1; done
             probe write 300000 2 | nc {to} 80 | probe verify 2"
        );
        let heard = from.exec(&[], &script)?.expect(0)?.stdout;
        let lines: Vec<_> = heard.lines().collect();
        ensure!(lines.len() == 6 && lines[..2] == ["1400", "datagram"], "{} heard {heard:?}", from.id);
        ensure!(lines[2].parse::<u32>()? > 0, "no other node: {heard:?}");
        assert_eq!(lines[3..], ["verified 5000", "verified 5000", "verified 300000"]);
    }
    Ok(())
}

/// What a server of echo says to a word.
fn echoed(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"word")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn connections_and_published_ports_outlive_dockerd() -> Result<()> {
    let _order = e2e::alone();
    let docker = Engine::docker()?;
    let server = docker.start_in("bridge", &["-p", "8092:80"], ECHO)?;
    server.wrote("ready")?;
    let at = format!("{}:80", address(&server, "bridge")?);
    let mut open = TcpStream::connect(&at)?;
    open.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut word = [0; 4];
    for _ in 0..2 {
        docker.without_daemon(|| {
            open.write_all(b"kept")?;
            open.read_exact(&mut word)?;
            assert_eq!(&word, b"kept");
            assert_eq!(echoed(&at)?, "word");
            Ok(())
        })?;
    }
    assert_eq!(echoed(&at)?, "word");
    let gateway = server.inspect("(index .NetworkSettings.Networks \"bridge\").Gateway")?;
    assert_eq!(echoed(&format!("{gateway}:8092"))?, "word");
    // It is the new dockerd's network as it was the old one's.
    let client = docker.start_in("bridge", &["--runtime", "runc"], ECHO)?;
    client.wrote("ready")?;
    reaches(&client, at.trim_end_matches(":80"))?;
    reaches(&server, &address(&client, "bridge")?)
}

#[test]
fn services_of_compose_find_each_other_by_name() -> Result<()> {
    let _order = together();
    let engine = Engine::docker()?;
    let directory = tempfile::Builder::new().prefix("compose.").tempdir()?;
    let service = |runtime: &str, script: &str| {
        format!("    image: {IMAGE}\n    runtime: {runtime}\n    command: [sh, -c, \"{script}\"]\n")
    };
    let chain = |next: &str| {
        let serve = format!("nc {next} 80; sleep 1");
        format!("trap 'exit 0' TERM; nc -ll -p 80 -e sh -c '{serve}' & wait")
    };
    let text = format!(
        "version: '2.4'\nservices:\n  front:\n{}  middle:\n{}    depends_on: [back]\n  back:\n{}\
         networks:\n  default:\n    ipam: {{ config: [ {{ subnet: 10.78.12.0/24 }} ] }}\n",
        service("runv", UNTIL_TERM),
        service("runv", &chain("back")),
        service("runc", "trap 'exit 0' TERM; nc -ll -p 80 -e echo behind & wait"),
    );
    fs::write(directory.path().join("docker-compose.yml"), text)?;
    let compose = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new("docker-compose");
        // `--host` and the socket of dockerd.
        command.args(engine.command(["--project-name", "chain"]).get_args()).args(arguments);
        let output = command.current_dir(directory.path()).output().context("docker-compose")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let asked = compose(&["up", "--detach"]).and_then(|_| {
        Deadline::generous()?.wait_for("the service behind the others", || {
            let heard = compose(&["exec", "-T", "front", "sh", "-c", "nc middle 80 </dev/null || true"])?;
            Ok((heard == "behind\n").then_some(()))
        })
    });
    compose(&["down", "--timeout", "5"])?;
    asked
}

/// Of the host's, by slirp4netns: 10.0.2.2 is the host's loopback, if that is asked for.
#[test]
fn podman_has_slirp4netns_and_user_namespaces_on_a_network() -> Result<()> {
    let _order = together();
    let podman = Engine::podman()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let answer = thread::spawn(move || -> Result<()> {
        for _ in 0..2 {
            listener.accept()?.0.write_all(b"from the host\n")?;
        }
        Ok(())
    });
    for options in [&[][..], &["--uidmap", "0:100000:65536"]] {
        let run = ["run", "--rm", "--network", "slirp4netns:allow_host_loopback=true"];
        let script = format!("ip -o addr show tap0; uname -r; nc 10.0.2.2 {port} </dev/null");
        let script = [IMAGE, "sh", "-c", script.as_str()];
        let heard = podman.call(run.iter().chain(options).chain(&script))?.expect(0)?.stdout;
        for text in ["inet 10.0.2.100/24", "-runv", "from the host"] {
            ensure!(heard.contains(text), "{text} in {heard}");
        }
    }
    answer.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;

    // The network is there only after `create`, as the namespace belongs to that of the users.
    let options = [&PING[..], &["--uidmap", "0:100000:65536"]].concat();
    let server = podman.start_in("podman", &options, &format!("ip -o addr show eth0; {ECHO}"))?;
    server.wrote("ready")?;
    let own = address(&server, "podman")?;
    ensure!(server.call(&["logs"])?.stdout.contains(&format!("inet {own}/")), "the network was late");
    assert_eq!(echoed(&format!("{own}:80"))?, "word");
    Ok(())
}
