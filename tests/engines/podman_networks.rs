//! podman's networks: those of CNI's plug-ins, with names by dnsname, and those of netavark, with names by aardvark-dns.

use anyhow::{Result, ensure};
use e2e::{Deadline, together};

use crate::engine::{Engine, IMAGE};
use crate::network::{ECHO, Network, PING, UNTIL_TERM, address, answers_by, echo, reaches};

/// A way in which podman makes networks, with a number that makes what is of the host its own.
struct Way {
    engine: &'static Engine,
    number: u8,
}

impl Way {
    fn cni() -> Result<Self> {
        Ok(Self { engine: Engine::podman()?, number: 20 })
    }

    fn netavark() -> Result<Self> {
        Ok(Self { engine: Box::leak(Box::new(Engine::podman()?.with_netavark()?)), number: 30 })
    }
}

/// Makes each function a test for each way.
macro_rules! each_way {
    ($($name:ident),+ $(,)?) => {
        mod cni {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                super::$name(&super::Way::cni()?)
            })+
        }
        mod netavark {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                super::$name(&super::Way::netavark()?)
            })+
        }
    };
}

each_way! {
    a_network_is_as_podman_is_told,
    networks_come_and_go_while_a_container_runs,
    a_pod_is_on_a_network_as_one,
}

/// Addresses, names and published ports, beside a container of runc.
fn a_network_is_as_podman_is_told(way: &Way) -> Result<()> {
    let _order = together();
    let (podman, n) = (way.engine, way.number);
    let (v4, v6) = (format!("10.78.{n}.0/24"), format!("fd78:{n}::/64"));
    let network = format!("told-{n}");
    let network = Network::of(podman, &network, &["--ipv6", "--subnet", &v4, "--subnet", &v6])?;
    let (own, own_v6, mac) = (format!("10.78.{n}.7"), format!("fd78:{n}::7"), format!("02:78:00:00:00:{n}"));
    let name = |of: &str| format!("{of}-{n}");
    let (tcp, udp) = (8100 + u16::from(n), 8101 + u16::from(n));
    let ports = [format!("{tcp}:80"), format!("{udp}:80/udp")];
    let (server, client, plain) = (name("server"), name("client"), name("plain"));
    let told = ["--ip", &own, "--ip6", &own_v6, "--mac-address", &mac, "-p", &ports[0], "-p", &ports[1]];
    let names = ["--add-host", "other:192.0.2.1", "--dns", "192.0.2.53", "--dns-search", "example.org"];
    let options = [&told[..], &names, &PING, &["--name", &server]].concat();
    let server = podman.start_in(network.name, &options, ECHO)?;
    let client = podman.start_in(network.name, &[&PING[..], &["--name", &client]].concat(), ECHO)?;
    let runc = podman.with_runc();
    let plain = runc.start_in(network.name, &[&PING[..], &["--name", &plain]].concat(), ECHO)?;
    for container in [&server, &client, &plain] {
        container.wrote("ready")?;
    }
    let seen = server.exec(&[], "ip addr show eth0; cat /etc/hosts /etc/resolv.conf")?.expect(0)?.stdout;
    let (v4, v6) = (format!("{own}/24"), format!("{own_v6}/64"));
    for text in [&v4, &v6, &mac, "192.0.2.1\tother", "nameserver 192.0.2.53", "search example.org"] {
        ensure!(seen.contains(text), "{text} in {seen}");
    }
    // By name, and by address of either version.
    for (from, to) in [(&client, name("plain")), (&plain, name("client")), (&client, name("server"))] {
        let found = from.exec(&[], &format!("nslookup {to}"))?.expect(0)?.stdout;
        ensure!(found.contains(&format!("Address: 10.78.{n}.")), "{} found {found}", from.id);
        reaches(from, &to)?;
    }
    reaches(&plain, &own)?;
    reaches(&client, &own_v6)?;
    reaches(&server, &address(&plain, network.name)?)?;

    let (gateway, gateway_v6) = (format!("10.78.{n}.1"), format!("fd78:{n}::1"));
    for host in ["127.0.0.1", &gateway, &gateway_v6] {
        answers_by(host, tcp, udp)?;
    }
    let heard = client.exec(&[], &format!("echo hello | nc {gateway} {tcp}"))?.expect(0)?.stdout;
    assert_eq!(heard, "hello\n");
    Ok(())
}

fn networks_come_and_go_while_a_container_runs(way: &Way) -> Result<()> {
    let _order = together();
    let (podman, n) = (way.engine, way.number);
    let subnet = |m: u8| format!("10.78.{}.0/24", n + m);
    let (first, second) = (format!("first-{n}"), format!("second-{n}"));
    let first = Network::of(podman, &first, &["--subnet", &subnet(1)])?;
    let second = Network::of(podman, &second, &["--subnet", &subnet(2)])?;
    let names = ["both", "moves", "plain"].map(|name| format!("{name}-of-second-{n}"));
    let options = [&PING[..], &["--name", &names[0], "--network", second.name]].concat();
    let both = podman.start_in(first.name, &options, ECHO)?;
    let moves = podman.start_in(first.name, &[&PING[..], &["--name", &names[1]]].concat(), ECHO)?;
    let runc = podman.with_runc();
    let plain = runc.start_in(second.name, &[&PING[..], &["--name", &names[2]]].concat(), ECHO)?;
    for container in [&both, &moves, &plain] {
        container.wrote("ready")?;
    }
    // From the start it is on two networks.
    reaches(&both, &address(&moves, first.name)?)?;
    reaches(&both, &address(&plain, second.name)?)?;
    reaches(&plain, &address(&both, second.name)?)?;

    for ip in [format!("10.78.{}.77", n + 2), format!("10.78.{}.78", n + 2)] {
        podman.call(["network", "connect", "--ip", &ip, second.name, &names[1]])?.expect(0)?;
        Deadline::generous()?.wait_for("the interface", || {
            Ok(moves.exec(&[], "ip addr")?.stdout.contains(&format!("inet {ip}/24")).then_some(()))
        })?;
        reaches(&moves, &address(&plain, second.name)?)?;
        reaches(&plain, &ip)?;
        // podman tells the container of that network's name server too.
        let found = moves.exec(&[], &format!("nslookup -type=a {}", names[2]))?.expect(0)?.stdout;
        ensure!(found.contains(&format!("Address: {}", address(&plain, second.name)?)), "{found}");
        podman.call(["network", "disconnect", second.name, &names[1]])?.expect(0)?;
        Deadline::generous()?.wait_for("the interface's end", || {
            Ok((moves.exec(&[], "ls /sys/class/net")?.stdout == "eth0\nlo\n").then_some(()))
        })?;
    }
    reaches(&moves, &address(&both, first.name)?)
}

/// Its port is published, its containers have one loopback, and it is found by its name.
fn a_pod_is_on_a_network_as_one(way: &Way) -> Result<()> {
    let _order = together();
    let (podman, n) = (way.engine, way.number);
    let (network, pod) = (format!("of-pod-{n}"), format!("pod-{n}"));
    let network = Network::of(podman, &network, &["--subnet", &format!("10.78.{}.0/24", n + 3)])?;
    let port = 8104 + u16::from(n);
    let publish = format!("{port}:80");
    let create = ["pod", "create", "--name", &pod, "--network", network.name, "--publish", &publish];
    podman.call(create)?.expect(0)?;
    let asked = (|| -> Result<()> {
        let serve = format!("serves-{n}");
        let run = ["run", "--detach", "--pod", &pod, "--name", &serve, IMAGE, "sh", "-c", ECHO];
        podman.call(run)?.expect(0)?;
        let server = podman.existing(&serve);
        server.wrote("ready")?;
        let beside = "echo beside | nc 127.0.0.1 80; ip -o link show eth0 | wc -l";
        let run = ["run", "--rm", "--pod", &pod, IMAGE, "sh", "-c", beside];
        let beside = podman.call(run)?;
        ensure!(beside.stdout == "beside\n1\n", "{beside:?}");
        assert_eq!(echo(&format!("10.78.{}.1:{port}", n + 3))?, "stream");
        let runc = podman.with_runc();
        let plain = runc.start_in(network.name, &PING, UNTIL_TERM)?;
        reaches(&plain, &pod)
    })();
    podman.call(["pod", "rm", "--force", "--time", "0", &pod])?.expect(0)?;
    asked
}
