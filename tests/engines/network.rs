//! Networks of engines: a container in a machine is on them as any other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::network::ip;
use e2e::{Deadline, alone, together};

use crate::engine::{Container, Engine, IMAGE};

crate::engine::each_engine! {
    containers_on_one_bridge_reach_each_other_whatever_their_runtime,
    published_ports_are_those_of_the_container,
    nothing_of_a_network_is_left_however_a_container_ends,
}

/// Answers on port 80 with what it is sent, until it is told to end.
const ECHO: &str = "trap 'exit 0' TERM; probe echo 80 & wait";

/// Only runs, until it is told to end.
const UNTIL_TERM: &str = "trap 'exit 0' TERM; echo up; sleep 1000 & wait";

/// The network that each has by itself.
fn default_of(engine: &Engine) -> &'static str {
    if engine.name == "podman" { "podman" } else { "bridge" }
}

/// The address in a network.
fn address(container: &Container<'_>, network: &str) -> Result<String> {
    container.inspect(&format!("(index .NetworkSettings.Networks \"{network}\").IPAddress"))
}

/// podman's containers may not ping by themselves.
const PING: [&str; 2] = ["--cap-add", "NET_RAW"];

/// Asserts that an echo is reached by ICMP, TCP and UDP.
fn reaches(from: &Container<'_>, to: &str) -> Result<()> {
    let at = if to.contains(':') { format!("[{to}]") } else { to.to_owned() };
    let script = format!(
        "ping -c 1 -W 5 {to} >/dev/null && echo stream | nc {to} 80 && printf datagram | probe udp {at}:80"
    );
    let heard = from.exec(&[], &script)?.expect(0)?.stdout;
    ensure!(heard == "stream\ndatagram", "{} heard {heard:?} of {to}", from.id);
    Ok(())
}

fn containers_on_one_bridge_reach_each_other_whatever_their_runtime(engine: &Engine) -> Result<()> {
    let _order = together();
    let network = default_of(engine);
    let runc = engine.with_runc();
    let plain: &[&str] = if engine.name == "podman" { &[] } else { &["--runtime", "runc"] };
    let plain = [&PING, plain].concat();
    let all = [
        engine.start_in(network, &PING, ECHO)?,
        engine.start_in(network, &PING, ECHO)?,
        runc.start_in(network, &plain, ECHO)?,
    ];
    all.iter().try_for_each(|container| container.wrote("ready"))?;
    let addresses = all.iter().map(|container| address(container, network)).collect::<Result<Vec<_>>>()?;
    for [from, to] in [[0, 1], [1, 2], [2, 0]] {
        reaches(&all[from], &addresses[to])?;
    }
    // What the engine has chosen is what the guest has.
    let mac = all[0].inspect(&format!("(index .NetworkSettings.Networks \"{network}\").MacAddress"))?;
    let link = all[0].exec(&[], "ip addr show eth0; ip route; uname -r")?.expect(0)?.stdout;
    for text in [mac.as_str(), &addresses[0], "default via", "-runv"] {
        ensure!(link.contains(text), "{text} in {link}");
    }
    Ok(())
}

/// What a server of echo on this host answers.
fn echo(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"stream")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer from {address}"))?;
    Ok(text)
}

fn published_ports_are_those_of_the_container(engine: &Engine) -> Result<()> {
    let _order = together();
    let (network, offset) = (default_of(engine), if engine.name == "podman" { 10 } else { 0 });
    let (tcp, udp) = (8080 + offset, 8081 + offset);
    let ports = [format!("{tcp}:80"), format!("{udp}:80/udp")];
    let server = engine.start_in(network, &["-p", &ports[0], "-p", &ports[1]], ECHO)?;
    server.wrote("ready")?;
    let gateway = server.inspect(&format!("(index .NetworkSettings.Networks \"{network}\").Gateway"))?;
    for host in ["127.0.0.1", &gateway] {
        assert_eq!(echo(&format!("{host}:{tcp}"))?, "stream");
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.connect((host, udp))?;
        socket.send(b"datagram")?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).with_context(|| format!("no answer from {host}"))?;
        assert_eq!(&answer[..length], b"datagram");
    }
    let client = engine.start_in(network, &[], UNTIL_TERM)?;
    let heard = client.exec(&[], &format!("echo hello | nc {gateway} {tcp}"))?.expect(0)?.stdout;
    assert_eq!(heard, "hello\n");
    Ok(())
}

fn nothing_of_a_network_is_left_however_a_container_ends(engine: &Engine) -> Result<()> {
    let _order = alone();
    let seen = || -> Result<Vec<String>> {
        let links = ip("-o link show")?;
        // Ports of bridges have names of chance; a bridge stays with its network.
        let ports = links.lines().filter(|line| line.contains("veth") || line.contains("runv"));
        Ok(ports.map(str::to_owned).collect())
    };
    let before = seen()?;
    for signal in ["TERM", "KILL"] {
        let container = engine.start_in(default_of(engine), &[], UNTIL_TERM)?;
        container.wrote("up")?;
        ensure!(seen()? != before, "a port of the bridge");
        container.call(&["kill", "--signal", signal])?.expect(0)?;
        container.wait()?;
        container.call(&["rm"])?.expect(0)?;
        Deadline::generous()?.wait_for("the network's end", || Ok((seen()? == before).then_some(())))?;
    }
    Ok(())
}

/// A network of docker's, removed with its end.
struct Network {
    engine: &'static Engine,
    name: &'static str,
}

impl Network {
    fn new(name: &'static str, options: &[&str]) -> Result<Self> {
        let engine = Engine::docker()?;
        engine.call(["network", "create"].iter().chain(options).chain(&[name]))?.expect(0)?;
        Ok(Self { engine, name })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The test's own error is the one to tell.
        let _ = self.engine.call(["network", "rm", self.name]);
    }
}

#[test]
fn addresses_and_names_are_those_that_docker_is_told() -> Result<()> {
    let _order = together();
    let network = Network::new("told", &["--ipv6", "--subnet", "10.78.1.0/24", "--subnet", "fd78:1::/64"])?;
    let docker = network.engine;
    let options = ["--ip", "10.78.1.7", "--ip6", "fd78:1::7", "--mac-address", "02:78:00:00:00:07"];
    let names = ["--add-host", "other:192.0.2.1", "--dns", "192.0.2.53", "--dns-search", "example.org"];
    let server = docker.start_in("told", &[&options[..], &names].concat(), ECHO)?;
    server.wrote("ready")?;
    let seen = server.exec(&[], "ip addr show eth0; cat /etc/hosts /etc/resolv.conf")?.expect(0)?.stdout;
    for text in
        ["10.78.1.7/24", "fd78:1::7/64", "02:78:00:00:00:07", "192.0.2.1\tother", "search example.org"]
    {
        ensure!(seen.contains(text), "{text} in {seen}");
    }
    let client = docker.start_in("told", &["--runtime", "runc"], ECHO)?;
    client.wrote("ready")?;
    for to in ["10.78.1.7", "fd78:1::7"] {
        reaches(&client, to)?;
    }
    for field in ["IPAddress", "GlobalIPv6Address"] {
        reaches(&server, &client.inspect(&format!(".NetworkSettings.Networks.told.{field}"))?)?;
    }
    // On the default bridge, --dns is what the container itself asks.
    let resolver =
        ["run", "--rm", "--network", "bridge", "--dns", "192.0.2.53", IMAGE, "cat", "/etc/resolv.conf"];
    assert_eq!(docker.call(resolver)?.expect(0)?.stdout, "nameserver 192.0.2.53\n");
    Ok(())
}
